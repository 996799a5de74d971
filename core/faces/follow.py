# SPDX-License-Identifier: GPL-3.0-or-later
"""All faces of some footage followed from frame to frame, as pieces of paths that are joined to tracks at the end.

A face is followed by place: its points are looked for where they were. What place cannot tell (who is who after two
faces crossed, whether the face that comes back is the one that was lost) the faces' looks decide, see `looks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import cv2
import numpy as np

from .detect import Box, Detector, Window, window_factor
from .looks import gallery, join, look, unlike
from .mesh import face_oval
from .pixels import Pixels
from .tracks import FaceTrack, People, Piece, jumped, pack

look_every = 10
"""Frames between two searches for new faces while several are followed; twice as many when one is."""
remember_every = 5
"""Frames between two looks at a face to know it again."""
lost_for = 5
"""Frames after a loss in which every frame is searched."""
missing_for, look_again = 50, 3
"""Frames after a loss in which the face is still missed, and between two searches for it then."""
smallest_tile = 240
"""Side in pixels below which no tile is searched; MediaPipe's detector sees 192 pixels of whatever it gets."""
cut_difference = 28.0
"""Mean difference of two thumbnails, in levels, that makes a cut."""
beside = 0.8
"""Distance of two faces' middles over the larger's side, below which one may hide the other."""
most_faces = 8
"""Faces followed at once: a crowd would take minutes, and nobody dubs it."""
no_track = 3
"""Sightings of a face fewer than which are no track in a shot of more than `look_every` frames."""


@dataclass
class _Live:
    """A face that is being followed."""

    window: Window
    slot: int
    piece: Piece
    fresh: bool = True
    near: bool = False
    """Beside another face, so that its look may be the other's."""


class Follower:
    """Follows faces through frames in their order.

    Args:
        detector: open already; the caller closes it.
        most: faces followed at once, the largest; 1 looks for no other while there is one.
    """

    def __init__(self, detector: Detector, most: int = most_faces) -> None:
        self._detector = detector
        self._most = most
        self._live: list[_Live] = []
        self._pieces: list[Piece] = []
        self._shots: list[int] = []
        self._thumbnail: np.ndarray | None = None
        self._looked = self._lost = -missing_for
        self._without = 0

    def add(self, frame: Pixels) -> list[np.ndarray]:
        """Looks at the next frame.

        Returns:
            The points (478, 2) of each face followed, in frame pixels.
        """
        number = len(self._shots)
        cut = self._is_cut(frame)
        self._shots.append(self._shots[-1] + cut if self._shots else 0)
        if cut:
            self._live.clear()
        seen: list[tuple[_Live, np.ndarray]] = []
        for face in self._live:
            points = self._points(frame, face)
            if points is None:
                self._lost = number
            else:
                if face.piece.last is not None and jumped(face.piece.last, points):
                    face.piece = self._new_piece()
                seen.append((face, points))
        if self._most > 1:
            seen = self._without_doubles(frame, seen, number)
        self._live = [face for face, _ in seen]
        if self._must_look(number, cut):
            self._looked = number
            self._find(frame, seen, cut or number == 0)
        self._without = 0 if seen else self._without + 1
        if self._most > 1:
            self._divide_crossed(seen)
        for face, points in seen:
            self._record(frame, face, points, number)
        return [points for _, points in seen]

    def finish(self) -> People:
        """All tracks over the frames added; ends the follower's use."""
        shots = np.array(self._shots, np.int32)
        pieces = [piece for piece in self._pieces if piece.frames]
        self._pieces, self._live = [], []
        chains = join(pieces, shots) if self._most > 1 else [pieces] if pieces else []
        tracks = [FaceTrack.of(chain) for chain in chains]
        if self._most > 1:
            lengths = np.bincount(shots) if len(shots) else np.zeros(0, int)
            tracks = [t for t in tracks if len(t.frames) >= no_track or lengths[shots[t.frames[0]]] <= look_every]
        tracks.sort(key=lambda track: (int(track.frames[0]), float(track.origin[0, 0])))
        return People(shots, tuple(tracks))

    def _is_cut(self, frame: Pixels) -> bool:
        step = max(1, min(frame.shape[:2]) // 128)  # thin first: resizing 4K by area costs more than the face mesh
        small = cv2.resize(np.ascontiguousarray(frame[::step, ::step]), (48, 48), interpolation=cv2.INTER_AREA)
        before, self._thumbnail = self._thumbnail, small.astype(np.float32)
        return before is not None and float(np.abs(self._thumbnail - before).mean()) > cut_difference

    def _must_look(self, number: int, cut: bool) -> bool:
        if not self._live or cut:
            return True
        if len(self._live) >= self._most:
            return False
        lately = number - self._lost
        if lately < missing_for:
            return lately < lost_for or number - self._looked >= look_again
        return number - self._looked >= (look_every if len(self._live) > 1 else 2 * look_every)

    def _find(self, frame: Pixels, seen: list[tuple[_Live, np.ndarray]], begin: bool) -> None:
        """Adds faces that are not followed yet to `seen` and begins to follow them."""
        for box in self._boxes(frame, begin):
            if len(self._live) >= self._most:
                break
            if any(_same_place(box, _box(points)) for _, points in seen):
                continue
            slot = next(i for i in range(len(self._live) + 1) if all(face.slot != i for face in self._live))
            face = _Live(_window_around(box), slot, Piece())
            points = self._points(frame, face)
            if points is None or any(_same_place(_box(points), _box(others)) for _, others in seen):
                continue
            face.piece = self._new_piece()
            self._live.append(face)
            seen.append((face, points))

    def _boxes(self, frame: Pixels, begin: bool) -> list[Box]:
        """Faces, the largest first. Where none is seen, and when a shot begins, tiles are searched for small ones."""
        height, width = frame.shape[:2]
        rgb = frame[:, :]
        boxes = self._detector.boxes(rgb)
        coarse, fine = max(height, width) * 6 // 10, max(height, width) * 3 // 10
        sides = [coarse] if begin and self._most > 1 else []
        if not boxes and self._without % 12 == 0:  # tiles cost dozens of detections
            sides = [coarse, fine]
        for side in (s for s in sides if s > smallest_tile):
            for top, left in product(_tiles(height, side), _tiles(width, side)):
                for x, y, size in self._detector.boxes(rgb[top : top + side, left : left + side]):
                    if not any(_same_place((left + x, top + y, size), box) for box in boxes):
                        boxes.append((left + x, top + y, size))
            if boxes:
                break
        return sorted(boxes, key=lambda box: -box[2])

    def _points(self, frame: Pixels, face: _Live) -> np.ndarray | None:
        """The points in a face's window; moves the window when the face has left its middle."""
        points = self._detector.points(frame, face.window, face.slot, face.fresh)
        face.fresh = False
        if points is None:
            return None
        height, width = frame.shape[:2]
        x, y, size = _box(points)
        if not (0 <= x <= width and 0 <= y <= height):
            return None
        left, top, side = face.window
        drift = max(abs(x - left - side / 2), abs(y - top - side / 2))
        if drift > 0.2 * side or not 0.6 < size * window_factor / side < 1.6:
            face.window, face.fresh = _window_around((x, y, size)), True
        return points

    def _new_piece(self) -> Piece:
        self._pieces.append(Piece())
        return self._pieces[-1]

    def _record(self, frame: Pixels, face: _Live, points: np.ndarray, number: int) -> None:
        piece = face.piece
        piece.frames.append(number)
        piece.meshes.append(pack(points))
        piece.first = points if piece.first is None else piece.first
        piece.last = points
        if self._most > 1 and len(piece.frames) % remember_every == 1 and not (face.near and piece.clear):
            known = piece.looks if piece.clear or face.near else []
            piece.looks, piece.clear = gallery(known, look(frame, points)), not face.near

    def _without_doubles(
        self, frame: Pixels, seen: list[tuple[_Live, np.ndarray]], number: int
    ) -> list[tuple[_Live, np.ndarray]]:
        """Of two paths that came to one face, the one whose look it is goes on; the other's face is hidden."""
        gone: list[_Live] = []
        for (face, points), (other, others) in combinations(seen, 2):
            if face in gone or other in gone or not _same_place(_box(points), _box(others), 0.3):
                continue
            now = look(frame, points)
            gone.append(loser := max((face, other), key=lambda live: unlike([now], live.piece.looks)))
            self._lost = number
            del loser.piece.frames[-2:], loser.piece.meshes[-2:]  # on its way to the other's face
        return [(face, points) for face, points in seen if face not in gone]

    def _divide_crossed(self, seen: list[tuple[_Live, np.ndarray]]) -> None:
        """When two faces part again their paths begin anew, so that `join` tells by their looks who is who."""
        near = set()
        for (i, (_, points)), (j, (_, others)) in combinations(enumerate(seen), 2):
            (x, y, size), (u, v, other_size) = _box(points), _box(others)
            if np.hypot(x - u, y - v) < beside * max(size, other_size):
                near |= {i, j}
        for i, (face, _) in enumerate(seen):
            if face.near and i not in near and face.piece.clear:
                face.piece = self._new_piece()
            face.near = i in near


def _box(points: np.ndarray) -> Box:
    outline = points[list(face_oval)]
    low, high = outline.min(0), outline.max(0)
    x, y = (low + high) / 2
    return float(x), float(y), float((high - low).max())


def _same_place(box: Box, other: Box, share: float = 0.5) -> bool:
    """Whether two boxes are one face's: their middles nearer than a share of the larger, their sizes alike."""
    larger, smaller = max(box[2], other[2]), min(box[2], other[2])
    return float(np.hypot(box[0] - other[0], box[1] - other[1])) < share * larger and smaller > 0.5 * larger


def _window_around(box: Box) -> Window:
    x, y, size = box
    side = max(32, 4 * round(size * window_factor / 4))
    return round(x - side / 2), round(y - side / 2), side


def _tiles(length: int, side: int) -> list[int]:
    """Where tiles begin that cover a length and overlap by a third or more, so that a face is whole in one."""
    count = max(1, -(-(length - side) * 3 // (2 * side)) + 1)
    return [round(i * max(0, length - side) / max(1, count - 1)) for i in range(count)]
