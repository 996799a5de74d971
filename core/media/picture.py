# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame of footage that keeps its original samples and is changed only where something is laid over it."""

from __future__ import annotations

import av
import cv2
import numpy as np

from .planes import bit_depth, components, cut_out, exact_flags, repacked, whole_chroma

luma_weights = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""Weights of red and blue in luma by AVColorSpace [ITU-T H.273, table 4]."""
bt601 = 5
"""What swscale, and so Blender, takes for an untagged or unknown matrix."""
full_range = 2
"""AVCOL_RANGE_JPEG."""

Parts = dict[str, np.ndarray]
"""What planes.components gives."""


class Picture:
    """One frame with its own samples. To a reader it is an array of pixels, `shape` and slices, made as it is read.

    Args:
        index: Blender's frame number in the source.
        frame: decoded frame in a layout of core.media.planes; never written to.
        rotation: quarter turns counter-clockwise that bring the frame upright.
        path: the image file that holds this frame alone; empty: a movie's.
        damage: what is wrong with it, one of core.media.damage; empty: nothing is known to be.
    """

    def __init__(self, index: int, frame: av.VideoFrame, rotation: int = 0, path: str = "", damage: str = "") -> None:
        self.index = index
        self.rotation = rotation
        self.path = path
        self.damage = damage
        self._frame = frame
        self._owned = False

    @property
    def frame(self) -> av.VideoFrame:
        """The samples as they are now, in coded orientation. Read only."""
        return self._frame

    @property
    def changed(self) -> bool:
        """Whether anything was laid over the frame."""
        return self._owned

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height and width of the upright picture, and 3."""
        height, width = self._frame.height, self._frame.width
        return (width, height, 3) if self.rotation % 2 else (height, width, 3)

    def rgb(self) -> np.ndarray:
        """The upright picture as Blender shows it: (height, width, 3) uint8, without alpha.

        Linear light (OpenEXR) comes with the sRGB curve, cut to 0..1.
        """
        return self[:, :]

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        """Rows and columns of `rgb()`, as picture[top:bottom, left:right]: only they are converted.

        Steps above 1 leave pixels out.
        """
        rows, columns = (range(length)[each] for length, each in zip(self.shape, part, strict=False))
        if not rows or not columns:
            return np.zeros((len(rows), len(columns), 3), np.uint8)
        height, width = self._frame.height, self._frame.width
        coded = {
            0: (rows, columns),
            1: (columns, _mirrored(rows, width)),
            2: (_mirrored(rows, height), _mirrored(columns, width)),
            3: (_mirrored(columns, height), rows),
        }[self.rotation]
        return np.ascontiguousarray(np.rot90(self._coded_rgb(*coded), self.rotation))

    def blend(self, x: int, y: int, rgb: np.ndarray, alpha: np.ndarray) -> None:
        """Lay a patch over the picture, in the picture's own samples.

        Where alpha is 0 a sample keeps its value to the bit; so does the picture's own alpha everywhere.

        Args:
            x, y: upright position of the patch's top left corner; the patch may reach over the edge.
            rgb: (h, w, 3) float32, 0..255.
            alpha: (h, w) float32, 0..1.
        """
        height, width = alpha.shape
        turned = np.rot90(rgb, -self.rotation), np.rot90(alpha, -self.rotation)
        full_width, full_height = self._frame.width, self._frame.height
        x, y = {
            0: (x, y),
            1: (full_width - y - height, x),
            2: (full_width - x - width, full_height - y - height),
            3: (y, full_height - x - width),
        }[self.rotation]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + turned[1].shape[1], full_width), min(y + turned[1].shape[0], full_height)
        if left >= right or top >= bottom:
            return
        inside = np.s_[top - y : bottom - y, left - x : right - x]
        rgb, alpha = turned[0][inside].astype(np.float32), turned[1][inside].astype(np.float32)
        if not alpha.any():
            return
        if not self._owned:
            self._frame, self._owned = repacked(self._frame, self._frame.format.name), True
        parts = components(self._frame)
        if "r" in parts:
            self._blend_rgb(parts, np.s_[top:bottom, left:right], rgb, alpha)
        else:
            self._blend_yuv(parts, left, top, rgb, alpha)

    def _coded_rgb(self, rows: range, columns: range) -> np.ndarray:
        frame = self._frame
        parts = components(frame)
        box = np.s_[rows.start : rows.stop : rows.step, columns.start : columns.stop : columns.step]
        if "u" in parts:
            matrix = frame.colorspace if frame.colorspace in (*luma_weights, 2) else bt601
            in_part = len(rows) * len(columns) < frame.width * frame.height and whole_chroma(frame)
            if in_part:
                plain, box = cut_out(frame, rows, columns), np.s_[:, :]
            else:  # A copy forgets where the decoder says chroma lies: Blender does not ask, and repeats it.
                plain = frame if self._owned else repacked(frame, frame.format.name)
            # Planes, not rgb24: the same values, and swscale needs half the time or less.
            shown = components(
                plain.reformat(
                    format="gbrp",
                    src_colorspace=matrix,
                    interpolation=exact_flags,
                    threads=1 if in_part else 0,  # starting threads takes longer than a part does
                )
            )
            return cv2.merge([shown[name][box] for name in "rgb"])
        values = np.stack([parts[name][box] for name in ("rgb" if "r" in parts else "yyy")], axis=-1)
        if values.dtype.kind == "f":
            return np.rint(_to_srgb(values.astype(np.float32)) * 255).astype(np.uint8)
        bits = bit_depth(frame)
        return values if bits == 8 else np.rint(values * (255 / ((1 << bits) - 1))).astype(np.uint8)

    def _blend_rgb(self, parts: Parts, box: tuple[slice, slice], rgb: np.ndarray, alpha: np.ndarray) -> None:
        if parts["r"].dtype.kind == "f":
            values = _to_linear(rgb / 255)
        else:
            values = rgb * (((1 << bit_depth(self._frame)) - 1) / 255)
        for channel, name in enumerate("rgb"):
            _mix(parts[name][box], values[..., channel], alpha, bit_depth(self._frame))

    def _blend_yuv(self, parts: Parts, left: int, top: int, rgb: np.ndarray, alpha: np.ndarray) -> None:
        bits = bit_depth(self._frame)
        red, blue = luma_weights.get(self._frame.colorspace, luma_weights[bt601])
        luma = rgb @ np.array([red, 1 - red - blue, blue], np.float32)
        # Full range above 8 bit: white is 255 << n, as swscale has it, so that rgb() and blend() agree.
        unit = float(1 << max(bits - 8, 0))
        full = self._frame.color_range == full_range or self._frame.format.name.startswith("yuvj") or "u" not in parts
        luma_scale, luma_zero, chroma_scale = (1.0, 0.0, 1.0) if full else (219 / 255, 16.0, 224 / 255)
        height, width = alpha.shape
        box = np.s_[top : top + height, left : left + width]
        if parts["y"].dtype.kind == "f":
            _mix(parts["y"][box], _to_linear(luma / 255), alpha, bits)
            return
        _mix(parts["y"][box], (luma * luma_scale + luma_zero) * unit, alpha, bits)
        if "u" not in parts:
            return
        step_y, step_x = (-(-whole // part) for whole, part in zip(parts["y"].shape, parts["u"].shape, strict=True))
        first_row, first_column = top // step_y, left // step_x
        rows = -(-(top + height) // step_y) - first_row
        columns = -(-(left + width) // step_x) - first_column
        pad_top, pad_left = top - first_row * step_y, left - first_column * step_x

        def block_sums(values: np.ndarray) -> np.ndarray:
            padded = np.zeros((rows * step_y, columns * step_x), np.float32)
            padded[pad_top : pad_top + height, pad_left : pad_left + width] = values
            return padded.reshape(rows, step_y, columns, step_x).sum(axis=(1, 3))

        # A chroma sample at an odd edge stands for fewer luma samples than the others.
        in_rows = np.minimum(step_y, parts["y"].shape[0] - (first_row + np.arange(rows)) * step_y)
        in_columns = np.minimum(step_x, parts["y"].shape[1] - (first_column + np.arange(columns)) * step_x)
        weight = block_sums(alpha)
        chroma_alpha = weight / np.outer(in_rows, in_columns).astype(np.float32)
        chroma_box = np.s_[first_row : first_row + rows, first_column : first_column + columns]
        for name, channel, share in (("u", 2, blue), ("v", 0, red)):
            chroma = (rgb[..., channel] - luma) * (0.5 / (1 - share))
            # The mean over the pixels the patch really covers: what lies under alpha 0 has no say.
            mean = block_sums(chroma * alpha) / np.maximum(weight, 1e-6)
            _mix(parts[name][chroma_box], (mean * chroma_scale + 128) * unit, chroma_alpha, bits)


def _mirrored(chosen: range, length: int) -> range:
    """Rising places that `chosen` ones of `length` have, counted from the other end."""
    return range(length - 1 - chosen[-1], length - chosen[0], chosen.step)


def _mix(target: np.ndarray, values: np.ndarray, alpha: np.ndarray, bits: int) -> None:
    """target += alpha * (values - target) in place, only where alpha is above 0."""
    old = target.astype(np.float32)
    mixed = old + alpha * (values - old)
    if target.dtype.kind != "f":
        mixed = np.clip(np.rint(mixed), 0, (1 << bits) - 1)
    np.copyto(target, mixed.astype(target.dtype), where=alpha > 0)


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    """The sRGB curve [IEC 61966-2-1] over light cut to 0..1."""
    linear = np.clip(np.nan_to_num(linear), 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values 0..1."""
    srgb = np.clip(srgb, 0, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)
