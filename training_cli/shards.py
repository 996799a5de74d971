# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepared clips on disk, never executed: one safetensors file a clip, of which a reader touches only the frames it
asks for (a tar of WebDataset would have to be read through), and report.jsonl, which says what became of each video.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialised

from core import audio
from core.errors import MediaError
from core.faces.mesh import face_oval, lips, rigid

points = (*lips, *face_oval, *rigid)
"""Mesh points kept of each frame: 40 of the lips, 36 of the face's outline, 9 rigid ones."""
again = "Run `lipsync-train prepare` again."


def margin(size: int) -> int:
    """Crop pixels kept on every side beyond a net's view of `size`, so that training can shift it."""
    return size // 12


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a prepared clip."""

    source: str
    """The video's name below the folder it was prepared from."""
    identity: str
    split: str
    """`train`, `dev` or `test`."""
    rate: Fraction
    licence: str = ""
    size: int = 96
    """Height and width of the crops without their margin."""
    offset: int | None = None
    """Frames by which the sound was late before it was moved; None: never measured."""


@dataclass(frozen=True)
class Clip:
    """A prepared clip of T frames, in memory."""

    info: ClipInfo
    crops: np.ndarray
    """(T, s, s, 3) uint8 RGB: the aligned crop and its margin; s = size + 2 margin."""
    landmarks: np.ndarray
    """(T, 85, 2) float32: `points` in units of the crop, 0…1."""
    wave: np.ndarray
    """(samples,) int16 at 16 kHz; sample 0 is heard when frame 0 appears."""


@dataclass(frozen=True)
class Verdict:
    """A line of report.jsonl: what became of a video, or of one clip of it."""

    source: str
    verdict: str
    """`ok`, or in a sentence why it was left out."""
    clip: str = ""
    """The shard's name in the folder `clips`; empty for a video that gave none."""
    identity: str = ""
    split: str = ""
    frames: int = 0
    rate: str = "25"
    """Frames a second, as a Fraction's text."""
    size: int = 96
    offset: int | None = None
    confidence: float | None = None
    """Of the offset; None: never measured."""
    licence: str = ""
    expert: str = ""
    """SHA-256 of the expert that measured the offset."""
    film_bytes: int = 0
    """Of the video's file, as the next two; together they tell whether it has been replaced. Empty: not known."""
    film_modified: int = 0
    """Nanoseconds since 1970."""
    film_sha256: str = ""


def save(path: Path, clip: Clip, quality: int = 0) -> None:
    """Writes a clip, complete or not at all.

    Args:
        quality: of the crops as JPEG, 1…100; 0: as they are (96 px: 37 kB a frame).

    Raises:
        OSError: the disk is full, or the folder cannot be written to; nothing is left of the clip.
    """
    if quality:
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
        pictures = [cv2.imencode(".jpg", crop[..., ::-1], settings)[1].ravel() for crop in clip.crops]
        ends = np.cumsum([len(picture) for picture in pictures])
        _write(path, clip, {"jpeg": np.concatenate(pictures), "jpeg_ends": ends})
    else:
        _write(path, clip, {"crops": clip.crops})


def _write(path: Path, clip: Clip, pictures: dict[str, np.ndarray]) -> None:
    """Writes a clip with its crops as they shall be stored."""
    wave = np.ascontiguousarray(clip.wave)
    mel = audio.log_mel(wave.astype(np.float32) / 32768).astype(np.float16)
    arrays = {"landmarks": clip.landmarks, "wave": wave, "mel": mel, **pictures}
    # safetensors writes an array's memory as it lies, whatever its strides say
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        # save_file would let nobody but its maker read it
        temporary.write_bytes(serialised(arrays, metadata={"info": json.dumps(asdict(clip.info), default=str)}))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class ClipFile:
    """A prepared clip whose pictures stay on disk until they are asked for.

    Raises:
        MediaError: no prepared clip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, "numpy")
            values = json.loads(self._file.metadata()["info"])
            self.info = ClipInfo(**{**values, "rate": Fraction(values["rate"])})
            self.landmarks: np.ndarray = self._file.get_tensor("landmarks")
            """(T, 85, 2) float32."""
            self.mel: np.ndarray = self._file.get_tensor("mel")
            """(80, M) float16, by core.audio.log_mel."""
            self._jpeg = "jpeg" in self._file.keys()  # noqa: SIM118 (no mapping)
            side = self.info.size + 2 * margin(self.info.size)
            if self._jpeg:
                ends = self._file.get_tensor("jpeg_ends")
                self._bounds = np.concatenate([[0], ends])
            else:
                shape = self._file.get_slice("crops").get_shape()
                if shape != [len(self.landmarks), side, side, 3]:
                    raise ValueError(f"crops of {shape}")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
            raise MediaError(f"{path} is no prepared clip: {e}.", again) from None

    def __len__(self) -> int:
        return len(self.landmarks)

    def crops(self, frames: Sequence[int] | range) -> np.ndarray:
        """The crops (n, s, s, 3) uint8 RGB of some frames."""
        name = "jpeg" if self._jpeg else "crops"
        stored = self._file.get_slice(name)
        if not self._jpeg:
            return np.stack([stored[int(frame)] for frame in frames])
        pictures = []
        for frame in frames:
            code = stored[int(self._bounds[frame]) : int(self._bounds[frame + 1])]
            picture = cv2.imdecode(code, cv2.IMREAD_COLOR)
            if picture is None:
                raise MediaError(f"Frame {frame} of {self.path} is damaged.", again)
            pictures.append(picture[..., ::-1])
        return np.stack(pictures)

    def stored(self, first: int, end: int) -> dict[str, np.ndarray]:
        """The crops first … end - 1 as the file has them."""
        if not self._jpeg:
            return {"crops": self._file.get_slice("crops")[first:end]}
        begin, end_byte = int(self._bounds[first]), int(self._bounds[end])
        code = self._file.get_slice("jpeg")[begin:end_byte]
        return {"jpeg": code, "jpeg_ends": self._bounds[first + 1 : end + 1] - begin}

    def wave(self) -> np.ndarray:
        """(samples,) int16 at 16 kHz."""
        return self._file.get_tensor("wave")


def load(path: Path) -> Clip:
    """A whole clip.

    Raises:
        MediaError: no prepared clip.
    """
    clip = ClipFile(path)
    return Clip(clip.info, clip.crops(range(len(clip))), clip.landmarks, clip.wave())


def append(folder: Path, verdicts: Sequence[Verdict]) -> None:
    """Adds lines to a folder's report and sees that they reach the disk; none is ever rewritten."""
    lines = "".join(json.dumps(asdict(verdict)) + "\n" for verdict in verdicts)
    path = folder / "report.jsonl"
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else "\n" + lines
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def read_report(folder: Path) -> list[Verdict]:
    """The last word on each video and clip, in the order of their first mention; a torn line says nothing."""
    path = folder / "report.jsonl"
    known = {field.name for field in fields(Verdict)}
    found: dict[tuple[str, str], Verdict] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values = json.loads(line)
                verdict = Verdict(**{name: value for name, value in values.items() if name in known})
            except (ValueError, TypeError, AttributeError):
                continue
            found[verdict.source, verdict.clip] = verdict
    return list(found.values())


def clip_path(folder: Path, verdict: Verdict) -> Path:
    """Where a clip's shard lies.

    Raises:
        MediaError: the report names a place outside of the folder.
    """
    if not verdict.clip or Path(verdict.clip).name != verdict.clip:
        raise MediaError(f"The report in {folder} names no clip of its own: {verdict.clip!r}.", again)
    return folder / "clips" / verdict.clip


def moved(clip: Clip, late: int) -> Clip:
    """The clip with its sound moved `late` frames earlier (negative: later), cut to where both are there."""
    frames = len(clip.landmarks) - abs(late)
    per_frame = audio.sample_rate / clip.info.rate
    first_picture, first_sample = max(0, -late), round(max(0, late) * per_frame)
    keep = slice(first_picture, first_picture + frames)
    wave = clip.wave[first_sample : first_sample + round(frames * per_frame)]
    wave = np.pad(wave, (0, max(0, round(frames * per_frame) - len(wave))))
    return Clip(replace(clip.info, offset=late), clip.crops[keep], clip.landmarks[keep], wave)


def move_sound(path: Path, late: int) -> int:
    """What `moved` does, to a clip on disk, whose crops stay as they are stored: JPEG loses nothing.

    Returns:
        The frames that are left.

    Raises:
        MediaError: no prepared clip.
        OSError: it cannot be written; it is as it was.
    """
    file = ClipFile(path)
    part = moved(Clip(file.info, np.arange(len(file)), file.landmarks, file.wave()), late)
    pictures = file.stored(int(part.crops[0]), int(part.crops[-1]) + 1)
    del file  # Windows replaces no open file
    _write(path, part, pictures)
    return len(part.crops)
