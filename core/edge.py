# SPDX-License-Identifier: GPL-3.0-or-later
"""Along the mask's edge: brings a generated mouth to its source, so that no step and no line shows where it ends."""

from __future__ import annotations

import cv2
import numpy as np

from . import compose
from .colour import to_ycc
from .running import RunningMean

line_window, line_slack = 0.03, 5.0
"""A new picture's edge may be as bright as the source is within so many crop units, and so many levels brighter."""


class EdgeMatch:
    """Brings generated crops to their source along the mask's edge, fading inwards.

    A net's cheek or chin line differs a little from the source's: where the mask ends that is a step, and where the net
    shows a bright neck beside a dark chin a bright line. Frames come in order; `restart` after a gap.
    """

    side = 96
    """Pixels of the crop on which the difference is measured: a light's course, not a skin's detail."""
    spread = 0.02
    """Standard deviation in crop units over which the difference along the edge is averaged."""
    reach = 0.05
    """Crop units inwards at which the correction has fallen to a third."""
    most = 40.0
    """Levels: a larger difference is a contour at another place, and no light."""
    line_reach = 0.1
    """Crop units inwards at which an outline that is not the source's is still half seen."""
    pace = 0.15
    """Share of a new frame in the running difference."""

    def __init__(self, feather: float = compose.feather) -> None:
        self._feather = feather
        self._running = RunningMean(self.pace)

    def restart(self) -> None:
        self._running.restart()

    def match(
        self,
        matched: np.ndarray,
        source: np.ndarray,
        face: np.ndarray,
        lips: np.ndarray,
        front: np.ndarray | None = None,
        reach: np.ndarray | None = None,
    ) -> np.ndarray:
        """`matched` (s, s, 3) float32, 0 to 255, corrected to `source` (s, s, 3) uint8.

        Args:
            face: (k, 2) points of the mask in crop units.
            lips: (m, 2) points around the lips: they are as the net made them.
            front: (s, s) float32, 1 where something in front of the face tells nothing of it.
            reach: (s, s) float32, 1 where the mask ends on the face's silhouette and needs no match.

        Returns:
            (s, s, 3) float32, 0 to 255.
        """
        side, size = self.side, len(matched)
        alpha = compose.mask(face, np.array([[1 / side, 0, 0], [0, 1 / side, 0]]), 0, 0, side, side, self._feather)
        small, wanted = (
            cv2.resize(p.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) for p in (matched, source)
        )
        now = np.clip(wanted - small, -self.most, self.most)
        now = self._running.add(now)
        mouth = np.zeros((side, side), np.uint8)
        cv2.fillConvexPoly(mouth, cv2.convexHull(compose.crop_pixels(lips, side)), (1,), shift=8)
        edge = ((alpha > 0) & (alpha < 0.5) & (mouth == 0)).astype(np.float32)
        if front is not None:
            edge *= 1 - cv2.resize(front, (side, side), interpolation=cv2.INTER_AREA)
        unbound = 1.0
        if reach is not None:
            unbound = 1 - cv2.resize(reach, (side, side), interpolation=cv2.INTER_AREA)
            edge *= unbound
        width = (0, 0), self.spread * side
        weight = cv2.GaussianBlur(edge, *width)[..., None]
        average = cv2.GaussianBlur(edge[..., None] * now, *width) / (weight + 0.01)
        inwards = cv2.distanceTransform((alpha >= 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / side
        share = np.exp(-np.square(inwards / self.reach)) * (alpha > 0) * (mouth == 0) * unbound
        correction = average * share.astype(np.float32)[..., None]
        correction = cv2.resize(correction, (size, size), interpolation=cv2.INTER_LINEAR)
        moving = cv2.distanceTransform((mouth == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / side
        still = np.clip(moving / compose.lip_room - 1, 0, 1)
        near = np.exp(-np.square(inwards / self.line_reach)) * (alpha > 0) * still * unbound
        return _without_lines(np.clip(matched + correction, 0, 255), wanted, near.astype(np.float32))


def _without_lines(picture: np.ndarray, source: np.ndarray, near: np.ndarray) -> np.ndarray:
    """`picture` (s, s, 3) no brighter than the source is around each place.

    A warped reference brings its own outline, with its rim of light, to a place inside the source's.

    Args:
        source: (k, k, 3) float32, the source made small.
        near: (k, k) float32, how much that holds: 1 at the edge, 0 where the mouth moves the skin and its shadows.
    """
    size, side = len(picture), len(source)
    luma = source @ to_ycc[0].astype(np.float32)
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(line_window * side) + 1,) * 2)
    high, share = (
        cv2.resize(p, (size, size), interpolation=cv2.INTER_LINEAR)
        for p in (cv2.dilate(luma, window) + line_slack, near)
    )
    excess = np.maximum(picture @ to_ycc[0].astype(np.float32) - high, 0)
    return np.clip(picture - (share * excess)[..., None], 0, 255)
