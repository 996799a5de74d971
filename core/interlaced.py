# SPDX-License-Identifier: GPL-3.0-or-later
"""Film that is sent as interlaced: both fields of a frame are of one moment, whatever the stream says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import faces, media

clear_move = 2.0
"""Pixels a frame that a face must move for its fields to show whether they are of two moments."""
looks = 3
"""Places that are looked at for each face, where it is fastest."""
apart = 25
"""Frames between two of them, at least."""


def is_film(info: media.SourceInfo, start: int, tracks: Sequence[faces.Track]) -> bool:
    """Whether faces that move are nowhere at two places in one frame.

    Where faces hardly move nobody can tell, nor see the difference: then it is not film.

    Args:
        info: the footage.
        start: its frame that is the first of each track.
    """
    looked = False
    for track in tracks:
        speed = np.linalg.norm(np.diff(track.points.mean(axis=1), axis=0), axis=1)
        speed[~(speed >= clear_move) | (np.diff(track.shot) != 0)] = 0
        for _ in range(looks):
            if not speed.any():
                break
            fastest = int(speed.argmax())
            (picture,) = media.read(info, start + fastest, 1)
            if combing(picture, track.points[fastest]) > 0:
                return False
            speed[max(0, fastest - apart) : fastest + apart] = 0
            looked = True
    return looked


def combing(picture: media.Picture, points: np.ndarray) -> float:
    """By how many levels neighbouring lines of a face differ more than those of one field do.

    Args:
        points: (478, 2), the face in pixels of the picture.

    Returns:
        Below 0 where the whole picture is of one moment; 0 where the face is outside.
    """
    height, width = picture.shape[:2]
    left, top = np.clip(points.min(axis=0), 0, (width, height)).astype(int)
    right, bottom = np.clip(points.max(axis=0), 0, (width, height)).astype(int)
    lines = picture[top:bottom, left:right][:, :, 1].astype(np.float32)
    if len(lines) < 3 or not lines.size:
        return 0.0
    return float((np.abs(lines[1:-1] - lines[:-2]) - np.abs(lines[2:] - lines[:-2])).mean())
