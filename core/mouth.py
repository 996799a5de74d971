# SPDX-License-Identifier: GPL-3.0-or-later
"""A mouth's shape as eight numbers: what the sound can know of a face, whoever's it is."""

from __future__ import annotations

import numpy as np

from .faces.mesh import chin, lower_lip, upper_lip

shape_size = 8
"""Numbers of a mouth's shape: inner opening, width, and how low lips, chin and corners are."""
opening_step = 0.024
"""What the first number counts in, crop units."""
most = 4.0
"""Steps from a speaker's median beyond which no mouth is learnt."""

points = (upper_lip, lower_lip, 82, 87, 312, 317, 61, 291, 0, 17, chin, 2)
"""Mesh points that tell a shape: of the inner lips the middle and two sides, corners, outer lips, chin, nose."""
steps = np.array([opening_step, 0.021, 0.021, 0.024, 0.016, 0.027, 0.034, 0.016], np.float32)
"""What counts as one step of each number, in units of the crop: chosen, so that a speaker's deviations from the median
are of one size. Over the default model's training clips they are 1.0, 1.1, 1.1, 0.7, 0.5, 0.8, 0.5 and 0.7 steps."""

openings = 3
"""The first numbers, which are of how far lips are apart; the others depend on the pose of the head too."""

along = np.array([1.0, 1.09, 1.1, 0.22, -0.23, 0.65, 0.27, 0.24], np.float32)
"""Steps by which each number goes along with a step of the opening, in people's speech."""


def numbers(seen: np.ndarray) -> np.ndarray:
    """The numbers (T, 8) float32 of `points` (T, 12, 2) in crop units, in `steps`; less their median they are shapes.

    Inner opening (middle, two sides), width, and below the nose: upper lip, lower lip, chin, corners.
    """
    upper, lower, *inner, left, right, above, below, jaw, nose = np.moveaxis(seen, 1, 0)

    def gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a - b, axis=1)

    apart = [gap(upper, lower), gap(*inner[:2]), gap(*inner[2:])]
    heights = [place[:, 1] - nose[:, 1] for place in (above, below, jaw, (left + right) / 2)]
    values = np.stack([*apart, gap(left, right), *heights], 1)
    return (values / steps).astype(np.float32)
