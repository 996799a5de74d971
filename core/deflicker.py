# SPDX-License-Identifier: GPL-3.0-or-later
"""Deflicker: skin that the net draws must not pulse more than the skin it lies on."""

from __future__ import annotations

import cv2
import numpy as np

inside = np.ones((5, 5), np.uint8)
"""Of 96 pixels to the crop's side: the mask's edge, where the footage shows through, is no drawn skin."""


class Deflicker:
    """Takes the middle between two lights that both waver: of the drawn skin, and of the footage's own.

    The net's skin changes a little with every mouth it draws; the footage's with every mouth that was said. A light
    that really changes is in both, and passes; what is in one only is halved, so that the sum of both wavers less than
    either where they have nothing to do with each other. Slow differences are left to ColourMatch. Frames come in
    order; `restart` after a gap.
    """

    share = 0.5
    """Of the drawn skin's own wavering that is replaced by the footage's."""
    pace = 0.3
    """Share of a new frame in the running difference between the two."""
    fewest = 32
    """Pixels of skin below which no colour is measured."""

    def __init__(self) -> None:
        self._running: np.ndarray | None = None

    def restart(self) -> None:
        self._running = None

    def match(self, drawn: np.ndarray, source: np.ndarray, skin: np.ndarray) -> np.ndarray:
        """`drawn` (s, s, 3) float32, 0 to 255, as a whole lighter or darker; as is where too little skin is seen.

        Args:
            source: (s, s, 3) uint8, the crop it will lie over.
            skin: (s, s) bool, where both show skin.
        """
        step = max(1, len(skin) // 96)  # enough to compare colours on
        few = cv2.erode(skin[::step, ::step].astype(np.uint8), inside, borderValue=0) > 0
        if few.sum() < self.fewest:
            return drawn
        now = drawn[::step, ::step][few].mean(axis=0) - source[::step, ::step][few].mean(axis=0)
        self._running = now if self._running is None else self._running + self.pace * (now - self._running)
        return np.clip(drawn + self.share * (self._running - now), 0, 255).astype(np.float32, copy=False)
