# SPDX-License-Identifier: GPL-3.0-or-later
"""The mouth shapes of prepared clips."""

from __future__ import annotations

import numpy as np

from core import mouth

from . import shards

usual_spread = np.array([0.88, 0.96, 0.97, 0.55, 0.39, 0.68, 0.37, 0.51], np.float32)
"""Standard deviation of each number in the median clip of the default model's training data."""
_at = [shards.points.index(point) for point in mouth.points]


def shapes(landmarks: np.ndarray) -> np.ndarray:
    """Mouth shapes (T, 8) of a clip's landmarks (T, 85, 2), relative to the clip's median (core.mouth)."""
    numbers = mouth.numbers(landmarks[:, _at])
    return numbers - np.median(numbers, 0)


def liveliness(shapes: np.ndarray, part: float = 1.0) -> np.ndarray:
    """Spread (8,) of a clip's shapes (T, 8) over the usual one, as a factor of which only `part` (0 to 1) is taken."""
    return (1 - part + part * shapes.std(0) / usual_spread).clip(0.1).astype(np.float32)
