# SPDX-License-Identifier: GPL-3.0-or-later
"""Which videos a corpus holds, whose they are, and to which split they belong.

Splits share no identity. Where a corpus comes with lists or folders of its own they rule; else one person in twenty
goes to `dev`, chosen by the name alone, so that a corpus that grows never moves anybody. What the corpora do not know:
    LRS2 is split by date of broadcast and names no people: its folder, which we take for the identity, is a broadcast,
        and who is on television before a date is on it after, too.
    LRS3's folder is a TED talk, mostly of one person; a speaker of two talks has two names.
    LRW is split by date and names nobody: every clip counts as a person of its own.
    GRID has no lists: speakers 1, 2, 20 and 22 are the test, as in LipNet.
    VoxCeleb2 names people, and its test shares none with its dev, which is our train.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from core.errors import JobError, MediaError

from .settings import PrepareSettings

movies = frozenset({".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".avi", ".webm", ".m4v"})
sounds = frozenset({".wav", ".m4a", ".flac", ".mp3", ".aac", ".ogg"})
splits = ("train", "dev", "test")
grid_test = ("s1", "s2", "s20", "s22")
one_in = 20
"""People for one in `dev`, where the corpus does not say."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video of a corpus."""

    source: str
    """Its name below the corpus's folder, with slashes."""
    identity: str
    split: str
    """`train`, `dev` or `test`; empty: to be chosen by the identity."""
    licence: str = ""
    sound: str = ""
    """A sound file of the same clip, named in the same way, for a video that has none of its own."""


@dataclass(frozen=True)
class Corpus:
    """What was found in a folder."""

    root: Path
    layout: str
    videos: list[Video]
    missing: int = 0
    """Videos that a list or manifest names and the folder lacks."""


def find(settings: PrepareSettings) -> Corpus:
    """Looks through a corpus's folder; opens no video.

    Raises:
        MediaError: there is no such folder, or no video of this layout in it.
        JobError: a list or manifest is missing or cannot be read.
    """
    root = Path(settings.videos)
    if not root.is_dir():
        raise MediaError(f"There is no folder {root}.", "Name the folder that holds the corpus.")
    films, others = _files(root)
    layout = settings.layout
    if layout == "auto":
        layout = _recognise(root, films, settings)
    corpus = _readers[layout](root, films, settings)
    if not corpus.videos:
        what = "no video" if not films else f"no video in the layout {layout}"
        hint = "Name the folder that holds the corpus." if not films else "Choose another --layout, such as folder."
        raise MediaError(f"There is {what} below {root}.", hint)
    key = _speaker_and_stem if layout == "grid" else _place
    beside = {key(name): name for name in others}
    videos = [replace(video, sound=beside.get(key(video.source), "")) for video in corpus.videos] if beside else None
    return replace(corpus, videos=videos or corpus.videos)


def with_splits(videos: list[Video], known: Mapping[str, str]) -> list[Video]:
    """The videos, each with a split. `known` says where people already are; at least one of several gets into dev."""
    unsaid = sorted({video.identity for video in videos if not video.split}, key=_rank)
    chosen = {name: known.get(name) or ("dev" if _rank(name) % one_in == 0 else "train") for name in unsaid}
    taken = {video.split for video in videos} | set(chosen.values()) | set(known.values())
    if len(unsaid) > 1 and "dev" not in taken:
        chosen[unsaid[0]] = "dev"
    return [video if video.split else replace(video, split=chosen[video.identity]) for video in videos]


def overlapping(videos: list[Video]) -> dict[str, str]:
    """The videos of people who are also in a later split (of train, dev, test), by source, with that split."""
    last: dict[str, int] = {}
    for video in videos:
        last[video.identity] = max(last.get(video.identity, 0), splits.index(video.split))
    return {v.source: splits[last[v.identity]] for v in videos if splits.index(v.split) < last[v.identity]}


def _rank(identity: str) -> int:
    return int.from_bytes(hashlib.sha1(identity.encode()).digest()[:8], "big")


def _files(root: Path) -> tuple[list[str], list[str]]:
    """Names of the movies and of the sound files below a folder."""
    films: list[str] = []
    others: list[str] = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        place = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if ending in movies | sounds and not name.startswith("."):
                (films if ending in movies else others).append((place / name).as_posix())
    return films, others


# A corpus may be named by its folder or by one of its parts: the patterns see two folders above it as well.
_lrs2 = re.compile(r"(?:^|/)(main|pretrain)/([^/]+)/(\d{5})\.mp4$")
_lrs3 = re.compile(r"(?:^|/)(trainval|pretrain|test)/([^/]+)/\d{5}\.mp4$")
_lrw = re.compile(r"(?:^|/)([^/]+)/(train|val|test)/\1_\d+\.mp4$")
_grid = re.compile(r"(?:^|/)(s\d{1,2})(?:[._][^/]*)?/(?:[^/]+/)*[^/]+$")
_voxceleb2 = re.compile(r"(?:^|/)(id\d{5})/[^/]+/\d{5}\.mp4$")
_test_part = re.compile(r"(?<![a-z])test(?![a-z])")
"""As in vox2_test_mp4, but not in latest."""
_broadcast = re.compile(r"\d{19}")
_grid_sentence = re.compile(r"(?:^|/)s\d{1,2}(?:[._][^/]*)?/(?:[^/]+/)*[blps][bgrw][abiw][a-z][0-9z][anps]\.\w+$")
"""A file of GRID is named by the letters of its sentence, such as `bin blue at f two now`."""
most_looked_at = 2000
"""Names that decide on a layout."""


def _full(root: Path, name: str) -> str:
    return "/".join((*root.resolve().parts[-2:], name))


def _recognise(root: Path, films: list[str], settings: PrepareSettings) -> str:
    if settings.manifest:
        return "manifest"
    names = [_full(root, name) for name in films[:: max(1, len(films) // most_looked_at)]]

    def part(pattern: re.Pattern[str]) -> float:
        return sum(bool(pattern.search(name)) for name in names) / max(1, len(names))

    most = 0.9
    if part(_lrw) > most:
        return "lrw"
    if part(_voxceleb2) > most:
        return "voxceleb2"
    found = [match for name in names if (match := _lrs2.search(name))]
    if len(found) > most * len(names) and any(match[1] == "main" for match in found):
        listed = settings.lists or _lists_folder(root) is not None
        if listed or all(_broadcast.fullmatch(match[2]) for match in found):
            return "lrs2"
    if part(_lrs3) > most:
        return "lrs3"
    if part(_grid_sentence) > most:
        return "grid"
    return "folder"


def _read_lrs2(root: Path, films: list[str], settings: PrepareSettings) -> Corpus:
    folder = Path(settings.lists) if settings.lists else _lists_folder(root)
    if folder is None or not (folder / "train.txt").is_file():
        hint = "They come with the corpus: name their folder with --lists, or use --layout folder to split by folder."
        raise JobError(f"LRS2's list train.txt is not in {folder or root} or above.", hint)
    listed: dict[str, str] = {}
    for file, split in (("train.txt", "train"), ("val.txt", "dev"), ("test.txt", "test")):
        for clip in _clips_listed(folder / file):
            listed.setdefault(clip, split)
    videos: list[Video] = []
    found: set[str] = set()
    for name in films:
        if match := _lrs2.search(_full(root, name)):
            part, broadcast, clip = match.groups()
            split = "train" if part == "pretrain" else listed.get(f"{broadcast}/{clip}", "")
            if part == "main":
                found.add(f"{broadcast}/{clip}")
            if split and (part == "main" or settings.pretrain):
                videos.append(Video(name, broadcast, split))
    return Corpus(root, "lrs2", videos, len(listed.keys() - found))


def _lists_folder(root: Path) -> Path | None:
    above = root.resolve()
    return next((folder for folder in (above, *list(above.parents)[:2]) if (folder / "train.txt").is_file()), None)


def _clips_listed(path: Path) -> list[str]:
    """The first words of a list's lines: LRS2's test.txt has a second."""
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise JobError(f"The list {path} cannot be read: {e}.", "Copy it again from the corpus.") from None
    return [line.split()[0].removesuffix(".mp4") for line in lines if line.strip()]


def _read_lrs3(root: Path, films: list[str], settings: PrepareSettings) -> Corpus:
    videos = []
    for name in films:
        match = _lrs3.search(_full(root, name))
        if match and (match[1] != "pretrain" or settings.pretrain):
            videos.append(Video(name, match[2], "test" if match[1] == "test" else ""))
    return Corpus(root, "lrs3", videos)


def _read_lrw(root: Path, films: list[str], settings: PrepareSettings) -> Corpus:
    videos = []
    for name in films:
        if match := _lrw.search(_full(root, name)):
            videos.append(Video(name, name, {"val": "dev"}.get(match[2], match[2])))
    return Corpus(root, "lrw", videos)


def _read_grid(root: Path, films: list[str], settings: PrepareSettings) -> Corpus:
    videos = []
    for name in films:
        if match := _grid.search(_full(root, name)):
            videos.append(Video(name, match[1], "test" if match[1] in grid_test else ""))
    return Corpus(root, "grid", videos)


def _read_voxceleb2(root: Path, films: list[str], settings: PrepareSettings) -> Corpus:
    own = [part for part in root.resolve().parts[-2:] if part != "mp4"][-1:]  # …/vox2_test_mp4/mp4
    videos = []
    for name in films:
        if match := _voxceleb2.search(_full(root, name)):
            above = "/".join((*own, name)).partition(match[1])[0]
            videos.append(Video(name, match[1], "test" if _test_part.search(above.lower()) else ""))
    return Corpus(root, "voxceleb2", videos)


def _read_folder(root: Path, films: list[str], settings: PrepareSettings) -> Corpus:
    def person(name: str) -> str:
        place = PurePosixPath(name)
        return place.parent.as_posix() if len(place.parts) > 1 else place.stem

    return Corpus(root, "folder", [Video(name, person(name), "") for name in films])


def _read_manifest(root: Path, films: list[str], settings: PrepareSettings) -> Corpus:
    hint = "It needs a first line with at least the columns file and identity; split may be train, dev or test."
    videos: list[Video] = []
    missing = 0
    try:
        with open(settings.manifest, newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                split = {"val": "dev"}.get(row.get("split") or "", row.get("split") or "")
                if split and split not in splits:
                    raise JobError(f"Line {number} of {settings.manifest} names the split {split}.", hint)
                name = PurePosixPath(row["file"].replace("\\", "/")).as_posix()
                if (root / name).is_file():
                    videos.append(Video(name, row["identity"], split, row.get("licence_class") or ""))
                else:
                    missing += 1
    except (OSError, KeyError, ValueError, AttributeError, csv.Error) as e:
        why = f"there is no column {e}" if isinstance(e, KeyError) else getattr(e, "strerror", None) or e
        raise JobError(f"The manifest {settings.manifest} cannot be read: {why}.", hint) from None
    if missing and not videos:
        raise MediaError(f"None of the {missing} videos of {settings.manifest} is below {root}.", hint)
    return Corpus(root, "manifest", videos, missing)


def _place(name: str) -> str:
    """A name without its ending; VoxCeleb2 keeps its sound in aac/… beside mp4/…."""
    parts = PurePosixPath(name).with_suffix("").parts
    return "/".join("mp4" if part == "aac" else part for part in parts)


def _speaker_and_stem(name: str) -> str:
    """GRID's sound lies in another branch below or beside the speaker's folder."""
    place = PurePosixPath(name)
    speaker = next((part for part in reversed(place.parts[:-1]) if re.fullmatch(r"s\d{1,2}", part)), "")
    return f"{speaker}/{place.stem}"


_readers: dict[str, Callable[[Path, list[str], PrepareSettings], Corpus]] = {
    "lrs2": _read_lrs2,
    "lrs3": _read_lrs3,
    "lrw": _read_lrw,
    "grid": _read_grid,
    "voxceleb2": _read_voxceleb2,
    "folder": _read_folder,
    "manifest": _read_manifest,
}
