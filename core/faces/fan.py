# SPDX-License-Identifier: GPL-3.0-or-later
"""The package face-alignment [Bulat & Tzimiropoulos 2017]: the detector S3FD and the 68 landmarks of 2D-FAN, as the 478
points that the rest of the pipeline knows.

More exact than MediaPipe on hard faces, and some hundred times slower on a CPU. The package's weights are a download
that we do not make: the user does.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import torch

from ..errors import ModelError
from .detect import Box, Window, window_factor
from .mean_face import mean_face
from .pixels import Pixels

weights = {"s3fd": "s3fd-619a316812.pth", "fan": "2DFAN4-11f355bf06.pth.tar"}
"""Files as the package's authors publish them."""
published_at = "https://www.adrianbulat.com/downloads/python-fan/"
detector_size = 640
"""Longest side of the picture S3FD looks at."""
least_score = 0.2
"""Mean peak of FAN's heat maps, about 0 to 1, below which there is no face."""

mesh_of_fan = (
    127, 234, 93, 132, 172, 150, 149, 148, 152, 377, 378, 379, 397, 361, 323, 454, 356,  # 0-16 jaw, ear to ear
    70, 63, 105, 66, 107,  # 17-21 brow, viewer's left
    336, 296, 334, 293, 300,  # 22-26 brow, viewer's right
    168, 197, 5, 4,  # 27-30 bridge of the nose, down to its tip
    98, 97, 2, 326, 327,  # 31-35 below the nose
    33, 160, 158, 133, 153, 144,  # 36-41 eye, viewer's left: corner, upper lid, corner, lower lid
    362, 385, 387, 263, 373, 380,  # 42-47 eye, viewer's right
    61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91,  # 48-59 outer lips, clockwise from the viewer's left corner
    78, 81, 13, 311, 308, 402, 14, 178,  # 60-67 inner lips, clockwise from the viewer's left corner
)  # fmt: skip
"""For each of FAN's 68 landmarks (the 300-W scheme) the point of MediaPipe's mesh at its place. All other points follow
as a thin plate: the mean face bent until these lie where FAN saw them."""


class FaceAlignmentNet:
    """A `Detector`.

    Args:
        folder: with the two files of `weights`; empty: torch's own folder of downloads.
        device: torch's name of a device.

    Raises:
        ModelError: the package or its weights are not there.
    """

    def __init__(self, folder: str, device: str) -> None:
        if importlib.util.find_spec("face_alignment") is None:
            raise ModelError(
                "The face detector face-alignment is not installed.",
                "Install it with `python -m pip install face-alignment`, or use the detector mediapipe.",
            )
        where = Path(folder) if folder else Path(torch.hub.get_dir()) / "checkpoints"
        self._files = {kind: where / name for kind, name in weights.items()}
        missing = [path.name for path in self._files.values() if not path.is_file()]
        if missing:
            raise ModelError(
                f"The face detector face-alignment needs {' and '.join(missing)}, missing in {where}.",
                f"Download from {published_at} into that folder, or name yours: face-alignment:FOLDER.",
            )
        self._device = device
        self._net: Any = None

    @property
    def version(self) -> str:
        sizes = [path.stat().st_size for path in self._files.values()]
        return f"face-alignment {version('face-alignment')} {sizes}"

    def __enter__(self) -> Self:
        self._net = _load(self._files, self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._net = None

    def boxes(self, rgb: np.ndarray) -> list[Box]:
        height, width = rgb.shape[:2]
        scale = min(1.0, detector_size / max(height, width))
        small = cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        seen = np.array([box[:4] for box in self._net.face_detector.detect_from_image(small)]).reshape(-1, 4) / scale
        boxes = [((a + c) / 2, (b + d) / 2, max(c - a, d - b)) for a, b, c, d in seen.tolist()]
        return sorted(boxes, key=lambda box: -box[2])

    def points(self, frame: Pixels, window: Window, slot: int, fresh: bool) -> np.ndarray | None:
        left, top, side = window
        x, y, half = left + side / 2, top + side / 2, side / window_factor / 2
        if not (0 <= x < frame.shape[1] and 0 <= y < frame.shape[0]):
            return None
        face = np.array([x - half, y - half, x + half, y + half])
        landmarks, scores, _ = self._net.get_landmarks_from_image(frame[:, :], [face], return_landmark_score=True)
        return to_mesh(landmarks[0]) if scores[0].mean() >= least_score else None


def to_mesh(landmarks: np.ndarray) -> np.ndarray:
    """Mesh points (478, 2) of FAN's landmarks (68, 2)."""
    return _bend() @ landmarks


@cache
def _bend() -> np.ndarray:
    """(478, 68): a thin plate is linear in where its pins go."""
    from scipy.interpolate import RBFInterpolator

    return RBFInterpolator(mean_face[list(mesh_of_fan)], np.eye(len(mesh_of_fan)), kernel="thin_plate_spline")(
        mean_face
    )


def _load(files: dict[str, Path], device: str) -> Any:
    """The package's detector and landmark net with weights from files, which run no code.

    Raises:
        ModelError: a file is damaged or another net's.
    """
    from face_alignment import FaceAlignment, LandmarksType
    from face_alignment.models import FAN

    class Local(FaceAlignment):
        """Without the download that the package makes by itself."""

        def _load_native(self, network_name: str, network_size: int, device: str, dtype: torch.dtype) -> Any:
            net = FAN(network_size)
            net.load_state_dict(torch.load(files["fan"], map_location=device, weights_only=True))
            return net.to(device, dtype=dtype).eval()

    try:
        return Local(
            LandmarksType.TWO_D,
            device=device,
            flip_input=False,
            face_detector="sfd",
            face_detector_kwargs={"path_to_detector": str(files["s3fd"])},
            compile=False,
        )
    except Exception as e:  # torch raises many kinds for a file that is none of its own
        names = " and ".join(path.name for path in files.values())
        raise ModelError(
            f"The weights of face-alignment cannot be loaded from {names} ({type(e).__name__}).",
            f"Download them again from {published_at}.",
        ) from None
