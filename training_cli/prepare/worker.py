# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker process does with one video."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import LipSyncError, MediaError

from .. import shards
from . import films
from .clips import make_clips, why_none
from .corpora import Video
from .settings import PrepareSettings


@dataclass(frozen=True)
class Task:
    """A video to prepare."""

    root: Path
    video: Video
    settings: PrepareSettings
    finished: tuple[str, ...] = ()
    """Its clips on disk, in order, that an earlier run made and did not live to report."""


@dataclass(frozen=True)
class Stop:
    """The run cannot go on: clips cannot be written."""

    why: str


def prepare_video(task: Task) -> list[shards.Verdict] | Stop:
    """Makes the clips of a video that are not on disk yet.

    Returns:
        A verdict for every clip; one without a clip for a video that has none, or that broke off after some.
    """
    folder, video, settings = Path(task.settings.output) / "clips", task.video, task.settings
    traits = films.traits(task.root / video.source)
    verdicts, first = _adopted(task, traits)
    lost: Counter[str] = Counter()
    why = ""
    try:
        for start, clip in make_clips(task.root, video, settings, first, lost):
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                raise SystemExit  # killed: the next run does this clip
            name = clip_name(video.source, start)
            try:
                shards.save(folder / name, clip, settings.quality)
            except OSError as e:
                return Stop(f"The clip {name} could not be written: {e.strerror or e}.")
            verdicts.append(_verdict(name, clip.info, len(clip.crops)))
    except LipSyncError as e:
        why = str(e) if re.match(r"[\w ]+: ", str(e)) else f"unreadable: {e}"
    except MemoryError:
        why = "unreadable: the memory does not hold its pictures"
    except Exception as e:  # a codec's or a library's: the run goes on with the next video
        why = f"unreadable: {type(e).__name__}: {e}"
    if not verdicts and not why:
        why = why_none(lost, settings)
    verdicts += [left_out(video, why)] if why else []
    return [replace(verdict, **traits) for verdict in verdicts]


def left_out(video: Video, why: str) -> shards.Verdict:
    """The verdict on a video, or the rest of it, that gives no clip."""
    return shards.Verdict(video.source, " ".join(why.split()), identity=video.identity, split=video.split)


def clip_name(source: str, start: int) -> str:
    """The file of the clip that begins at a frame of a video: readable, and possible on every system."""
    readable = re.sub(r"[^\w-]+", "_", source, flags=re.ASCII)[-100:].strip("_")
    return f"{readable}-{hashlib.sha1(source.encode()).hexdigest()[:10]}.{start:06d}.safetensors"


def unreported(folder: Path, reported: set[str]) -> dict[str, tuple[str, ...]]:
    """Clips on disk that no report mentions, by what `of_source` says of their video, in the video's order."""
    found: dict[str, list[str]] = {}
    for path in folder.glob("*.safetensors"):
        if path.name not in reported:
            found.setdefault(path.name.split(".")[0], []).append(path.name)
    return {stem: tuple(sorted(names, key=_start)) for stem, names in found.items()}


def of_source(source: str) -> str:
    """What the names of a video's clips begin with."""
    return clip_name(source, 0).split(".")[0]


def _start(name: str) -> int:
    digits = name.split(".")[1]
    return int(digits) if digits.isdigit() else 0


def _adopted(task: Task, traits: dict[str, Any]) -> tuple[list[shards.Verdict], int]:
    """Verdicts on the clips that are there, and the video's frame after the last."""
    verdicts: list[shards.Verdict] = []
    first = 0
    for name in task.finished:
        path = Path(task.settings.output) / "clips" / name
        try:
            clip = shards.ClipFile(path)
        except MediaError:
            break  # damaged: done again, with what follows
        if path.stat().st_mtime_ns < traits.get("film_modified", 0):
            break  # the video may be another one
        if clip.info.source != task.video.source or clip.info.size != task.settings.size:
            break
        verdicts.append(_verdict(name, clip.info, len(clip)))
        first = _start(name) + len(clip)
    return verdicts, first


def _verdict(name: str, info: shards.ClipInfo, frames: int) -> shards.Verdict:
    return shards.Verdict(
        info.source,
        "ok",
        name,
        info.identity,
        info.split,
        frames,
        str(info.rate),
        info.size,
        info.offset,
        licence=info.licence,
    )
