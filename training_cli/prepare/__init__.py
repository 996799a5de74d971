# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train prepare`: videos → aligned crops, landmarks and 16 kHz sound, one shard a clip."""

from .run import prepare
from .settings import PrepareSettings
from .summary import Summary

__all__ = ["PrepareSettings", "Summary", "prepare"]
