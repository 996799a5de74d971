# SPDX-License-Identifier: GPL-3.0-or-later
"""The one request and its answers, as frozen dataclasses that travel as one line of JSON.

Standard library only: Blender's Python loads this module.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from .errors import JobError

face_form = re.compile(r"largest|speaking|track:\d{1,9}(,\d{1,9})*|at:\d{1,9}(,\d{1,9}(\.\d{1,9})?){2}", re.ASCII)
"""How a job can say whose lips it means."""

number_ranges: dict[str, tuple[float, float]] = {
    "mask_padding": (-0.5, 0.5),
    "mask_feather": (0.002, 0.15),
    "strength": (0.01, 1),
    "sharpen": (0, 2),
    "grain": (0, 2),
    "liveliness": (0.3, 2),
    "turn_limit": (10, 90),
    "restore_weight": (0, 1),
}
"""What a job's numbers may be, both ends included."""
rate_range = (Fraction(1, 10), Fraction(1000))
"""Frames a second."""
latest = 86400
"""Seconds before or after the first frame at which a speech may begin."""


@dataclass(frozen=True)
class RedubJob:
    """One shot to re-dub: which pictures, which speech, where the new media goes.

    Frames are counted as Blender counts them (see core.media.read). Times are seconds.
    """

    type: ClassVar[str] = "redub"

    speech: str
    """Any file PyAV can decode; its first sound stream is mixed to mono."""
    output: str
    """Movie file to make, or for an image sequence the folder (or .mp4, .mov, .mkv) to make. Must not exist yet."""
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
    face: str = "largest"
    """Whose lips say it: `largest`; `speaking` (whose lips fit the footage's own sound best); `track:N` or `track:N,M`
    (tracks as `lipsync faces` numbers them); or `at:FRAME,X,Y` (a point on the face, in pixels of a source frame)."""
    others: tuple[tuple[str, str, Fraction], ...] = ()
    """More speeches for more people in the same pictures: (face, speech, speech_start) of each."""
    silence: str = "rest"
    """Where nobody speaks (core.voice): `rest` (the mouth rests closed), `keep` (the original frames) or `off` (the
    lips follow every sound)."""
    sync_mode: str = "cut_off"
    """When speech and picture differ in length: `cut_off` (the lips change while both last), `silence` (beyond the
    speech the mouth rests closed), or as many frames as the speech needs, by `loop`, `bounce` (forth and back) or
    `stretch` (frames repeated or left out evenly, at the same rate)."""
    sound: str = "source"
    """Sound of the output movie: `source` (streams copied), `speech`, or `none`."""
    mix: str = ""
    """A file that is heard instead of the speech, from the same moment on: lips should follow a voice alone, which
    people should hear with its music. With the sound `speech` only."""
    model: str = ""
    """A checkpoint (.safetensors); empty: the bundled one."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    quality: str = "high"
    """Of the output's pictures: `high` (visually lossless; ProRes, DNxHR, HEVC and FFV1 stay what they are),
    `lossless`, `mezzanine` (ProRes) or `web` (H.264 of 8 bit 4:2:0). Images are of the source's kind."""
    detector: str = "mediapipe"
    """What finds faces: `mediapipe`, or `face-alignment` (more exact and slower; `face-alignment:FOLDER` says where its
    weights are)."""
    cache: bool = True
    """Whether the faces found are kept for the next job on the same footage."""
    batch_size: int = 16
    """Frames that go through the net together, 1 to 512."""
    c2pa_certificate: str = ""
    """PEM file of a certificate: the output gets Content Credentials signed with it; empty: none. Needs c2pa-python."""
    c2pa_key: str = ""
    """PEM file of the certificate's private key."""
    mask: str = "jaw"
    """What gets new pictures: `jaw` (the lower face) or `mouth` (the lips and what is close to them)."""
    mask_padding: float = 0.0
    """Part of its own size by which the mask is larger, or below 0 smaller; -0.5 to 0.5."""
    mask_feather: float = 0.03
    """Softness of the mask's edge over the side of the face's crop, so that it grows with the face; 0.002 to 0.15."""
    strength: float = 1.0
    """How much of the new picture shows through the mask, 0.01 to 1."""
    sharpen: float = 1.0
    """How far the new lips are sharpened to the footage's detail: 0 not at all, 1 to be alike, at most 2."""
    grain: float = 1.0
    """How much of the skin's grain the new picture gets: 0 none, 1 as much, at most 2."""
    liveliness: float = 1.0
    """How widely the lips move: 1 as the speech has it, and less of a person who hardly opens them in the footage
    (core.manner), 0.3 hardly, 2 twice as widely. Shut lips stay shut."""
    in_front: str = "keep"
    """Hands, microphones and the like before the face: `keep` (they stay in front; a mouth that is hidden stays as it
    was) or `ignore` (nobody looks for them)."""
    turn_limit: float = 60.0
    """Degrees a head may be turned to a side, by an estimate from its landmarks; beyond, frames stay as they were.
    10 to 90; 90 is no limit."""
    restore: str = ""
    """A face-restoration net (.onnx, of the class of GFPGAN or CodeFormer) that goes over the new lips; empty: none."""
    restore_weight: float = 0.5
    """What CodeFormer calls w: 0 restores most, 1 changes least; 0 to 1."""
    debug: str = ""
    """Folder for crops, masks and stages; empty: none."""

    def __post_init__(self) -> None:
        if bool(self.video) == bool(self.images):
            raise JobError("A job names either one movie or a list of images.", "Fill `video` or `images`, not both.")
        if self.images and self.rate is None:
            raise JobError(
                "An image sequence has no frame rate of its own.", "Say how many frames a second it is shown at."
            )
        whole = self.rate is None or self.rate.numerator < 1 << 31  # movies hold it in 32 bits
        if self.rate is not None and not (whole and rate_range[0] <= self.rate <= rate_range[1]):
            raise JobError(
                f"The frame rate {float(self.rate):g} is out of range or has too many digits.",
                "Give one such as 25 or 30000/1001, from 0.1 to 1000.",
            )
        for start in (self.speech_start, *(start for _, _, start in self.others)):
            if not -latest <= start <= latest:
                raise JobError(
                    f"A speech that begins at {float(start):g} seconds is out of range.", "Give at most a day."
                )
        if self.start_frame < 0 or (self.frame_count is not None and self.frame_count < 1):
            raise JobError(
                "The frame range is empty or begins before the first frame.", "Give a start from 0 and a count from 1."
            )
        files = (self.video, self.speech, self.output, self.mix, self.model, self.restore, self.debug, *self.images)
        for path in (*files, self.c2pa_certificate, self.c2pa_key, *(speech for _, speech, _ in self.others)):
            if not _is_path(path):
                raise JobError(f"No file can be called {path!r}.", "Take out what is no character.")
        for face in (self.face, *(face for face, _, _ in self.others)):
            check_face(face)
        check_detector(self.detector)
        if self.silence not in ("rest", "keep", "off"):
            raise JobError(f"Unknown silence option {self.silence!r}.", "Use rest, keep or off.")
        if self.sync_mode not in ("cut_off", "silence", "loop", "bounce", "stretch"):
            raise JobError(f"Unknown sync mode {self.sync_mode!r}.", "Use cut_off, silence, loop, bounce or stretch.")
        if self.video and self.sound == "source" and self.sync_mode in ("loop", "bounce", "stretch"):
            raise JobError(
                f"The movie's own sound cannot go with the sync mode {self.sync_mode}.",
                "Take the sound speech or none.",
            )
        if self.sound not in ("source", "speech", "none"):
            raise JobError(f"Unknown sound option {self.sound!r}.", "Use source, speech or none.")
        if self.mix and self.sound != "speech":
            raise JobError(f"A mix is heard in place of the speech, not with the sound {self.sound}.", "Take speech.")
        if self.quality not in ("high", "lossless", "mezzanine", "web"):
            raise JobError(f"Unknown quality {self.quality!r}.", "Use high, lossless, mezzanine or web.")
        if bool(self.c2pa_certificate) != bool(self.c2pa_key):
            raise JobError("Content Credentials need a certificate and its key.", "Give both, or none.")
        if self.mask not in ("jaw", "mouth"):
            raise JobError(f"Unknown mask {self.mask!r}.", "Use jaw or mouth.")
        if self.in_front not in ("keep", "ignore"):
            raise JobError(f"Unknown in_front option {self.in_front!r}.", "Use keep or ignore.")
        for name, (low, high) in number_ranges.items():
            if not low <= getattr(self, name) <= high:  # nan fails too
                raise JobError(
                    f"The {name.replace('_', ' ')} {getattr(self, name)} is out of range.", f"Use {low:g} to {high:g}."
                )
        if not 1 <= self.batch_size <= 512:
            raise JobError(f"Batch size {self.batch_size} is out of range.", "Use 1 to 512.")


@dataclass(frozen=True)
class Hello:
    """The worker's first line: who answers."""

    type: ClassVar[str] = "hello"

    version: str
    """core.__version__ of the worker."""
    python: str
    pid: int = 0
    """Of its process; 0: not told."""


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    type: ClassVar[str] = "progress"

    stage: str
    """`faces` (looking for the face) or `lips` (making and writing frames); `lipsync sync` also has `sound`."""
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
    length: float = 0.0
    """Seconds that the output plays."""
    made_before: bool = False
    """Nothing was done: an earlier run has made the output, of the same files with the same settings. Its warnings were
    told then."""


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


def check_face(face: str) -> None:
    """Raises JobError where nobody can be meant by it."""
    if not face_form.fullmatch(face):
        raise JobError(
            f"Unknown face {face[:80]!r}.",
            "Use largest, speaking, track:N or at:FRAME,X,Y; `lipsync faces VIDEO` prints the tracks.",
        )


def check_detector(detector: str) -> None:
    """Raises JobError where nothing that finds faces is called so."""
    if not re.fullmatch(r"mediapipe|face-alignment(:.+)?", detector):
        raise JobError(
            f"Unknown face detector {detector!r}.", "Use mediapipe, face-alignment or face-alignment:FOLDER."
        )


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False


def fraction(text: str) -> Fraction:
    """A number such as `25`, `23.976` or `30000/1001`, as exact as it is written.

    Raises:
        ValueError, ZeroDivisionError: it is none, or so large or small that writing it out would fill the memory.
    """
    if re.search(r"e[+-]?\d{3}|\d{30}", text.replace("_", ""), re.IGNORECASE):
        raise ValueError(f"{text[:40]!r} is out of range")
    return Fraction(text)


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
    except (ValueError, RecursionError) as e:
        raise JobError(f"This is not JSON: {e}.", "Give one JSON object a line.") from None
    kind = _kinds.get(str(data.pop("type", ""))) if isinstance(data, dict) else None
    if kind is None:
        raise JobError("The JSON names no known message type.", f"Use one of {', '.join(_kinds)}.")
    known = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise JobError(f"Unknown field {unknown[0]!r} in a {kind.type} message.", f"Known are {', '.join(known)}.")
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING and f.name not in data]
    if needed:
        raise JobError(f"A {kind.type} message lacks {' and '.join(needed)}.", "Compare it with core/job.py.")
    try:
        return kind(**{name: _value(known[name], value) for name, value in data.items()})
    except ZeroDivisionError:
        raise JobError(f"A {kind.type} message divides a number by 0.", "Use one such as 25 or 30000/1001.") from None
    except (TypeError, ValueError) as e:
        raise JobError(f"A {kind.type} message does not fit: {e}.", "Compare it with core/job.py.") from None


def _value(annotation: str, value: Any) -> Any:
    """`value` as the annotated type, checked: JSON has no tuples and no fractions."""
    if value is None and "None" in annotation:
        return None
    base = annotation.split(" |")[0]
    if base == "Fraction" and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return fraction(str(value))  # a decimal as it is written, not as it is stored
    if base == "tuple[str, ...]" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if base == "tuple[tuple[int, int, str], ...]" and isinstance(value, list):
        return tuple((int(first), int(last), str(why)) for first, last, why in value)
    if base == "tuple[tuple[str, str, Fraction], ...]" and isinstance(value, list):
        return tuple((_value("str", face), _value("str", speech), _value("Fraction", at)) for face, speech, at in value)
    if base == "bool" and isinstance(value, bool):
        return value
    allowed = {"str": str, "int": int, "float": (int, float)}.get(base)
    if allowed is None or not isinstance(value, allowed) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {base}")
    return value
