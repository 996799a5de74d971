# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepared clips as one small file, to be carried to the machine that trains on them, and there as a prepared folder.

The file is a zip, which knows when it was damaged: four parts a clip (clip_codec), named by its number, and
index.jsonl, the rows of report.jsonl. Nothing in it is executed, and none of its names becomes a place on the disk but
the clips' own, which are checked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from safetensors.numpy import save as serialised
from tqdm import tqdm

from core import audio
from core.errors import JobError, LipSyncError, MediaError, OutputError

from . import clip_codec, shards
from .clip_codec import Shape
from .prepare import crew

index_name = "index.jsonl"
largest_index = 1 << 28
"""Bytes of an index, at most: half a million clips' rows."""
most_frames, most_samples = 20_000, 120 * 2 * audio.sample_rate
"""Of a clip: `lipsync-train prepare` makes them of up to 120 seconds."""
copy_again = "Copy it once more, or make it anew with `lipsync-train pack`."


@dataclass(frozen=True)
class PackSettings:
    """Which clips, and how small."""

    folder: str
    """Folder that `lipsync-train prepare` made."""
    output: str
    """The file to make, such as clips.pack. It must not exist; until it is complete it is called clips.pack.part."""
    crf: int = 24
    """Quality of the pictures, 0 (best) to 51: x265's constant rate factor. At 24 and size 96 an hour of faces takes
    some 50 MB, its pictures 18 of them; 6 less take about twice as much for the pictures."""
    workers: int = 0
    """Processes; 0: as many as the machine has cores."""


@dataclass(frozen=True)
class UnpackSettings:
    """Which file, and where to."""

    file: str
    """File that `lipsync-train pack` made."""
    output: str
    """Folder for the prepared clips, a new one. Run again with the same one, the command goes on where it was stopped
    or killed; report.jsonl comes last, so that nobody trains on a part. The clips lie there as raw pixels: 60 MB a
    minute at size 96."""
    workers: int = 0
    """Processes; 0: as many as the machine has cores."""


@dataclass(frozen=True)
class PackSummary:
    """What a pack holds. Printed, it is a few lines."""

    clips: int
    frames: int
    size: int
    """Bytes of the file."""
    parts: dict[str, int]
    """Bytes of each kind of part."""

    def __str__(self) -> str:
        names = {".hevc": "pictures", ".mel.png": "mel", ".landmarks": "landmarks", ".opus": "sound", "": "all else"}
        lines = [f"{self.clips} clips, {self.frames} frames, {self.size / 1e6:.2f} MB"]
        lines += [f"{self.parts[name] / 1e6:9.2f}  {words}" for name, words in names.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Row:
    """A line of the index."""

    verdict: shards.Verdict
    info: shards.ClipInfo | None = None
    """None: a video that gave no clip."""
    shape: Shape | None = None
    number: int = 0
    """The parts' name."""


@dataclass(frozen=True)
class _PackTask:
    row: int
    path: Path
    crf: int


@dataclass(frozen=True)
class _UnpackTask:
    path: Path
    info: shards.ClipInfo
    shape: Shape
    parts: dict[str, bytes]


def pack(settings: PackSettings) -> PackSummary:
    """Makes one file of a prepared folder. Killed, it leaves a .part, which the next run makes anew.

    Raises:
        JobError: a setting is wrong.
        MediaError: the folder holds no clips, or damaged ones.
        OutputError: the file exists, or cannot be written.
    """
    if not 0 <= settings.crf <= 51:
        raise JobError(f"The crf {settings.crf} does not fit.", "Use 0 to 51, such as 24.")
    folder, output = Path(settings.folder), Path(settings.output)
    if output.exists():
        raise OutputError(f"{output} exists already.", "Name another file, or remove it first.")
    rows = [_Row(verdict, number=number) for number, verdict in enumerate(shards.read_report(folder))]
    tasks = [
        _PackTask(row.number, shards.clip_path(folder, row.verdict), settings.crf)
        for row in rows
        if row.verdict.verdict == "ok"
    ]
    if not tasks:
        hint = "Run `lipsync-train prepare` on videos first, and name its output folder."
        raise MediaError(f"There is no prepared clip in {folder}.", hint)
    part = output.with_name(output.name + ".part")
    with _writing(output):
        try:
            with open(part, "wb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    for number, row in _packed(tasks, settings.workers, rows, archive):
                        rows[number] = row
                    lines = "".join(json.dumps(asdict(row), default=str) + "\n" for row in rows)
                    _add(archive, index_name, lines.encode(), deflated=True)
                file.flush()
                os.fsync(file.fileno())
            part.rename(output)  # on Windows it fails rather than replace a file that has come meanwhile
        finally:
            part.unlink(missing_ok=True)
    return _summary(output, rows)


def unpack(settings: UnpackSettings) -> str:
    """Makes a prepared folder of a file, on which every command trains as on the one it was made of.

    Raises:
        MediaError: the file is no pack, or damaged.
        JobError: the folder holds other clips.
        OutputError: the folder cannot be written. What is finished stays, and the next run goes on.
    """
    file, folder = Path(settings.file), Path(settings.output)
    with ExitStack() as stack:
        with _reading(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
            rows = _index(archive)
        verdicts = [row.verdict for row in rows]
        if shards.read_report(folder) not in ([], verdicts):
            raise JobError(f"{folder} holds other clips.", "Name a new folder.")
        with _writing(folder):
            (folder / "clips").mkdir(parents=True, exist_ok=True)
            _check_space(folder, rows)
        try:
            _make_clips(archive, folder, rows, settings.workers)
        finally:
            for part in (folder / "clips").glob("*.part"):  # of processes that were stopped in the middle
                part.unlink(missing_ok=True)
    with _writing(folder):
        part = folder / "report.jsonl.part"
        part.write_text("".join(json.dumps(asdict(v)) + "\n" for v in verdicts), encoding="utf-8")
        part.replace(folder / "report.jsonl")
    return f"{sum(row.info is not None for row in rows)} clips in {folder}"


def _packed(
    tasks: list[_PackTask], workers: int, rows: list[_Row], archive: zipfile.ZipFile
) -> Iterator[tuple[int, _Row]]:
    """Adds each clip's parts to the archive; its row then says what they are of."""
    with tqdm(total=len(tasks), unit="clip", disable=None) as bar:
        for task, outcome in crew.work(_encode, tasks, workers):
            if isinstance(outcome, crew.Died):
                raise MediaError(f"{task.path} ended its encoder with exit code {outcome.exit_code}, twice.")
            if isinstance(outcome, LipSyncError):
                raise outcome
            info, shape, parts = outcome
            verdict = rows[task.row].verdict
            if verdict.frames != shape.frames:
                raise MediaError(f"{task.path} has {shape.frames} frames, its report {verdict.frames}.", shards.again)
            for name, code in parts.items():
                _add(archive, f"{task.row:06}{name}", code, deflated=name == clip_codec.landmarks_name)
            yield task.row, _Row(verdict, info, shape, task.row)
            bar.update()


def _encode(task: _PackTask) -> tuple[shards.ClipInfo, Shape, dict[str, bytes]] | LipSyncError:
    try:
        clip = shards.ClipFile(task.path)
        return clip.info, *clip_codec.encode(clip, task.crf)
    except LipSyncError as e:
        return e


def _add(archive: zipfile.ZipFile, name: str, content: bytes, deflated: bool) -> None:
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    archive.writestr(zipfile.ZipInfo(name), content, kind, 9)


def _summary(output: Path, rows: list[_Row]) -> PackSummary:
    parts: Counter[str] = Counter()
    with zipfile.ZipFile(output) as archive:
        for member in archive.infolist():
            kind = next((name for name in clip_codec.part_names if member.filename.endswith(name)), "")
            parts[kind] += member.compress_size
    size = output.stat().st_size
    parts[""] = size - sum(parts[name] for name in clip_codec.part_names)
    made = [row.verdict for row in rows if row.info]
    return PackSummary(len(made), sum(verdict.frames for verdict in made), size, dict(parts))


def _index(archive: zipfile.ZipFile) -> list[_Row]:
    """The rows of a file that anybody may have made.

    Raises:
        ValueError, TypeError, KeyError: they make no sense.
    """
    rows = [_row(json.loads(line)) for line in _content(archive, index_name, largest_index).decode().splitlines()]
    names = [row.verdict.clip for row in rows if row.info]
    if not names or len(set(names)) != len(names):
        raise ValueError("its index names no clip, or one twice")
    return rows


def _row(values: dict[str, Any]) -> _Row:
    verdict = _checked(shards.Verdict, values["verdict"])
    if values["info"] is None:
        if verdict.verdict == "ok":
            raise ValueError("its index says nothing of a clip")
        return _Row(verdict)
    info = _checked(shards.ClipInfo, {**values["info"], "rate": Fraction(values["info"]["rate"])})
    shape, number = _checked(Shape, values["shape"]), int(values["number"])
    if not re.fullmatch(r"[^/\\\x00-\x1f]+\.safetensors", verdict.clip):  # on no system the name of another folder
        raise ValueError(f"{verdict.clip!r} is no name of a clip")
    os.fsencode(verdict.clip)
    sensible = 48 <= info.size <= 512 and info.rate > 0 and shape.side == info.size + 2 * shards.margin(info.size)
    if not sensible or not 0 < shape.frames <= most_frames or not 0 < shape.samples <= most_samples:
        raise ValueError(f"{verdict.clip} has an impossible size")
    if verdict.verdict != "ok" or verdict.frames != shape.frames or number < 0:
        raise ValueError(f"its index contradicts itself about {verdict.clip}")
    return _Row(verdict, info, shape, number)


def _checked(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass of these values, if they are of its kinds."""
    made, hints = kind(**values), get_type_hints(kind)
    for field in fields(kind):
        value, hint = getattr(made, field.name), hints[field.name]
        if not isinstance(value, hint | int if field.name == "confidence" else hint):  # JSON's 1 may stand for 1.0
            raise TypeError(f"{field.name} is {value!r}")
    return made


def _content(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """What a member holds, whose checksum is right."""
    if archive.getinfo(name).file_size > largest:
        raise ValueError(f"{name} is too large")
    return archive.read(name)


def _check_space(folder: Path, rows: list[_Row]) -> None:
    clips = [row for row in rows if row.shape and not (folder / "clips" / row.verdict.clip).exists()]
    needed = sum(row.shape.frames * row.shape.side**2 * 3 for row in clips if row.shape)
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"needs {needed / 1e9:.1f} GB, its disk has {free / 1e9:.1f}"
        raise OutputError(f"{folder} {sizes}.", "Make room, or name a folder on another disk.")


def _make_clips(archive: zipfile.ZipFile, folder: Path, rows: list[_Row], workers: int) -> None:
    clips = [(row.info, row.shape, row) for row in rows if row.info and row.shape]
    todo = []
    for info, shape, row in clips:
        path = shards.clip_path(folder, row.verdict)
        if not _is_there(path, info, shape):
            todo.append((path, info, shape, row.number))

    def read() -> Iterator[_UnpackTask]:
        for path, info, shape, number in todo:
            with _reading(Path(archive.filename or "")):
                parts = {p: _content(archive, f"{number:06}{p}", shape.largest(p)) for p in clip_codec.part_names}
            yield _UnpackTask(path, info, shape, parts)

    with tqdm(total=len(clips), initial=len(clips) - len(todo), unit="clip", disable=None) as bar:
        for task, outcome in crew.work(_decode, read(), workers):
            if isinstance(outcome, crew.Died):
                raise MediaError(f"{task.path.name} ended its decoder with exit code {outcome.exit_code}, twice.")
            if isinstance(outcome, LipSyncError):
                raise outcome
            bar.update()


def _is_there(path: Path, info: shards.ClipInfo, shape: Shape) -> bool:
    """Whether an earlier run has finished a clip.

    Raises:
        JobError: it is another one.
    """
    if not path.exists():
        return False
    try:
        clip = shards.ClipFile(path)
    except MediaError:
        return False  # of a machine that lost its power
    if clip.info != info or len(clip) != shape.frames:
        raise JobError(f"{path} is another clip.", "Name a new folder.")
    return True


def _decode(task: _UnpackTask) -> LipSyncError | None:
    """Writes a shard, complete or not at all."""
    temporary = task.path.with_suffix(f".{os.getpid()}.part")
    try:
        arrays = {name: np.ascontiguousarray(a) for name, a in clip_codec.decode(task.shape, task.parts).items()}
        # not shards.save, which would make the mel from the sound, and that has lost much
        about = {"info": json.dumps(asdict(task.info), default=str)}
        with _writing(task.path):
            temporary.write_bytes(serialised(arrays, metadata=about))
            temporary.replace(task.path)
    except MediaError as e:
        return MediaError(f"The packed clip {task.path.name} is damaged. {e}", copy_again)
    except LipSyncError as e:
        return e
    finally:
        temporary.unlink(missing_ok=True)
    return None


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Says in a sentence what is wrong with a file."""
    if not file.is_file():
        raise MediaError(f"There is no file {file}.", "Name a file that `lipsync-train pack` made.")
    try:
        yield
    except OSError as e:
        raise MediaError(f"{file} cannot be read: {e.strerror or e}.", copy_again) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, ValueError, TypeError, AttributeError) as e:
        why = f"{e.args[0] if e.args else e}".rstrip(".")
        raise MediaError(f"{file} is no pack of clips, or damaged: {why}.", copy_again) from None
    except (RuntimeError, ArithmeticError) as e:  # encrypted, or JSON without an end; a rate of 1/0
        raise MediaError(f"{file} is no pack of clips: {e}.", copy_again) from None


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Says in a sentence why something could not be written."""
    try:
        yield
    except OSError as e:
        hint = "Make room or name another place, then run the same command again."
        raise OutputError(f"{place} cannot be written: {e.strerror or e}.", hint) from None
