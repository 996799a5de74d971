# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frames of a shot show the net whose mouth it paints: sharp, the lips open, one for each pose of the head.

Teeth that are not to be seen must be painted; those that are there only have to be covered. A picture of another pose
must be bent into place, and smears.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from . import compose, faces

nose_tip, left_cheek, right_cheek = 1, 454, 234
usual_open = 0.75
"""Quantile of the shot's lip openings that a reference should have."""
candidate_count = 5
"""Frames of a pose whose sharpness is compared: each must be decoded once more."""
most = 4
"""References of a shot: what they take must not grow with its length."""
one_pose = 0.08
"""Distance up to which two poses (see `pose`) are the same for the net: a turn of about 9 degrees."""
fewest = 25
"""Frames that a pose must last to get a reference of its own: in a shorter one the reference would be a close neighbour
of every frame, with the very lips that are to be replaced."""
size_weight = 0.12
"""Distance between two poses of which one shows the face twice as large."""
stay = 0.03
"""How much nearer another reference must be before it takes over: a head that sways between two has one."""
settle, fade = 0.1, 0.3
"""Seconds: standard deviation over which the path of a pose is smoothed, and how long two references are mixed."""


@dataclass(frozen=True)
class References:
    """Pictures of the person of one shot, each in another pose."""

    crops: np.ndarray
    """(k, s, s, 3) uint8, k up to `most`; the first has the shot's usual pose."""
    poses: np.ndarray
    """(k, 3), see `pose`."""


def pose(points: np.ndarray, to_crop: np.ndarray) -> np.ndarray:
    """(n, 3) yaw, pitch and size of faces, in crop units: where the nose lies between the cheeks, and how near it is.

    Args:
        points: (n, 478, 2) in frame pixels.
        to_crop: (n, 2, 3).
    """
    upright = np.einsum("nij,nkj->nki", to_crop[:, :, :2], points[:, [nose_tip, left_cheek, right_cheek]])
    upright += to_crop[:, None, :, 2]
    turned = upright[:, 0] - upright[:, 1:].mean(axis=1)
    nearness = -0.5 * np.log2(np.abs(np.linalg.det(to_crop[:, :, :2])))
    return np.column_stack([turned, size_weight * nearness])


def candidates(track: faces.Track, shot: int) -> list[list[int]]:
    """For each pose of one shot the frames, rising, that suit best; the sharpest of their crops is the reference.

    The usual pose comes first. Others follow where at least `fewest` frames are further than `one_pose` from those
    before.

    Args:
        track: the face through all frames.
        shot: a number in `track.shot` with at least one found face.
    """
    frames = np.flatnonzero(track.found & (track.shot == shot))
    poses = pose(track.points[frames], track.to_crop[frames])
    opening = faces.lip_opening(track.points[frames])
    wanted = np.quantile(opening, usual_open)
    # the usual pose, not the most frontal one: what a turned face hides, its reference must not show
    usual = np.median(poses, axis=0)
    alike = np.linalg.norm(poses - usual, axis=1) <= one_pose
    far = ~alike
    found = [(usual, np.flatnonzero(alike))]
    while len(found) < most and far.sum() >= fewest:
        some = poses[far][:: 1 + int(far.sum()) // 256]
        near = np.linalg.norm(poses[far][None] - some[:, None], axis=2) <= one_pose
        centre = some[near.sum(axis=1).argmax()]
        alike = far & (np.linalg.norm(poses - centre, axis=1) <= one_pose)
        if alike.sum() < fewest:
            break
        far &= ~alike
        # half open at least: teeth that nobody has seen look worse than a bent cheek
        open_ones = np.flatnonzero(alike & (opening >= wanted / 2))
        if len(open_ones) >= candidate_count:
            found.append((centre, open_ones))
    if len(found) == 1:
        found = [(usual, np.arange(len(frames)))]
    elif len(found[0][1]) < candidate_count:
        del found[0]  # between two poses lies none
    chosen = []
    for centre, among in found:
        unsuitable = np.abs(poses[among, :2] - centre[:2]).sum(axis=1) + np.abs(opening[among] - wanted)
        order = among[np.argsort(unsuitable, kind="stable")]
        chosen.append(sorted(int(frames[i]) for i in order[:candidate_count]))
    return chosen


def sharpness(crop: np.ndarray) -> float:
    """How much detail a crop (s, s, 3) uint8 has: the variance of its Laplacian."""
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def weights(track: faces.Track, references: Mapping[int, References], rate: float) -> np.ndarray:
    """How much of each reference of its shot is in each frame, (n, `most`) float32; of a frame without any 0.

    The nearest pose is drawn from; where another becomes the nearest, both are mixed for a moment, so that no frame
    shows the change.

    Args:
        track: the face through all frames.
        references: for each number in `track.shot` that has them.
        rate: frames a second.
    """
    result = np.zeros((len(track.found), most), np.float32)
    for first, last in compose.runs(np.where(track.found, track.shot, -1)):
        known = references.get(int(track.shot[first])) if track.found[first] else None
        if known is None:
            continue
        run = np.s_[first : last + 1]
        if len(known.poses) == 1:
            result[run, 0] = 1
            continue
        path = gaussian_filter1d(pose(track.points[run], track.to_crop[run]), settle * rate, axis=0, mode="nearest")
        away = np.linalg.norm(path[:, None] - known.poses, axis=2)
        used = int(away[0].argmin())
        for i, distances in enumerate(away, first):
            nearest = int(distances.argmin())
            if distances[nearest] + stay < distances[used]:
                used = nearest
            result[i, used] = 1
        window = 1 + 2 * round(fade * rate / 2)
        mixed = uniform_filter1d(result[run], window, axis=0, mode="nearest")
        result[run] = np.rint(mixed * window) / window  # rounding's crumbs would each cost a drawing
    return result
