# SPDX-License-Identifier: GPL-3.0-or-later
"""Interlaced footage: frames whose lines belong to two moments, each of which is painted as a picture of its own."""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np
from av import filter as filters

from .picture import Picture
from .planes import components, repacked
from .probe import SourceInfo

top_first, bottom_first = (2, 5), (3, 4)
"""FFmpeg's field orders by the field that is shown first; anything else is progressive."""


def interlaced(info: SourceInfo) -> bool:
    """Whether the footage has fields."""
    return info.field_order in (*top_first, *bottom_first)


def moments(info: SourceInfo) -> int:
    """How many pictures a frame holds that are painted one after the other: 2 where `split` can tell its fields apart.

    Fields of turned footage lie in columns, and a chroma plane with an odd number of lines has no two alike: such
    footage, which no camera makes, is painted a frame at a time.
    """
    planes = av.VideoFormat(info.pixel_format, info.width, info.height).components
    return 2 if interlaced(info) and not info.rotation and all(plane.height % 2 == 0 for plane in planes) else 1


class Field:
    """One field of a picture as a picture of its size: between its lines stands what is halfway.

    Args:
        picture: upright, with `moments` 2.
        parity: 0 for the field of the first line, 1 for that of the second.
    """

    def __init__(self, picture: Picture, parity: int) -> None:
        self.shape = picture.shape
        self.parity = parity
        self.lines = Picture(picture.index, _half(picture.frame, parity))
        """The field alone, half as high."""

    def rgb(self) -> np.ndarray:
        """As Picture.rgb."""
        return self[:, :]

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        """As of a Picture."""
        rows, columns = np.arange(self.shape[0])[part[0]] - self.parity, part[1]
        if not len(rows):
            return self.lines[:0, columns]
        last = self.shape[0] // 2 - 1
        above, below = (np.clip(line, 0, last) for line in (rows // 2, (rows + 1) // 2))
        own = self.lines[int(above[0]) : int(below[-1]) + 1, columns]
        above, below = (own[line - int(above[0])] for line in (above, below))
        return ((above.astype(np.uint16) + below + 1) >> 1).astype(np.uint8)

    def blend(self, x: int, y: int, rgb: np.ndarray, alpha: np.ndarray) -> None:
        """As Picture.blend; only the field's own lines are changed."""
        skipped = (self.parity - y) % 2
        self.lines.blend(x, (y + skipped - self.parity) // 2, rgb[skipped::2], alpha[skipped::2])


def split(picture: Picture, info: SourceInfo) -> tuple[Picture] | tuple[Field, Field]:
    """The pictures that a frame holds, in order of time."""
    if moments(info) == 1:
        return (picture,)
    first, second = (0, 1) if info.field_order in top_first else (1, 0)
    return Field(picture, first), Field(picture, second)


def woven(picture: Picture, parts: tuple[Picture] | tuple[Field, Field]) -> Picture:
    """The frame whose parts were painted."""
    changed = [part for part in parts if isinstance(part, Field) and part.lines.changed]
    if not changed:
        return picture
    whole = repacked(picture.frame, picture.frame.format.name)
    for part in changed:
        own = components(part.lines.frame)
        for name, plane in components(whole).items():
            plane[part.parity :: 2] = own[name]
    return Picture(picture.index, whole, picture.rotation, picture.path, picture.damage)


def _half(frame: av.VideoFrame, parity: int) -> av.VideoFrame:
    half = av.VideoFrame(frame.width, frame.height // 2, frame.format.name)
    half.colorspace, half.color_range = frame.colorspace, frame.color_range
    half.color_primaries, half.color_trc = frame.color_primaries, frame.color_trc
    whole = components(frame)
    for name, plane in components(half).items():
        plane[...] = whole[name][parity::2]
    return half


def setter(info: SourceInfo) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """What tells an encoder, frame by frame, which field is shown first: PyAV alone cannot."""
    if not interlaced(info):
        return lambda frame: frame
    graph: filters.Graph | None = None

    def flagged(frame: av.VideoFrame) -> av.VideoFrame:
        nonlocal graph
        if graph is None:
            graph = filters.Graph()
            graph.link_nodes(
                graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=1 / info.rate),
                graph.add("setfield", "tff" if info.field_order in top_first else "bff"),
                graph.add("buffersink"),
            ).configure()
        graph.vpush(frame)
        return graph.vpull()

    return flagged
