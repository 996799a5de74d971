# SPDX-License-Identifier: GPL-3.0-or-later
"""The footage of a job."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from . import media, people


@dataclass(frozen=True)
class Shot(people.Footage):
    """The footage of a job."""

    rate: Fraction
    """Pictures a second, as shown against the speech."""

    def pictures(self) -> Iterator[media.Picture]:
        return media.read(self.info, self.start, self.count)

    def images(self) -> tuple[str, ...]:
        """The files of an image sequence; empty for a movie."""
        return self.info.paths[self.start : self.start + self.count] if self.info.kind == "images" else ()

    def between(self, frames: Sequence[int]) -> Iterator[tuple[int, media.Picture]]:
        """The pictures of `frames`, which rise, with their numbers in the output; of a movie also those between them.

        Few movies can be entered anywhere: a read for every frame would decode a long one again and again.
        """
        if self.info.kind == "images":
            for frame in frames:
                yield frame, next(media.read(self.info, self.start + frame, 1))
        elif frames:
            pictures = media.read(self.info, self.start + frames[0], frames[-1] - frames[0] + 1)
            yield from zip(itertools.count(frames[0]), pictures, strict=False)
