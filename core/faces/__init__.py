# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the face is in every frame, and the aligned crop of it that the nets see."""

from .align import Place, crop, expand, fit, place_aligned, place_box, smooth, uncrop
from .mesh import lip_opening
from .track import Track, Tracker

__all__ = [
    "Place",
    "Track",
    "Tracker",
    "crop",
    "expand",
    "fit",
    "lip_opening",
    "place_aligned",
    "place_box",
    "smooth",
    "uncrop",
]
