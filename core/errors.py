# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors a user can meet: one sentence of what is wrong and one hint of what to do."""

from __future__ import annotations

import os


class LipSyncError(Exception):
    """A failure with a sentence for the user and a hint.

    Args:
        message: one sentence that says what is wrong, with the file or value it is about.
        hint: one sentence that says what the user can do.
    """

    hint = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or type(self).hint


class MediaError(LipSyncError):
    """A picture or sound file cannot be read or written."""

    hint = "Check that the file plays in Blender or a media player."


class NoFaceError(LipSyncError):
    """No usable face in the footage."""

    hint = "Choose footage in which a face looks towards the camera for at least a few frames."


class SpeechError(LipSyncError):
    """The speech cannot be used."""

    hint = "Name a file with a sound stream, or put unmuted sound over the strip."


class ModelError(LipSyncError):
    """A checkpoint cannot be used."""

    hint = "Name a .safetensors file made by `lipsync-train`, or leave the model empty for the bundled one."


class JobError(LipSyncError):
    """A job's fields do not fit together, or a job cannot be read."""


class DeviceError(LipSyncError):
    """The asked for compute device cannot be used."""

    hint = "Use the device `auto` or `cpu`."


class OutputError(LipSyncError):
    """The result cannot be written where it was asked for."""

    hint = "Choose a folder that exists, can be written to and has free space."


class WorkerError(LipSyncError):
    """The process that does the work cannot be started."""


class Cancelled(LipSyncError):
    """The user cancelled the job; nothing was changed."""


def refused(error: OSError) -> LipSyncError:
    """What the user is told where the system refuses a file that nothing else speaks for: which one, and why."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "A file of the job"
    return LipSyncError(
        f"{name} cannot be used: {error.strerror or type(error).__name__}.",
        "Check the path, the rights to it and the free space there.",
    )
