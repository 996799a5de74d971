# SPDX-License-Identifier: GPL-3.0-or-later
"""How a person moves the lips. The speech does not tell: some people hardly open them, and still speak.

The figures are of 61 people of the training footage: how lips moved in three seconds was compared with how they did
just before, and with what the bundled model hears (docs/default-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import compose, faces, mouth

window = 2.0
"""Seconds of lips that are looked at together."""
livelier_part = 0.25
"""Part of these windows that moves more widely than what counts: nobody speaks all the time."""
usual_range = 0.07
"""Crop units between the least and the most open tenth of a window, of people who move as widely as the model hears."""
usual = np.array([1.43, 1.58, 1.58, 11.82, 5.41, 8.24, 12.14, 8.56], np.float32)
"""People's numbers (core.mouth) while they speak: the mean of 154 people's medians."""
usual_opening = float(usual[0]) * mouth.opening_step
most_told, half_told = 0.75, 0.8
"""What long footage tells of the person's manner, as the power of the ratio to the usual one, and seconds of footage
after which half of that is told."""
opening_half_told = 0.5
"""Seconds after which half of the person's median opening is told."""
still_told, rest_half_told = 0.62, 1.0
"""What a single picture tells of the medians of the other numbers, and seconds after which half of the rest is told. A
smile is not what somebody speaks with."""
still, speaking = 0.008, 0.018
"""Crop units up to which lips do not speak, so that they tell nothing, and from which on they do."""
least = 0.4
"""A quieter manner would be taken for one that does not speak. Nobody is made livelier than the model hears: it hears
the lively ones well."""
shut = 0.03
"""Crop units below the median at which the model hears lips that are shut: as many people's lips are shut, so many
openings that it hears are below that."""

furthest = 2.5
"""Steps from the footage's median beyond which one in a hundred mouths goes in the numbers that are no openings: what a
smile must become to be an o, a net has not learnt, and smears."""


@dataclass(frozen=True)
class Manner:
    """How a person of some footage moves the lips."""

    liveliness: float
    """How widely, `least` to 1: as the model hears, or the footage does not tell."""
    median: float
    """The opening while they speak, crop units; people's where the footage does not tell."""
    seen: dict[int, float]
    """For each number in the track's `shot` the median opening, crop units: where shapes count from."""
    neutral: np.ndarray
    """(8,) float32 steps from the footage's median to the person's, of the numbers that are no openings."""


def of_footage(track: faces.Track, rate: float) -> Manner:
    """The manner of the person whose face was followed through footage of `rate` frames a second."""
    measured = mouth.numbers(track.in_crop(mouth.points))
    opening = measured[:, 0] * mouth.opening_step
    numbers = np.where(track.found, track.shot, -1)
    seen = {int(number): float(np.median(opening[numbers == number])) for number in np.unique(numbers[track.found])}
    away = np.zeros(mouth.shape_size, np.float32)
    if track.found.any():
        away[mouth.openings :] = (usual - np.median(measured[track.found], axis=0))[mouth.openings :]
    runs = [slice(first, last + 1) for first, last in compose.runs(numbers) if numbers[first] >= 0]
    length = min(round(window * rate), max((run.stop - run.start for run in runs), default=0))
    if length < 2:
        return Manner(1.0, usual_opening, seen, (1 - still_told) * away)
    looked_at = [run for run in runs if run.stop - run.start >= length]
    windows = np.stack(
        [opening[i : i + length] for run in looked_at for i in range(run.start, run.stop - length + 1, length // 2)]
    )
    ranges = np.subtract(*np.quantile(windows, (0.9, 0.1), axis=1))
    widely = float(np.quantile(ranges, 1 - livelier_part))
    median = float(np.median(windows[ranges >= min(speaking, widely)]))
    seconds = sum(run.stop - run.start for run in looked_at) / rate
    speaks = float(compose.smoothstep(np.array((widely - still) / (speaking - still))))
    told = most_told * speaks * seconds / (seconds + half_told)
    opening_told = speaks * seconds / (seconds + opening_half_told)
    rest_told = still_told + (1 - still_told) * speaks * seconds / (seconds + rest_half_told)
    return Manner(
        liveliness=float(np.clip((max(widely, still) / usual_range) ** told, least, 1)),
        median=usual_opening + opening_told * (median - usual_opening),
        seen=seen,
        neutral=(1 - rest_told) * away,
    )


def moved(shapes: np.ndarray, shot: np.ndarray, own: Manner, liveliness: float = 1.0) -> np.ndarray:
    """Mouth shapes (n, 8) that were heard, which are anybody's, as a person makes them; in [-4, 4].

    The median is the person's, what is heard as shut lips is shut, and how far lips are open is multiplied. The other
    seven numbers go along as they usually do, and count from where the person has them while speaking.

    Args:
        shot: (n,) the numbers of the shots they will be shown in.
        liveliness: a factor on the person's own.
    """
    opening = shapes[:, 0] * mouth.opening_step
    apart = own.median + np.where(opening < 0, own.median / shut, 1.0) * opening
    apart = own.liveliness * liveliness * np.maximum(apart, 0)
    seen = np.array([own.seen.get(number, own.median) for number in shot.tolist()])
    change = (apart - seen - opening) / mouth.opening_step
    result = shapes + own.neutral + change[:, None] * mouth.along
    result[:, mouth.openings :] = result[:, mouth.openings :].clip(-furthest, furthest)
    return result.clip(-mouth.most, mouth.most).astype(np.float32)
