# SPDX-License-Identifier: GPL-3.0-or-later
"""The detectors by name."""

from __future__ import annotations

from ..errors import JobError
from .detect import Detector
from .mediapipe_mesh import MediaPipeMesh


def open_detector(name: str, device: str = "cpu") -> Detector:
    """The detector of a name: `mediapipe`, `face-alignment` or `face-alignment:FOLDER` with its weights.

    Args:
        device: torch's name of a device, for detectors that use torch.

    Raises:
        JobError: an unknown name.
        ModelError: the detector's package or its weights are not there.
    """
    kind, _, folder = name.partition(":")
    if name == "mediapipe":
        return MediaPipeMesh()
    if kind == "face-alignment":
        from .fan import FaceAlignmentNet  # late: torch takes seconds

        return FaceAlignmentNet(folder, device)
    raise JobError(f"Unknown face detector {name!r}.", "Use mediapipe, face-alignment or face-alignment:FOLDER.")
