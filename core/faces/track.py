# SPDX-License-Identifier: GPL-3.0-or-later
"""One face followed through the frames of a shot: the largest."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np

from .align import Place, place_aligned
from .detectors import open_detector
from .follow import Follower
from .pixels import Pixels
from .tracks import Track, follow_through


class Tracker:
    """Follows the largest face, and looks for another only when it is lost. A context manager: it holds nets.

    Args:
        rate: frames per second, for the smoothing.
        place: how the crop lies.
    """

    def __init__(self, rate: float, place: Place = place_aligned) -> None:
        self.rate = rate
        self.place = place
        self._detector = open_detector("mediapipe")
        self._follower = Follower(self._detector, most=1)

    def __enter__(self) -> Self:
        self._detector.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detector.__exit__(kind, error, trace)

    def add(self, frame: Pixels) -> np.ndarray | None:
        """Looks at the next frame.

        Returns:
            The face mesh (478, 2) in frame pixels, or None when no face was found.
        """
        return next(iter(self._follower.add(frame)), None)

    def finish(self) -> Track:
        """The track over all frames added, without those between that had no face; ends the tracker's use."""
        people = self._follower.finish()
        return follow_through(people, people.tracks, self.rate, self.place, gap=0)
