# SPDX-License-Identifier: GPL-3.0-or-later
"""How well new lips sit in their footage: the seam at the mask's edge, the flicker of the skin's colour, its grain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from core import compose
from core.colour import to_ycc
from core.faces import Track, crop, uncrop

side = 96
"""Pixels of the aligned crop in which colours are compared."""


@dataclass(frozen=True)
class BlendScore:
    """Of footage before and after."""

    seam: float
    """Change of the gradient across the mask's edge over the source's own: 0 is no seam, 0.1 is a tenth more."""
    flicker: tuple[float, float]
    """Before and after: how much the mean colour of the skin under the mask bends from frame to frame, in levels. A
    light that changes steadily does not count; neither do the lips, which are to move."""
    noise: tuple[float, float]
    """Before and after: median size of the finest detail of the skin under the mask, in levels of luma."""


def blend_score(before: Iterable[np.ndarray], after: Iterable[np.ndarray], track: Track) -> BlendScore:
    """Measures frames (h, w, 3) uint8 before and after; only those in which the face was found count."""
    outline = compose.outline(track)
    seams, noises, crops, skins = [], [], [], []
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if not track.found[i]:
            continue
        face, lips, to_crop = outline.face[i], outline.lips[i], track.to_crop[i]
        skin = compose.skin(face, lips, side)
        x, y, shown, _ = uncrop(skin.astype(np.float32), to_crop, old.shape)
        if not shown.size:
            continue
        box = np.s_[y : y + shown.shape[0], x : x + shown.shape[1]]
        alpha = compose.mask(face, to_crop, x, y, shown.shape[1], shown.shape[0])
        seams.append(seam_energy(old[box], new[box], alpha))
        noises.append([fine_noise(rgb[box], (shown > 0.9) & (alpha > 0.9)) for rgb in (old, new)])
        skins.append(skin & (compose.mask(face, np.eye(2, 3) / side, 0, 0, side, side) > 0.5))
        crops.append([crop(rgb, to_crop, side) for rgb in (old, new)])
    area = np.mean(skins, axis=0) > 0.9
    colours = np.array([[rgb[area].mean(0) for rgb in pair] for pair in crops])
    noise = np.nanmean(noises, axis=0)
    return BlendScore(
        float(np.nanmean(seams)), (bend(colours[:, 0]), bend(colours[:, 1])), (float(noise[0]), float(noise[1]))
    )


def seam_energy(before: np.ndarray, after: np.ndarray, alpha: np.ndarray) -> float:
    """As BlendScore.seam, of one frame.

    Args:
        before, after: (h, w, 3), 0 to 255.
        alpha: (h, w), 0 to 1; its feather is the edge, its gradient the direction across.

    Returns:
        nan where the mask has no edge.
    """
    down, across = (cv2.Sobel(alpha.astype(np.float32), cv2.CV_32F, *order) for order in ((0, 1), (1, 0)))
    steep = np.hypot(down, across)
    edge = (alpha > 0.02) & (alpha < 0.98) & (steep > 1e-3)
    if not edge.any():
        return float("nan")

    def energy(rgb: np.ndarray) -> float:
        luma = (rgb @ to_ycc[0]).astype(np.float32)
        slope = cv2.Sobel(luma, cv2.CV_32F, 0, 1) * down + cv2.Sobel(luma, cv2.CV_32F, 1, 0) * across
        return float(np.abs(slope[edge] / steep[edge]).mean())

    own = energy(before)
    return (energy(after) - own) / max(own, 1e-6)


def bend(colours: np.ndarray) -> float:
    """Mean length of the second difference of colours (n, 3); 0 for fewer than three."""
    return float(np.linalg.norm(np.diff(colours, n=2, axis=0), axis=1).mean()) if len(colours) > 2 else 0.0


def fine_noise(rgb: np.ndarray, area: np.ndarray) -> float:
    """Median size, in levels, of the luma's finest detail where `area` (h, w) bool is true; nan where it is nowhere."""
    luma = (rgb @ to_ycc[0]).astype(np.float32)
    detail = np.abs(luma - cv2.GaussianBlur(luma, (0, 0), 1.0))[area]
    return float(np.median(detail)) if detail.size else float("nan")
