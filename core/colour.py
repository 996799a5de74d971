# SPDX-License-Identifier: GPL-3.0-or-later
"""Light and tint: gives a generated mouth those of the face it is set into."""

from __future__ import annotations

import cv2
import numpy as np

from .running import RunningMean

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
        self._correction = RunningMean(self.pace)
        self._light = RunningMean(self.pace_of_light)
        self._tint = RunningMean(self.pace_of_tint)

    def restart(self) -> None:
        for each in (self._correction, self._light, self._tint):
            each.restart()

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
            self._correction.add(_correction(generated[::step, ::step][few] @ to_ycc.T, wanted @ to_ycc.T))
        if self._correction.value is None:
            return generated.astype(np.float32)
        gain, offset = self._correction.value[0], self._correction.value[1:]
        matched = generated @ (to_rgb @ np.diag((gain, 1, 1)) @ to_ycc).T + to_rgb @ offset
        if enough:
            light = wanted.mean(axis=0)
            lacking = np.clip(wanted - matched[::step, ::step][few], -self.most_difference, self.most_difference)
            matched += np.clip(self._light.add(light) - light + lacking.mean(axis=0), -self.most_shift, self.most_shift)
            self._tint.add(self._tints(matched, source, skin))
        if self._tint.value is not None:
            matched += cv2.resize(self._tint.value, skin.shape, interpolation=cv2.INTER_LINEAR) @ to_rgb[:, 1:].T
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


def _correction(generated: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Luma gain, then the offsets of Y, Cb and Cr, that bring (n, 3) samples of one skin to the other's."""
    low, middle, high = np.quantile(generated, (0.1, 0.5, 0.9), axis=0)
    source_low, source_middle, source_high = np.quantile(source, (0.1, 0.5, 0.9), axis=0)
    gain = np.clip((source_high[0] - source_low[0]) / max(high[0] - low[0], 1), 0.85, 1.15)
    offset = np.clip(source_middle - middle * (gain, 1, 1), (-40, -12, -12), (40, 12, 12))
    return np.array([gain, *offset])
