# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured in every frame, steadied in time without a look ahead."""

from __future__ import annotations

import numpy as np


class RunningMean:
    """An exponential mean: the first measure counts whole, of each later one a share.

    Args:
        pace: that share, 0 to 1; an array that broadcasts with the measures gives their parts different ones.
    """

    def __init__(self, pace: float | np.ndarray) -> None:
        self._pace = pace
        self.value: np.ndarray | None = None

    def add(self, now: np.ndarray) -> np.ndarray:
        """The mean with one measure more."""
        self.value = now if self.value is None else self.value + self._pace * (now - self.value)
        return self.value

    def restart(self) -> None:
        self.value = None
