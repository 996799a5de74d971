# SPDX-License-Identifier: GPL-3.0-or-later
"""The samples of a decoded frame as numpy views, whatever their layout in memory."""

from __future__ import annotations

import re

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation

exact_flags = (
    Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
"""swscale without its usual rounding errors; POINT, so that chroma is repeated as Blender repeats it."""

smooth_flags = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
"""swscale for pictures that get other chroma than they had."""

packed_orders = {
    "rgb24": "rgb", "bgr24": "bgr", "rgba": "rgba", "bgra": "bgra", "argb": "argb", "abgr": "abgr",
    "rgb48le": "rgb", "rgb48be": "rgb", "bgr48le": "bgr", "bgr48be": "bgr",
    "rgba64le": "rgba", "rgba64be": "rgba", "bgra64le": "bgra", "bgra64be": "bgra",
    "ya8": "ya", "ya16le": "ya", "ya16be": "ya",
}  # fmt: skip
"""Components of the interleaved formats we edit in place."""

same_samples = {
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "p010le": "yuv420p10le",
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p",
    "rgb0": "rgb24", "bgr0": "bgr24", "0rgb": "rgb24", "0bgr": "bgr24",
    "pal8": "rgba", "monob": "gray", "monow": "gray",
}  # fmt: skip
"""Formats that hold the same values in a layout we do not edit, and the one we take instead."""

without_alpha = {
    "rgba64": "rgb48", "bgra64": "bgr48", "rgba": "rgb24", "bgra": "bgr24", "argb": "rgb24", "abgr": "bgr24",
    "ya8": "gray", "ya16": "gray16", "gbrap": "gbrp", "yuva": "yuv",
}  # fmt: skip
"""How the names of layouts begin that have alpha, and those of the same samples without it. Longer ones come first."""


def editable(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame itself, or the same picture in a layout that `components` can show."""
    target = editable_format(frame.format)
    if target == frame.format.name:
        return frame
    return frame.reformat(format=target, interpolation=exact_flags)


def editable_format(pixel_format: av.VideoFormat) -> str:
    """Name of the layout `editable` uses for frames of this pixel format."""
    name, parts = pixel_format.name, pixel_format.components
    if name in same_samples:
        return same_samples[name]
    bits = max(part.bits for part in parts)
    separate = len({part.plane for part in parts}) == len(parts) and not pixel_format.has_palette
    whole_samples = bits in (8, 9, 10, 12, 14, 16) or sample_type(name, bits).kind == "f"
    if name in packed_orders or (separate and whole_samples and "msb" not in name):
        return name
    alpha = "a" if any(part.is_alpha for part in parts) else ""
    if pixel_format.is_rgb:
        return f"rgb{alpha}64le" if bits > 8 and alpha else "rgb48le" if bits > 8 else "rgba" if alpha else "rgb24"
    return f"yuv{alpha}444p{'16le' if bits > 8 else ''}"


def sample_type(name: str, bits: int) -> np.dtype:
    """numpy type of one sample of the pixel format `name` with `bits` bits."""
    order = ">" if name.endswith("be") else "<"
    if "f32" in name or "f16" in name:
        return np.dtype(f"{order}f{4 if 'f32' in name else 2}")
    return np.dtype("u1" if bits <= 8 else f"{order}u2")


def components(frame: av.VideoFrame) -> dict[str, np.ndarray]:
    """Writable 2-D views of the frame's samples by component: y, u, v or r, g, b, and a when there is alpha."""
    parts = frame.format.components
    dtype = sample_type(frame.format.name, parts[0].bits)
    order = packed_orders.get(frame.format.name)
    if order:
        rows = _rows(frame.planes[0], dtype)
        step = len(order)
        return {name: rows[:, i : frame.width * step : step] for i, name in enumerate(order)}
    names = "rgba" if frame.format.is_rgb else "ya" if len(parts) == 2 else "yuva"
    return {
        name: _rows(frame.planes[part.plane], dtype)[:, : part.width] for name, part in zip(names, parts, strict=False)
    }


def bit_depth(frame: av.VideoFrame) -> int:
    """Bits of one sample; 32 or 16 for floats."""
    return frame.format.components[0].bits


def repacked(frame: av.VideoFrame, name: str) -> av.VideoFrame:
    """A new frame of the pixel format `name` with the same sample values.

    Components are copied, never scaled; one that the frame lacks becomes neutral. Nothing else of the frame
    (picture type, side data, time) comes along, so that an encoder is not led by what a decoder left there.
    """
    new = av.VideoFrame(frame.width, frame.height, name)
    new.colorspace, new.color_range = frame.colorspace, frame.color_range
    new.color_primaries, new.color_trc = frame.color_primaries, frame.color_trc
    old = components(frame)
    for part, target in components(new).items():
        target[...] = old[part] if part in old else _neutral(part, frame)
    return new


def extended(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A frame of at least the size of `frame`, whose last column and row are repeated in what it has more."""
    if (width, height) == (frame.width, frame.height):
        return frame
    new = av.VideoFrame(width, height, frame.format.name)
    new.colorspace, new.color_range = frame.colorspace, frame.color_range
    new.color_primaries, new.color_trc = frame.color_primaries, frame.color_trc
    old = components(frame)
    for part, target in components(new).items():
        more = [(0, there - own) for there, own in zip(target.shape, old[part].shape, strict=True)]
        target[...] = np.pad(old[part], more, mode="edge")
    return new


def whole_chroma(frame: av.VideoFrame) -> bool:
    """Whether every chroma sample stands for equally many pixels: elsewhere swscale shifts some by a pixel."""
    parts = components(frame)
    return all(whole % part == 0 for whole, part in zip(parts["y"].shape, parts["u"].shape, strict=True))


def cut_out(frame: av.VideoFrame, rows: range, columns: range) -> av.VideoFrame:
    """A new frame of these pixels of a YUV frame alone: 4:4:4, each with the chroma that lies over it, without alpha.

    Args:
        frame: with `whole_chroma`.
        rows, columns: rising, not empty.
    """
    new = av.VideoFrame(len(columns), len(rows), re.sub(r"yuva?(j?)4\d\d", r"yuv\g<1>444", frame.format.name))
    new.colorspace, new.color_range = frame.colorspace, frame.color_range
    old = components(frame)
    for part, target in components(new).items():
        down, across = (whole // each for whole, each in zip(old["y"].shape, old[part].shape, strict=True))
        if (down, across) == (1, 1):
            target[...] = old[part][rows.start : rows.stop : rows.step, columns.start : columns.stop : columns.step]
        else:
            near = old[part][rows[0] // down : rows[-1] // down + 1]
            taken = near.take(np.array(columns) // across, axis=1)
            target[...] = taken.take(np.array(rows) // down - rows[0] // down, axis=0)
    return new


def turned(frame: av.VideoFrame, turns: int) -> av.VideoFrame:
    """A frame whose samples are turned by quarters counter-clockwise, in the layout that `turned_format` names."""
    name = turned_format(frame.format.name, turns)
    if name != frame.format.name:
        frame = frame.reformat(format=name, interpolation=exact_flags)
    if not turns % 4:
        return frame
    size = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
    new = av.VideoFrame(*size, name)
    new.colorspace, new.color_range = frame.colorspace, frame.color_range
    new.color_primaries, new.color_trc = frame.color_primaries, frame.color_trc
    old = components(frame)
    for part, target in components(new).items():
        target[...] = np.rot90(old[part], turns)
    return new


def turned_format(name: str, turns: int) -> str:
    """A layout for a picture turned by quarters: 4:4:4 in place of what has other chroma across than down."""
    shown = av.VideoFormat(name)
    if turns % 2 and shown.chroma_width(8) != shown.chroma_height(8):
        return re.sub(r"(yuva?j?)4\d\d", r"\g<1>444", name)
    return name


def opaque_format(name: str) -> str:
    """The layout `name` without its alpha."""
    for alike, plain in without_alpha.items():
        if name.startswith(alike):
            return name.replace(alike, plain)
    return name


def requantised(frame: av.VideoFrame, name: str) -> av.VideoFrame:
    """`repacked`, also where `name` has other bits a sample: YUV is scaled by a power of two, as its levels are.

    Never more bits than the frame has.
    """
    new = repacked(frame, name)
    drop = bit_depth(frame) - bit_depth(new)
    if drop <= 0:
        return new
    old = components(frame)
    for part, target in components(new).items():
        target[...] = np.minimum((old[part].astype(np.int32) + (1 << (drop - 1))) >> drop, (1 << bit_depth(new)) - 1)
    carry_alpha(frame, new)
    return new


def carry_alpha(frame: av.VideoFrame, new: av.VideoFrame) -> None:
    """Give `new` the alpha of `frame` where both have one, of whole numbers: swscale leaves opaque not quite opaque.

    With fewer bits the lowest are cut off; with more the highest are repeated, so that either undoes the other.
    """
    old, target = components(frame), components(new)
    if "a" not in old or "a" not in target or old["a"].dtype.kind == "f":
        return
    more = bit_depth(new) - bit_depth(frame)
    values = old["a"].astype(np.int32)
    if more > 0:
        values = values << more | values >> max(bit_depth(frame) - more, 0)
    target["a"][...] = values if more > 0 else values >> -more


def _rows(plane: VideoPlane, dtype: np.dtype) -> np.ndarray:
    rows = np.asarray(memoryview(plane)).view(dtype).reshape(plane.height, -1)
    return rows[::-1] if plane.line_size < 0 else rows


def _neutral(part: str, frame: av.VideoFrame) -> int:
    """Grey for chroma, opaque for alpha."""
    bits = bit_depth(frame)
    return 1 << (bits - 1) if part in "uv" else (1 << bits) - 1
