# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture as whatever looks for faces in it, or cuts them out, reads it: in parts."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Pixels(Protocol):
    """An upright picture (H, W, 3) uint8: an array, or a core.media.Picture, which converts only what is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: tuple[slice, slice], /) -> np.ndarray:
        """Rows and columns, as picture[top:bottom, left:right]."""
        ...
