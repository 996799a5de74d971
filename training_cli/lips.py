# SPDX-License-Identifier: GPL-3.0-or-later
"""Mouth shapes as eight numbers: what the sound can know of a face, whoever's it is."""

from __future__ import annotations

import numpy as np

from core.faces.mesh import chin
from core.nets.lipcode import opening_step

from . import shards

scale = np.array([opening_step, 0.021, 0.021, 0.024, 0.016, 0.027, 0.034, 0.016], np.float32)
"""What counts as one step of each number, in units of the crop: chosen, so that a speaker's deviations from the median
are of one size. Over the default model's training clips they are 1.0, 1.1, 1.1, 0.7, 0.5, 0.8, 0.5 and 0.7 steps."""
usual_spread = np.array([0.88, 0.96, 0.97, 0.55, 0.39, 0.68, 0.37, 0.51], np.float32)
"""Standard deviation of each number in the median clip among those."""
_at = {point: i for i, point in enumerate(shards.points)}


def shapes(landmarks: np.ndarray) -> np.ndarray:
    """Mouth shapes (T, 8) of a clip's landmarks (T, 85, 2), each relative to the clip's median, in steps of `scale`.

    The numbers: inner opening (middle, two sides), width, and below the nose: upper lip, lower lip, chin, corners.
    """

    def p(point: int) -> np.ndarray:
        return landmarks[:, _at[point]]

    def gap(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(p(a) - p(b), axis=1)

    nose = p(2)[:, 1]
    values = np.stack(
        [
            gap(13, 14),
            gap(82, 87),
            gap(312, 317),
            gap(61, 291),
            p(0)[:, 1] - nose,
            p(17)[:, 1] - nose,
            p(chin)[:, 1] - nose,
            (p(61)[:, 1] + p(291)[:, 1]) / 2 - nose,
        ],
        1,
    )
    return ((values - np.median(values, 0)) / scale).astype(np.float32)


def liveliness(shapes: np.ndarray, part: float = 1.0) -> np.ndarray:
    """Spread (8,) of a clip's shapes (T, 8) over the usual one, as a factor of which only `part` (0 to 1) is taken."""
    return (1 - part + part * shapes.std(0) / usual_spread).clip(0.1).astype(np.float32)
