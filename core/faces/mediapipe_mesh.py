# SPDX-License-Identifier: GPL-3.0-or-later
"""MediaPipe's detector (full range) and face mesh, both in its wheel: the default, and offline."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from .detect import Box, Window
from .pixels import Pixels

detector_size = 640
"""Longest side of the picture the detector looks at; its net sees 192 pixels of it."""
mesh_size = 512
"""Longest side of the window the face mesh looks at."""


def solution(name: str) -> Any:
    """The module of one of MediaPipe's solutions; late, because it takes two seconds that not every job needs.

    Imported in a thread: something in there keeps an error for good, and with its traceback all that the callers on the
    stack hold of their job.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(import_module, f"mediapipe.python.solutions.{name}").result()


class MediaPipeMesh:
    """A `Detector`. MediaPipe keeps its memory until it is closed; a slot costs some 30 MB."""

    def __init__(self) -> None:
        self._detector: Any = None
        self._make_mesh: Any = None
        self._meshes: list[Any] = []

    @property
    def version(self) -> str:
        return f"mediapipe {version('mediapipe')}"

    def __enter__(self) -> Self:
        self._detector = solution("face_detection").FaceDetection(model_selection=1, min_detection_confidence=0.5)
        self._make_mesh = partial(solution("face_mesh").FaceMesh, max_num_faces=1, refine_landmarks=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for net in (self._detector, *self._meshes):
            net.close()

    def boxes(self, rgb: np.ndarray) -> list[Box]:
        height, width = rgb.shape[:2]
        scale = min(1.0, detector_size / max(height, width))
        small = cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        seen = [d.location_data.relative_bounding_box for d in self._detector.process(small).detections or ()]
        boxes = [
            ((b.xmin + b.width / 2) * width, (b.ymin + b.height / 2) * height, max(b.width * width, b.height * height))
            for b in seen
        ]
        return sorted(boxes, key=lambda box: -box[2])

    def points(self, frame: Pixels, window: Window, slot: int, fresh: bool) -> np.ndarray | None:
        x, y, side = window
        part = frame[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)]
        if part.size == 0:
            return None
        left, top = max(0, -x), max(0, -y)  # the window keeps its place and size where it leaves the frame
        if part.shape[:2] != (side, side):
            bottom, right = side - top - part.shape[0], side - left - part.shape[1]
            part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT)
        while len(part) > 2 * mesh_size and len(part) % 2 == 0:  # halves are quick; any other area costs like the mesh
            part = cv2.resize(part, (len(part) // 2, len(part) // 2), interpolation=cv2.INTER_AREA)
        if len(part) > mesh_size:
            part = cv2.resize(part, (mesh_size, mesh_size), interpolation=cv2.INTER_LINEAR)
        found = self._mesh(slot, fresh).process(np.ascontiguousarray(part)).multi_face_landmarks
        return np.array([(p.x, p.y) for p in found[0].landmark]) * side + (x, y) if found else None

    def _mesh(self, slot: int, fresh: bool) -> Any:
        """A face mesh follows one face: each slot has its own."""
        if fresh and slot < len(self._meshes):
            self._meshes[slot].reset()
        while len(self._meshes) <= slot:
            self._meshes.append(self._make_mesh())
        return self._meshes[slot]
