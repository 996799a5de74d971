# SPDX-License-Identifier: GPL-3.0-or-later
"""Which clips are measured, and with which other sound each is re-dubbed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.errors import JobError, MediaError

from ..prepare.corpora import movies


@dataclass(frozen=True)
class Pair:
    """A clip and the other sound that it is re-dubbed with."""

    video: Path
    sounds: tuple[Path, ...]
    """Files whose sound it may be: the first that has one is taken."""
    listed: bool = False
    """It is a line of a list, whose rules count: a sound longer than the footage is not for it."""


def listed(value: str | list[str]) -> list[str]:
    """A setting that takes one name or several."""
    return [value] if isinstance(value, str) and value else list(value)


def find_videos(named: str | list[str]) -> list[Path]:
    """The videos named, and those below folders that are named, in order.

    Raises:
        MediaError: one does not exist, or there are none.
    """
    files: list[Path] = []
    for path in map(Path, listed(named)):
        if not path.exists():
            raise MediaError(f"There is no file or folder {path}.", "Check the path.")
        inside = (p for p in path.rglob("*") if p.suffix.lower() in movies and not p.name.startswith("."))
        files += sorted(inside) if path.is_dir() else [path]
    if not files:
        raise MediaError("There is no video to measure.", "Name videos, or a folder that has some.")
    return files


def next_to_each_other(videos: list[Path]) -> list[Pair]:
    """Every video with the sound of the next one that has a sound; of the last one the first is the next."""
    return [Pair(video, (*videos[i + 1 :], *videos[:i])) for i, video in enumerate(videos)]


def read_pairs(path: Path, root: str = "") -> list[Pair]:
    """The pairs of a list of Wav2Lip's evaluation.

    Args:
        path: a text file, each line `sound video`, with or without the ending .mp4.
        root: folder that these begin at; empty: the list's own.

    Raises:
        JobError: the list cannot be read, or a line has another form.
    """
    hint = "Each line names a sound and a video below the root, as in Wav2Lip's evaluation/test_filelists."
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise JobError(f"The list {path} cannot be read: {getattr(e, 'strerror', None) or 'no text'}.", hint) from None
    folder = Path(root) if root else path.parent
    pairs = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) not in (0, 2):
            raise JobError(f"Line {number} of {path} has {len(words)} words instead of two.", hint)
        if words:
            sound, video = (folder / word if Path(word).suffix else folder / f"{word}.mp4" for word in words)
            pairs.append(Pair(video, (sound,), listed=True))
    if not pairs:
        raise JobError(f"The list {path} is empty.", hint)
    return pairs
