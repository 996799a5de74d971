# SPDX-License-Identifier: GPL-3.0-or-later
"""The one request and its answers, as frozen dataclasses that travel as one line of JSON.

Standard library only: Blender's Python loads this module.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from .errors import JobError


@dataclass(frozen=True)
class RedubJob:
    """One shot to re-dub: which pictures, which speech, where the new media goes.

    Frames are counted as Blender counts them (see core.media.read). Times are seconds.
    """

    type: ClassVar[str] = "redub"

    speech: str
    """Any file PyAV can decode; its first sound stream is mixed to mono."""
    output: str
    """Movie file to make, or for an image sequence the folder to make. Must not exist yet."""
    video: str = ""
    """Movie file. Empty for an image sequence."""
    images: tuple[str, ...] = ()
    """Image files, one a frame, in order. Empty for a movie."""
    rate: Fraction | None = None
    """Frames per second at which the frames are shown against the speech; None: the movie's own. Needed for images."""
    start_frame: int = 0
    """First source frame of the output."""
    frame_count: int | None = None
    """Frames in the output; None: to the end."""
    speech_start: Fraction = Fraction(0)
    """When the speech begins, in seconds after the output's first frame; negative: before it."""
    sound: str = "source"
    """Sound of the output movie: `source` (streams copied), `speech`, or `none`."""
    model: str = ""
    """A checkpoint (.safetensors); empty: the bundled one."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    quality: str = "high"
    """`high` (visually lossless), or `lossless`."""
    batch_size: int = 16
    """Frames that go through the net together, 1 to 512."""
    debug: str = ""
    """Folder for crops, masks and stages; empty: none."""

    def __post_init__(self) -> None:
        if bool(self.video) == bool(self.images):
            raise JobError("A job names either one movie or a list of images.", "Fill `video` or `images`, not both.")
        if self.images and self.rate is None:
            raise JobError(
                "An image sequence has no frame rate of its own.", "Say how many frames a second it is shown at."
            )
        if self.rate is not None and self.rate <= 0:
            raise JobError(f"The frame rate {self.rate} is not above zero.", "Give a rate such as 25 or 30000/1001.")
        if self.start_frame < 0 or (self.frame_count is not None and self.frame_count < 1):
            raise JobError(
                "The frame range is empty or begins before the first frame.", "Give a start from 0 and a count from 1."
            )
        if self.sound not in ("source", "speech", "none"):
            raise JobError(f"Unknown sound option {self.sound!r}.", "Use source, speech or none.")
        if self.quality not in ("high", "lossless"):
            raise JobError(f"Unknown quality {self.quality!r}.", "Use high or lossless.")
        if not 1 <= self.batch_size <= 512:
            raise JobError(f"Batch size {self.batch_size} is out of range.", "Use 1 to 512.")


@dataclass(frozen=True)
class Hello:
    """The worker's first line: who answers."""

    type: ClassVar[str] = "hello"

    version: str
    """core.__version__ of the worker."""
    python: str


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    type: ClassVar[str] = "progress"

    stage: str
    """`faces` (looking for the face) or `lips` (making and writing frames)."""
    done: int
    total: int


@dataclass(frozen=True)
class Result:
    """A job that ended well; the output is complete and in its final place."""

    type: ClassVar[str] = "result"

    output: str
    """Movie file, or the folder of an image sequence."""
    frames: int
    """Frames in the output."""
    changed: int
    """Frames whose lips were replaced."""
    untouched: tuple[tuple[int, int, str], ...] = ()
    """Ranges left as they were: (first, last, why), in output frames, both inclusive."""
    warnings: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    """File names inside `output`, for an image sequence."""
    seconds: float = 0.0
    """How long the job took."""


@dataclass(frozen=True)
class Failure:
    """A job that ended badly; nothing was changed."""

    type: ClassVar[str] = "failure"

    kind: str
    """Class name in core.errors, or `Crash`."""
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Cancel:
    """Asks the worker to give up the running job."""

    type: ClassVar[str] = "cancel"


Message = RedubJob | Hello | Progress | Result | Failure | Cancel
_kinds: dict[str, type[Any]] = {kind.type: kind for kind in (RedubJob, Hello, Progress, Result, Failure, Cancel)}


def to_json(message: Message) -> str:
    """One line of JSON, without a line break. Fractions become strings such as `30000/1001`."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    return json.dumps({"type": message.type, **fields}, default=str)


def from_json(line: str) -> Message:
    """The message of a line of JSON.

    Raises:
        JobError: no JSON, an unknown type, an unknown or missing field, or a value of the wrong type.
    """
    try:
        data = json.loads(line)
    except ValueError as e:
        raise JobError(f"This is not JSON: {e}.", "Give one JSON object a line.") from None
    kind = _kinds.get(str(data.pop("type", ""))) if isinstance(data, dict) else None
    if kind is None:
        raise JobError("The JSON names no known message type.", f"Use one of {', '.join(_kinds)}.")
    known = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise JobError(f"Unknown field {unknown[0]!r} in a {kind.type} message.", f"Known are {', '.join(known)}.")
    try:
        return kind(**{name: _value(known[name], value) for name, value in data.items()})
    except (TypeError, ValueError, ZeroDivisionError) as e:
        raise JobError(f"A {kind.type} message does not fit: {e}.", "Compare it with core/job.py.") from None


def _value(annotation: str, value: Any) -> Any:
    """`value` as the annotated type, checked: JSON has no tuples and no fractions."""
    if value is None and "None" in annotation:
        return None
    base = annotation.split(" |")[0]
    if base == "Fraction" and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return Fraction(str(value))  # a decimal as it is written, not as it is stored
    if base == "tuple[str, ...]" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if base == "tuple[tuple[int, int, str], ...]" and isinstance(value, list):
        return tuple((int(first), int(last), str(why)) for first, last, why in value)
    allowed = {"str": str, "int": int, "float": (int, float)}.get(base)
    if allowed is None or not isinstance(value, allowed) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {base}")
    return value
