# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the face is in every frame, and the aligned crop of it that the nets see."""

from .align import crop, expand, fit, smooth, uncrop
from .mesh import lip_opening
from .track import Track, Tracker

__all__ = ["Track", "Tracker", "crop", "expand", "fit", "lip_opening", "smooth", "uncrop"]
