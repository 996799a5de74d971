# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as the pictures of a movie: in the samples that players know, where they have no alpha to keep."""

from __future__ import annotations

from dataclasses import replace

import av
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from .images import opaque
from .picture import Picture
from .planes import opaque_format, repacked, sample_type, turned, turned_format
from .probe import SourceInfo

bt709, limited_range = 1, 1
"""As FFmpeg numbers them [ITU-T H.273]."""
flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


def movie_info(images: SourceInfo, quality: str) -> SourceInfo:
    """What a movie of these images is to be: upright, whatever Exif said of them, and without an alpha that is opaque.

    Args:
        images: from probe_images.
        quality: `lossless` and `mezzanine` take the images' own samples; `high` and `web` take YUV 4:2:0 of 8 or 10
            bit (4:4:4 where the size is odd), with the tags of BT.709, for images without alpha.
    """
    images = replace(images, pixel_format=turned_format(images.pixel_format, images.rotation), rotation=0)
    own = av.VideoFormat(images.pixel_format)
    if _has_alpha(own) and opaque(images.paths):
        own = av.VideoFormat(opaque_format(own.name))
        images = replace(images, pixel_format=own.name)
    bits = own.components[0].bits
    light = sample_type(own.name, bits).kind == "f"
    kept = quality == "lossless" or (quality == "mezzanine" and not light)
    if kept or _has_alpha(own):
        return replace(images, kind="movie", codec="")
    deep = bits > 8 and not light  # floats are seen through their 8 bit sRGB
    chroma = "444" if images.width % 2 or images.height % 2 else "420"
    return replace(
        images,
        kind="movie",
        codec="",
        pixel_format=f"yuv{chroma}p{'10le' if deep else ''}",
        color_range=limited_range,
        colorspace=bt709,
        color_primaries=bt709,
        color_trc=bt709,
    )


def converted(picture: Picture, info: SourceInfo) -> Picture:
    """An image's picture in the samples of `info`, from movie_info."""
    frame = turned(picture.frame, picture.rotation)
    if _has_alpha(frame.format) and not _has_alpha(av.VideoFormat(info.pixel_format)):
        frame = repacked(frame, opaque_format(frame.format.name))
    picture = Picture(picture.index, frame)
    if frame.format.name == info.pixel_format and frame.colorspace == info.colorspace:
        return picture
    if not info.pixel_format.endswith("10le"):
        frame = av.VideoFrame.from_ndarray(picture.rgb(), format="rgb24")
    frame = frame.reformat(
        format=info.pixel_format,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=flags,
    )
    frame.colorspace, frame.color_range = info.colorspace, info.color_range
    frame.color_primaries, frame.color_trc = info.color_primaries, info.color_trc
    return Picture(picture.index, frame)


def _has_alpha(layout: av.VideoFormat) -> bool:
    return any(part.is_alpha for part in layout.components)
