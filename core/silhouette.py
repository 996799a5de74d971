# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a turned head's far cheek ends right beside its lips: the mask ends on the face's own silhouette there.

A feather needs skin to fade in. Beside the lips of a head turned by 40 degrees there is none: what the feather leaves
of the old lips stands behind the new ones as a rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from . import compose, faces
from .compose import smoothstep
from .faces.mesh import lips_outer
from .running import RunningMean

rows = compose.generated_top + (np.arange(56) + 0.5) / 128
"""Heights in crop units, from the nose's base to the chin, at which the silhouette is looked for."""
bulge = 15.0
"""How quickly a mesh point stops counting for rows above and below it: u falls by this times the distance squared."""
room_from, room_until = 0.05, 0.09
"""Crop units between lips and silhouette: up to the first the mask ends on the silhouette, from the second it has room
for its feather."""
step = 1 / 256
"""Crop units between two places of that search."""
clear_edge = 80.0
"""Levels of colour difference from which an edge is as clear as can be."""
bend_cost = 0.3
"""What it costs a silhouette to move by two steps from one row to the next."""
widest = 0.06
"""Crop units by which a new picture may be widened to reach the silhouette."""
pure = 0.9
"""How near a colour must be to the new face's, between that and what is beside it, to be the face's."""
soft_edge = 0.02
"""Crop units to either side of a new picture's silhouette within which it is purely face or none."""
give = 0.12
"""Crop units from the silhouette inwards over which the widening ends."""
pace = np.array([[0.6], [0.4]])
"""Share of a new frame in the running place of the source's edge and in the running width that the new one lacks."""
above, below, fade = 0.01, 0.05, 0.04
"""Crop units of silhouette over and under the lips that are the new picture's, and over which that fades."""
further = 0.1
"""Crop units over and under those in which the new picture is still widened: what the usual mask takes of its cheek and
jaw must not end inside the source's."""
end = 0.016
"""Crop units over which the mask ends there. A film's silhouettes are seldom sharper, and with half of it the far cheek
stood out."""
depth = 0.12
"""Crop units inwards from the silhouette after which the mask is the usual one."""


@dataclass(frozen=True)
class Search:
    """Where an edge is looked for beside an outline."""

    inwards: float
    outwards: float
    """Crop units."""
    inwards_cost: float
    outwards_cost: float
    """What an edge there costs; a clear one gains 1."""
    half: float
    """Crop units from the middle of an edge to its ends."""


of_the_source = Search(0.035, 0.035, 1.0, 3.0, 0.012)
"""Around the mesh's outline; further out hair may end, further in is skin."""
of_the_new = Search(0.06, 0.02, 0.2, 0.4, soft_edge)
"""Around the source's edge: a new mouth may protrude less."""


@dataclass(frozen=True)
class FarSide:
    """The side of the face that is turned away, in n frames, steadied in time."""

    side: np.ndarray
    """(n,) float32: 1 where it is to the viewer's right, else -1."""
    outline: np.ndarray
    """(n, len(rows)) float32: the mesh's outermost place there at each of `rows`, in crop units; nan where unused."""
    share: np.ndarray
    """(n,) float32: 0 where there is room between lips and silhouette, 1 where there is none."""


def far_side(track: faces.Track) -> FarSide:
    """The far side of a face through a whole track."""
    n = len(track.found)
    outline = np.full((2, n, len(rows)), np.nan, np.float32)
    room = np.full((2, n), np.inf)
    for i in np.flatnonzero(track.found):
        points = faces.in_crop(track.points[i], track.to_crop[i])
        lips = points[list(lips_outer)]
        for k, side in enumerate((1, -1)):
            drop = bulge * np.square(rows - points[:, 1:])
            outline[k, i] = side * (side * points[:, :1] - drop).max(axis=0)
            room[k, i] = (side * (np.interp(lips[:, 1], rows, outline[k, i]) - lips[:, 0])).min()
    for first, last in compose.runs(np.where(track.found, track.shot, -1)):
        run = np.s_[:, first : last + 1]
        outline[run], room[run] = (gaussian_filter1d(x[run], 1.5, axis=1, mode="nearest") for x in (outline, room))
    nearer = room.argmin(axis=0)
    each = np.arange(n)
    share = np.clip((room_until - room[nearer, each]) / (room_until - room_from), 0, 1)
    return FarSide((1 - 2 * nearer).astype(np.float32), outline[nearer, each], share.astype(np.float32))


class SilhouetteMatch:
    """Gives the new picture of a turned face the source's silhouette, and the mask an end on it.

    Frames come in order; `restart` after a gap.

    Args:
        track: the face in all frames.
        feather: standard deviation of the mask's feather in crop units.
    """

    def __init__(self, track: faces.Track, feather: float = compose.feather) -> None:
        self._far, self._feather = far_side(track), feather
        self._running = RunningMean(pace)

    def restart(self) -> None:
        self._running.restart()

    def match(
        self, mouth: np.ndarray, source: np.ndarray, lips: np.ndarray, frame: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The new picture (s, s, 3) uint8 widened to the silhouette of `source` (s, s, 3) uint8.

        Args:
            lips: (k, 2) points around the source's lips in crop units.
            frame: which one of the track.

        Returns:
            The picture, and (s, s) float32, 0 to 1: what the mask is at least, on the far side. None where the face
            shows both sides: the picture is as it was.
        """
        share, side = self._far.share[frame], self._far.side[frame]
        if not share > 0:
            self.restart()
            return mouth, None
        size, outline = len(source), self._far.outline[frame]
        edge = _edge(_calm(source), outline, side, of_the_source)
        now = np.stack([side * (edge - outline), _lacking(_calm(mouth), edge, side)])
        protruding, lacking = self._running.add(now)
        edge = outline + side * protruding
        v = (np.arange(size) + 0.5) / size
        edge, lacking = (np.interp(v, rows, x).astype(np.float32)[:, None] for x in (edge, lacking))
        high, low = lips[:, 1].min() - above, lips[:, 1].max() + below
        beside, wider = (
            np.float32(share) * smoothstep((v - high + more) / fade + 1) * smoothstep((low + more - v) / fade + 1)
            for more in (0.0, further)
        )
        beside, wider = beside.astype(np.float32)[:, None], wider.astype(np.float32)[:, None]
        # only the columns that it concerns
        left, right = edge.min() - (give if side > 0 else 0.02), edge.max() + (give if side < 0 else 0.02)
        first, last = int(np.clip(left * size, 0, size - 1)), int(np.clip(np.ceil(right * size), 1, size))
        u = (np.arange(first, last, dtype=np.float32) + 0.5) / size
        inside = side * (edge - u)
        from_x = (u - side * wider * lacking * smoothstep(1 - inside / give)) * size - 0.5
        from_y = np.broadcast_to((v[:, None] * size - 0.5).astype(np.float32), from_x.shape)
        widened = mouth.copy()
        widened[:, first:last] = cv2.remap(mouth, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        soft = max(1.0 / size, end)
        top = smoothstep((v - compose.generated_top) / (2 * self._feather)).astype(np.float32)[:, None]
        reach = np.zeros((size, size), np.float32)
        reach[:, first:last] = (
            smoothstep(inside / (2 * soft) + 0.25) * smoothstep((depth - inside) / (depth / 2)) * beside * top
        )
        return widened, reach


def _calm(picture: np.ndarray) -> np.ndarray:
    """The lower half of a picture (s, s, 3) uint8 without its noise; the upper is as it was."""
    size = len(picture)
    calm = picture.copy()
    top = int(compose.generated_top * size)
    cv2.GaussianBlur(picture[top:], (0, 0), max(0.7, 0.006 * size), dst=calm[top:])
    return calm


def _edge(picture: np.ndarray, outline: np.ndarray, side: float, within: Search) -> np.ndarray:
    """(len(rows),) where the face's edge runs through `rows` near an outline, in crop units: the best path of all.

    Args:
        picture: (s, s, 3) uint8, `_calm`.
        side: 1 where the face ends to the right, else -1.
    """
    outwards = np.arange(-round(within.inwards / step), round(within.outwards / step) + 1) * step
    one, other = (_colours(picture, outline[:, None] + side * (outwards + x)) for x in (-within.half, within.half))
    contrast = np.linalg.norm(one - other, axis=2)
    away = np.where(
        outwards > 0,
        within.outwards_cost * np.square(outwards / within.outwards),
        within.inwards_cost * np.square(outwards / within.inwards),
    )
    costs = away - np.minimum(contrast / clear_edge, 1)
    # dynamic programming: what each place of a row costs with the best way to it
    before = np.full(costs.shape[1] + 4, np.inf)
    choices = np.lib.stride_tricks.sliding_window_view(before, 5)
    moves = bend_cost * np.square(np.arange(-2, 3) / 2)
    came = np.zeros(costs.shape, int)
    places = np.arange(costs.shape[1])
    for i in range(1, len(costs)):
        before[2:-2] = costs[i - 1]
        with_moves = choices + moves
        best = with_moves.argmin(axis=1)
        came[i] = places + best - 2
        costs[i] += with_moves[places, best]
    path = np.zeros(len(costs), int)
    path[-1] = costs[-1].argmin()
    for i in range(len(costs) - 1, 0, -1):
        path[i - 1] = came[i, path[i]]
    return gaussian_filter1d(outline + side * outwards[path], 1.0, mode="nearest")


def _lacking(picture: np.ndarray, edge: np.ndarray, side: float) -> np.ndarray:
    """(len(rows),) how far inside `edge` the face of a `_calm` picture (s, s, 3) ends, in crop units."""
    own = _edge(picture, edge, side, of_the_new)
    places = np.arange(-soft_edge, soft_edge + step / 2, step)
    colours = _colours(picture, own[:, None] - side * places)
    apart = colours[:, -1:] - colours[:, :1]
    like = ((colours - colours[:, :1]) * apart).sum(axis=2) / np.maximum(np.square(apart).sum(axis=2), 1.0)
    ends = side * (edge - own) + places[(like > pure).argmax(axis=1)]
    ends = median_filter(np.clip(ends, 0, widest), 5, mode="nearest")
    return gaussian_filter1d(ends, 2.0, mode="nearest")


def _colours(picture: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(len(rows), m, 3) float32: a picture's colours at places (len(rows), m) of `rows`, in crop units."""
    size = len(picture)
    down = np.broadcast_to(rows[:, None] * size - 0.5, across.shape)
    x, y = (across * size - 0.5).astype(np.float32), down.astype(np.float32)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
