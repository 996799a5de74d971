# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies that are damaged or cut off: what is wrong with which picture, and how the user is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby

import av

from .probe import SourceInfo

lost = "lost"
"""It cannot be read; the last one before it stands there."""
torn = "torn"
"""It is damaged, or may be, for it is drawn from one that is lost or damaged."""
ended = "ended"
"""There are no more; the last one stands there."""
sentences = {
    lost: "{name} is damaged: of {where} nothing can be read, and the last picture before stands there.",
    torn: "{name} is damaged: the pictures of {where} may be torn or smeared.",
    ended: "{name} is cut off, or its sound is longer: it has no pictures of {where}, and its last one stands there.",
}
nearby = Fraction(1)
"""Seconds around a gap in which damage makes it one; others are a variable frame rate's."""
usual_end = Fraction(1, 5)
"""Seconds that a sound often lasts longer than the pictures."""
most_told = 10
"""Ranges that a sentence names."""


class Watch:
    """Follows the frames of one reading of a movie. Times are in units of its time base."""

    def __init__(self, info: SourceInfo) -> None:
        self.trouble: deque[int] = deque(maxlen=100)  # more than decoders take in before they give out
        """As probe.decoded fills it."""
        self._second = 1 / info.time_base
        self._step = 1 / (info.rate * info.time_base)
        self._last = info.first_pts + (info.frames - 1) * self._step
        self._kind = self._gap = ""
        self._end = Fraction(0)

    def shown(self, pts: int, frame: av.VideoFrame) -> None:
        """The frame that stands from now on."""
        if frame.is_corrupt:
            self._kind = torn
        elif frame.key_frame:
            self._kind = ""
        elif self._gap:  # before it; what it is drawn from lies there
            self._kind = torn
        self._end = pts + max(self._step, Fraction(frame.duration or 0))

    def next(self, coming: tuple[int, av.VideoFrame] | None) -> None:
        """The frame after it, None if there is none: what is between them?"""
        if coming is not None and coming[1].is_corrupt:
            self.trouble.append(coming[0])
        until = self._last if coming is None else coming[0]
        near = any(self._end - nearby * self._second <= time <= until + nearby * self._second for time in self.trouble)
        if coming is None:
            self._gap = ended if near or until - self._end > usual_end * self._second else ""
        else:
            self._gap = lost if near and until - self._end >= self._step / 2 else ""

    @property
    def missing(self) -> bool:
        """Whether the frame that stands is the last one, and there should be more."""
        return self._gap == ended

    def torn(self) -> None:
        """The frame that stands is damaged, as it turned out."""
        self._kind = torn

    def damage(self, due: int) -> str:
        """Of the picture shown at `due`."""
        return self._gap if self._gap and due > self._end - self._step / 2 else self._kind


def told(name: str, damage: Sequence[str], rate: Fraction) -> tuple[str, ...]:
    """A sentence for each kind of damage, with its ranges.

    Args:
        name: the movie.
        damage: of each picture of the output.
        rate: pictures a second.
    """
    ranges: dict[str, list[str]] = {}
    first = 0
    for kind, run in groupby(damage):
        last = first + len(list(run)) - 1
        seconds = f"({float(first / rate):.2f} to {float((last + 1) / rate):.2f} s)"
        numbers = f"frames {first} to {last}" if last > first else f"frame {first}"
        ranges.setdefault(kind, []).append(f"{numbers} {seconds}")
        first = last + 1
    return tuple(
        sentence.format(name=name, where=_joined(ranges[kind]))
        for kind, sentence in sentences.items()
        if kind in ranges
    )


def _joined(ranges: Sequence[str]) -> str:
    more = [f"{len(ranges) - most_told} more ranges"] if len(ranges) > most_told else []
    *before, last = [*ranges[:most_told], *more]
    return f"{', '.join(before)} and {last}" if before else last
