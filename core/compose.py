# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets a generated mouth into its frame: mask, feather, colour match, edge match, detail.

Crop units: the face crop is the unit square, whatever its size in pixels; core.faces maps frame pixels there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
line_window, line_slack = 0.03, 5.0
"""A new picture's edge may be as bright as the source is within so many crop units, and so many levels brighter."""
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
    lips = _steady(_in_crop(track, lips_outer), track)
    mouth = lips.mean(axis=1, keepdims=True)  # the fixed point: in profile the lips are at the rim
    larger = 1 + settings.padding
    if settings.area == "mouth":
        outwards = lips - mouth
        room = mouth_room * outwards / np.maximum(np.linalg.norm(outwards, axis=2, keepdims=True), 1e-6)
        return Outline((mouth + larger * (outwards + room)).astype(np.float32), lips)
    face = mouth + larger * inset * (_steady(_in_crop(track, jaw + cheeks_and_nose), track) - mouth)
    return Outline(np.concatenate([face, lips], axis=1).astype(np.float32), lips)


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of equal neighbours in `values` (n,)."""
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    first = np.append(0, last[:-1] + 1)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _in_crop(track: faces.Track, chosen: tuple[int, ...]) -> np.ndarray:
    points = track.points[:, list(chosen)].astype(np.float64)
    linear, shift = track.to_crop[:, :, :2], track.to_crop[:, :, 2]
    return np.einsum("nij,nkj->nki", linear, points) + shift[:, None]


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


to_ycc = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)  # ITU-R BT.601, full range, as JPEG has it
to_rgb = np.linalg.inv(to_ycc)


class ColourMatch:
    """Gives generated crops the light and tint of their source, and takes out the flicker of a net's own light.

    A net's skin brightens and darkens with the mouth's shape and the head's turn, from one frame to the next, so no
    slow correction can take that out: contrast and tint are matched slowly, then each frame's skin is brought to the
    mean colour of the source's. Frames come in order; `restart` after a gap.
    """

    pace = 0.2
    """Share of a new frame in the running correction of contrast and tint."""
    pace_of_light = 0.33
    """Share of a new frame in the running colour of the source's skin: a light that changes is followed in a few
    frames, and what the old mouth does to its cheeks trembles less in the new picture than in the old."""
    most_difference, most_shift = 15.0, 15.0
    """Levels: a larger difference at one place is a contour; a larger one of the whole skin is no skin."""
    pace_of_tint, tint_side, tint_spread = 0.15, 48, 0.1
    """Share of a new frame in the running tints of the skin's parts; pixels of the crop on which they are measured; and
    standard deviation in crop units over which they are averaged: skin between them, and lips, get what is around."""
    most_tint, enough_skin = 25.0, 0.02
    """Levels of Cb and Cr by which a part may change; and share of skin around at which half of it is believed."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._running: np.ndarray | None = None
        self._light: np.ndarray | None = None
        self._tint: np.ndarray | None = None

    def match(self, generated: np.ndarray, source: np.ndarray, skin: np.ndarray) -> np.ndarray:
        """`generated` (s, s, 3) uint8 corrected to `source` (s, s, 3) uint8, both measured where `skin` (s, s) is true.

        Luma gets a gain and an offset, chroma an offset each. Medians and quantiles, so that a beard's edge or a
        shadow does not lead; limited, so that a bad frame cannot spoil more than it is.

        Returns:
            (s, s, 3) float32, 0 to 255.
        """
        step = max(1, len(skin) // 96)  # enough to compare colours on
        few = skin[::step, ::step]
        enough = few.sum() >= 32
        wanted = source[::step, ::step][few].astype(np.float32)
        if enough:
            now = _correction(generated[::step, ::step][few] @ to_ycc.T, wanted @ to_ycc.T)
            self._running = _towards(self._running, now, self.pace)
        if self._running is None:
            return generated.astype(np.float32)
        gain, offset = self._running[0], self._running[1:]
        matched = generated @ (to_rgb @ np.diag((gain, 1, 1)) @ to_ycc).T + to_rgb @ offset
        if enough:
            light = wanted.mean(axis=0)
            self._light = _towards(self._light, light, self.pace_of_light)
            lacking = np.clip(wanted - matched[::step, ::step][few], -self.most_difference, self.most_difference)
            matched += np.clip(self._light - light + lacking.mean(axis=0), -self.most_shift, self.most_shift)
            now = self._tints(matched, source, skin)
            self._tint = _towards(self._tint, now, self.pace_of_tint)
        if self._tint is not None:
            matched += cv2.resize(self._tint, skin.shape, interpolation=cv2.INTER_LINEAR) @ to_rgb[:, 1:].T
        return np.clip(matched, 0, 255).astype(np.float32)

    def _tints(self, matched: np.ndarray, source: np.ndarray, skin: np.ndarray) -> np.ndarray:
        """(k, k, 2) Cb and Cr that a picture (s, s, 3) lacks in each part of its skin, and around it.

        A net paints one cheek in the other's light when it has seen only one of them.
        """
        side = self.tint_side
        weight = cv2.resize(skin.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        few, wanted = (
            cv2.resize(p.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) for p in (matched, source)
        )
        lacking = np.clip((wanted - few) @ to_ycc[1:].T, -self.most_tint, self.most_tint)
        width = (0, 0), self.tint_spread * side
        sums = cv2.GaussianBlur(np.dstack([lacking * weight[..., None], weight]).astype(np.float32), *width)
        return sums[..., :2] / (sums[..., 2:] + self.enough_skin)


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

    def __init__(self, feather: float = feather) -> None:
        self._feather = feather
        self._running: np.ndarray | None = None

    def restart(self) -> None:
        self._running = None

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
        alpha = mask(face, np.array([[1 / side, 0, 0], [0, 1 / side, 0]]), 0, 0, side, side, self._feather)
        small, wanted = (
            cv2.resize(p.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) for p in (matched, source)
        )
        now = np.clip(wanted - small, -self.most, self.most)
        self._running = _towards(self._running, now, self.pace)
        mouth = np.zeros((side, side), np.uint8)
        cv2.fillConvexPoly(mouth, cv2.convexHull(crop_pixels(lips, side)), (1,), shift=8)
        edge = ((alpha > 0) & (alpha < 0.5) & (mouth == 0)).astype(np.float32)
        if front is not None:
            edge *= 1 - cv2.resize(front, (side, side), interpolation=cv2.INTER_AREA)
        unbound = 1.0
        if reach is not None:
            unbound = 1 - cv2.resize(reach, (side, side), interpolation=cv2.INTER_AREA)
            edge *= unbound
        width = (0, 0), self.spread * side
        weight = cv2.GaussianBlur(edge, *width)[..., None]
        average = cv2.GaussianBlur(edge[..., None] * self._running, *width) / (weight + 0.01)
        inwards = cv2.distanceTransform((alpha >= 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / side
        share = np.exp(-np.square(inwards / self.reach)) * (alpha > 0) * (mouth == 0) * unbound
        correction = average * share.astype(np.float32)[..., None]
        correction = cv2.resize(correction, (size, size), interpolation=cv2.INTER_LINEAR)
        moving = cv2.distanceTransform((mouth == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / side
        near = (
            np.exp(-np.square(inwards / self.line_reach)) * (alpha > 0) * np.clip(moving / lip_room - 1, 0, 1) * unbound
        )
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
        self._running: dict[str, np.ndarray] = {}

    def restart(self) -> None:
        self._running = {}

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
        if area.sum() >= 32:
            now = np.array([np.square(detail[area]).mean(), np.square(its_own[area]).mean()])
            self._running[where] = _towards(self._running.get(where), now, self.pace)
        if where not in self._running:
            return 0.0
        drawn, true = self._running[where]
        return self._amount * float(np.clip(np.sqrt(true / max(drawn, 1e-3)) - 1, 0, self.most))


def _detail(rgb: np.ndarray, spread: float) -> np.ndarray:
    """(h, w) float32: the luma of (h, w, 3) less its blur."""
    luma = rgb.astype(np.float32) @ to_ycc[0].astype(np.float32)
    return luma - cv2.GaussianBlur(luma, (0, 0), spread)


def _towards(running: np.ndarray | None, now: np.ndarray, pace: float) -> np.ndarray:
    return now if running is None else running + pace * (now - running)


def _correction(generated: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Luma gain, then the offsets of Y, Cb and Cr, that bring (n, 3) samples of one skin to the other's."""
    low, middle, high = np.quantile(generated, (0.1, 0.5, 0.9), axis=0)
    source_low, source_middle, source_high = np.quantile(source, (0.1, 0.5, 0.9), axis=0)
    gain = np.clip((source_high[0] - source_low[0]) / max(high[0] - low[0], 1), 0.85, 1.15)
    offset = np.clip(source_middle - middle * (gain, 1, 1), (-40, -12, -12), (40, 12, 12))
    return np.array([gain, *offset])


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
