# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracks of all people in some footage, small enough to keep, and one person's track through every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np

from .align import Place, place_aligned
from .mesh import face_oval, point_count

steps = 32000
"""Steps from the middle of a face to its farthest point in a packed mesh: finer than a hundredth of a pixel."""
at_once = 256
"""Meshes that are unpacked together: all of a long shot would be twice in memory."""
longest_gap = 5
"""Frames without a sighting between two sightings that are filled in; over more a face may do anything."""


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

    def in_crop(self, chosen: Sequence[int]) -> np.ndarray:
        """(n, k, 2) some points of the mesh, in units of the crop."""
        linear, shift = self.to_crop[:, :, :2], self.to_crop[:, :, 2]
        points = self.points[:, list(chosen)].astype(np.float64)
        return np.einsum("nij,nkj->nki", linear, points) + shift[:, None]


@dataclass
class Piece:
    """A face followed without interruption."""

    frames: list[int] = field(default_factory=list)
    meshes: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """As `pack` gives them."""
    looks: list[np.ndarray] = field(default_factory=list)
    """As core.faces.looks has them."""
    clear: bool = False
    """None of the looks was taken beside another face, which may hide this one."""
    first: np.ndarray | None = None
    last: np.ndarray | None = None
    """Points (478, 2) of the first and the last frame."""


@dataclass(frozen=True)
class FaceTrack:
    """One face in the m frames in which it was seen."""

    frames: np.ndarray
    """(m,) int32, rising."""
    origin: np.ndarray
    """(m, 3) float32: x and y of the face's middle and the length of a step, in frame pixels."""
    mesh: np.ndarray
    """(m, 478, 2) int16: points as steps from the middle; half the memory of pixels, and finer than a detector is."""

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> Self:
        """Pieces that follow each other in time as one track."""
        packed = [mesh for piece in pieces for mesh in piece.meshes]
        frames = np.array([frame for piece in pieces for frame in piece.frames], np.int32)
        return cls(frames, np.stack([origin for origin, _ in packed]), np.stack([mesh for _, mesh in packed]))

    @property
    def points(self) -> np.ndarray:
        """(m, 478, 2) float32, in frame pixels."""
        return self.points_at(np.s_[:])

    def points_at(self, places: slice | np.ndarray) -> np.ndarray:
        """Some of `points`: all of them, of a long track, are too large for a passing need."""
        origin = self.origin[places, None]
        return origin[..., :2] + origin[..., 2:] * self.mesh[places]

    @property
    def boxes(self) -> np.ndarray:
        """(m, 4) float32: left, top, right and bottom of the face's outline, in frame pixels."""
        outline = self.origin[:, None, :2] + self.origin[:, None, 2:] * self.mesh[:, list(face_oval)]
        return np.concatenate([outline.min(1), outline.max(1)], 1)


@dataclass(frozen=True)
class People:
    """Everybody seen in n frames."""

    shots: np.ndarray
    """(n,) int32: number of the shot of each frame; rises by one at a cut."""
    tracks: tuple[FaceTrack, ...]
    """In the order in which they appear. A track may go on after a cut back to the same view."""


def pack(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One frame's `origin` (3,) and `mesh` (478, 2) of a FaceTrack, of points (478, 2) in frame pixels."""
    low, high = points.min(0), points.max(0)
    middle = ((low + high) / 2).astype(np.float32)
    step = np.float32((high - low).max() / 2 * 1.001 / steps)
    return np.append(middle, step), np.rint((points - middle) / step).astype(np.int16)


def follow_through(
    people: People, chosen: Sequence[FaceTrack], rate: float, place: Place = place_aligned, gap: int = longest_gap
) -> Track:
    """The face of `chosen` tracks in every frame; where two are there at once, the first.

    Args:
        rate: frames per second, for the smoothing.
        place: how the crop lies.
        gap: frames without a sighting, between two of one track, that are filled in along a straight line.
    """
    n = len(people.shots)
    points = np.full((n, point_count, 2), np.nan, np.float32)
    owner = np.full(n, -1)
    for number, track in enumerate(chosen):
        free = np.flatnonzero(owner[track.frames] < 0)
        for some in np.split(free, range(at_once, len(free), at_once)):
            points[track.frames[some]] = track.points_at(some)
        owner[track.frames[free]] = number
        for i in np.flatnonzero((np.diff(track.frames) > 1) & (np.diff(track.frames) <= gap + 1)):
            first, last = int(track.frames[i]), int(track.frames[i + 1])
            inside = np.arange(first + 1, last)
            before, after = track.points_at(np.s_[i : i + 2])
            one_shot = people.shots[first] == people.shots[last]
            if one_shot and (owner[inside] < 0).all() and not jumped(before, after):
                share = ((inside - first) / (last - first)).astype(np.float32)[:, None, None]
                points[inside], owner[inside] = before + share * (after - before), number
    found = owner >= 0
    shot = np.cumsum(_breaks(people.shots, owner, points), dtype=np.int32)
    to_crop = np.full((n, 2, 3), np.nan)
    for run in _runs(found, shot):
        to_crop[run] = place(points[run], rate)
    return Track(found, shot, to_crop, points)


def at_fields(track: Track) -> Track:
    """The face at the two moments of every interlaced frame, of which `track` knows the middle."""
    found, shot = np.repeat(track.found, 2), np.repeat(track.shot, 2)
    to_crop = np.full((2 * len(track.found), 2, 3), np.nan)
    points = np.full((2 * len(track.found), point_count, 2), np.nan, np.float32)
    for run in _runs(track.found, track.shot):
        for middle, moment in ((track.to_crop, to_crop), (track.points, points)):
            if run.stop - run.start == 1:
                moment[2 * run.start : 2 * run.stop] = middle[run]
                continue
            for i in range(run.start, run.stop):  # one by one: a whole run of meshes is too large to copy
                before, after = max(i - 1, run.start), min(i + 1, run.stop - 1)
                quarter = (middle[after] - middle[before]) / (4 * (after - before))
                moment[2 * i], moment[2 * i + 1] = middle[i] - quarter, middle[i] + quarter
    return Track(found, shot, to_crop, points)


def jumped(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a face is at another place at once: another person, or a cut between similar pictures."""
    size = np.ptp(before[list(face_oval)], axis=0).max()
    ratio = np.ptp(after[list(face_oval)], axis=0).max() / size
    return bool(np.linalg.norm(after.mean(0) - before.mean(0)) > 0.35 * size or not 0.7 < ratio < 1.43)


def _breaks(shots: np.ndarray, owner: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n,) bool: a new shot for who follows this face, because of a cut, of another person, or of a jump."""
    breaks = np.append(False, np.diff(shots) != 0) if len(shots) else np.zeros(0, bool)
    for before, now in pairwise(np.flatnonzero(owner >= 0)):
        if owner[before] != owner[now] or (before + 1 == now and jumped(points[before], points[now])):
            breaks[now] = True
    return breaks


def _runs(found: np.ndarray, shot: np.ndarray) -> list[slice]:
    """Unbroken runs of frames of one shot in which the face was found."""
    n = len(found)
    edges = [i for i in range(n) if i == 0 or found[i] != found[i - 1] or shot[i] != shot[i - 1]] + [n]
    return [slice(a, b) for a, b in pairwise(edges) if found[a]]
