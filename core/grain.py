# SPDX-License-Identifier: GPL-3.0-or-later
"""Grain: gives a generated patch the noise of the skin it lies on, so that it looks neither plastic nor pasted.

Noise is measured where a picture is flattest, because elsewhere its detail is the skin's own. Two bands stand for the
noise's spectrum: cameras and codecs leave more or less of the finer.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from . import compose, faces
from .colour import to_ycc
from .running import RunningMean

bands = (1.0, 2.0)
"""Standard deviations, in frame pixels, of the blurs between which the bands lie: the finer is above the first."""
flattest = 0.25
"""Quantile of the local energy that is taken for noise."""
window = 7
"""Side of the places whose energy is compared, in frame pixels."""
most = 6.0
"""Levels: largest standard deviation of a band's added noise."""


class GrainMatch:
    """Frames come in order; `restart` after a gap.

    Args:
        amount: 0 to 2; 1 is as much as the skin has.
    """

    pace = 0.1
    """Share of a new frame in the running measure."""

    def __init__(self, amount: float = 1.0) -> None:
        self._amount = amount
        self._running = RunningMean(self.pace)

    def restart(self) -> None:
        self._running.restart()

    def match(self, patch: compose.Patch, source: faces.Pixels, skin: np.ndarray, frame: int) -> compose.Patch:
        """The patch with the grain that it lacks.

        Args:
            source: the picture the patch will lie over.
            skin: (h, w) bool, where in the patch both show skin.
            frame: seeds the noise: a frame made again gets the same bytes.
        """
        if not self._amount:
            return patch
        below = source[patch.y : patch.y + len(skin), patch.x : patch.x + skin.shape[1]]
        if skin.sum() >= 64:
            drawn, true = (_noise(rgb, skin) for rgb in (patch.rgb, below))
            self._running.add(np.stack([drawn, true]))
        if self._running.value is None:
            return patch
        drawn, true = self._running.value
        lacking = np.minimum(np.sqrt(np.maximum(true - drawn, 0)) * self._amount, most)
        if lacking.max() < 0.05:
            return patch
        random = np.random.Generator(np.random.PCG64(frame))
        grain = np.zeros(skin.shape, np.float32)
        for level, band in zip(lacking, _bands(random.standard_normal(skin.shape, np.float32)), strict=True):
            grain += np.float32(level / max(float(band.std()), 1e-6)) * band
        return replace(patch, rgb=np.clip(patch.rgb + grain[..., None], 0, 255))


def _bands(picture: np.ndarray) -> list[np.ndarray]:
    blurs = [cv2.GaussianBlur(picture, (0, 0), spread) for spread in bands]
    return [finer - coarser for finer, coarser in zip((picture, *blurs), blurs, strict=False)]


def _noise(rgb: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(2,) variance of the noise in each band, in levels squared."""
    luma = rgb.astype(np.float32) @ to_ycc[0].astype(np.float32)
    energies = [cv2.boxFilter(np.square(band), -1, (window, window)) for band in _bands(luma)]
    return np.array([np.quantile(energy[skin], flattest) for energy in energies])
