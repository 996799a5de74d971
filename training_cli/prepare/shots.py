# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames with what their neighbours say of them: a cut before them (PySceneDetect), or no change at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

thumbnail_side = 256
"""Longest side of what the detector sees; PySceneDetect too reduces its frames to about this."""
still_difference = 0.05
"""Mean difference to the frame before, in levels, below which a frame only repeats it."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame."""

    rgb: np.ndarray
    """(H, W, 3) uint8."""
    cut: bool
    """It begins a shot."""
    still: bool
    """It shows what the one before showed."""


def frames(pictures: Iterable[np.ndarray], rate: Fraction) -> Iterator[Frame]:
    """The pictures (H, W, 3) uint8 in their order, held back by the few that the detector looks ahead.

    The detector compares a change with those around it, so that a camera that moves makes no cuts; the face's tracker
    breaks a shot besides where the face is elsewhere at once.
    """
    detector = AdaptiveDetector(min_scene_len=2)
    cuts: set[int] = set()
    held: deque[Frame] = deque()
    before: np.ndarray | None = None
    given = 0
    for number, rgb in enumerate(pictures):
        small = _thumbnail(rgb)
        still = before is not None and float(cv2.absdiff(small, before).mean()) < still_difference
        before = small
        bgr = np.ascontiguousarray(small[..., ::-1])
        cuts |= {cut.frame_num for cut in detector.process_frame(FrameTimecode(number, rate), bgr)}
        held.append(Frame(rgb, False, still))
        if len(held) > detector.window_width:
            yield replace(held.popleft(), cut=given in cuts)
            given += 1
    while held:
        yield replace(held.popleft(), cut=given in cuts)
        given += 1


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    scale = thumbnail_side / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    step = max(1, int(1 / scale / 2))  # thin first: reducing 4K by area costs more than all the rest
    return cv2.resize(
        np.ascontiguousarray(rgb[::step, ::step]),
        (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))),
        interpolation=cv2.INTER_AREA,
    )
