# SPDX-License-Identifier: GPL-3.0-or-later
"""Which codec a new movie gets: that of its source where it can be written well, or what the user chose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import av

from ..errors import OutputError
from .fields import interlaced, top_first
from .probe import SourceInfo

h264_layouts = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
hevc_layouts = (*h264_layouts, "yuv420p12le", "yuv422p12le", "yuv444p12le")
ffv1_layouts = {
    "gbrap": "bgra", "rgba": "bgra", "argb": "bgra", "abgr": "bgra",
    "rgb48le": "gbrp16le", "rgb48be": "gbrp16le", "bgr48le": "gbrp16le", "bgr48be": "gbrp16le",
    "rgba64le": "gbrap16le", "rgba64be": "gbrap16le", "bgra64le": "gbrap16le", "bgra64be": "gbrap16le",
    "gray16be": "gray16le",
}  # fmt: skip
"""Layouts FFV1 holds under another name, sample by sample."""
png_layouts = {
    (3, 8): "rgb24", (4, 8): "rgba", (3, 16): "rgb48be", (4, 16): "rgba64be",
    (1, 8): "gray", (2, 8): "ya8", (1, 16): "gray16be", (2, 16): "ya16be",
}  # fmt: skip
"""What PNG, which .mov holds, takes, by number and bits of the components of pictures without chroma."""
prores_profiles = {"Proxy": "proxy", "LT": "lt", "Standard": "standard", "HQ": "hq", "4444": "4444", "XQ": "4444xq"}
"""FFmpeg's name of a ProRes stream's profile, and the encoder's."""
dnxhr_profiles = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx", "yuv444p10le": "dnxhr_444"}
dnxhr_smallest = 256, 120
"""Width and height of the smallest picture DNxHR knows."""
full_range, limited_range = 2, 1
bt709 = 1


@dataclass(frozen=True)
class Encoding:
    """How a movie's pictures are compressed."""

    codec: str
    """FFmpeg's encoder."""
    pixel_format: str
    options: dict[str, str]
    suffixes: tuple[str, ...]
    """File name endings of the containers that hold it."""
    keeps: bool = True
    """The source's layout and depth are kept; else pictures are converted first."""
    color_range: int = 0
    colorspace: int = 0
    """Tags that the conversion leads to; 0: the source's."""
    key_frames: float = 0.5
    """Seconds between key frames; a key frame at least every half second keeps scrubbing quick."""
    tag: str = ""
    """Code in the container, where FFmpeg's choice is not understood everywhere."""
    movflags: str = ""
    even: bool = False
    """The size becomes whole chroma samples of 4:2:0 where it is not: the last column or row is repeated."""

    def coded_size(self, info: SourceInfo) -> tuple[int, int]:
        """Width and height of the frames that the encoder takes, in pixels, before they are turned upright."""
        width, height = info.coded_size
        rows = 4 if interlaced(info) else 2  # each field has its own chroma
        return (width + width % 2, height + -height % rows) if self.even else (width, height)


def choose(info: SourceInfo, quality: str, suffix: str) -> Encoding:
    """The encoding for this movie in a container of this file name ending.

    Raises:
        OutputError: no container has this ending, or it cannot hold the pictures; the hint names those that can.
    """
    suffix = suffix.lower()
    if suffix not in (".mp4", ".mov", ".mkv"):
        kind = suffix or "a file without an ending"
        raise OutputError(f"Movies cannot be written as {kind}.", "Name the output .mp4, .mov or .mkv.")
    offered = _offered(info, quality)
    fitting = next((one for one in offered if suffix in one.suffixes), None)
    if fitting is None:
        what = f"{info.pixel_format} pixels unchanged" if offered[0].keeps else f"a {quality} movie"
        endings = sorted({ending for one in offered for ending in one.suffixes}, key=(".mov", ".mkv", ".mp4").index)
        raise OutputError(f"A {suffix} file cannot hold {what}.", f"Name it {' or '.join(endings)}.")
    return _for_fields(fitting, info)


def suffixes(info: SourceInfo, quality: str = "high") -> tuple[str, ...]:
    """File name endings whose containers hold this movie's pictures in their layout and depth, the best one first.

    Raises:
        OutputError: none does.
    """
    kept = [one for one in _offered(info, quality) if one.keeps]
    return tuple(dict.fromkeys(ending for one in kept for ending in one.suffixes))


def _offered(info: SourceInfo, quality: str) -> list[Encoding]:
    """What the movie can be written as, the best first."""
    if quality == "web":
        return [_web(info)]
    if quality == "mezzanine":
        return [one for one in (_dnxhr(info), _mezzanine(info)) if one]
    lossless = quality == "lossless"
    near = None if lossless else _near_h264(info)
    own = {"prores": _prores, "dnxhd": _dnxhr, "hevc": _hevc}.get(info.codec)
    ffv1 = _ffv1(info)
    offered = [
        own(info) if own and not lossless else None,
        ffv1 if ffv1 and info.codec == "ffv1" else None,
        _h264(info, lossless),
        ffv1,
        near,
        # Blender plays it, and few others do: for what H.264 cannot hold at all.
        replace(ffv1, suffixes=(".mp4",)) if ffv1 and not near else None,
        _png(info),
        None if lossless or _has_colour_planes(info) else _mezzanine(info),
    ]
    kept = [one for one in offered if one]
    if not kept:
        layout = info.pixel_format
        raise OutputError(
            f"No codec keeps {layout} pixels unchanged in a movie.", "Render the strip to PNG images first."
        )
    return kept


def _prores(info: SourceInfo) -> Encoding | None:
    """ProRes of the source's profile; its 4444 is decoded to 12 bits, of which the encoder takes 10."""
    profile = prores_profiles.get(info.profile)
    if profile is None or not whole_chroma(info, info.pixel_format):
        return None
    layout = info.pixel_format.replace("12le", "10le")
    if layout not in ("yuv422p10le", "yuv444p10le", "yuva444p10le"):
        return None
    return _prores_as(profile, layout)


def _prores_as(profile: str, layout: str) -> Encoding:
    # The finest quantiser but one: the second generation stays within a third of a level of the first, on noise too.
    quality = {"flags": "+qscale", "global_quality": str(2 * 118)}
    alpha = {"alpha_bits": "16"} if layout.startswith("yuva") else {}
    options = {"profile": profile, "vendor": "apl0", **quality, **alpha}
    return Encoding("prores_ks", layout, options, (".mov", ".mkv"), key_frames=0)


def _mezzanine(info: SourceInfo) -> Encoding:
    """ProRes 422 HQ, or 4444 where there is alpha or a colour for every pixel."""
    pixel_format = av.VideoFormat(info.pixel_format)
    alpha = any(part.is_alpha for part in pixel_format.components)
    full = alpha or pixel_format.is_rgb or pixel_format.name.startswith(("yuv444", "yuvj444"))
    # Half as many colours across need an even width.
    full = full or bool(info.coded_size[0] % 2)
    profile = prores_profiles.get(info.profile, "") if info.codec == "prores" else ""
    if not profile.startswith("4444"):
        profile = "4444" if full else "hq"
    made = _prores_as(profile, "yuva444p10le" if alpha else "yuv444p10le" if full else "yuv422p10le")
    return replace(made, keeps=False, color_range=limited_range, colorspace=_matrix(info))


def _dnxhr(info: SourceInfo) -> Encoding | None:
    """DNxHR as good as the source, if that was DNxHD or DNxHR; its encoder knows no fields."""
    profile = dnxhr_profiles.get(info.pixel_format)
    width, height = info.coded_size
    too_small = width < dnxhr_smallest[0] or height < dnxhr_smallest[1] or not whole_chroma(info, info.pixel_format)
    if info.codec != "dnxhd" or profile is None or too_small or interlaced(info):
        return None
    return Encoding("dnxhd", info.pixel_format, {"profile": profile}, (".mov",), key_frames=0)


def _hevc(info: SourceInfo) -> Encoding | None:
    layout = info.pixel_format.replace("yuvj", "yuv")
    # x265 would want each field of interlaced footage as a picture.
    if layout not in hevc_layouts or interlaced(info) or not whole_chroma(info, layout) or min(info.coded_size) < 32:
        return None
    parameters = ["log-level=error", "info=0", "bframes=0"]
    if info.mastering_display:
        parameters.append(f"master-display={info.mastering_display}")
    if info.content_light:
        parameters.append(f"max-cll={info.content_light}")
    options = {"preset": "superfast", "crf": "2", "x265-params": ":".join(parameters)}
    return Encoding("libx265", layout, options, (".mp4", ".mov", ".mkv"), tag="hvc1")


def _h264(info: SourceInfo, lossless: bool) -> Encoding | None:
    # At this rate grainy footage too keeps its RGB within half a level on average, also with a quick preset.
    # B-frames would only slow down a sequencer that seeks all the time.
    options = {"preset": "superfast", "bf": "0", **({"qp": "0"} if lossless else {"crf": "1"})}
    layout = info.pixel_format.replace("yuvj", "yuv")
    if layout in ("gbrp", "rgb24", "bgr24"):
        return Encoding("libx264rgb", "rgb24", options, (".mp4", ".mov", ".mkv"))
    if layout not in h264_layouts or not whole_chroma(info, layout):
        return None
    parameters = _h264_light(info)
    if layout.startswith("yuv444") and not lossless:
        # x264 spends less on chroma where there is one for every pixel; here it is worth as much.
        parameters.append("chroma-qp-offset=-6")
    if parameters:
        options["x264-params"] = ":".join(parameters)
    return Encoding("libx264", layout, options, (".mp4", ".mov", ".mkv"))


def _near_h264(info: SourceInfo) -> Encoding | None:
    """H.264 of the nearest layout that it has, for .mp4, in which players know little else; not for alpha.

    Where the size cuts chroma samples in two, each pixel gets a colour of its own; of more than 8 bits, 10 stay.
    """
    own = av.VideoFormat(info.pixel_format)
    if any(part.is_alpha for part in own.components) or "f16" in own.name or "f32" in own.name:
        return None
    chroma = "444" if own.chroma_width(8) == 8 else "422" if own.chroma_height(8) == 8 else "420"
    depth = "10le" if own.components[0].bits > 8 else ""
    layout = f"yuv{'420' if len(own.components) < 3 else chroma}p{depth}"
    if not whole_chroma(info, layout):
        layout = f"yuv444p{depth}"
    near = _h264(replace(info, pixel_format=layout), lossless=False)
    full = not _has_colour_planes(info) and (info.color_range == full_range or own.name.startswith("yuvj"))
    tags = {"color_range": full_range if full else limited_range, "colorspace": _matrix(info)}
    return near and replace(near, suffixes=(".mp4",), keeps=False, **tags)


def _h264_light(info: SourceInfo) -> list[str]:
    display = [f"mastering-display={info.mastering_display}"] if info.mastering_display else []
    return display + ([f"cll={info.content_light}"] if info.content_light else [])


def _web(info: SourceInfo) -> Encoding:
    """What every browser plays.

    Raises:
        OutputError: its pictures would not be the source's, which are see-through.
    """
    if any(part.is_alpha for part in av.VideoFormat(info.pixel_format).components):
        raise OutputError("A web movie has no transparency, and this one does.", "Choose high, lossless or mezzanine.")
    # With AVX-512 x264's macroblock tree reads memory that nobody has written: each run would give other bytes. Without
    # the tree a movie is a little better and larger at the same rate factor, so this one is coarser by 1.
    parameters = ":".join(["mbtree=0", *_h264_light(info)])
    options = {"preset": "medium", "crf": "19", "profile": "high", "x264-params": parameters}
    return Encoding(
        "libx264", "yuv420p", options, (".mp4", ".mov"), keeps=False, color_range=limited_range,
        colorspace=_matrix(info), key_frames=2, movflags="+faststart", even=True,
    )  # fmt: skip


def _ffv1(info: SourceInfo) -> Encoding | None:
    layout = info.pixel_format.replace("yuvj", "yuv")
    layout = ffv1_layouts.get(layout, layout)
    if layout not in [known.name for known in av.Codec("ffv1", "w").video_formats or []]:
        return None
    return Encoding("ffv1", layout, {"level": "3", "slicecrc": "1"}, (".mkv",), key_frames=0)


def _png(info: SourceInfo) -> Encoding | None:
    if not _has_colour_planes(info):
        return None
    parts = av.VideoFormat(info.pixel_format).components
    layout = png_layouts.get((len(parts), parts[0].bits))
    if layout is None or "f16" in info.pixel_format:
        return None
    return Encoding("png", layout, {"pred": "mixed"}, (".mov",), key_frames=0)


def _has_colour_planes(info: SourceInfo) -> bool:
    """Whether the samples are red, green and blue, or grey: what PNG can hold."""
    pixel_format = av.VideoFormat(info.pixel_format)
    return pixel_format.is_rgb or len(pixel_format.components) < 3


def _matrix(info: SourceInfo) -> int:
    """The matrix of the YUV that RGB is converted to; 0: there is nothing to convert."""
    return bt709 if av.VideoFormat(info.pixel_format).is_rgb else 0


def _for_fields(encoding: Encoding, info: SourceInfo) -> Encoding:
    """Interlaced footage is coded as such, or its two fields would share blocks and blur into each other."""
    if not interlaced(info):
        return encoding
    options = dict(encoding.options)
    if encoding.codec.startswith("libx264"):
        order = "tff=1" if info.field_order in top_first else "bff=1"
        # x264's threads read rows of interlaced frames that another has not finished: each run would give other bytes.
        options["x264-params"] = ":".join(filter(None, (options.get("x264-params", ""), order, "threads=1")))
        options["flags"] = "+ildct+ilme"
    elif encoding.codec == "prores_ks":
        options["flags"] += "+ildct"
    return replace(encoding, options=options)


def whole_chroma(info: SourceInfo, layout: str) -> bool:
    """Whether the size is in whole chroma samples: most codecs know no other."""
    pixel_format = av.VideoFormat(layout)
    width, height = info.coded_size
    across, down = 2 // pixel_format.chroma_width(2), 2 // pixel_format.chroma_height(2)
    down *= 2 if interlaced(info) else 1  # each field has its own
    return width % across == 0 and height % down == 0
