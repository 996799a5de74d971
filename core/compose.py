# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets a generated mouth into its frame: where the mask lies, its feather, and the patch that is laid over the frame.

Crop units: the face crop is the unit square, whatever its size in pixels; core.faces maps frame pixels there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from . import faces
from .faces.mesh import lips_outer

jaw = (361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132)
"""Face mesh points along the jaw, from ear to ear by way of the chin."""
cheeks_and_nose = (205, 98, 2, 327, 425)
"""Face mesh points that close the jaw line at the top: cheek, nose base, cheek."""

generated_top = 0.5
"""The net repaints the crop from here down (core.engine masks that half)."""
inset = np.array([0.85, 0.97])
"""The mask's width and height over the lower face's: the source's own chin line and the sides of its jaw stay, where
the net, which has only seen the upper half of this pose, would paint background or a second contour."""
feather = 0.03
"""Standard deviation of the feather in crop units, unless a job says another: it grows with the face."""
mouth_room = 0.1
"""Crop units around the lips that belong to a mask of the mouth only: new lips may open wider."""
lip_room = 0.05
"""Crop units around the lips that are no skin to compare colours on: a mouth moves there."""


@dataclass(frozen=True)
class Outline:
    """Where the mask may lie in each frame of a shot, in crop units, steadied in time."""

    face: np.ndarray
    """(n, k, 2) float32: points whose convex hull is the mask (of the lower face 42); nan where no face was found."""
    lips: np.ndarray
    """(n, 20, 2) float32: polygon around the lips; nan where no face was found."""


@dataclass(frozen=True)
class MaskSettings:
    """How much of the frame the new picture may cover."""

    area: str = "jaw"
    """`jaw`: the lower face; `mouth`: the lips and their surroundings."""
    padding: float = 0.0
    """Part of the mask's own size by which it is larger (or smaller, below 0)."""
    feather: float = feather
    """Standard deviation of the feather in crop units."""


default_mask = MaskSettings()


@dataclass(frozen=True)
class Patch:
    """A picture to lay over a frame, with its top left corner at (x, y) in frame pixels."""

    x: int
    y: int
    rgb: np.ndarray
    """(h, w, 3) float32, 0 to 255."""
    alpha: np.ndarray
    """(h, w) float32, 0 to 1; exactly 0 where the frame must stay as it is."""


def outline(track: faces.Track, settings: MaskSettings = default_mask) -> Outline:
    """The mask's and the lips' points through a whole track; small enough to keep for every frame."""
    lips = _steady(track.in_crop(lips_outer), track)
    mouth = lips.mean(axis=1, keepdims=True)  # the fixed point: in profile the lips are at the rim
    larger = 1 + settings.padding
    if settings.area == "mouth":
        outwards = lips - mouth
        room = mouth_room * outwards / np.maximum(np.linalg.norm(outwards, axis=2, keepdims=True), 1e-6)
        return Outline((mouth + larger * (outwards + room)).astype(np.float32), lips)
    face = mouth + larger * inset * (_steady(track.in_crop(jaw + cheeks_and_nose), track) - mouth)
    return Outline(np.concatenate([face, lips], axis=1).astype(np.float32), lips)


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of equal neighbours in `values` (n,)."""
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    first = np.append(0, last[:-1] + 1)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _steady(polygon: np.ndarray, track: faces.Track) -> np.ndarray:
    """Symmetric smoothing in time, inside each unbroken run: landmarks tremble by more than a mask may."""
    result = polygon.astype(np.float32)
    for first, last in runs(np.where(track.found, track.shot, -1)):
        run = slice(first, last + 1)
        result[run] = gaussian_filter1d(polygon[run], sigma=1.5, axis=0, mode="nearest")
    return result


def mask(
    face: np.ndarray, to_crop: np.ndarray, x: int, y: int, width: int, height: int, feather: float = feather
) -> np.ndarray:
    """Alpha of the lower face in the frame's pixels x … x + width, y … y + height.

    Args:
        face: (k, 2) points in crop units; their convex hull is the mask.
        to_crop: (2, 3), frame pixels to crop units.
        feather: standard deviation of the feather in crop units.

    Returns:
        (height, width) float32, 0 to 1. The feather lies inside the hull, inside the crop and below
        `generated_top`, so alpha is exactly 0 outside all three.
    """
    linear = to_crop[:, :2]
    unit = 1 / np.sqrt(abs(np.linalg.det(linear)))  # frame pixels per crop unit
    finer = 4 if unit < 400 else 1  # filling is half a pixel wide of the truth, which small faces show
    pixels = ((face - to_crop[:, 2]) @ np.linalg.inv(linear).T - (x, y)) * finer - 0.5  # pixel centres lie at .5
    area = np.zeros((height * finer, width * finer), np.uint8)
    # The hull, because in profile the far side of the jaw folds back over the mouth.
    hull = cv2.convexHull(np.rint(pixels * 256).astype(np.int32))
    cv2.fillConvexPoly(area, hull, (255,), cv2.LINE_AA, shift=8)
    area = cv2.resize(area, (width, height), interpolation=cv2.INTER_AREA)
    spread = max(feather * unit, 0.5)
    blurred = cv2.GaussianBlur(area.astype(np.float32) / 255, (0, 0), spread, borderType=cv2.BORDER_CONSTANT)
    inside = 2 * blurred - 1  # a straight edge blurs to one half on the edge itself
    across, down = x + np.arange(width) + 0.5, y + np.arange(height)[:, None] + 0.5
    u = linear[0, 0] * across + linear[0, 1] * down + to_crop[0, 2]
    v = linear[1, 0] * across + linear[1, 1] * down + to_crop[1, 2]
    from_edge = np.minimum(np.minimum(u, 1 - u), np.minimum(v - generated_top, 1 - v))
    alpha = smoothstep(inside) * smoothstep(from_edge / (2 * feather))
    alpha[alpha < 1 / 512] = 0  # too little to show in 8 bits: leave the sample alone
    return alpha.astype(np.float32)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, and without a corner between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def skin(face: np.ndarray, lips: np.ndarray, size: int) -> np.ndarray:
    """(size, size) bool: the lower face without the lips and their surroundings, in a crop of `size` pixels."""
    area = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(area, cv2.convexHull(crop_pixels(face, size)), (1,), shift=8)
    area[: int(np.ceil(generated_top * size))] = 0
    mouth = np.zeros_like(area)
    cv2.fillPoly(mouth, [crop_pixels(lips, size)], (1,), shift=8)
    room = 2 * round(lip_room * size) + 1
    mouth = cv2.dilate(mouth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (room, room)))
    return (area > 0) & (mouth == 0)


def crop_pixels(polygon: np.ndarray, size: int) -> np.ndarray:
    """Points in crop units for OpenCV's drawing in a picture of `size` pixels, with 8 bits of fraction."""
    return np.rint((polygon * size - 0.5) * 256).astype(np.int32)


def patch(
    generated: np.ndarray,
    face: np.ndarray,
    to_crop: np.ndarray,
    shape: tuple[int, ...],
    strength: float = 1.0,
    feather: float = feather,
    front: np.ndarray | None = None,
    reach: np.ndarray | None = None,
) -> Patch | None:
    """What to blend into a frame of `shape` (height, width, …): the generated crop (s, s, 3) in the frame's pixels.

    Args:
        generated: colour matched, 0 to 255.
        face: (k, 2) points around the lower face in crop units.
        to_crop: (2, 3), frame pixels to crop units.
        strength: 0 to 1, multiplies the mask.
        feather: standard deviation of the mask's feather in crop units.
        front: (s, s) float32, 1 where something in front of the face must stay.
        reach: (s, s) float32, what the mask is at least, beyond its hull too.

    Returns:
        The patch, no larger than its mask; None where nothing of the mask lies inside the frame.
    """
    corners = face
    if reach is not None and reach.any():
        across, down = (np.flatnonzero(reach.any(axis=a))[[0, -1]] / len(reach) for a in (0, 1))
        corners = np.concatenate([face, np.stack(np.meshgrid(across, down), 2).reshape(-1, 2)])
    hull = (corners - to_crop[:, 2]) @ np.linalg.inv(to_crop[:, :2]).T
    (left, top), (right, bottom) = np.floor(hull.min(0)).astype(int) - 2, np.ceil(hull.max(0)).astype(int) + 2
    x, y, rgb, valid = faces.uncrop(generated, to_crop, shape, (left, top, right, bottom))
    if not rgb.size:
        return None
    alpha = mask(face, to_crop, x, y, rgb.shape[1], rgb.shape[0], feather)
    if reach is not None:
        alpha = np.maximum(alpha, faces.uncrop(reach, to_crop, shape, (left, top, right, bottom))[2])
    alpha *= valid * np.float32(strength)
    if front is not None:
        stays = faces.uncrop(front, to_crop, shape, (left, top, right, bottom))[2]
        alpha *= 1 - np.clip(stays, 0, 1)
        alpha[alpha < 1 / 512] = 0
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not rows.size:
        return None
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Patch(x + int(columns[0]), y + int(rows[0]), rgb[box], alpha[box])


def skin_in_patch(patch: Patch, face: np.ndarray, lips: np.ndarray, to_crop: np.ndarray) -> np.ndarray:
    """(h, w) bool: where a patch is laid over skin almost whole, away from the lips."""
    height, width = patch.alpha.shape
    unit = 1 / np.sqrt(abs(np.linalg.det(to_crop[:, :2])))
    side = max(16, round(min(unit, 256)))
    right, bottom = patch.x + width, patch.y + height
    box = patch.x, patch.y, right, bottom
    inside = faces.uncrop(skin(face, lips, side).astype(np.float32), to_crop, (bottom, right), box)[2]
    return (inside > 0.5) & (patch.alpha > 0.8)
