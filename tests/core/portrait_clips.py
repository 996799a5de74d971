# SPDX-License-Identifier: GPL-3.0-or-later
"""Small footage of every kind with a face in it: a public-domain portrait that sways, made with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av import filter as filters

from core.media.planes import components


@cache
def portrait() -> np.ndarray:
    from skimage import data

    return data.astronaut()[0:300, 60:460]


def picture(index: int, width: int = 320, height: int = 240) -> np.ndarray:
    """(height, width, 3) uint8: the portrait at one moment; its face is nearly half as high as the picture."""
    scale = height / 240
    affine = cv2.getRotationMatrix2D((165, 120), 3 * np.sin(index / 5), scale)
    affine[:, 2] += (width / 2 - 165 - 6 + index * 0.4, height / 2 - 120 + 2 * np.sin(index / 3))
    return cv2.warpAffine(portrait(), affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def write_movie(
    path: Path,
    count: int = 8,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (320, 240),
    rate: Fraction = Fraction(25),
    times: Sequence[int] | None = None,
    tags: tuple[int, int, int, int] = (1, 1, 1, 1),
    aspect: Fraction | None = None,
    rotation: int = 0,
    fields: str = "",
    hidden: int = 0,
    tone: bool = False,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    chapters: Sequence[tuple[int, int, str]] = (),
    shown: Callable[[int, int, int], np.ndarray] = picture,
) -> Path:
    """Write a movie of `picture`s, or of what `shown` gives for each frame and the size.

    Args:
        size: of the upright picture.
        times: presentation time of each frame in milliseconds; None: a constant rate.
        tags: colour range, matrix, primaries, transfer as FFmpeg numbers them.
        rotation: degrees that the container tells players to turn the picture.
        fields: `tff` or `bff` for interlaced footage.
        hidden: frames at the beginning that an edit list hides.
        chapters: (first, last + 1, title) in frames.
    """
    time_base = Fraction(1, 1000) if times else 1 / rate
    width, height = size[::-1] if rotation % 180 else size
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        container.metadata.update(metadata or {})
        if chapters:
            parts: list[Any] = [
                {"id": i, "start": first, "end": end, "time_base": 1 / rate, "metadata": {"title": title}}
                for i, (first, end, title) in enumerate(chapters, 1)
            ]
            container.set_chapters(parts)
        stream = container.add_stream(codec, rate=rate, width=width, height=height, options=options or {})
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.pix_fmt, context.time_base = pixel_format, time_base
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        context.max_b_frames = 0
        if aspect:
            context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if fields:
            context.field_order = 2 if fields == "tff" else 3
        sound = container.add_stream("aac", rate=48000, layout="mono") if tone else None
        graph: filters.Graph | None = None
        for number in range(count):
            upright = shown(number, *size)
            frame = samples(np.ascontiguousarray(np.rot90(upright, -rotation // 90)), pixel_format, tags)
            frame.pts, frame.time_base = (times[number] if times else number - hidden), time_base
            if fields:
                if graph is None:
                    graph = filters.Graph()
                    source = graph.add_buffer(width=width, height=height, format=frame.format, time_base=time_base)
                    graph.link_nodes(source, graph.add("setfield", fields), graph.add("buffersink")).configure()
                graph.vpush(frame)
                frame = graph.vpull()
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if isinstance(sound, av.AudioStream):
            wave = 0.3 * np.sin(np.arange(round(count / rate * 48000)) * 0.05).astype(np.float32)
            part = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 48000, 0, Fraction(1, 48000)
            container.mux(sound.encode(part))
            container.mux(sound.encode(None))
    return path


def samples(rgb: np.ndarray, pixel_format: str, tags: tuple[int, int, int, int] = (1, 1, 1, 1)) -> av.VideoFrame:
    """The picture in a layout; where that has alpha, a ramp from left to right."""
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    matrix = {1: 1, 9: 9}.get(tags[1], 5)
    if "f32" in pixel_format:
        new = av.VideoFrame(frame.width, frame.height, pixel_format)
        for name, values in components(new).items():
            values[...] = 1 if name == "a" else (rgb[..., "rgb".index(name)] / 255.0) ** 2.2
        frame = new
    else:
        frame = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=tags[0])
    if "f32" not in pixel_format:
        frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc = tags
    parts = components(frame)
    if "a" in parts:
        top = 1 if "f32" in pixel_format else (1 << frame.format.components[0].bits) - 1
        parts["a"][...] = (np.linspace(0, 1, parts["a"].shape[1]) * top).astype(parts["a"].dtype)
    return frame


def write_images(folder: Path, codec: str, pixel_format: str, ending: str, count: int = 6, **options: str) -> list[str]:
    """Write an image sequence; returns its files."""
    folder.mkdir()
    paths = []
    for number in range(count):
        encoder = av.VideoCodecContext.create(codec, "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 320, 240, pixel_format, Fraction(1, 25)
        encoder.options = options
        frame = samples(picture(number), pixel_format, (2, 5, 2, 2))
        frame.pts = 0
        path = folder / f"shot_{number:04}.{ending}"
        path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
        paths.append(str(path))
    return paths
