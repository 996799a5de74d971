# SPDX-License-Identifier: GPL-3.0-or-later
"""The offset of sound to picture of prepared clips: measured by an expert, and mended once an expert is sure of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from core.engine import choose_device
from core.errors import MediaError
from core.nets.checkpoint import load_expert
from core.nets.syncnet import SyncNet

from .. import shards
from ..evaluate.files import sha256
from ..sync import Offset, measure_offset
from .settings import PrepareSettings


def unmeasured(settings: PrepareSettings, verdicts: Sequence[shards.Verdict]) -> list[shards.Verdict]:
    """The clips whose offset nobody has looked for, or of which no expert was sure and this one may be."""
    expert = _hash(settings.expert)
    return [v for v in verdicts if v.clip and v.offset is None and _may_be_told(settings, expert, v)]


def _may_be_told(settings: PrepareSettings, expert: str, verdict: shards.Verdict) -> bool:
    unsure = verdict.verdict.startswith("unsure: ")
    if verdict.verdict != "ok" and not unsure:
        return False
    if verdict.confidence is None or settings.again or verdict.expert != expert:
        return True
    return verdict.confidence >= settings.confidence or unsure != (settings.unsure == "leave_out")


def _hash(expert: str) -> str:
    """Of one that is not there, which loading it says, nothing."""
    return sha256(Path(expert)) if Path(expert).is_file() else ""


def correct(settings: PrepareSettings, verdicts: Sequence[shards.Verdict]) -> Iterator[shards.Verdict]:
    """Measures clips, moves the sound of those whose offset is believed, and says what is now true of each.

    A shard is replaced whole before its verdict is given; killed between the two, the next run finds the offset in
    the shard and only reports it.

    Raises:
        ModelError, DeviceError: the expert cannot be used.
        OSError: a shard cannot be written.
    """
    device = choose_device(settings.device)
    expert = load_expert(Path(settings.expert))[0].to(device)
    name = _hash(settings.expert)
    for verdict in verdicts:
        yield replace(_corrected(settings, expert, verdict), expert=name)


def _corrected(settings: PrepareSettings, expert: SyncNet, verdict: shards.Verdict) -> shards.Verdict:
    folder = Path(settings.output)
    path = shards.clip_path(folder, verdict)
    try:
        clip = shards.ClipFile(path)
    except MediaError as e:
        return replace(verdict, verdict=f"damaged: {e}")
    try:
        found: Offset | None = measure_offset(expert, clip)
    except MediaError:
        found = None  # too short to compare, or no numbers
    late, frames = clip.info.offset, len(clip)
    del clip  # Windows replaces no open file
    confidence = found.confidence if found else 0.0
    believed = found is not None and confidence >= settings.confidence
    if late is not None:
        return replace(verdict, verdict="ok", frames=frames, offset=late, confidence=confidence)
    if not believed:
        why = f"unsure: the offset's confidence is {confidence:.2f}, {settings.confidence:g} is needed"
        kept = "ok" if settings.unsure == "keep" else why
        return replace(verdict, verdict=kept, confidence=confidence)
    assert found is not None
    if abs(found.frames) > settings.largest_offset:
        why = f"out of sync: the sound is {abs(found.frames)} frames too {'late' if found.frames > 0 else 'early'}"
        return replace(verdict, verdict=why, offset=found.frames, confidence=confidence)
    frames = shards.move_sound(path, found.frames)
    return replace(verdict, verdict="ok", frames=frames, offset=found.frames, confidence=confidence)
