# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frames of a shot show the net whose mouth it paints: sharp, the lips open, the head held as where it paints.

Teeth that are not to be seen must be painted; those that are there only have to be covered. What a turned face hides,
its reference must not show: a shot in which the head turns has several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from . import faces
from .compose import runs

nose_tip, left_cheek, right_cheek = 1, 454, 234
usual_open = 0.75
"""Quantile of the openings of a pose's lips that a reference should have."""
candidate_count = 5
"""Frames whose sharpness is compared for one reference: each must be decoded once more."""
pose_step = 0.08
"""Turn of the head, in crop units by which the nose moves between the cheeks, that asks for another reference: about
ten degrees."""
most_poses = 4
"""References of a shot."""
steady = 2.0
"""Standard deviation, in frames, by which the turn is smoothed before poses are told apart."""
fewest_frames = 10
"""Frames of a pose below which it has no reference of its own: there would be little choice of lips."""
stay = 0.4
"""Share of half a pose's width by which another must be nearer to be taken: else who sways would change to and fro."""
fade_frames = 4
"""Frames over which one reference gives way to another."""


@dataclass(frozen=True)
class Views:
    """The references of some footage, and which of them each of its n frames is drawn from."""

    candidates: tuple[tuple[int, ...], ...]
    """Of each reference the frames that could be it, rising."""
    first: np.ndarray
    """(n,) int: the reference of a frame; -1: none."""
    second: np.ndarray
    """(n,) int: the one that gives way to it."""
    share: np.ndarray
    """(n,) float32, 0 to below 1: of the second."""

    def shown(self, source: np.ndarray) -> Self:
        """The same of frames that show these: source[i] is the frame that i shows."""
        return replace(self, first=self.first[source], second=self.second[source], share=self.share[source])


@dataclass(frozen=True)
class References:
    """What a net sees of a person."""

    crops: Sequence[np.ndarray]
    """Of each reference (S, S, 3) uint8."""
    views: Views

    def of(self, frame: int) -> np.ndarray:
        """The crop that a frame is drawn from."""
        return self.crops[self.views.first[frame]]


def views(track: faces.Track, fit: np.ndarray, used: np.ndarray) -> Views:
    """References for every shot of a track.

    Args:
        track: the face through all frames.
        fit: (n,) bool, frames that may be references.
        used: (n,) bool, frames with the face that are drawn; of their shots some frame is fit.
    """
    n = len(track.found)
    first, second = np.full(n, -1), np.full(n, -1)
    share = np.zeros(n, np.float32)
    candidates: list[tuple[int, ...]] = []
    turn, nod = _pose(track)
    opening = faces.lip_opening(track.points)
    for shot in np.unique(track.shot[used]):
        here = track.found & (track.shot == shot)
        choice = np.flatnonzero(here & fit)
        poses, nearest = _poses(turn[choice])
        for number, pose in enumerate(poses):
            near = choice[nearest == number]
            unsuitable = (
                np.abs(turn[near] - pose)
                + np.abs(nod[near] - np.median(nod[near]))
                + np.abs(opening[near] - np.quantile(opening[near], usual_open))
            )
            best = near[np.argsort(unsuitable, kind="stable")[:candidate_count]]
            candidates.append(tuple(sorted(best.tolist())))
        begin = len(candidates) - len(poses)
        for a, b in runs(here):
            if here[a]:
                run = np.s_[a : b + 1]
                taken, before, share[run] = _taken(turn[run], poses)
                first[run], second[run] = begin + taken, begin + before
    return Views(tuple(candidates), first, second, share)


def sharpness(crop: np.ndarray) -> float:
    """How much detail a crop (s, s, 3) uint8 has: the variance of its Laplacian."""
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def _pose(track: faces.Track) -> tuple[np.ndarray, np.ndarray]:
    """(n,) how far the nose lies beside and below the middle of the cheeks, in crop units; steadied, nan if unseen."""
    upright = np.einsum("nij,nkj->nki", track.to_crop[:, :, :2], track.points[:, [nose_tip, left_cheek, right_cheek]])
    offset = upright[:, 0] - upright[:, 1:].mean(axis=1)
    for a, b in runs(np.where(track.found, track.shot, -1)):
        if track.found[a]:
            offset[a : b + 1] = gaussian_filter1d(offset[a : b + 1], steady, axis=0, mode="nearest")
    return offset[:, 0], offset[:, 1]


def _poses(turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) turns that stand for all of a shot's (m,), rising, and which of them each frame belongs to, or k or more."""
    low, high = np.quantile(turn, (0.03, 0.97))
    count = int(np.clip(round((high - low) / pose_step), 1, most_poses))
    width = max((high - low) / count, 1e-6)
    part = np.clip((turn - low) // width, 0, count - 1).astype(int)
    held = np.flatnonzero(np.bincount(part, minlength=count) >= fewest_frames)
    if len(held) < 2:
        return np.median(turn, keepdims=True), np.zeros(len(turn), int)
    number = np.full(count, len(held))
    number[held] = np.arange(len(held))
    return low + width * (held + 0.5), number[part]


def _taken(turn: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pose each frame of an unbroken run takes, which gives way to it, and the share of that one."""
    room = stay * np.diff(poses, append=np.inf).min() / 2 if len(poses) > 1 else 0.0
    taken = np.empty(len(turn), int)
    now = int(np.abs(poses - turn[0]).argmin())
    for i, value in enumerate(turn):
        nearest = int(np.abs(poses - value).argmin())
        if abs(poses[now] - value) > abs(poses[nearest] - value) + room:
            now = nearest
        taken[i] = now
    before, share = taken.copy(), np.zeros(len(turn), np.float32)
    for a, _ in runs(taken)[1:]:
        end = min(a + fade_frames, len(taken))
        before[a:end] = taken[a - 1]
        share[a:end] = 1 - np.arange(1, end - a + 1) / (fade_frames + 1)
    return taken, before, np.where(before == taken, 0, share).astype(np.float32)
