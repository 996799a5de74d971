# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything of Lip Sync Redub that is not Blender: media, faces, nets and the re-dub pipeline."""

__version__ = "0.1.0"
