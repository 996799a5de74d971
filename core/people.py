# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is in the footage, who of them speaks, and whom a job means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from . import faces, heard, media
from .errors import JobError, NoFaceError, SpeechError
from .faces import cache
from .faces.detectors import open_detector
from .faces.mesh import lips_inner, lips_outer
from .faces.tracks import FaceTrack, People, longest_gap

most_lag = 0.3
"""Seconds that sound and lips may be apart in footage."""
fewest_frames = 25
"""Sightings below which no correlation with a sound is told."""
see_tracks = "Run `lipsync faces VIDEO --sheet FACES.png` to see the tracks and their numbers."


@dataclass(frozen=True)
class Footage:
    """The frames in which people are looked for."""

    name: str
    """How messages call it."""
    info: media.SourceInfo
    start: int
    count: int


def open_footage(
    video: str, images: Sequence[str], rate: Fraction | None, start: int = 0, count: int | None = None
) -> Footage:
    """The frames that a job, or a user, names.

    Args:
        video: a movie, or empty for `images`.
        rate: frames a second; of a movie its own is taken.
        count: frames from `start` on; None: to the end.

    Raises:
        MediaError: the footage cannot be read.
        JobError: the range runs past its end.
    """
    name = video or (images[0] if len(images) == 1 else str(Path(images[0]).parent))
    info = media.probe(video) if video else media.probe_images(images, rate or Fraction(25))
    count = info.frames - start if count is None else count
    if start < 0 or count < 1:
        raise JobError(
            f"There are no {count} frames from frame {start} on in {name}.",
            "Frames are counted from 0; ask for at least one.",
        )
    if start + count > info.frames:
        raise JobError(
            f"The range {start} to {start + count - 1} runs past the end of {name}, which has {info.frames} frames.",
            "Frames are counted from 0; give a smaller start or count.",
        )
    return Footage(name, info, start, count)


def find(
    footage: Footage,
    done: Callable[[int], None] = lambda frames: None,
    *,
    detector: str = "mediapipe",
    device: str = "cpu",
    cached: bool = True,
) -> People:
    """Everybody in the footage; from the cache, when the same frames were searched before.

    Args:
        done: told how many frames are done, at the begin and after every frame; may raise to end the search.
        detector: a name that faces.detect knows.
        device: torch's name of a device, for detectors that use torch.
        cached: look into the cache, and keep what is found there.

    Raises:
        JobError, ModelError: the detector cannot be used.
        NoFaceError: there is nobody.
    """
    done(0)
    opened = open_detector(detector, device)
    info = footage.info
    name = cache.key(info.paths, info.rotation, footage.start, footage.count, opened.version) if cached else ""
    people = cache.load(name) if cached else None
    if people is None or len(people.shots) != footage.count:
        with opened:
            follower = faces.Follower(opened)
            for number, picture in enumerate(media.read(info, footage.start, footage.count), 1):
                follower.add(picture)
                done(number)
            people = follower.finish()
        if cached:
            cache.save(name, people)
    else:
        done(footage.count)
    if not people.tracks:
        raise NoFaceError(f"There is no face in {footage.name}.")
    return people


def speaking(footage: Footage, people: People) -> list[float | None]:
    """How well each track's lips fit the footage's own sound, -1 to 1; None where too little is seen to tell.

    The correlation of how far the lips are open with what the bundled model would open them, at the lag at which it
    fits best. No proof: between the clips of 21 talking people it told the right sound from another in 96 of 100 cases.

    Raises:
        SpeechError: the footage has no sound.
    """
    info = footage.info
    if not info.has_sound:
        raise SpeechError(
            f"{footage.name} has no sound of its own, so nobody can be told by it.", f"Pick a face. {see_tracks}"
        )
    from .engine import Engine  # late: torch takes seconds, and only this pick needs it

    sound = heard.hear(info.path, info.start + footage.start / info.rate, Engine("", "cpu"))
    return [_fit(track, sound, float(info.rate)) for track in people.tracks]


def _fit(track: FaceTrack, sound: heard.Heard, rate: float) -> float | None:
    if len(track.frames) < fewest_frames:
        return None
    most = round(most_lag * rate)
    shifts = np.arange(-most, most + 1) / rate
    return float(heard.fits(sound, heard.lip_openings(track), (track.frames + 0.5) / rate, shifts).max())


def pick(footage: Footage, people: People, face: str) -> dict[int, FaceTrack]:
    """Whom a job's `face` means: numbers of tracks, from 1, and the part of each that is meant.

    `largest` and `speaking` choose in every shot anew; `track:N,M` and `at:FRAME,X,Y` take tracks as they are. FRAME
    counts in the source, X and Y are pixels of its upright picture; of an image's file, because Blender, where people
    click, does not turn images as Exif says.

    Raises:
        NoFaceError: nobody is there.
        SpeechError: `speaking`, but the footage has no sound.
        JobError: the text is none of these.
    """
    kind, _, rest = face.partition(":")
    if kind == "track":
        numbers = [int(number) for number in rest.split(",")]
        missing = [number for number in numbers if not 1 <= number <= len(people.tracks)]
        if missing:
            count = len(people.tracks)
            there = "only track 1" if count == 1 else f"tracks 1 to {count}"
            raise NoFaceError(f"There is no track {missing[0]} in {footage.name}, but {there}.", see_tracks)
        return {number: people.tracks[number - 1] for number in numbers}
    if kind == "at":
        frame, x, y = (float(part) for part in rest.split(","))
        number = _number_at(footage, people, int(frame), x, y)
        return {number: people.tracks[number - 1]}
    if kind == "speaking":
        fits = speaking(footage, people)
        return _best_of_each_shot(people, [-1.0 if fit is None else fit for fit in fits])
    if kind == "largest":
        return _largest(people)
    raise JobError(f"Unknown face {face!r}.", see_tracks)


def _number_at(footage: Footage, people: People, frame: int, x: float, y: float) -> int:
    across, down = x, y
    if footage.info.kind == "images":
        across, down = media.turned_point(x, y, footage.info.coded_size, footage.info.rotation)
    index, last = frame - footage.start, footage.start + footage.count - 1
    if not 0 <= index < footage.count:
        raise NoFaceError(
            f"Frame {frame} is not among the frames {footage.start} to {last} of {footage.name} that the job is about.",
            f"Click into one of those. {see_tracks}",
        )
    hits = []
    for number, track in enumerate(people.tracks, 1):
        nearest = int(np.abs(track.frames - index).argmin())
        left, top, right, bottom = track.boxes[nearest]
        room = 0.15 * (right - left)
        inside = left - room <= across <= right + room and top - room <= down <= bottom + room
        if abs(int(track.frames[nearest]) - index) <= longest_gap and inside:
            hits.append((np.hypot(across - (left + right) / 2, down - (top + bottom) / 2), number))
    if not hits:
        raise NoFaceError(f"There is no face at {x:g}, {y:g} in frame {frame} of {footage.name}.", see_tracks)
    return min(hits)[1]


def _largest(people: People) -> dict[int, FaceTrack]:
    """In every shot the largest face over the time it is seen, and whom there is room for when it is gone."""
    taken: dict[int, list[np.ndarray]] = {}
    parts = []
    for number, track in enumerate(people.tracks, 1):
        sizes = np.ptp(track.boxes.reshape(-1, 2, 2), axis=1).max(1)
        for shot in np.unique(people.shots[track.frames]):
            inside = people.shots[track.frames] == shot
            parts.append((-float(sizes[inside].sum()), number, track.frames[inside]))
    free = np.ones(len(people.shots), bool)
    for _, number, frames in sorted(parts, key=lambda part: part[:2]):
        whole = slice(frames[0], frames[-1] + 1)
        if free[whole].all():
            free[whole] = False
            taken.setdefault(number, []).append(frames)
    return {n: _part(people.tracks[n - 1], np.concatenate(frames)) for n, frames in sorted(taken.items())}


def _best_of_each_shot(people: People, scores: list[float]) -> dict[int, FaceTrack]:
    taken: dict[int, list[np.ndarray]] = {}
    for shot in np.unique(people.shots):
        there = [
            (scores[number - 1], len(frames), number, frames)
            for number, track in enumerate(people.tracks, 1)
            if len(frames := track.frames[people.shots[track.frames] == shot])
        ]
        if there:
            _, _, number, frames = max(there, key=lambda part: part[:2])
            taken.setdefault(number, []).append(frames)
    return {n: _part(people.tracks[n - 1], np.concatenate(frames)) for n, frames in sorted(taken.items())}


def _part(track: FaceTrack, frames: np.ndarray) -> FaceTrack:
    inside = np.isin(track.frames, frames)
    return FaceTrack(track.frames[inside], track.origin[inside], track.mesh[inside])


def check_apart(picks: list[tuple[str, dict[int, FaceTrack]]]) -> None:
    """Raises JobError when two picks, each with its text, mean one face in one frame."""
    owner: dict[int, tuple[str, np.ndarray]] = {}
    for face, chosen in picks:
        for number, track in chosen.items():
            other, frames = owner.get(number, ("", track.frames[:0]))
            if np.intersect1d(frames, track.frames).size:
                raise JobError(f"The faces {other} and {face} are one person, track {number}.", see_tracks)
            owner[number] = face, np.union1d(frames, track.frames)


def describe(footage: Footage, people: People) -> list[dict[str, object]]:
    """What `lipsync faces` prints of each track; frames count in the source."""
    fits: list[float | None] = [None] * len(people.tracks)
    with suppress(SpeechError):  # no sound, or none that can be decoded: then nobody is told by it
        fits = speaking(footage, people)
    return [
        {
            "track": number,
            "frames": [[footage.start + first, footage.start + last] for first, last in _ranges(track.frames)],
            "seen": len(track.frames),
            "shots": sorted({int(shot) for shot in people.shots[track.frames]}),
            "box": [round(float(edge)) for edge in np.median(track.boxes, axis=0)],
            "size": round(float(np.median(np.ptp(track.boxes.reshape(-1, 2, 2), axis=1).max(1)))),
            "yaw": round(float(np.median(yaw(track.points)))),
            "mouth_at": _mouth_at(footage, track),
            "speaking": None if fit is None else round(fit, 3),
        }
        for number, (track, fit) in enumerate(zip(people.tracks, fits, strict=True), 1)
    ]


def _ranges(frames: np.ndarray) -> list[tuple[int, int]]:
    """First and last of frames that rise, with the gaps that are filled in counted as seen."""
    edges = np.flatnonzero(np.diff(frames) > longest_gap + 1)
    firsts, lasts = np.append(0, edges + 1), np.append(edges, len(frames) - 1)
    return [(int(frames[a]), int(frames[b])) for a, b in zip(firsts, lasts, strict=True)]


def _mouth_at(footage: Footage, track: FaceTrack) -> str:
    """A click that means this track: its mouth in the middle of its time."""
    i = len(track.frames) // 2
    x, y = track.points[i][list(lips_inner + lips_outer)].mean(0)
    info = footage.info
    if info.kind == "images":
        x, y = media.turned_point(x, y, (info.width, info.height), -info.rotation)
    return f"at:{footage.start + int(track.frames[i])},{x:.0f},{y:.0f}"


def yaw(points: np.ndarray) -> np.ndarray:
    """(m,) degrees that faces (m, 478, 2) are turned, about 0 from the front, positive to the viewer's right.

    An estimate from where the nose's tip lies between the sides of the face: it stands out before them by 1.3 times
    half their distance [MediaPipe's canonical face].
    """
    nose, right, left = points[:, 1], points[:, 234], points[:, 454]
    across = left - right
    width = np.linalg.norm(across, axis=1)
    middle = (left + right) / 2
    offset = ((nose - middle) * across).sum(1) / np.maximum(width, 1e-6) ** 2 * 2  # of half the width
    return np.degrees(np.arctan(offset / 1.3))
