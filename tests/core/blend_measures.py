# SPDX-License-Identifier: GPL-3.0-or-later
"""How well new lips sit in their footage: the seam at the mask's edge, the flicker of the skin's colour, its grain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import cv2
import numpy as np

from core import compose, media
from core.colour import to_ycc
from core.faces import Track, Tracker, crop, in_crop, uncrop
from core.faces.mesh import lips_outer
from core.paint import Mouth, Painter

side = 96
"""Pixels of the aligned crop in which colours are compared."""
margin = 4
"""Pixels around a mask, in which its edge ends."""

Masks = dict[int, tuple[int, int, np.ndarray]]
"""For frames with new lips: the mask's top left corner x, y in frame pixels, and its alpha (h, w)."""


@dataclass(frozen=True)
class BlendScore:
    """Of footage before and after."""

    seam: float
    """Change of the gradient across the mask's edge, where no new lips are, over the source's own: 0 is no seam, 0.1 is
    a tenth more."""
    flicker: tuple[float, float]
    """Before and after: how much the mean colour of the skin under the mask bends from frame to frame, in levels. A
    light that changes steadily does not count; neither do the old or the new lips, which are to move."""
    noise: tuple[float, float]
    """Before and after: median size of the finest detail of the skin under the mask, in levels of luma."""


@contextmanager
def masks_kept() -> Iterator[Masks]:
    """The masks of a re-dub that runs meanwhile.

    They are nowhere in its output, and the face alone does not tell them: they end on the silhouette of a head that is
    turned, and at what is in front of it.
    """
    masks: Masks = {}
    paste, blend = Painter.paste, media.Picture.blend

    def kept(painter: Painter, frame: int, picture: media.Picture, mouth: Mouth) -> None:
        def blended(below: media.Picture, x: int, y: int, rgb: np.ndarray, alpha: np.ndarray) -> None:
            masks[frame] = x, y, alpha
            blend(below, x, y, rgb, alpha)

        with mock.patch.object(media.Picture, "blend", blended):
            paste(painter, frame, picture, mouth)

    with mock.patch.object(Painter, "paste", kept):
        yield masks


def blend_score(before: Sequence[np.ndarray], after: Sequence[np.ndarray], rate: float, masks: Masks) -> BlendScore:
    """Measures frames (h, w, 3) uint8 before and after; those with new lips count, if a face is seen in both."""
    old_track, new_track = (_track(frames, rate) for frames in (before, after))
    outline = compose.outline(old_track)
    seams, noises, crops, skins = [], [], [], []
    for i, (x, y, alpha) in masks.items():
        if not (old_track.found[i] and new_track.found[i]):
            continue
        old, new = before[i], after[i]
        face, lips, to_crop = outline.face[i], outline.lips[i], old_track.to_crop[i]
        new_lips = in_crop(new_track.points[i, list(lips_outer)], to_crop)
        skin = compose.skin(face, lips, side) & compose.skin(face, new_lips, side)
        mask = _in_frame(alpha, x, y, old.shape)
        shown = _in_frame(*_of_crop(skin, to_crop, old.shape), old.shape)
        box = np.s_[max(y - margin, 0) : y + alpha.shape[0] + margin, max(x - margin, 0) : x + alpha.shape[1] + margin]
        # lips that open on the far silhouette of a turned head have edges of their own there
        of_lips = _in_frame(*_of_crop(_filled(new_lips), to_crop, old.shape), old.shape)
        seams.append(seam_energy(old[box], new[box], mask[box], of_lips[box] < 0.1))
        noises.append([fine_noise(rgb[box], ((shown > 0.9) & (mask > 0.9))[box]) for rgb in (old, new)])
        skins.append(skin & (crop(mask, to_crop, side) > 0.5))
        crops.append([crop(rgb, to_crop, side) for rgb in (old, new)])
    area = np.mean(skins, axis=0) > 0.9
    colours = np.array([[rgb[area].mean(0) for rgb in pair] for pair in crops])
    noise = np.nanmean(noises, axis=0)
    return BlendScore(
        float(np.nanmean(seams)), (bend(colours[:, 0]), bend(colours[:, 1])), (float(noise[0]), float(noise[1]))
    )


def _in_frame(part: np.ndarray, x: int, y: int, shape: tuple[int, ...]) -> np.ndarray:
    """A part (h, w) at x, y of an otherwise empty frame."""
    whole = np.zeros(shape[:2], np.float32)
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return whole


def _filled(polygon: np.ndarray) -> np.ndarray:
    """(side, side) bool: a polygon in crop units, and what its own edge reaches around it."""
    area = np.zeros((side, side), np.uint8)
    cv2.fillPoly(area, [compose.crop_pixels(polygon, side)], (1,), shift=8)
    reach = 2 * round(0.01 * side) + 1
    return cv2.dilate(area, np.ones((reach, reach), np.uint8)) > 0


def _of_crop(area: np.ndarray, to_crop: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int, int]:
    x, y, part, _ = uncrop(area.astype(np.float32), to_crop, shape)
    return part, x, y


def _track(frames: Sequence[np.ndarray], rate: float) -> Track:
    with Tracker(rate) as tracker:
        for rgb in frames:
            tracker.add(rgb)
        return tracker.finish()


def seam_energy(before: np.ndarray, after: np.ndarray, alpha: np.ndarray, counts: np.ndarray | None = None) -> float:
    """As BlendScore.seam, of one frame.

    Args:
        before, after: (h, w, 3), 0 to 255.
        alpha: (h, w), 0 to 1; its feather is the edge, its gradient the direction across.
        counts: (h, w) bool, where a seam would be one; None: everywhere.

    Returns:
        nan where the mask has no edge.
    """
    down, across = (cv2.Sobel(alpha.astype(np.float32), cv2.CV_32F, *order) for order in ((0, 1), (1, 0)))
    steep = np.hypot(down, across)
    edge = (alpha > 0.02) & (alpha < 0.98) & (steep > 1e-3)
    if counts is not None:
        edge &= counts
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
