# SPDX-License-Identifier: GPL-3.0-or-later
"""A video's clips: runs of frames of one shot with one face that is large, frontal and moving, and with sound.

Memory is bounded by a clip: the video is decoded twice, side by side, once to follow the face until a shot ends and
once, behind it, to crop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, pairwise
from math import ceil, floor
from pathlib import Path

import numpy as np

from core import media
from core.audio import sample_rate
from core.errors import MediaError, SpeechError
from core.faces import Track, Tracker, crop, expand
from core.reference import left_cheek, nose_tip, right_cheek

from .. import shards
from .corpora import Video
from .settings import PrepareSettings
from .shots import Frame, frames
from .sound import Sound, Span

slowest, fastest = 15, 61
"""Frames a second. 59.94 and 60 are meant to be in, and a little more, for those whose clock is not exact."""
stands_still = Fraction(1, 2)
"""Seconds without any change that no face spends: a still, or the last frame of a torn file held to its end."""
quietest = 1e-3
"""Peak of the sound below which a clip is silent: -60 dB."""
stray = Fraction(1, 20)
"""Seconds of sound that may lack at either end, as encoders' delays do, before pictures are cut off."""

reasons = {
    "none": "no face: one is seen in only {seen} of {frames} frames",
    "turned": "turned away: in {turned} of {frames} frames",
    "small": "small face: its crop is {side} pixels wide, {needed} are needed",
    "still": "still picture: nothing moves in {still} of {frames} frames",
    "silent": "silent: nothing is heard in {silent} of {frames} frames",
    "broken": "too short: the face is not seen for {shortest} s at a time",
}
"""Why a video gives no clip; what stands before the colon is counted in the summary."""


def make_clips(
    root: Path, video: Video, settings: PrepareSettings, first: int, lost: Counter[str]
) -> Iterator[tuple[int, shards.Clip]]:
    """A video's clips, in order, each with the number of its first frame.

    Args:
        first: frame of the video to begin at.
        lost: counts the frames (`frames`) and those that no clip has, by their reason; `side` is the widest crop.

    Raises:
        MediaError, SpeechError: the video cannot be used, or not from here on, and why.
    """
    path = str(root / video.source)
    film = media.probe(path)
    if not slowest <= film.rate <= fastest:
        raise MediaError(f"frame rate: {float(film.rate):g} pictures a second; {slowest} to 60 are used")
    if not film.has_sound and not video.sound:
        raise SpeechError("no sound: the video has no sound stream")
    sound = Sound(path, film.start) if film.has_sound else Sound(str(root / video.sound), None)
    seen = (picture.rgb() for picture in media.read(film, first))
    behind, position = media.read(film, first), first
    for start, track, still in _shots(frames(seen, film.rate), first, film.rate, settings.longest):
        for begin, end in _runs(track, still, film.rate, settings, lost):
            span = sound.span(_sample(start + begin, film.rate), _sample(end - begin, film.rate))
            low, high = _heard(span, film.rate, begin, end)
            if high - low < ceil(settings.shortest * film.rate) or np.abs(span.wave).max() < quietest:
                lost["silent"] += end - begin
                continue
            lost["silent"] += end - begin - (high - low)
            for _ in islice(behind, start + low - position):
                pass
            position = start + high
            to_crop = track.to_crop[low:high]
            wider = expand(to_crop, shards.margin(settings.size) / settings.size)
            side = settings.size + 2 * shards.margin(settings.size)
            pictures = (picture.rgb() for picture in islice(behind, high - low))
            crops = np.stack([crop(rgb, affine, side) for rgb, affine in zip(pictures, wider, strict=True)])
            points = track.points[low:high][:, list(shards.points)].astype(np.float64)
            landmarks = np.einsum("tij,tpj->tpi", to_crop[:, :, :2], points) + to_crop[:, None, :, 2]
            heard = span.wave[_sample(low - begin, film.rate) :][: _sample(high - low, film.rate)]
            wave = np.pad(heard, (0, _sample(high - low, film.rate) - len(heard)))  # roundings
            info = shards.ClipInfo(
                video.source, video.identity, video.split, film.rate, video.licence, size=settings.size
            )
            samples = np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
            yield start + low, shards.Clip(info, crops, landmarks.astype(np.float32), samples)


def why_none(lost: Counter[str], settings: PrepareSettings) -> str:
    """The sentence for a video without a clip."""
    seen = lost["frames"] - lost["none"]
    most = max(reasons, key=lambda reason: lost[reason])
    values = {**lost, "seen": seen, "needed": ceil(settings.smallest * settings.size), "shortest": settings.shortest}
    return reasons[most].format_map(Counter(values))


def _sample(frame: int, rate: Fraction) -> int:
    return round(frame / rate * sample_rate)


def _shots(
    frames: Iterator[Frame], start: int, rate: Fraction, longest: float
) -> Iterator[tuple[int, Track, np.ndarray]]:
    """Shots, none above `longest` seconds: number of the first frame, the face's track, which frames stand still.
    A tracker lives for one shot: MediaPipe keeps its memory until it is closed."""
    most = floor(longest * rate)
    coming = next(frames, None)
    while coming is not None:
        still: list[bool] = []
        with Tracker(float(rate)) as tracker:
            while coming is not None and len(still) < most and not (still and coming.cut):
                tracker.add(coming.rgb)
                still.append(coming.still)
                coming = next(frames, None)
            track = tracker.finish()
        yield start, track, np.array(still)
        start += len(still)


def _runs(
    track: Track, still: np.ndarray, rate: Fraction, settings: PrepareSettings, lost: Counter[str]
) -> Iterator[tuple[int, int]]:
    """Ranges of usable frames that are long enough; the others are counted."""
    sides = np.where(track.found, 1 / np.hypot(track.to_crop[:, 0, 0], track.to_crop[:, 1, 0]), 0)
    small = track.found & (sides < settings.smallest * settings.size)
    turned = track.found & (_yaw(track) > settings.turned)
    still = _long(still, ceil(stands_still * rate))
    usable = track.found & ~small & ~turned & ~still
    lost["frames"] += len(still)
    lost["side"] = max(lost["side"], floor(sides.max()))
    for reason, lacking in (("none", ~track.found), ("small", small), ("turned", turned & ~small)):
        lost[reason] += int(lacking.sum())
    lost["still"] += int((still & track.found & ~small & ~turned).sum())
    edges = np.flatnonzero((np.diff(usable) != 0) | (np.diff(track.shot) != 0)) + 1
    for begin, end in pairwise([0, *edges.tolist(), len(usable)]):
        if usable[begin] and end - begin >= ceil(settings.shortest * rate):
            yield begin, end
        elif usable[begin]:
            lost["broken"] += end - begin


def _yaw(track: Track) -> np.ndarray:
    """(n,) how far the face is turned: 0 frontal, 1 with the nose's tip over the cheek's edge; nan where not found."""
    points = track.points[:, [nose_tip, left_cheek, right_cheek]].astype(np.float64)
    x = np.einsum("nj,npj->np", track.to_crop[:, 0, :2], points)
    middle, half = (x[:, 1] + x[:, 2]) / 2, np.abs(x[:, 1] - x[:, 2]) / 2
    return np.abs(x[:, 0] - middle) / np.maximum(half, 1e-6)


def _long(flags: np.ndarray, shortest: int) -> np.ndarray:
    """The flags that stand in a row of at least `shortest`."""
    edges = np.flatnonzero(np.diff(flags)) + 1
    result = np.zeros_like(flags)
    for begin, end in pairwise([0, *edges.tolist(), len(flags)]):
        result[begin:end] = flags[begin] and end - begin >= shortest
    return result


def _heard(span: Span, rate: Fraction, begin: int, end: int) -> tuple[int, int]:
    """The part of frames begin … end - 1, which `span` is the sound of, during which there is sound in the file."""
    slack = round(stray * sample_rate)
    low = begin if span.begin <= slack else begin + ceil(span.begin * rate / sample_rate)
    high = end if len(span.wave) - span.end <= slack else begin + floor(span.end * rate / sample_rate)
    return low, max(low, high)
