# SPDX-License-Identifier: GPL-3.0-or-later
"""The pipeline: one job in, new media out. Three passes over the footage; none keeps its pictures.

One follows the face, one crops the frames that references are chosen from (unless the net's reference is the frame it
paints), one paints and writes.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from . import audio, compose, faces, media, reference
from .debug import Debug
from .engine import Engine
from .errors import Cancelled, JobError, NoFaceError, OutputError
from .job import Progress, RedubJob, Result
from .timing import frame_middle

fade_frames = 4
"""Frames over which the effect comes or goes where a face is found or lost and where the speech begins or ends."""
speech_rate = 48000
"""Samples a second of the speech in the output."""
soft_from = 2.5
"""Side of the face's crop in the frame over the net's, from which the user is told that the lips will be soft."""


@dataclass(frozen=True)
class Shot:
    """The pictures of a job."""

    name: str
    """How messages call it."""
    info: media.SourceInfo
    start: int
    count: int
    rate: Fraction
    """Pictures a second, as shown against the speech."""

    def pictures(self) -> Iterator[media.Picture]:
        return media.read(self.info, self.start, self.count)

    def between(self, frames: Sequence[int]) -> Iterator[tuple[int, media.Picture]]:
        """The pictures of `frames`, which rise, with their numbers in the output; of a movie also those between them.

        Few movies can be entered anywhere: a read for every frame would decode a long one again and again.
        """
        if self.info.kind == "images":
            for frame in frames:
                yield frame, next(media.read(self.info, self.start + frame, 1))
        elif frames:
            pictures = media.read(self.info, self.start + frames[0], frames[-1] - frames[0] + 1)
            yield from zip(itertools.count(frames[0]), pictures, strict=False)


@dataclass(frozen=True)
class Plan:
    """What happens to each frame of the output."""

    strength: np.ndarray
    """(n,) float32: 0 leaves a frame alone, 1 gives it the new lips, between is a fade."""
    untouched: tuple[tuple[int, int, str], ...]
    """Ranges of strength 0, as in job.Result."""


def run(
    job: RedubJob,
    report: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Result:
    """Makes the job's output: the same pictures, with lips that say the speech.

    Args:
        job: what to do.
        report: told how many frames of a pass are done, at its begin and after every frame.
        cancelled: asked at least as often; true stops the job.

    Returns:
        The result; the output is complete and in its final place.

    Raises:
        LipSyncError: the job cannot be done, or was cancelled. Nothing is left of the output.
    """
    begun = time.monotonic()
    shot = _open(job)
    _check_output(job, shot)
    wave = audio.load(job.speech)
    engine = _engine(job.model, job.device)

    def go_on() -> None:
        if cancelled():
            raise Cancelled("The job was cancelled; nothing was changed.")

    def done(stage: str, frames: int) -> None:
        go_on()
        report(Progress(stage, frames, shot.count))

    track = _follow_face(shot, partial(done, "faces"), engine.rules.place)
    plan = plan_effect(track, shot.rate, job.speech_start, Fraction(len(wave), audio.sample_rate))
    references: dict[int, np.ndarray] = {}
    side = _largest_side(track, plan)
    size = engine.image_size * int(np.clip(round(side / engine.image_size), 1, engine.finest))
    if not engine.rules.own_reference:
        references = choose_references(shot, track, plan, size, go_on)
    painter = _Painter(engine, size, track, plan, references, Debug(job.debug, shot.count))
    mel = audio.log_mel(wave)
    heard = engine.audio_frames
    starts = [engine.rules.mel_window(i, shot.rate, job.speech_start, heard) for i in range(shot.count)]
    warnings = _warnings(plan, side, size)
    del track  # its meshes are most of what grows with the clip

    with media.write(
        shot.info,
        job.output,
        quality=job.quality,
        sound=job.sound,
        start=shot.start,
        count=shot.count,
        speech=_speech(job) if job.sound == "speech" else None,
    ) as writer:
        done("lips", 0)
        pictures = shot.pictures()
        while batch := list(itertools.islice(pictures, job.batch_size)):
            first = writer.written
            painter.paint(first, batch, audio.mel_windows(mel, starts[first : first + len(batch)], heard))
            for picture in batch:
                writer.add(picture)
                done("lips", writer.written)
            batch.clear()  # before the next is read: one batch in memory, not two
    return Result(
        output=job.output,
        frames=shot.count,
        changed=int((plan.strength > 0).sum()),
        untouched=plan.untouched,
        warnings=warnings,
        images=tuple(os.path.basename(path) for path in job.images[shot.start : shot.start + shot.count]),
        seconds=round(time.monotonic() - begun, 3),
    )


def _open(job: RedubJob) -> Shot:
    name = job.video or str(Path(job.images[0]).parent)
    if job.images:
        assert job.rate is not None  # RedubJob sees to it
        info = media.probe_images(job.images, job.rate)
    else:
        info = media.probe(job.video)
    count = info.frames - job.start_frame if job.frame_count is None else job.frame_count
    if count < 1 or job.start_frame + count > info.frames:
        last = job.start_frame + max(count, 1) - 1
        raise JobError(
            f"The range {job.start_frame} to {last} runs past the end of {name}, which has {info.frames} frames.",
            "Frames are counted from 0; give a smaller start or count.",
        )
    if job.video and job.sound == "speech" and job.rate not in (None, info.rate):
        raise JobError(
            f"{name} plays at {info.rate} frames a second: with the speech as its sound it cannot take {job.rate}.",
            "Leave the rate out, or take the sound `none` and add the speech where the movie plays at that rate.",
        )
    return Shot(name, info, job.start_frame, count, job.rate or info.rate)


def _check_output(job: RedubJob, shot: Shot) -> None:
    """Refuses what cannot become the output, before the user has waited for anything."""
    if not job.output:
        raise OutputError("The job names no output.", "Name a file that does not exist yet.")
    if Path(job.output).resolve() in {Path(p).resolve() for p in (job.speech, *shot.info.paths)}:
        raise OutputError(f"{job.output} is the job's own input.", "Choose another name: nothing is ever overwritten.")
    media.check_output(shot.info, job.output, job.quality)


def _speech(job: RedubJob) -> tuple[np.ndarray, int, Fraction]:
    """The speech as people will hear it: the net's 16 kHz would be dull."""
    return audio.load(job.speech, rate=speech_rate), speech_rate, job.speech_start


def _engine(model: str, device: str) -> Engine:
    """The last job's engine when model and device are the same: loading takes longer than a short shot."""
    changed = os.stat(model).st_mtime_ns if os.path.isfile(model) else 0
    return _load_engine(model, device, changed)


@lru_cache(maxsize=1)
def _load_engine(model: str, device: str, changed: int) -> Engine:
    return Engine(model, device)


def _follow_face(shot: Shot, done: Callable[[int], None], place: faces.Place = faces.place_aligned) -> faces.Track:
    done(0)
    with faces.Tracker(float(shot.rate), place) as tracker:
        for number, picture in enumerate(shot.pictures(), 1):
            tracker.add(picture.rgb())
            done(number)
        track = tracker.finish()
    if not track.found.any():
        raise NoFaceError(f"There is no face in {shot.name}.")
    return track


def plan_effect(track: faces.Track, rate: Fraction, speech_start: Fraction, speech_length: Fraction) -> Plan:
    """Frames without a face or without speech stay untouched; next to them the effect fades, but not across a cut."""
    times = [frame_middle(i, rate) - speech_start for i in range(len(track.found))]
    why = np.array(["before the speech" if t < 0 else "after the speech" if t >= speech_length else "" for t in times])
    why = np.where(track.found, why, "no face")
    strength = np.zeros(len(why), np.float32)
    untouched = []
    for first, last in compose.runs(why):
        if why[first]:
            untouched.append((first, last, str(why[first])))
            continue
        run = strength[first : last + 1]
        run[:] = 1
        rise = np.arange(1, len(run) + 1, dtype=np.float32) / (fade_frames + 1)
        if first and track.shot[first - 1] == track.shot[first]:
            np.minimum(run, rise, out=run)
        if last + 1 < len(why) and track.shot[last + 1] == track.shot[last]:
            np.minimum(run, rise[::-1], out=run)
    return Plan(strength, tuple(untouched))


def choose_references(
    shot: Shot, track: faces.Track, plan: Plan, size: int, go_on: Callable[[], None] = lambda: None
) -> dict[int, np.ndarray]:
    """For each number in `track.shot` that gets new lips the crop, (size, size, 3) uint8, the net sees of the person.

    Args:
        go_on: called after every decoded picture; may raise to end the search.
    """
    wanted = {
        frame: int(number)
        for number in np.unique(track.shot[plan.strength > 0])
        for frame in reference.candidates(track, int(number))
    }
    best: dict[int, tuple[float, np.ndarray]] = {}
    for frame, picture in shot.between(sorted(wanted)):
        if frame in wanted:
            crop = faces.crop(picture.rgb(), track.to_crop[frame], size)
            sharpness = reference.sharpness(crop)
            if wanted[frame] not in best or sharpness > best[wanted[frame]][0]:
                best[wanted[frame]] = sharpness, crop
        go_on()
    return {number: crop for number, (_, crop) in best.items()}


class _Painter:
    """Puts new lips into batches of pictures that come in order; keeps what one batch must know of the one before.

    Args:
        size: side of the crops, in pixels.
        references: for each number in `track.shot` the crop the net sees of the person; without one it sees the very
            crop that it paints.
    """

    def __init__(
        self,
        engine: Engine,
        size: int,
        track: faces.Track,
        plan: Plan,
        references: dict[int, np.ndarray],
        debug: Debug,
    ) -> None:
        self._engine, self._size = engine, size
        self._strength = plan.strength
        self._shot_of, self._to_crop = track.shot, track.to_crop
        self._outline = compose.outline(track)
        self._references = references
        self._colour, self._detail = compose.ColourMatch(), compose.DetailMatch()
        self._painted = -1
        self._debug = debug

    def paint(self, first: int, pictures: list[media.Picture], mels: np.ndarray) -> None:
        """Changes `pictures`, the frames first, first + 1, … of the output, in place; mels: (n, 80, …), one each."""
        chosen = [i for i in range(len(pictures)) if self._strength[first + i] > 0]
        if not chosen:
            return
        frames = [pictures[i].rgb() for i in chosen]
        crops = [faces.crop(rgb, self._to_crop[first + i], self._size) for i, rgb in zip(chosen, frames, strict=True)]
        shots = [int(self._shot_of[first + i]) for i in chosen]
        references = [self._references.get(shot, crop) for shot, crop in zip(shots, crops, strict=True)]
        mouths = self._engine.generate(np.stack(crops), np.stack(references), mels[chosen])
        for i, rgb, crop, mouth in zip(chosen, frames, crops, mouths, strict=True):
            self._paste(first + i, pictures[i], rgb, crop, mouth)

    def _paste(self, frame: int, picture: media.Picture, rgb: np.ndarray, crop: np.ndarray, mouth: np.ndarray) -> None:
        """One generated crop into its picture."""
        if self._painted != frame - 1 or self._shot_of[frame] != self._shot_of[self._painted]:
            self._colour.restart()
            self._detail.restart()
        self._painted = frame
        face, lips = self._outline.face[frame], self._outline.lips[frame]
        skin = compose.skin(face, lips, len(crop))
        matched = self._colour.match(mouth, crop, skin)
        patch = compose.patch(matched, face, self._to_crop[frame], rgb.shape, self._strength[frame])
        if patch is None:
            return
        patch = self._detail.match(patch, rgb, lips, self._to_crop[frame], len(crop))
        picture.blend(patch.x, patch.y, patch.rgb, patch.alpha)
        if self._debug.wants(frame):
            shown = {"crop": crop, "mouth": mouth, "matched": matched, "skin": skin * 255.0, "mask": patch.alpha * 255}
            self._debug.save(frame, before=rgb, after=picture.rgb(), **shown)


def _largest_side(track: faces.Track, plan: Plan) -> float:
    """Of the face's crop in frame pixels, where it gets new lips; 0 if nowhere."""
    heights = np.linalg.norm(track.to_crop[:, 1, :2], axis=1)[plan.strength > 0]
    return float(1 / heights.min()) if len(heights) else 0.0


def _warnings(plan: Plan, side: float, size: int) -> tuple[str, ...]:
    """What the user should know of a job that went well."""
    if not (plan.strength > 0).any():
        return ("The face and the speech never meet: every frame is as it was.",)
    if side > soft_from * size:
        return (f"The face is up to {side:.0f} pixels high and the model paints {size}: the lips will look soft.",)
    return ()
