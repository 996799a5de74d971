# SPDX-License-Identifier: GPL-3.0-or-later
"""The affine that places a face in its crop, steady in time, and the warps there and back.

Coordinates are continuous: the middle of the top left pixel is (0.5, 0.5). A crop measures 1 x 1, so that one affine
serves every size of net.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from .mesh import face_oval, rigid, rigid_in_crop
from .pixels import Pixels

smoothing = 0.05
"""Standard deviation in seconds of the Gaussian that takes the detector's jitter out of a crop's path."""
box_chin = 10.0
"""Frame pixels that Wav2Lip adds to its box below the chin, whatever the face's size (its `--pads 0 10 0 0`)."""

around = 2
"""Frame pixels around a crop that its interpolation may ask for."""

Box = tuple[int, int, int, int]
"""A part of a frame: left, top, right and bottom in pixels; the last two lie outside."""

Place = Callable[[np.ndarray, float], np.ndarray]
"""How a crop lies: the mesh points (n, 478, 2) of an unbroken run of frames, in frame pixels, and their rate → its
affines (n, 2, 3)."""


def fit(points: np.ndarray) -> np.ndarray:
    """The similarities (n, 2, 3) that bring mesh points (n, 478, 2) in frame pixels into the crop, by least squares."""
    source = points[:, rigid, :].astype(np.float64)
    source_mean, target_mean = source.mean(1, keepdims=True), rigid_in_crop.mean(0)
    x, y = np.moveaxis(source - source_mean, -1, 0)
    u, v = (rigid_in_crop - target_mean).T
    size = (x * x + y * y).sum(1)
    a, b = (x * u + y * v).sum(1) / size, (x * v - y * u).sum(1) / size
    turn = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], 1)
    shift = target_mean[:, None] - turn @ source_mean.transpose(0, 2, 1)
    return np.concatenate([turn, shift], 2)


def smooth(to_crop: np.ndarray, rate: float) -> np.ndarray:
    """The path of a crop (n, 2, 3) smoothed symmetrically in time (no lag), over its place, size and angle."""
    a, b = to_crop[:, 0, 0], to_crop[:, 1, 0]
    turn = to_crop[:, :, :2]
    middle = np.linalg.solve(turn, (0.5 - to_crop[:, :, 2])[..., None])[..., 0]
    path = np.column_stack([middle, np.log(np.hypot(a, b)), np.unwrap(np.arctan2(b, a))])
    x, y, size, angle = _steady(path, rate).T
    a, b = np.exp(size) * np.cos(angle), np.exp(size) * np.sin(angle)
    return np.stack([np.stack([a, -b, 0.5 - a * x + b * y], -1), np.stack([b, a, 0.5 - b * x - a * y], -1)], 1)


def _steady(path: np.ndarray, rate: float) -> np.ndarray:
    return gaussian_filter1d(path, max(0.5, smoothing * rate), axis=0, mode="nearest")


def place_aligned(points: np.ndarray, rate: float) -> np.ndarray:
    """Our nets' crop (a `Place`): a square, upright by the eyes and the nose."""
    return smooth(fit(points), rate)


def place_box(points: np.ndarray, rate: float) -> np.ndarray:
    """Wav2Lip's crop (a `Place`): the face's box from forehead to chin and cheek to cheek, stretched to a square.

    Wav2Lip has its box from the detector S3FD, which learned from boxes drawn by that rule [WIDER FACE]; here the
    mesh's outline gives it.
    """
    outline = points[:, face_oval, :].astype(np.float64)
    corners = np.concatenate([outline.min(1), outline.max(1)], 1)
    corners[:, 3] += box_chin
    left, top, right, bottom = _steady(corners, rate).T
    width, height, zero = right - left, bottom - top, np.zeros(len(points))
    return np.stack(
        [np.stack([1 / width, zero, -left / width], -1), np.stack([zero, 1 / height, -top / height], -1)], 1
    )


def expand(to_crop: np.ndarray, margin: float) -> np.ndarray:
    """The affine of a crop with `margin` (a part of its side) more on every side."""
    wider = to_crop / (1 + 2 * margin)
    wider[..., 2] += margin / (1 + 2 * margin)
    return wider


def in_crop(points: np.ndarray, to_crop: np.ndarray) -> np.ndarray:
    """Points (…, 2) of a frame, in its pixels, in units of a crop (2, 3)."""
    return points @ to_crop[:, :2].T + to_crop[:, 2]


def crop(frame: Pixels, to_crop: np.ndarray, size: int) -> np.ndarray:
    """The aligned face (size, size, 3) uint8 of a frame, without aliasing; edges are repeated."""
    pixels = 1 / np.linalg.norm(to_crop[:, :2], axis=1).min() / size  # frame pixels for one crop pixel
    oversample = max(1, int(np.ceil(pixels)))
    large = size * oversample
    near = _corners(to_crop)
    shape = np.array(frame.shape[1::-1])
    first = np.clip(np.floor(near.min(0)).astype(int) - around, 0, shape - 1)
    last = np.clip(np.ceil(near.max(0)).astype(int) + around, first + 1, shape)
    part = to_crop.copy()
    part[:, 2] += to_crop[:, :2] @ first
    picture = cv2.warpAffine(
        frame[first[1] : last[1], first[0] : last[0]],
        _cv2_affine(part * large),
        (large, large),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) if oversample > 1 else picture


def uncrop(
    patch: np.ndarray, to_crop: np.ndarray, frame_shape: tuple[int, ...], within: Box | None = None
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """A crop (S, S, 3) put back into the frame it came from.

    Args:
        within: the part of the frame that is wanted; None: all.

    Returns:
        x, y of the smallest box of the part that holds it, the picture in that box (h, w, 3) float32 0…255 and how far
        each of its pixels lies inside the crop (h, w) float32, 0 outside, 1 from half a crop pixel inside.
        The box is empty (h or w 0) when the crop lies outside the frame.
    """
    size = patch.shape[0]
    height, width = frame_shape[:2]
    corners = _corners(to_crop)
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (width, height))
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int), 0, (width, height))
    x0, y0 = left, top
    if within:
        x0, y0, x1, y1 = max(x0, within[0]), max(y0, within[1]), min(x1, within[2]), min(y1, within[3])
    if x1 <= x0 or y1 <= y0:
        return int(x0), int(y0), np.zeros((0, 0, 3), np.float32), np.zeros((0, 0), np.float32)
    box = to_crop.copy()
    box[:, 2] += to_crop[:, :2] @ (left, top)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    picture = cv2.warpAffine(
        patch.astype(np.float32),
        _cv2_affine(box * size),
        (int(x1 - left), int(y1 - top)),
        flags=flags,
        borderMode=cv2.BORDER_REPLICATE,
    )[y0 - top :, x0 - left :]  # whole from its corner, where OpenCV's rounding of places begins
    columns, rows = np.arange(x0, x1) + 0.5, np.arange(y0, y1)[:, None] + 0.5
    u = to_crop[0, 0] * columns + to_crop[0, 1] * rows + to_crop[0, 2]
    v = to_crop[1, 0] * columns + to_crop[1, 1] * rows + to_crop[1, 2]
    inside = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) * size
    return int(x0), int(y0), np.clip(picture, 0, 255), np.clip(inside + 0.5, 0, 1).astype(np.float32)


def _corners(to_crop: np.ndarray) -> np.ndarray:
    """(4, 2): the crop's corners in frame pixels."""
    return cv2.transform(np.array([[[0, 0], [1, 0], [1, 1], [0, 1]]], float), cv2.invertAffineTransform(to_crop))[0]


def _cv2_affine(affine: np.ndarray) -> np.ndarray:
    """An affine of continuous coordinates as OpenCV counts, whose first pixel's middle is (0, 0)."""
    shifted = affine.copy()
    shifted[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5
    return shifted
