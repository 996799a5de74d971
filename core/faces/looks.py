# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is who: faces compared by an aligned thumbnail, and pieces of paths joined to one person's track.

No net knows identities here. On 16 people (21 clips) the least unlikeness of a face to thumbnails of its own, taken
0.4 s and longer before, was below `alike` in 97 of 100 cases; to those of another person in 1 of 100.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .align import crop, fit
from .mesh import face_oval
from .pixels import Pixels
from .tracks import Piece

alike = 0.65
"""Unlikeness below which two looks may be one person's."""
alike_soon = 0.8
"""The same in one shot within `soon` frames and not far away: who crossed or turned looks otherwise for a while."""
soon, not_far = 50, 3.0
"""Frames, and sizes of the face."""
alike_elsewhere = 0.5
"""The same across a cut, where the face must also lie as it did: the camera that was shown before."""
seen_part = np.array([[1.25, 0, -0.125], [0, 1.25, 0.04]])
"""From the nets' crop to the part of it that shows a face and no background: brows to lips, cheek to cheek."""
thumbnail = 8
"""Side of a look in pixels."""
most_looks = 6
"""Looks kept of a piece: different ones, as the head turns."""


def look(frame: Pixels, points: np.ndarray) -> np.ndarray:
    """(192,) float32: a face's aligned thumbnail, its luma without brightness and contrast, its chroma as it is."""
    to_crop = seen_part[:, :2] @ fit(points[None])[0]
    to_crop[:, 2] += seen_part[:, 2]
    small = crop(frame, to_crop, thumbnail)
    luma, *chroma = np.moveaxis(cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float32), -1, 0)
    luma = (luma - luma.mean()) / (luma.std() + 8)
    return np.concatenate([luma.ravel(), 0.08 * (np.stack(chroma).ravel() - 128) / np.sqrt(2)]) / thumbnail


def unlike(looks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The least distance between looks and others; infinite where there are none."""
    if not looks or not others:
        return np.inf
    return float(_distances(np.stack(looks), np.stack(others)).min())


def gallery(looks: list[np.ndarray], new: np.ndarray) -> list[np.ndarray]:
    """`looks` and a new one, when it shows something else; the oldest gives way."""
    return looks if unlike([new], looks) < 0.3 else [*looks, new][-most_looks:]


def join(pieces: list[Piece], shots: np.ndarray) -> list[list[Piece]]:
    """Pieces that are one person's, rising in time; the surest pairs are joined first, never two at one time.

    Args:
        pieces: none empty.
        shots: (n,) number of the shot of each frame.
    """
    chain_of = list(range(len(pieces)))
    chains = {i: [i] for i in chain_of}
    for _, a, b in sorted(_candidates(pieces, shots)):
        one, other = chain_of[a], chain_of[b]
        if one == other or any(_together(pieces[i], pieces[j]) for i in chains[one] for j in chains[other]):
            continue
        for i in chains[other]:
            chain_of[i] = one
        chains[one] += chains.pop(other)
    return [[pieces[i] for i in sorted(chain, key=lambda i: pieces[i].frames[0])] for chain in chains.values()]


def _candidates(pieces: list[Piece], shots: np.ndarray) -> list[tuple[float, int, int]]:
    """(cost, earlier, later) of pairs that may be one person."""
    distances = _all_distances(pieces)
    found = []
    for i, j in zip(*np.nonzero(distances < np.inf), strict=True):
        before, after = pieces[i], pieces[j]
        gap = after.frames[0] - before.frames[-1] - 1
        if gap < 0 or before.last is None or after.first is None:
            continue
        difference, (moved, as_large) = float(distances[i, j]), _moved(before.last, after.first)
        same_shot = shots[before.frames[-1]] == shots[after.frames[0]]
        if same_shot and gap <= soon and moved < not_far and as_large:
            limit, extra = alike_soon, 0.1 * moved
        elif same_shot:
            limit, extra = alike, 0.2
        elif moved < 1 and as_large:
            limit, extra = alike_elsewhere, 0.4
        else:
            continue
        if difference < limit:
            found.append((difference + extra, int(i), int(j)))
    return found


def _all_distances(pieces: list[Piece]) -> np.ndarray:
    """(p, p) least distance between the looks of every two pieces; infinite where a piece has none, or with itself."""
    result = np.full((len(pieces), len(pieces)), np.inf)
    known = [i for i, piece in enumerate(pieces) if piece.looks]
    if known:
        looks = np.stack([each for i in known for each in pieces[i].looks])
        first = np.cumsum([0, *(len(pieces[i].looks) for i in known[:-1])])
        distances = np.minimum.reduceat(np.minimum.reduceat(_distances(looks, looks), first, 0), first, 1)
        result[np.ix_(known, known)] = distances
    np.fill_diagonal(result, np.inf)
    return result


def _distances(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    squares = (looks**2).sum(1)[:, None] + (others**2).sum(1) - 2 * looks @ others.T
    return np.sqrt(np.maximum(squares, 0))


def _moved(before: np.ndarray, after: np.ndarray) -> tuple[float, bool]:
    """How far a face went, in its own sizes, and whether it is about as large as it was."""
    sizes = [np.ptp(points[list(face_oval)], axis=0).max() for points in (before, after)]
    distance = np.linalg.norm(after.mean(0) - before.mean(0)) / max(sizes)
    return float(distance), min(sizes) > 0.65 * max(sizes)


def _together(piece: Piece, other: Piece) -> bool:
    return piece.frames[0] <= other.frames[-1] and other.frames[0] <= piece.frames[-1]
