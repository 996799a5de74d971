# SPDX-License-Identifier: GPL-3.0-or-later
"""Detail: sharpens a generated mouth to the fineness of the mouth it replaces."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from . import faces
from .colour import to_ycc
from .compose import Patch, lip_room
from .running import RunningMean


class DetailMatch:
    """Gives generated mouths the fine detail of the mouths they replace, as far as sharpening can, and skin its own.

    What is finer than the net's pixels is lost when a face is shrunk to them, and the footage around the patch still
    still has it. Frames come in order; `restart` after a gap.

    Args:
        amount: 0 to 2; 1 is as much as it takes.
    """

    pace = 0.1
    """Share of a new frame in the running measure."""
    most = 2.0
    """Largest addition to the patch's own detail, as a factor: more would make edges of the net's errors."""

    def __init__(self, amount: float = 1.0) -> None:
        self._amount = amount
        self._running = {where: RunningMean(self.pace) for where in ("lips", "skin")}

    def restart(self) -> None:
        for each in self._running.values():
            each.restart()

    def match(
        self,
        patch: Patch,
        source: faces.Pixels,
        lips: np.ndarray,
        to_crop: np.ndarray,
        size: int,
        skin: np.ndarray | None = None,
    ) -> Patch:
        """A patch for `source`, the picture it will lie over, with its detail enlarged.

        Args:
            lips: (k, 2) points around the source's lips in crop units: the detail is compared there.
            to_crop: (2, 3), frame pixels to crop units.
            size: side of the net's pictures.
            skin: (h, w) bool, where the patch and its source show skin: what lips lack would be too much for it.
        """
        height, width = patch.alpha.shape
        unit = 1 / np.sqrt(abs(np.linalg.det(to_crop[:, :2])))
        spread = max(unit / size, 0.7)
        below = source[patch.y : patch.y + height, patch.x : patch.x + width]
        detail, its_own = (_detail(rgb, spread) for rgb in (patch.rgb, below))
        pixels = (lips - to_crop[:, 2]) @ np.linalg.inv(to_crop[:, :2]).T - (patch.x, patch.y) - 0.5
        area = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(area, cv2.convexHull(np.rint(pixels * 256).astype(np.int32)), (1,), shift=8)
        lips_lack = self._lacking("lips", detail, its_own, area > 0)
        if not lips_lack:
            return patch
        more = np.full(area.shape, lips_lack, np.float32)
        if skin is not None:
            skin_lacks = min(lips_lack, self._lacking("skin", detail, its_own, skin))
            room = 2 * round(lip_room * unit) + 1
            near = cv2.dilate(area, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (room, room))).astype(np.float32)
            near = cv2.GaussianBlur(near, (0, 0), max(lip_room * unit / 2, 0.5))
            more = skin_lacks + (lips_lack - skin_lacks) * near
        return replace(patch, rgb=np.clip(patch.rgb + (more * detail)[..., None], 0, 255))

    def _lacking(self, where: str, detail: np.ndarray, its_own: np.ndarray, area: np.ndarray) -> float:
        """What `detail` (h, w) lacks of `its_own` in an area, as a part of itself, steadied in time; 0 if unknown."""
        means = self._running[where]
        if area.sum() >= 32:
            means.add(np.array([np.square(detail[area]).mean(), np.square(its_own[area]).mean()]))
        if means.value is None:
            return 0.0
        drawn, true = means.value
        return self._amount * float(np.clip(np.sqrt(true / max(drawn, 1e-3)) - 1, 0, self.most))


def _detail(rgb: np.ndarray, spread: float) -> np.ndarray:
    """(h, w) float32: the luma of (h, w, 3) less its blur."""
    luma = rgb.astype(np.float32) @ to_ycc[0].astype(np.float32)
    return luma - cv2.GaussianBlur(luma, (0, 0), spread)
