# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies and image sequences: probe, read in Blender's frame order, change in their own samples, write back."""

from .damage import told
from .encodings import suffixes
from .fields import Field, moments, split, woven
from .images import check_kinds, turned_point
from .label import Label, record_path
from .picture import Picture
from .probe import SourceInfo, probe, probe_images
from .read import read
from .sound import Sound
from .to_movie import converted, movie_info
from .write import Writer, check_output, write

__all__ = [
    "Field",
    "Label",
    "Picture",
    "Sound",
    "SourceInfo",
    "Writer",
    "check_kinds",
    "check_output",
    "converted",
    "moments",
    "movie_info",
    "probe",
    "probe_images",
    "read",
    "record_path",
    "split",
    "suffixes",
    "told",
    "turned_point",
    "woven",
    "write",
]
