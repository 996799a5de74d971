# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies and image sequences: probe, read in Blender's frame order, change in their own samples, write back."""

from .encodings import suffixes
from .label import Label
from .picture import Picture
from .probe import SourceInfo, probe, probe_images
from .read import read
from .sound import Sound
from .to_movie import converted, movie_info
from .write import Writer, check_output, write

__all__ = [
    "Label",
    "Picture",
    "Sound",
    "SourceInfo",
    "Writer",
    "check_output",
    "converted",
    "movie_info",
    "probe",
    "probe_images",
    "read",
    "suffixes",
    "write",
]
