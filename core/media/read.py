# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames in the order Blender shows them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from math import floor

import av
from av.container import InputContainer
from av.error import FFmpegError

from ..errors import MediaError
from .damage import Watch
from .images import decode_image
from .picture import Picture
from .planes import editable, exact_flags
from .probe import SourceInfo, decoded, open_movie, untagged

indexed_containers = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers with an index of key frames, where a seek lands where it should."""


def read(info: SourceInfo, start: int = 0, count: int | None = None) -> Iterator[Picture]:
    """Yield Blender's frames start, start + 1, … of the source; memory holds a few of them at a time.

    Blender's frame k is the last decoded frame whose time is not after first_pts + k / rate, rounded to the
    time base; so a coded frame may come several times or never. Past the last decodable frame that one is held.
    What is damaged says so (core.media.damage).

    Args:
        info: from probe or probe_images.
        start: first frame.
        count: number of frames; None: to the end.

    Raises:
        MediaError: nothing can be decoded, an image is missing or damaged, or the size changes on the way.
    """
    count = info.frames - start if count is None else count
    if info.kind == "images":
        yield from _read_images(info, start, count)
        return
    with open_movie(info.path) as container:
        watch = Watch(info)
        frames = _from(container, info, start, watch.trouble)
        held: av.VideoFrame | None = None
        coming = next(frames, None)
        watch.next(coming)
        for index in range(start, start + count):
            due = frame_pts(info, index)
            while coming is not None and (held is None or coming[0] <= due):
                pts, held = coming
                watch.shown(pts, held)
                coming = next(frames, None)
                watch.next(coming)
                if coming is None and watch.missing and _last_is_torn(info, pts):
                    watch.torn()
            if held is None:
                raise MediaError(f"No picture of {info.path} can be decoded.")
            yield Picture(index, _fitting(held, info, index), info.rotation, damage=watch.damage(due))


def frame_pts(info: SourceInfo, index: int) -> int:
    """When Blender shows frame `index`, in units of the stream's time base; halves go up, as in C's round."""
    return info.first_pts + floor(index / (info.rate * info.time_base) + Fraction(1, 2))


def _read_images(info: SourceInfo, start: int, count: int) -> Iterator[Picture]:
    for index in range(start, start + count):
        path = info.paths[min(index, len(info.paths) - 1)]
        frame, _, rotation = decode_image(path)
        size = (frame.height, frame.width) if rotation % 2 else (frame.width, frame.height)
        if size != (info.width, info.height):
            raise MediaError(
                f"{path} has {size[0]}x{size[1]} pixels, the first image {info.width}x{info.height}.",
                "Use images of one size.",
            )
        yield Picture(index, frame, rotation, path)


def _from(
    container: InputContainer, info: SourceInfo, start: int, trouble: deque[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(pts, frame) from at or before Blender's frame `start` on; `trouble` as probe.decoded fills it."""
    video = next(stream for stream in container.streams.video if stream.index == info.stream)
    video.thread_type = "AUTO"
    video.codec_context.thread_count = min(os.cpu_count() or 1, 8)  # each thread holds a frame
    seconds_ahead = 2  # room for frames that depend on others across the key frame
    target = frame_pts(info, start) - int(seconds_ahead / info.time_base)
    if info.container in indexed_containers and target > info.first_pts:
        container.seek(target, stream=video, backward=True)
        frames = _timed(decoded(container, video, trouble), info)
        first = next(frames, None)
        if first is not None and first[0] <= frame_pts(info, start):
            yield first
            yield from frames
            return
        container.seek(min(0, info.first_pts), stream=video, backward=True)
    yield from _timed(decoded(container, video, trouble), info)


def _last_is_torn(info: SourceInfo, pts: int) -> bool:
    """Whether the last picture that can be decoded, of time `pts`, is damaged.

    A decoder's threads may hand it out before they know, so it is asked again with one; not where that would take
    decoding everything.
    """
    if info.container not in indexed_containers:
        return False
    with open_movie(info.path) as container:
        video = next(stream for stream in container.streams.video if stream.index == info.stream)
        video.codec_context.thread_count = 1
        try:
            container.seek(pts, stream=video, backward=True)
        except FFmpegError:  # a part without its index
            return False
        last = deque(decoded(container, video), maxlen=1)
    return bool(last) and last[0].is_corrupt


def _timed(frames: Iterator[av.VideoFrame], info: SourceInfo) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their time; one that has none follows the frame before it by 1 / rate."""
    step = round(1 / (info.rate * info.time_base))
    pts = info.first_pts - step
    for frame in frames:
        told = frame.pts if frame.pts is not None else frame.dts
        pts = told if told is not None else pts + step
        yield pts, frame


def _fitting(frame: av.VideoFrame, info: SourceInfo, index: int) -> av.VideoFrame:
    size = (frame.height, frame.width) if info.rotation % 2 else (frame.width, frame.height)
    if size != (info.width, info.height):
        raise MediaError(
            f"{info.path} changes its picture size to {size[0]}x{size[1]} pixels at frame {index}.",
            "Convert it to one size, or cut the strip there.",
        )
    # Of silent pictures the container's word counts, as it does for Blender.
    if frame.colorspace == untagged[1]:
        frame.colorspace = info.colorspace
    if frame.color_range == untagged[0]:
        frame.color_range = info.color_range
    frame = editable(frame)
    if frame.format.name != info.pixel_format:
        frame = frame.reformat(format=info.pixel_format, interpolation=exact_flags)
    return frame
