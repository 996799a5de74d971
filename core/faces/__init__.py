# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the faces are in every frame, and the aligned crop of one that the nets see."""

from .align import Place, crop, expand, fit, in_crop, place_aligned, place_box, smooth, uncrop
from .follow import Follower
from .mesh import lip_opening
from .pixels import Pixels
from .track import Tracker
from .tracks import FaceTrack, People, Track, at_fields, follow_through

__all__ = [
    "FaceTrack",
    "Follower",
    "People",
    "Pixels",
    "Place",
    "Track",
    "Tracker",
    "at_fields",
    "crop",
    "expand",
    "fit",
    "follow_through",
    "in_crop",
    "lip_opening",
    "place_aligned",
    "place_box",
    "smooth",
    "uncrop",
]
