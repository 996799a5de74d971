# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the new chin ends: a mask ends just above the source's chin, and a jaw that is drawn higher has its own there.

Shut lips drawn over an open mouth would have two chins. The new one is drawn out to the old: skin gives way, as it does
under a finger, and the neck below needs no paint.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from . import compose, faces
from .compose import smoothstep
from .running import RunningMean

chin_point = 152
lower_jaw = (172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397)
"""Of the mesh, from one side to the other."""
columns = np.linspace(-0.1, 0.1, 15)
"""Crop units beside the chin's middle at which its edge is compared."""
step = 1 / 192
"""Crop units between two places of a column."""
around = 0.05
"""Crop units above and below the source's chin that tell its edge."""
highest, lowest = 0.06, 0.02
"""Crop units by which a new chin may be drawn down, and up."""
unlikely = 4.0
"""What a shift costs, times its square in crop units, against a correlation of at most 1."""
surely, hardly = 0.9, 0.7
"""Correlation of both edges from which a shift is believed wholly, and up to which not at all."""
faint = 3.0
"""Levels from one place to the next that the clearest edge must have; else there is none to be seen."""
skin_above = 0.15
"""Crop units above the chin at which the skin begins to give way: below the lips."""
wide, narrow = 0.3, 0.1
"""Crop units beside the chin's middle at which nothing gives way, and up to which everything does."""
pace = 0.5
"""Share of a new frame in the running shift."""


class ChinMatch:
    """Brings the chin of new pictures to the source's. Frames come in order; `restart` after a gap.

    Args:
        track: the face in all frames.
    """

    def __init__(self, track: faces.Track) -> None:
        jaw = np.full((len(track.found), len(lower_jaw), 2), np.nan, np.float32)
        for i in np.flatnonzero(track.found):
            jaw[i] = faces.in_crop(track.points[i, list(lower_jaw)], track.to_crop[i])
        for first, last in compose.runs(np.where(track.found, track.shot, -1)):
            run = np.s_[first : last + 1]
            jaw[run] = gaussian_filter1d(jaw[run], 1.5, axis=0, mode="nearest")
        self._jaw = jaw
        self._running = RunningMean(pace)

    def restart(self) -> None:
        self._running.restart()

    def match(self, drawn: np.ndarray, source: np.ndarray, frame: int) -> np.ndarray:
        """`drawn` (s, s, 3) uint8 with its chin where `source` (s, s, 3) uint8 has it; `frame` is one of the track."""
        jaw = self._jaw[frame]
        u, v = jaw[lower_jaw.index(chin_point)]
        jaw = jaw[jaw[:, 0].argsort()]
        edge = np.interp(u + columns, jaw[:, 0], jaw[:, 1])
        now = _shift(*(_slopes(picture, u + columns, edge) for picture in (source, drawn)))
        shift = float(self._running.add(np.array(now)))
        size = len(drawn)
        if abs(shift) * size < 0.25:
            return drawn
        at = ((np.arange(size) + 0.5) / size).astype(np.float32)
        down = smoothstep((at - v) / skin_above + 1)
        across = smoothstep((wide - np.abs(at - u)) / (wide - narrow))
        first = int(np.clip((v - skin_above) * size, 0, size - 1))
        from_y = (at[first:, None] - np.float32(shift) * down[first:, None] * across) * size - 0.5
        from_x = np.broadcast_to(at * size - 0.5, from_y.shape)
        result = drawn.copy()
        result[first:] = cv2.remap(drawn, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return result


def _slopes(picture: np.ndarray, across: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """(15, m) how luma changes downwards around an edge (15,) in columns (15,), in levels a step."""
    reach = round((around + highest) / step) + 1
    down = edge[:, None] + np.arange(-reach, reach + 1) * step
    size = len(picture)
    y = (down * size - 0.5).astype(np.float32)
    x = np.broadcast_to((across[:, None] * size - 0.5).astype(np.float32), y.shape)
    luma = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), max(0.7, 0.008 * size))
    return np.diff(cv2.remap(luma, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32), axis=1)


def _shift(source: np.ndarray, drawn: np.ndarray) -> float:
    """Crop units by which the edge in `drawn` must go down to be where `source` has it, both from `_slopes`."""
    middle, half = source.shape[1] // 2, round(around / step)
    wanted = source[:, middle - half : middle + half]
    if np.abs(wanted).max() < faint:
        return 0.0
    shifts = np.arange(-round(lowest / step), round(highest / step) + 1)
    alike = np.empty(len(shifts))
    for place, shift in enumerate(shifts):
        moved = drawn[:, middle - half - shift : middle + half - shift]
        alike[place] = (wanted * moved).sum() / max(np.sqrt(np.square(wanted).sum() * np.square(moved).sum()), 1e-6)
    best = int((alike - unlikely * np.square(shifts * step)).argmax())
    belief = np.clip((alike[best] - hardly) / (surely - hardly), 0, 1)
    return float(belief * shifts[best] * step)
