# SPDX-License-Identifier: GPL-3.0-or-later
"""What a prepared folder holds, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from .. import shards
from .corpora import splits

prepared_again = "prepared again"
"""Takes back an earlier verdict on a video that gave no clip."""


@dataclass(frozen=True)
class Part:
    """A split."""

    clips: int
    minutes: float
    people: int


@dataclass(frozen=True)
class Summary:
    """A prepared folder. Printed, it is a table."""

    layout: str
    videos: int
    """Videos that were looked at, in this run or before."""
    missing: int
    """Videos that a list or manifest names and the folder lacks."""
    splits: dict[str, Part]
    reasons: dict[str, int] = field(default_factory=dict)
    """How many videos or clips were left out for what."""
    shared_people: int = 0
    """People in more than one split: with --overlap keep, or when lists have changed since an earlier run."""
    offsets: dict[str, int] = field(default_factory=dict)
    """How many clips had their sound so many frames late, and how many `unsure`."""

    def __str__(self) -> str:
        width = 12
        lines = [f"{self.videos} videos, layout {self.layout}", ""]
        lines.append("".join(name.rjust(width) for name in ("split", "clips", "minutes", "people")))
        for name, part in self.splits.items():
            values = (name, str(part.clips), f"{part.minutes:.1f}", str(part.people))
            lines.append("".join(value.rjust(width) for value in values))
        if self.reasons:
            lines += ["", "left out:"]
            lines += [f"{count:7}  {why}" for why, count in sorted(self.reasons.items(), key=lambda item: -item[1])]
        if self.missing:
            lines.append(f"{self.missing:7}  listed, but not in the folder")
        if self.offsets:
            lines += ["", "sound late by (frames): " + ", ".join(f"{k}: {v}" for k, v in self.offsets.items())]
        if self.shared_people:
            lines += ["", f"{self.shared_people} people are in more than one split."]
        return "\n".join(lines)


def summarise(verdicts: Sequence[shards.Verdict], layout: str, missing: int) -> Summary:
    """The sums of a report."""
    kept = [v for v in verdicts if v.verdict == "ok"]
    parts: dict[str, Part] = {}
    for split in splits:
        mine = [v for v in kept if v.split == split]
        minutes = sum(v.frames / Fraction(v.rate) for v in mine) / 60
        parts[split] = Part(len(mine), round(float(minutes), 2), len({v.identity for v in mine}))
    reasons = Counter(v.verdict.split(":")[0] for v in verdicts if v.verdict not in ("ok", prepared_again))
    measured = [v for v in kept if v.confidence is not None]
    late = Counter(v.offset for v in measured if v.offset is not None)
    offsets = {str(frames): late[frames] for frames in sorted(late)}
    unsure = sum(v.offset is None for v in measured)
    people = [{v.identity for v in kept if v.split == split} for split in splits]
    shared = sum(len(part) for part in people) - len(set().union(*people))
    return Summary(
        layout,
        len({v.source for v in verdicts}),
        missing,
        parts,
        dict(reasons.most_common()),
        shared,
        {**offsets, **({"unsure": unsure} if unsure else {})},
    )
