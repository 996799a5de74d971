# SPDX-License-Identifier: GPL-3.0-or-later
"""The sound of one clip after the other, of which no more than a clip is held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from core import audio


@dataclass(frozen=True)
class Span:
    """A piece of sound."""

    wave: np.ndarray
    """float32 in [-1, 1] at 16 kHz; zeros where there is none."""
    begin: int
    end: int
    """The samples of it that the file really has."""


class Sound:
    """A file's sound, read once from front to back.

    Args:
        path: the video, or its sound file.
        zero: container time in seconds that is sample 0; None: where the sound begins.
    """

    def __init__(self, path: str, zero: Fraction | None) -> None:
        self._blocks: Iterator[tuple[int, np.ndarray]] = ((at, samples[0]) for at, samples in audio.stream(path, zero))
        self._held: list[tuple[int, np.ndarray]] = []

    def span(self, first: int, count: int) -> Span:
        """Samples first … first + count - 1; `first` may not fall from call to call.

        Raises:
            SpeechError: there is no sound in the file.
        """
        self._held = [(at, block) for at, block in self._held if at + len(block) > first]
        while not self._held or self._held[-1][0] + len(self._held[-1][1]) < first + count:
            following = next(self._blocks, None)
            if following is None:
                break
            if following[0] + len(following[1]) > first:
                self._held.append(following)
        wave = np.zeros(count, np.float32)
        begin, end = count, 0
        for at, block in self._held:
            low, high = max(at, first), min(at + len(block), first + count)
            if low < high:
                wave[low - first : high - first] = block[low - at : high - at]
                begin, end = min(begin, low - first), max(end, high - first)
        return Span(wave, min(begin, end), end)
