# SPDX-License-Identifier: GPL-3.0-or-later
"""The lip scores so far, kept in a run's folder, so that a run that is given again measures no clip twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from core.errors import OutputError

from .files import write_text

choose_another = "Choose another folder, or remove this one."


@dataclass(frozen=True)
class LipScore:
    """The lip measure of one clip. Openings are inner-lip distances over face height."""

    clip: str
    frames: int
    """Frames in which every version shows a face."""
    r: float
    """Pearson correlation of the output's opening with the true footage's; -1…1."""
    lag: int
    """Frames by which the output follows the truth where their correlation is best, -8…8; 0 is in sync."""
    r_at_lag: float
    """The correlation there. Far above `r` where the footage's own sound is out of step with its picture."""
    late: int
    """Frames by which the footage's own sound comes after its lips, by the bundled ear: lips that are in step with this
    sound have this lag."""
    r_untouched: float
    """The same correlation for the footage before the re-dub: what chance gives."""
    r_replaced: float
    """Correlation of the output with the lips it replaced: how much of them leaks."""
    sharpness: float
    """Median over the frames of the mouth's Laplacian variance, output over footage."""
    jitter: float
    """Lip landmarks' mean second difference in time, output over footage."""
    opening_range: float
    """10 to 90 % range of the opening, output over truth."""


@dataclass(frozen=True)
class Entry:
    """What is known of a clip. Without score and sentence it was begun and not finished."""

    size: int
    """Bytes; with `modified` they tell whether the clip is still the one that was measured."""
    modified: int
    """Nanoseconds since 1970."""
    film: str
    """The re-dubbed clip's name in the run's folder: numbered, as clips of several folders may share a name."""
    score: LipScore | None = None
    left_out: str = ""
    """Why it was not measured."""


class LipRun:
    """Scores and sentences by clip.

    Args:
        output: the run's folder; made where it does not exist.
        key: hash of all that the scores depend on beside the clips.
        clips: of this call. A run may grow by clips, but loses none.

    Raises:
        OutputError: the folder holds other results, or cannot be written to.
    """

    def __init__(self, output: Path, key: str, clips: Iterable[Path]) -> None:
        self._output, self._path, self._key = output, output / "run.json", key
        self._entries: dict[str, Entry] = {}
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OutputError(f"The folder {output} cannot be made: {e.strerror}.") from None
        if self._path.exists():
            self._load()
        elif (output / "lips.json").exists():
            raise OutputError(f"{output} holds another table.", choose_another)
        if lost := self._entries.keys() - {_name(clip) for clip in clips}:
            hint = "Name that clip as well, or choose another folder."
            raise OutputError(f"{output} holds results of {min(lost)}, which is not among the videos.", hint)

    def done(self, clip: Path) -> Entry | None:
        """A clip's entry, if it was finished and the clip is still the same."""
        entry = self._entries.get(_name(clip))
        if entry is None or (entry.size, entry.modified) != _state(clip):
            return None
        return entry if entry.score or entry.left_out else None

    def begin(self, clip: Path) -> Path:
        """Where the re-dubbed clip shall be; what a killed run, or an older state of the clip, left there is gone."""
        known = self._entries.get(_name(clip))
        name = known.film if known else f"{len(self._entries):05}_{clip.name}.redubbed.mkv"
        self._entries[_name(clip)] = Entry(*_state(clip), name)
        self._save()
        film = self._output / name
        try:
            film.unlink(missing_ok=True)
        except OSError as e:
            raise OutputError(f"{film} cannot be replaced: {e.strerror}.") from None
        return film

    def finish(self, clip: Path, score: LipScore | None, left_out: str = "") -> None:
        """Keeps what became of a clip that was begun."""
        self._entries[_name(clip)] = replace(self._entries[_name(clip)], score=score, left_out=left_out)
        self._save()

    def _save(self) -> None:
        content = {"key": self._key, "clips": {name: asdict(entry) for name, entry in self._entries.items()}}
        write_text(self._path, json.dumps(content, indent=1) + "\n")

    def _load(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["key"] != self._key:
                raise OutputError(f"{self._output} holds results of another model or other settings.", choose_another)
            for name, values in content["clips"].items():
                score = LipScore(**values["score"]) if values["score"] else None
                entry = Entry(**{**values, "score": score})
                if Path(entry.film).name != entry.film:
                    raise ValueError(f"{entry.film} lies elsewhere")
                self._entries[name] = entry
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise OutputError(f"{self._path} is damaged.", choose_another) from None


def _name(clip: Path) -> str:
    return str(clip.resolve())


def _state(clip: Path) -> tuple[int, int]:
    status = clip.stat()
    return status.st_size, status.st_mtime_ns
