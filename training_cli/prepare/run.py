# SPDX-License-Identifier: GPL-3.0-or-later
"""The run over a corpus: what is left to do, by whom, and what is written down of it.

A clip is safe once its shard has its final name; report.jsonl only says so. So a run may be killed at any moment: the
next one finds the shards that no line mentions and goes on after them.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from core.errors import JobError, OutputError

from .. import shards
from ..config import dump
from ..lock import locked
from . import corpora, crew, films
from .settings import PrepareSettings
from .summary import Summary, prepared_again, summarise
from .worker import Stop, Task, left_out, of_source, prepare_video, unreported

full_below = 16 << 20
"""Free bytes below which a disk that refuses a clip is called full."""


def prepare(settings: PrepareSettings) -> Summary:
    """Prepares every video of a corpus that the output does not hold yet; with an expert, corrects the clips' offsets.

    What became of each video stands in `output`/report.jsonl, the sums in `output`/summary.json.

    Raises:
        JobError: a setting, list or manifest is wrong, or another run is at work in the output.
        MediaError: there is no video.
        ModelError, DeviceError: the expert cannot be used.
        OutputError: the output cannot be written. What is finished stays, and the next run goes on.
    """
    _check(settings)
    folder = Path(settings.output)
    with _writing(folder):
        (folder / "clips").mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return _prepare(settings, folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second run out of the folder: both would prepare all videos, and remove each other's unfinished clips."""
    with ExitStack() as stack:
        with _writing(folder):
            ours = stack.enter_context(locked(folder))
        if not ours:
            hint = "Wait until it has ended, or name another output folder."
            raise JobError(f"Another command is preparing videos in {folder}.", hint)
        yield


def _prepare(settings: PrepareSettings, folder: Path) -> Summary:
    report = shards.read_report(folder)
    sizes = {verdict.size for verdict in report if verdict.clip} - {settings.size}
    if sizes:
        hint = f"Use --size {min(sizes)}, or another output."
        raise JobError(f"{folder} holds clips of size {min(sizes)}, not {settings.size}.", hint)
    corpus = corpora.find(settings) if settings.videos else corpora.Corpus(Path(), "none", [])
    known = {v.identity: v.split for v in report if v.clip}
    videos = corpora.with_splits(corpus.videos, known)
    shared = corpora.overlapping(videos) if settings.overlap == "leave_out" else {}
    others = films.replaced(corpus.root, {video.source for video in videos}, report)
    anew = {verdict.source for verdict in others}
    todo = _left_to_do(settings, videos, report, anew)
    if anew:
        print(f"Videos that have been replaced, and are prepared anew: {len(anew)}.", file=sys.stderr)
    try:
        with _writing(folder):
            if others:
                films.drop(folder, others)
            why = "split: its person is also in {}"
            shards.append(folder, [left_out(v, why.format(shared[v.source])) for v in todo if v.source in shared])
            _make_clips(settings, corpus.root, [video for video in todo if video.source not in shared], report)
            if settings.expert:
                _correct_offsets(settings)
    finally:
        for part in (folder / "clips").glob("*.part"):  # of processes that were stopped in the middle
            part.unlink(missing_ok=True)
    summary = summarise(shards.read_report(folder), corpus.layout, corpus.missing)
    with _writing(folder):
        dump(settings, folder / ("config.toml" if settings.videos else "offsets.toml"))
        (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
    return summary


def _left_to_do(
    settings: PrepareSettings, videos: list[corpora.Video], report: list[shards.Verdict], anew: set[str]
) -> list[corpora.Video]:
    """The videos nothing is known of, whose clips are not all there any more, or that are others now."""
    there = {path.name for path in (Path(settings.output) / "clips").iterdir()}
    lacking = {verdict.source for verdict in report if verdict.verdict == "ok" and verdict.clip not in there}
    tried = set() if settings.again else {verdict.source for verdict in report if verdict.verdict != prepared_again}
    done = tried | {verdict.source for verdict in report if verdict.verdict == "ok"}
    done -= lacking | anew
    return [video for video in videos if video.source not in done]


def _make_clips(
    settings: PrepareSettings, root: Path, videos: list[corpora.Video], report: list[shards.Verdict]
) -> None:
    folder = Path(settings.output)
    finished = unreported(folder / "clips", {verdict.clip for verdict in report if verdict.verdict == "ok"})
    failed = {verdict.source for verdict in report if not verdict.clip}
    tasks = (Task(root, video, settings, finished.get(of_source(video.source), ())) for video in videos)
    kept = 0
    with tqdm(total=len(videos), unit="video", disable=None) as bar:
        for task, outcome in crew.work(prepare_video, tasks, settings.workers):
            if isinstance(outcome, Stop):
                raise OSError(outcome.why)
            if isinstance(outcome, crew.Died):
                why = f"crashed: its reader ended with exit code {outcome.exit_code}, twice"
                outcome = [replace(left_out(task.video, why), **films.traits(task.root / task.video.source))]
            if task.video.source in failed and outcome[-1].verdict == "ok":
                outcome.append(left_out(task.video, prepared_again))
            shards.append(folder, outcome)
            kept += sum(verdict.verdict == "ok" for verdict in outcome)
            bar.set_postfix(clips=kept, refresh=False)
            bar.update()


def _correct_offsets(settings: PrepareSettings) -> None:
    from .offsets import correct, unmeasured  # torch is slow to load, and the first stage has no need of it

    folder = Path(settings.output)
    todo = unmeasured(settings, shards.read_report(folder))
    with tqdm(total=len(todo), unit="clip", desc="offsets", disable=None) as bar:
        for verdict in correct(settings, todo):
            shards.append(folder, [verdict])
            bar.update()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says in a sentence why something could not be written."""
    try:
        yield
    except OSError as e:
        hint = "Run the same command again afterwards: what is finished stays, and it goes on from there."
        if _is_full(e, folder):
            raise OutputError(f"The disk of {folder} is full.", f"Make room. {hint}") from None
        what = f"{folder} cannot be written to: {e.strerror}." if e.strerror else f"{e}"
        raise OutputError(what, hint) from None


def _is_full(e: OSError, folder: Path) -> bool:
    there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("."))
    # safetensors says it in words only
    return e.errno == errno.ENOSPC or "No space left" in str(e) or shutil.disk_usage(there).free < full_below


def _check(settings: PrepareSettings) -> None:
    if not 48 <= settings.size <= 512 or settings.size % 2:
        raise JobError(f"The size {settings.size} does not fit.", "Use an even number from 48 to 512, such as 96.")
    if not 0 <= settings.quality <= 100:
        raise JobError(f"The quality {settings.quality} does not fit.", "Use 1 to 100, or 0 for no compression.")
    if not 0 < settings.shortest <= settings.longest <= 120:
        wrong = f"Clips of {settings.shortest:g} to {settings.longest:g} seconds cannot be made."
        raise JobError(wrong, "The shortest must be above 0, the longest no less than it and at most 120.")
    if not settings.videos and not settings.expert:
        raise JobError("No folder of videos is named.", "Name one with --videos.")
    if settings.layout == "manifest" and not settings.manifest:
        raise JobError("The layout manifest needs a manifest.", "Name a CSV file with --manifest.")
