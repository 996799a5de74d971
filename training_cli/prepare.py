# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train prepare`: videos → aligned crops, landmarks and 16 kHz sound, one shard a clip."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core import audio, media
from core.errors import LipSyncError, MediaError
from core.faces import Tracker, crop, expand

from . import shards

shortest = 10
"""Frames a clip must have to be worth keeping."""


def find_videos(source: Path, manifest: Path | None = None) -> Iterator[tuple[Path, shards.ClipInfo]]:
    """The videos below a folder, with the identity and split of a CSV's row (`file`, `identity`, `split`) if there is
    one; without, a video's folder names its identity, and one identity in twenty goes to `dev`, chosen by its name."""
    if manifest:
        try:
            with open(manifest, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    path, licence = source / row["file"], row.get("licence_class", "")
                    if path.is_file():
                        yield path, shards.ClipInfo(row["file"], row["identity"], row["split"], Fraction(0), licence)
        except (OSError, KeyError, ValueError) as e:
            hint = "It needs a first line with at least the columns file, identity and split."
            raise MediaError(f"The manifest {manifest} cannot be read: {e}.", hint) from None
        return
    endings = {".mp4", ".mpg", ".mov", ".mkv", ".avi", ".webm"}
    for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in endings):
        name = path.relative_to(source)
        identity = name.parent.as_posix() if len(name.parts) > 1 else name.stem
        split = "dev" if sum(identity.encode()) % 20 == 0 else "train"
        yield path, shards.ClipInfo(name.as_posix(), identity, split, Fraction(0))


def prepare(source: Path, output: Path, manifest: Path | None = None, workers: int = 0) -> dict[str, str]:
    """Prepares every video below `source` that `output` does not hold yet.

    Returns:
        For each video `ok` or why it was left out; also kept in `output`/report.json.
    """
    output.mkdir(parents=True, exist_ok=True)
    videos = list(find_videos(source, manifest))
    if not videos:
        raise MediaError(f"There is no video below {source}.", "Name the folder that holds the corpus.")
    report_file = output / "report.json"
    report: dict[str, str] = json.loads(report_file.read_text()) if report_file.exists() else {}
    todo = [(path, info) for path, info in videos if info.source not in report]
    tasks = [(path, info, _shard_path(output, info)) for path, info in todo]
    # MediaPipe gives memory back only when its process ends; spawned, since it does not survive a fork. A Pool, since
    # ProcessPoolExecutor hangs when a process has reached its max_tasks_per_child (seen with Python 3.11).
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers or os.cpu_count(), maxtasksperchild=64) as pool:
        results = tqdm(pool.imap_unordered(_prepare_one, tasks), total=len(tasks), unit="clip")
        for number, (name, verdict) in enumerate(results):
            report[name] = verdict
            if number % 50 == 49:
                _save_report(report_file, report)
    _save_report(report_file, report)
    return report


def _save_report(path: Path, report: dict[str, str]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(report, indent=1, sort_keys=True))
    temporary.replace(path)


def _shard_path(output: Path, info: shards.ClipInfo) -> Path:
    name = info.source.replace("/", "__")
    return output / f"{name}.safetensors"


def _prepare_one(task: tuple[Path, shards.ClipInfo, Path]) -> tuple[str, str]:
    path, info, output = task
    try:
        shards.save(output, prepare_clip(path, info))
    except LipSyncError as e:
        return info.source, str(e)
    return info.source, "ok"


def prepare_clip(path: Path, info: shards.ClipInfo) -> shards.Clip:
    """The longest run of frames with the face, cropped.

    Raises:
        MediaError, SpeechError: the video cannot be used, and why.
    """
    film = media.probe(str(path))
    with Tracker(float(film.rate)) as tracker:
        for picture in media.read(film):
            tracker.add(picture.rgb())
        track = tracker.finish()
    start, end = _longest_run(track.found, track.shot)
    if end - start < shortest:
        raise MediaError(f"the face is seen in only {end - start} frames at a time")
    wave = audio.load(str(path), film.start + start / film.rate)
    if not np.abs(wave).max() > 1e-4:
        raise MediaError("silent")
    to_crop = track.to_crop[start:end]
    kept = track.points[start:end][:, list(shards.points)].astype(np.float64)
    landmarks = np.einsum("tij,tpj->tpi", to_crop[:, :, :2], kept) + to_crop[:, None, :, 2]
    wider = expand(to_crop, shards.margin / shards.crop_size)
    pictures = media.read(film, start, end - start)
    crops = np.stack([crop(p.rgb(), m, shards.stored_size) for p, m in zip(pictures, wider, strict=True)])
    samples = round((end - start) / film.rate * audio.sample_rate)
    wave = np.pad(wave[:samples], (0, max(0, samples - len(wave))))
    kept_info = shards.ClipInfo(info.source, info.identity, info.split, film.rate, info.licence)
    return shards.Clip(kept_info, crops, landmarks.astype(np.float32), (np.clip(wave, -1, 1) * 32767).astype(np.int16))


def _longest_run(found: np.ndarray, shot: np.ndarray) -> tuple[int, int]:
    best = start = end = 0
    for i in range(len(found) + 1):
        if i == len(found) or not found[i] or (i and shot[i] != shot[i - 1]):
            if i - start > best:
                best, end = i - start, i
            start = i if i < len(found) and found[i] else i + 1
    return end - best, end
