# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync sync`: by how much a movie's own sound is late against the lips that are seen in it.

The bundled model hears how far a mouth would be open, the face shows how far it is. Where the two fit best when the
sound is moved, they belong together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import sqrt, tanh
from typing import TYPE_CHECKING

import numpy as np

from . import heard, people
from .errors import SpeechError
from .faces.tracks import FaceTrack

if TYPE_CHECKING:
    from .engine import Engine

step = 0.01
"""Seconds between the shifts that are tried: half the ear's."""
most_steps = 50
"""To either side."""
near_steps = 4
"""To either side of the best shift, through which a parabola is laid: moving the sounds of 21 clips by known amounts,
its top was within 7 ms, the best shift itself within 23."""
other_steps = 20
"""So far from the best shift another one would be another answer: about a syllable."""
chance = 1.25
"""r of lips and a sound that is not theirs, at its best shift, is below tanh(chance / √seconds) in 99 of 100 cases
(471 pairs between 51 people's clips of 4 to 20 s), however long they are."""
least_r = 0.25
"""And below this nothing is sure in an hour either."""
least_lead = 0.1
"""By which the best r has to be above those of other answers."""
least_seen, least_spoken = 2.0, 1.5
"""Seconds in which the face is seen, and somebody speaks meanwhile."""


@dataclass(frozen=True)
class Offset:
    """What was measured in one movie."""

    video: str
    seconds: float | None
    """By which the sound is late, that is, comes after its lips; below 0 early. None: it cannot be told."""
    frames: float | None
    """The same in the movie's frames."""
    r: float
    """Correlation of the lips with the sound moved by so much, or of the best that was found."""
    r_unmoved: float
    """The same for the movie as it is."""
    r_elsewhere: float
    """The best more than 0.2 s away from the best."""
    r_by_chance: float
    """What lips and a sound that is not theirs reach in one of 100 cases, in so short a time."""
    seen: float
    """Seconds in which the face was seen and compared; the first and the last half second of the sound are not."""
    spoken: float
    """Seconds of these in which somebody speaks."""
    why: str = ""
    """Why it cannot be told."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"type": "sync", **asdict(self)})

    def told(self) -> str:
        """One line for people."""
        if self.seconds is None or self.frames is None:
            return f"{self.video}: cannot be told: {self.why}"
        late = "late" if self.seconds >= 0 else "early"
        return (
            f"{self.video}: the sound is {abs(self.seconds):.3f} s ({abs(self.frames):.1f} frames) {late}: "
            f"r {self.r:.2f} there, {self.r_unmoved:.2f} as it is, by chance up to {self.r_by_chance:.2f}"
        )


def measure(
    video: str,
    engine: Engine,
    face: str = "largest",
    done: Callable[[str, int, int], None] = lambda stage, frames, total: None,
    *,
    detector: str = "mediapipe",
    cached: bool = True,
) -> Offset:
    """Measures one movie.

    Args:
        engine: with the bundled model.
        face: as RedubJob has it.
        done: told `sound` or `faces`, how many frames of it are done, and of how many; may raise to end the work.
        detector, cached: as people.find has them.

    Raises:
        MediaError, JobError, ModelError: the movie or the detector cannot be used.
        SpeechError: it has no sound.
        NoFaceError: nobody is seen, or not the one who is asked for.
    """
    footage = people.open_footage(video, (), None)
    info = footage.info
    if not info.has_sound:
        raise SpeechError(f"{video} has no sound of its own.", "Name a movie with the sound that belongs to its lips.")

    def listened(seconds: float) -> None:
        done("sound", min(footage.count, int(seconds * info.rate)), footage.count)

    done("sound", 0, footage.count)
    sound = heard.hear(info.path, info.start, engine, listened)
    found = people.find(
        footage,
        lambda frames: done("faces", frames, footage.count),
        detector=detector,
        device=str(engine.device),
        cached=cached,
    )
    chosen = people.pick(footage, found, face)
    return compare(video, chosen, found.shots, sound, float(info.rate))


def compare(video: str, chosen: dict[int, FaceTrack], shots: np.ndarray, sound: heard.Heard, rate: float) -> Offset:
    """The offset of a sound from the lips of one person.

    Args:
        video: how the answer calls it.
        chosen: the person's tracks by number.
        shots: (n,) number of the shot of each frame.
        rate: frames a second.
    """
    frames = np.concatenate([track.frames for track in chosen.values()])
    opening = np.concatenate([heard.lip_openings(track) for track in chosen.values()])
    number = np.repeat(list(chosen), [len(track.frames) for track in chosen.values()])
    seconds = (frames + 0.5) / rate
    most = most_steps * step
    inside = (seconds >= most) & (seconds <= sound.seconds - most)  # so that all shifts are told by the same frames
    seconds, opening = seconds[inside], opening[inside]
    part = np.unique(np.stack([number, shots[frames]], 1)[inside], axis=0, return_inverse=True)[1].reshape(-1)
    shifts = np.arange(-most_steps, most_steps + 1) * step
    r = heard.fits(sound, opening, seconds, shifts, part)
    best = int(r.argmax())
    far = np.abs(np.arange(len(r)) - best) > other_steps
    seen, spoken = len(seconds) / rate, float(sound.voiced_at(seconds).sum()) / rate
    by_chance = max(least_r, tanh(chance / sqrt(seen))) if seen else 1.0
    unsure = Offset(
        video,
        seconds=None,
        frames=None,
        r=round(float(r[best]), 3),
        r_unmoved=round(float(r[most_steps]), 3),
        r_elsewhere=round(float(r[far].max()), 3),
        r_by_chance=round(by_chance, 3),
        seen=round(seen, 3),
        spoken=round(spoken, 3),
    )
    why = _doubt(unsure, best)
    if why:
        return replace(unsure, why=why)
    near = slice(best - near_steps, best + near_steps + 1)
    bend, slope, _ = np.polyfit(shifts[near] - shifts[best], r[near], 2)
    late = float(shifts[best] - slope / (2 * bend)) if bend < 0 else float(shifts[best])
    return replace(unsure, seconds=round(late, 3), frames=round(late * rate, 2))


def _doubt(at: Offset, best: int) -> str:
    """Why the best shift, of this number, says nothing; empty: it does."""
    if at.seen < least_seen:
        return (
            f"the face can be compared for {at.seen:.1f} s only, and {least_seen:g} s are needed "
            "(the sound's first and last half second do not count)"
        )
    if at.spoken < least_spoken:
        return f"while the face is seen somebody speaks for {at.spoken:.1f} s only, and {least_spoken:g} s are needed"
    if at.r < at.r_by_chance:
        return (
            f"moved by up to half a second it never fits the lips (r {at.r:.2f}, by chance up to {at.r_by_chance:.2f})"
        )
    if not near_steps <= best <= 2 * most_steps - near_steps:
        return "sound and lips seem to be half a second apart or more"
    if at.r < at.r_elsewhere + least_lead:
        return f"another shift fits as well (r {at.r:.2f} at best, {at.r_elsewhere:.2f} more than 0.2 s away)"
    return ""
