# SPDX-License-Identifier: GPL-3.0-or-later
"""What finds faces in a picture and their points: the small interface that all detectors have."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np

from .pixels import Pixels

Box = tuple[float, float, float]
"""A face: its middle (x, y) and the longer of its sides, in pixels."""
Window = tuple[int, int, int]
"""A square of a frame: left, top and side, in pixels; it may reach over the frame's edge."""

window_factor = 2.2
"""Side of the window in which a face's points are looked for over the face's own."""


class Detector(Protocol):
    """Finds faces and their points. A context manager: it holds nets."""

    @property
    def version(self) -> str:
        """Changes when the same pictures may give other points."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def boxes(self, rgb: np.ndarray) -> list[Box]:
        """All faces seen in a picture (H, W, 3) uint8, the largest first."""
        ...

    def points(self, frame: Pixels, window: Window, slot: int, fresh: bool) -> np.ndarray | None:
        """The face in a window of a frame.

        Args:
            slot: a small number from 0 up; what follows one face keeps to one slot from frame to frame.
            fresh: the slot's face or its window is not that of the frame before.

        Returns:
            (478, 2) in frame pixels, numbered as MediaPipe's face mesh is, or None when there is no face.
        """
        ...
