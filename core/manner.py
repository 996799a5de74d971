# SPDX-License-Identifier: GPL-3.0-or-later
"""How widely a person moves the lips. The speech does not tell: some people hardly open them, and still speak.

The figures are of 87 people of the training footage. How widely lips move in three seconds was compared with how widely
they did before, and with what the bundled model hears (docs/default-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import compose, faces
from .reference import lip_gap, touching

window = 2.0
"""Seconds of lips that are looked at together."""
livelier_part = 0.25
"""Part of these windows that moves more widely than what counts: nobody speaks all the time."""
usual = 0.06
"""Crop units between the least and the most open tenth of a window, of people who move as widely as the model hears."""
most_told, half_told = 0.5, 0.8
"""What long footage tells of the person's manner, as the power of the ratio to the usual one, and seconds of footage
after which half of that is told."""
still, speaking = 0.008, 0.018
"""Crop units up to which lips do not speak, so that they tell nothing, and from which on they do."""
least = 0.6
"""A quieter manner would be taken for one that does not speak. Nobody is made livelier than the model hears: it hears
the lively ones well, and what they shut is shut less often then."""


@dataclass(frozen=True)
class Manner:
    """How a person of some footage moves the lips."""

    liveliness: float
    """How widely, `least` to 1: as the model hears, or the footage does not tell."""
    median: float
    """The opening from which the ear's shapes count, crop units."""


def of_footage(track: faces.Track, rate: float) -> Manner:
    """The manner of the person whose face was followed through footage of `rate` frames a second."""
    opening = lip_gap(track.points, track.to_crop)
    runs = [
        slice(first, last + 1)
        for first, last in compose.runs(np.where(track.found, track.shot, -1))
        if track.found[first]
    ]
    if not runs:
        return Manner(1.0, 0.0)
    median = float(np.median(opening[track.found]))
    length = min(round(window * rate), max(run.stop - run.start for run in runs))
    if length < 2:
        return Manner(1.0, median)
    looked_at = [run for run in runs if run.stop - run.start >= length]
    ranges = [
        np.diff(np.quantile(opening[i : i + length], (0.1, 0.9)))[0]
        for run in looked_at
        for i in range(run.start, run.stop - length + 1, length // 2)
    ]
    seen = float(np.quantile(ranges, 1 - livelier_part))
    seconds = sum(run.stop - run.start for run in looked_at) / rate
    told = most_told * seconds / (seconds + half_told)
    told *= float(compose.smoothstep(np.array((seen - still) / (speaking - still))))
    return Manner(float(np.clip((max(seen, still) / usual) ** told, least, 1)), median)


def moved(shapes: np.ndarray, opening: np.ndarray, median: float, liveliness: float) -> np.ndarray:
    """Mouth shapes (n, 8) as they are where the lips move by a factor more, or less. Shut lips stay shut.

    The other seven numbers go along as far as in this speech they go with the opening.

    Args:
        opening: (n,) of these shapes, in crop units more than `median` (core.engine).
        median: as Manner has it.
        liveliness: the factor, on how far the lips are open.
    """
    spread = opening - opening.mean()
    along = spread @ shapes / max(float(spread @ spread), 1e-9)
    apart = opening + median
    change = (liveliness - 1) * apart * compose.smoothstep(apart / (2 * touching))
    return (shapes + change[:, None] * along).astype(np.float32)
