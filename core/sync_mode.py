# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech that is shorter or longer than the picture: which source frame each frame of the output shows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import TypeVar

import numpy as np

from . import faces, media
from .errors import JobError

T = TypeVar("T")

held_bytes, fewest_held, most_held = 128 << 20, 8, 64
"""Pictures that are kept while a movie is shown backwards: as many as fit into these bytes, within these bounds."""


def source_frames(mode: str, available: int, needed: int) -> np.ndarray:
    """(n,) int64, the frames of the output as source frames, counted from the shot's first.

    Args:
        mode: RedubJob.sync_mode.
        available: frames of the shot.
        needed: frames that the speech lasts, for the modes that follow it.
    """
    if mode in ("cut_off", "silence"):
        return np.arange(available)
    i = np.arange(needed)
    if mode == "loop":
        return i % available
    if mode == "bounce":
        turn = max(available - 1, 1)  # the frames at both ends are shown once
        return np.minimum(turn - np.abs(i % (2 * turn) - turn), available - 1)
    return (2 * i + 1) * available // (2 * needed)  # stretch: the source frame at the same part of the whole


def frames_needed(start: Fraction, length: Fraction, rate: Fraction) -> int:
    """Frames until the end of speech that begins `start` seconds after the first frame and lasts `length` seconds.

    Raises:
        JobError: it ends before the first frame.
    """
    if start + length <= 0:
        raise JobError("The speech ends before the picture begins.", "Let it begin later (--speech-start).")
    return ceil((start + length) * rate)


def shown(track: faces.Track, source: np.ndarray, moments: int = 1) -> faces.Track:
    """The track of the shot's frames as that of the output's; where the picture starts again, a new shot begins.

    Shot k, shown the nth time, has the number k + n * (shots in the track).

    Args:
        source: (n,) which frame of the shot each frame of the output shows.
        moments: how many entries the track has for each frame.
    """
    places = (source[:, None] * moments + np.arange(moments)).ravel()
    if np.array_equal(places, np.arange(len(track.found))):
        return track
    again = np.repeat(np.cumsum(np.append(False, np.diff(source) < -1)), moments)
    shot = track.shot[places] + again * _shots(track)
    return replace(
        track,
        found=track.found[places],
        shot=shot.astype(track.shot.dtype),
        to_crop=track.to_crop[places],
        points=track.points[places],
    )


def of_each_shot(known: dict[int, T], track: faces.Track, output: faces.Track) -> dict[int, T]:
    """What is known of each shot in `track`, by the shots' numbers in `output`, which is `shown` of it."""
    own = {int(number): int(number) % _shots(track) for number in np.unique(output.shot)}
    return {number: known[before] for number, before in own.items() if before in known}


def _shots(track: faces.Track) -> int:
    return int(track.shot.max()) + 1


def image_names(paths: Sequence[str], count: int) -> tuple[str, ...]:
    """File names for `count` images that begin as `paths` do: the first one's number goes on, or counts from 1."""
    stem, ending = os.path.splitext(os.path.basename(paths[0]))
    match = re.search(r"\d+$", stem)
    digits = match[0] if match else "0001"
    before = stem[: match.start()] if match else f"{stem}_"
    return tuple(f"{before}{int(digits) + i:0{len(digits)}d}{ending}" for i in range(count))


def pictures(info: media.SourceInfo, start: int, source: np.ndarray) -> Iterator[media.Picture]:
    """The pictures `start` + source[0], `start` + source[1], …; memory holds a few, backwards up to `most_held`."""
    first = 0
    while first < len(source):
        end = _same_direction(source, first)
        if end - first > 1 and source[first + 1] < source[first]:
            yield from _backward(info, start + int(source[end - 1]), start + int(source[first]))
        else:
            yield from _forward(info, start, source[first:end])
        first = end


def _same_direction(source: np.ndarray, first: int) -> int:
    """Where the frames from `first` on stop to rise (or stay), or stop to fall one by one."""
    steps = np.diff(source[first:])
    down = len(steps) > 0 and steps[0] == -1
    broken = np.flatnonzero(steps != -1 if down else steps < 0)
    return first + (int(broken[0]) + 1 if len(broken) else len(steps) + 1)


def _forward(info: media.SourceInfo, start: int, source: np.ndarray) -> Iterator[media.Picture]:
    frames, times = np.unique(source, return_counts=True)
    count = dict(zip(frames.tolist(), times.tolist(), strict=True))
    first = int(frames[0])
    for number, picture in enumerate(media.read(info, start + first, int(frames[-1]) - first + 1), first):
        if number not in count:
            continue
        index, frame, rotation = picture.index, picture.frame, picture.rotation
        path, damage = picture.path, picture.damage
        yield picture
        del picture  # it may have been painted since, and with a frame of its own
        for _ in range(1, count[number]):
            yield media.Picture(index, frame, rotation, path, damage)


def _backward(info: media.SourceInfo, first: int, last: int) -> Iterator[media.Picture]:
    """The frames last … first. A movie is decoded forwards only, so it is read in parts from the end."""
    at_once = fewest_held
    while last >= first:
        begin = max(first, last - at_once + 1)
        held = list(media.read(info, begin, last - begin + 1))
        size = sum(plane.buffer_size for plane in held[-1].frame.planes)
        while held:
            yield held.pop()
        last = begin - 1
        at_once = min(max(held_bytes // size, fewest_held), most_held)
