# SPDX-License-Identifier: GPL-3.0-or-later
"""Interlaced footage: frames whose lines belong to two moments."""

from __future__ import annotations

from collections.abc import Callable

import av
from av import filter as filters

from .probe import SourceInfo

top_first, bottom_first = (2, 5), (3, 4)
"""FFmpeg's field orders by the field that is shown first; anything else is progressive."""


def interlaced(info: SourceInfo) -> bool:
    """Whether the footage has fields."""
    return info.field_order in (*top_first, *bottom_first)


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
