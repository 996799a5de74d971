# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies and image sequences: probe, read in Blender's frame order, change in their own samples, write back."""

from .picture import Picture
from .probe import SourceInfo, probe, probe_images
from .read import read
from .write import Writer, check_output, suffixes, write

__all__ = ["Picture", "SourceInfo", "Writer", "check_output", "probe", "probe_images", "read", "suffixes", "write"]
