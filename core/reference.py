# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frame of a shot shows the net whose mouth it paints: sharp, usual in pose, the lips open.

Teeth that are not to be seen must be painted; those that are there only have to be covered.
"""

from __future__ import annotations

import cv2
import numpy as np

from . import faces

nose_tip, left_cheek, right_cheek = 1, 454, 234
usual_open = 0.75
"""Quantile of the shot's lip openings that a reference should have."""
candidate_count = 5
"""Frames whose sharpness is compared: each must be decoded once more."""


def candidates(track: faces.Track, shot: int) -> list[int]:
    """The frames of one shot, rising, whose face suits best; the sharpest of their crops is the reference.

    Args:
        track: the face through all frames.
        shot: a number in `track.shot` with at least one found face.
    """
    frames = np.flatnonzero(track.found & (track.shot == shot))
    order = np.argsort(_unsuitable(track, frames), kind="stable")
    return sorted(int(frames[i]) for i in order[:candidate_count])


def sharpness(crop: np.ndarray) -> float:
    """How much detail a crop (s, s, 3) uint8 has: the variance of its Laplacian."""
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def _unsuitable(track: faces.Track, frames: np.ndarray) -> np.ndarray:
    """(n,) how far each of `frames` is from a good reference, in crop units."""
    points, to_crop = track.points[frames], track.to_crop[frames]
    upright = np.einsum("nij,nkj->nki", to_crop[:, :, :2], points[:, [nose_tip, left_cheek, right_cheek]])
    upright += to_crop[:, None, :, 2]
    nose, sides = upright[:, 0], upright[:, 1:].mean(axis=1)
    yaw = nose[:, 0] - sides[:, 0]
    pitch = nose[:, 1] - sides[:, 1]
    opening = faces.lip_opening(points)
    # the usual pose, not the most frontal one: what a turned face hides, its reference must not show
    turned = np.abs(yaw - np.median(yaw)) + np.abs(pitch - np.median(pitch))
    return turned + np.abs(opening - np.quantile(opening, usual_open))
