# SPDX-License-Identifier: GPL-3.0-or-later
"""One face followed through the frames of a shot, by MediaPipe's detector and face mesh (both in its wheel)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Self

import cv2
import numpy as np

from .align import Place, place_aligned
from .mesh import face_oval, point_count

detector_size = 640
"""Longest side of the picture the detector looks at."""
mesh_size = 512
"""Longest side of the window the face mesh looks at."""
window_factor = 2.2
"""Side of that window over the face's."""
smallest_tile = 240
"""Side in pixels below which no tile is searched; the detector sees 192 pixels of whatever it gets."""
cut_difference = 28.0
"""Mean difference of two thumbnails, in levels, that makes a cut."""


@dataclass(frozen=True)
class Track:
    """A face in n frames."""

    found: np.ndarray
    """(n,) bool: the face was seen."""
    shot: np.ndarray
    """(n,) int32: which shot a frame belongs to; rises by one at a cut and where the face jumps."""
    to_crop: np.ndarray
    """(n, 2, 3) float64: frame pixels → crop, smoothed in time; nan where not found."""
    points: np.ndarray
    """(n, 478, 2) float32: the face mesh in frame pixels, not smoothed; nan where not found."""


class Tracker:
    """Follows the largest face. A context manager: MediaPipe keeps its memory until it is closed.

    Args:
        rate: frames per second, for the smoothing.
        place: how the crop lies.
    """

    def __init__(self, rate: float, place: Place = place_aligned) -> None:
        self.rate = rate
        self.place = place
        self._points: list[np.ndarray | None] = []
        self._shots: list[int] = []
        self._window: tuple[int, int, int] | None = None
        self._thumbnail: np.ndarray | None = None
        self._without = 0
        self._mesh: Any = None
        self._detector: Any = None

    def __enter__(self) -> Self:
        # late: two seconds, and not needed to plan a job
        from mediapipe.python.solutions.face_detection import FaceDetection
        from mediapipe.python.solutions.face_mesh import FaceMesh

        self._detector = FaceDetection(model_selection=1, min_detection_confidence=0.5)
        self._mesh = FaceMesh(max_num_faces=1, refine_landmarks=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._detector.close()
        self._mesh.close()

    def add(self, rgb: np.ndarray) -> np.ndarray | None:
        """Looks at the next frame, (H, W, 3) uint8.

        Returns:
            The face mesh (478, 2) in frame pixels, or None when no face was found.
        """
        cut = self._is_cut(rgb)
        if cut:
            self._window = None
        points = self._mesh_points(rgb) if self._window else None
        if points is None:
            self._window = self._search(rgb)
            if self._window:
                self._mesh.reset()
                points = self._mesh_points(rgb)
        shot = self._shots[-1] if self._shots else 0
        before = self._points[-1] if self._points else None
        if points is None:
            self._window = None
            self._without += 1
        else:
            self._without = 0
            cut = cut or (before is not None and _jumped(before, points))
        self._shots.append(shot + 1 if cut else shot)
        self._points.append(None if points is None else points.astype(np.float32))
        return points

    def finish(self) -> Track:
        """The track over all frames added; ends the tracker's use."""
        n = len(self._points)
        found = np.array([p is not None for p in self._points], bool)
        shot = np.array(self._shots, np.int32)
        points = np.full((n, point_count, 2), np.nan, np.float32)
        for i, p in enumerate(self._points):
            if p is not None:
                points[i], self._points[i] = p, None  # one copy at a time
        to_crop = np.full((n, 2, 3), np.nan)
        for run in _runs(found, shot):
            to_crop[run] = self.place(points[run], self.rate)
        return Track(found, shot, to_crop, points)

    def _is_cut(self, rgb: np.ndarray) -> bool:
        step = max(1, min(rgb.shape[:2]) // 128)  # thin first: resizing 4K by area costs more than the face mesh
        small = cv2.resize(np.ascontiguousarray(rgb[::step, ::step]), (48, 48), interpolation=cv2.INTER_AREA)
        before, self._thumbnail = self._thumbnail, small.astype(np.float32)
        return before is not None and float(np.abs(self._thumbnail - before).mean()) > cut_difference

    def _search(self, rgb: np.ndarray) -> tuple[int, int, int] | None:
        """A window around the largest face; in a frame where none is seen, tiles are searched for a small one."""
        height, width = rgb.shape[:2]
        face = self._largest(rgb, 0, 0)
        if face is None and self._without % 12 == 0:  # tiles cost dozens of detections
            for side in (s for s in (max(height, width) * 6 // 10, max(height, width) * 3 // 10) if s > smallest_tile):
                for top, left in product(_tiles(height, side), _tiles(width, side)):
                    found = self._largest(rgb[top : top + side, left : left + side], left, top)
                    if found and (face is None or found[2] > face[2]):
                        face = found
                if face:
                    break
        return face and self._window_around(face, rgb)

    def _largest(self, rgb: np.ndarray, left: int, top: int) -> tuple[float, float, float] | None:
        """Middle and side of the largest face the detector sees, in frame pixels."""
        height, width = rgb.shape[:2]
        scale = min(1.0, detector_size / max(height, width))
        small = cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        boxes = [d.location_data.relative_bounding_box for d in self._detector.process(small).detections or ()]
        if not boxes:
            return None
        box = max(boxes, key=lambda b: b.width * b.height)
        side = max(box.width * width, box.height * height)
        return left + (box.xmin + box.width / 2) * width, top + (box.ymin + box.height / 2) * height, side

    def _window_around(self, face: tuple[float, float, float], rgb: np.ndarray) -> tuple[int, int, int] | None:
        x, y, side = face
        side = max(32, round(side * window_factor))
        return round(x - side / 2), round(y - side / 2), side

    def _mesh_points(self, rgb: np.ndarray) -> np.ndarray | None:
        """The mesh in the window; moves the window when the face has left its middle."""
        assert self._window
        x, y, side = self._window
        height, width = rgb.shape[:2]
        part = rgb[max(0, y) : y + side, max(0, x) : x + side]
        if part.size == 0:
            return None
        left, top = max(0, -x), max(0, -y)  # the window keeps its place and size where it leaves the frame
        window = cv2.copyMakeBorder(
            part, top, side - top - part.shape[0], left, side - left - part.shape[1], cv2.BORDER_CONSTANT
        )
        if side > mesh_size:
            window = cv2.resize(window, (mesh_size, mesh_size), interpolation=cv2.INTER_AREA)
        faces = self._mesh.process(window).multi_face_landmarks
        if not faces:
            return None
        points = np.array([(p.x, p.y) for p in faces[0].landmark]) * side + (x, y)
        outline = points[list(face_oval)]
        low, high = outline.min(0), outline.max(0)
        middle, size = (low + high) / 2, float((high - low).max())
        if (middle < 0).any() or (middle > (width, height)).any():
            return None
        drift = np.abs(middle - (x + side / 2, y + side / 2)).max()
        if drift > 0.2 * side or not 0.6 < size * window_factor / side < 1.6:
            self._window = self._window_around((*middle, size), rgb)
            self._mesh.reset()
        return points


def _tiles(length: int, side: int) -> list[int]:
    """Where tiles begin that cover a length and overlap by a third or more, so that a face is whole in one."""
    count = max(1, -(-(length - side) * 3 // (2 * side)) + 1)
    return [round(i * max(0, length - side) / max(1, count - 1)) for i in range(count)]


def _jumped(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the face is at another place at once: another person, or a cut between similar pictures."""
    size = np.ptp(before[list(face_oval)], axis=0).max()
    ratio = np.ptp(after[list(face_oval)], axis=0).max() / size
    return bool(np.linalg.norm(after.mean(0) - before.mean(0)) > 0.35 * size or not 0.7 < ratio < 1.43)


def _runs(found: np.ndarray, shot: np.ndarray) -> list[slice]:
    """Unbroken runs of frames of one shot in which the face was found."""
    n = len(found)
    edges = [i for i in range(n) if i == 0 or found[i] != found[i - 1] or shot[i] != shot[i - 1]] + [n]
    return [slice(a, b) for a, b in pairwise(edges) if found[a]]
