# SPDX-License-Identifier: GPL-3.0-or-later
"""The pipeline: one job in, new media out. Four passes over the footage; none keeps its pictures.

One follows the face, one looks for what is in front of it (unless the job says not to), one crops the frames that
references are chosen from (unless the net's reference is the frame it paints), one paints and writes.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from av import VideoFormat

from . import (
    audio,
    compose,
    credentials,
    faces,
    interlaced,
    manner,
    media,
    mix,
    occlusion,
    people,
    provenance,
    reference,
    response,
    sync_mode,
    voice,
)
from .ahead import ahead
from .allocator import give_back_freed_memory
from .debug import Debug, check_folder
from .engine import Engine, choose_device
from .errors import Cancelled, JobError, OutputError
from .faces.detectors import open_detector
from .job import Progress, RedubJob, Result
from .mouth import opening_step
from .nets.checkpoint import default_model, load_generator
from .paint import Mouth, Painter
from .plan import Plan, plan_effect, turned_away
from .restore import Restorer
from .shot import Shot

movie_suffixes = (".mp4", ".mov", ".mkv")
"""Endings of an output that make a movie of images too."""
no_folder = (
    *(".avi", ".webm", ".mxf", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif", ".wav", ".mp3"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".webp", ".bmp"),
)
"""Endings of names that nobody gives to a folder."""
batch_bytes = 128 << 20
"""Pictures that go through the net together take no more memory than this, but one is always taken. While they are
pasted the next ones are drawn."""
soft_from = 2.5
"""Side of the face's crop in the frame over the net's, from which the user is told that the lips will be soft."""


@dataclass(frozen=True)
class Speech:
    """A speech and whose lips say it."""

    face: str
    """As in job.RedubJob."""
    path: str
    start: Fraction
    """When it begins, in seconds after the output's first frame."""
    wave: np.ndarray
    """(n,) float32 at the nets' sample rate, as the nets hear it."""
    voiced: voice.Spans | None
    """Where somebody speaks in it; None: not asked."""

    @property
    def length(self) -> Fraction:
        """Seconds."""
        return Fraction(len(self.wave), audio.sample_rate)


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
    shot, heard, sign = _ready(job)
    speeches = [_hear(job, *each) for each in ((job.face, job.speech, job.speech_start), *job.others)]
    source = max((_source_frames(job, shot, speech) for speech in speeches), key=len)
    made = _made(job, shot, source)
    engine = _engine(job.model, job.device)
    restorer = Restorer(job.restore, job.restore_weight, str(engine.device)) if job.restore else None

    def go_on() -> None:
        if cancelled():
            raise Cancelled("The job was cancelled; nothing was changed.")

    def done(stage: str, frames: int) -> None:
        go_on()
        report(Progress(stage, frames, len(source) if stage == "lips" else shot.count))

    followed = _follow_faces(job, shot, speeches, engine, partial(done, "faces"))
    if media.moments(shot.info) > 1 and interlaced.is_film(shot.info, shot.start, followed):
        shot = replace(
            shot, info=replace(shot.info, field_order=0)
        )  # for painting; the output says what the source did
    dubs = []
    while followed:  # one at a time: their meshes are most of what grows with the clip
        dubs.append(_dub(job, shot, speeches[len(dubs)], followed.pop(0), source, engine, restorer, go_on))
    strength = np.max([dub.plan.strength for dub in dubs], axis=0)

    label = provenance.label(
        job,
        shot.images() or shot.info.paths,
        engine.card,
        frames=made.count,
        changed=[span for span in compose.runs(strength > 0) if strength[span[0]] > 0],
        untouched=_untouched(dubs),
        sign=sign,
        go_on=go_on,
    )
    give_back_freed_memory()
    with media.write(
        made.info,
        job.output,
        quality=job.quality,
        sound=job.sound,
        start=made.start,
        count=made.count,
        speech=heard,
        label=label,
        in_order=np.array_equal(source, np.arange(shot.count)),
    ) as writer:
        done("lips", 0)
        damage: list[str] = []
        pictures = sync_mode.pictures(shot.info, shot.start, source)
        if made.info.kind != shot.info.kind:
            pictures = (media.converted(picture, made.info) for picture in pictures)
        with ahead(_pasted(_drawn(pictures, shot.info, dubs, job.batch_size), dubs), 2) as painted:
            for picture in painted:
                damage.append(picture.damage)
                writer.add(picture)
                done("lips", writer.written)
    return Result(
        output=job.output,
        frames=made.count,
        changed=int((strength > 0).sum()),
        untouched=_untouched(dubs),
        warnings=(
            *media.told(shot.name, damage, shot.rate),
            *dict.fromkeys(warning for dub in dubs for warning in dub.warnings),
            *writer.warnings,
        ),
        images=tuple(os.path.basename(path) for path in made.images()),
        seconds=round(time.monotonic() - begun, 3),
        length=round(float(made.count / made.info.rate), 3),
    )


def check(job: RedubJob) -> None:
    """Refuses what `run` would refuse, as far as that shows without looking for faces or making anything.

    Opens every file of the job and decodes a picture and some sound. Nets are loaded once, however many jobs name them.

    Raises:
        LipSyncError: the job cannot be done.
    """
    _ready(job)
    for path in dict.fromkeys(filter(None, (job.speech, *(speech for _, speech, _ in job.others), job.mix))):
        next(audio.stream(path), None)
    _check_nets(job.model, job.restore, job.detector, job.device, _version(job.model), _version(job.restore))


@lru_cache(maxsize=64)
def _check_nets(model: str, restore: str, detector: str, device: str, *versions: int) -> None:
    used = str(choose_device(device))
    load_generator(Path(model) if model else default_model)
    if restore:
        Restorer(restore)
    if detector != "mediapipe":
        with open_detector(detector, used):
            pass


def _ready(job: RedubJob) -> tuple[Shot, media.Sound | None, credentials.Sign | None]:
    """The footage, the new sound and what signs the output, opened before the user has waited for anything."""
    shot = _open(job)
    _check_output(job, shot)
    return shot, _new_sound(job, shot), provenance.signer(job, _endings(job, shot))


def _open(job: RedubJob) -> Shot:
    footage = people.open_footage(job.video, job.images, job.rate, job.start_frame, job.frame_count)
    name, info = footage.name, footage.info
    if job.video and job.sound == "speech" and job.rate not in (None, info.rate):
        raise JobError(
            f"{name} plays at {info.rate} frames a second: with the speech as its sound it cannot take {job.rate}.",
            "Leave the rate out, or take the sound `none` and add the speech where the movie plays at that rate.",
        )
    return Shot(name, info, footage.start, footage.count, job.rate or info.rate)


def _new_sound(job: RedubJob, shot: Shot) -> media.Sound | None:
    """What will be heard of the output."""
    if job.sound != "speech" or _output_info(job, shot).kind == "images":
        if job.mix:
            raise JobError(f"The mix {job.mix} is for a movie's sound, and images have none.", "Leave it out.")
        return None
    speeches = [(job.speech, job.speech_start), *((path, start) for _, path, start in job.others)]
    return mix.of_files([(job.mix, job.speech_start)] if job.mix else speeches)


def _check_output(job: RedubJob, shot: Shot) -> None:
    """Refuses what cannot become the output, before the user has waited for anything."""
    inputs = [job.speech, job.mix, *(speech for _, speech, _ in job.others)]
    if not job.output:
        raise OutputError("The job names no output.", "Name a file that does not exist yet.")
    if os.path.realpath(job.output) in {os.path.realpath(p) for p in (*inputs, *shot.info.paths) if p}:
        raise OutputError(f"{job.output} is the job's own input.", "Choose another name: nothing is ever overwritten.")
    media.check_output(_output_info(job, shot), job.output, job.quality)
    media.check_kinds(shot.images(), alike=_output_info(job, shot).kind == "images")
    check_folder(job.debug, job.output)


def _output_info(job: RedubJob, shot: Shot) -> media.SourceInfo:
    """What the output is like: as the footage, but images can also become a movie."""
    suffix = Path(job.output).suffix.lower()
    movie = suffix in movie_suffixes
    if not movie and shot.info.kind == "images" and suffix in no_folder:
        raise OutputError(
            f"Images are written into a folder, and movies not as {suffix}.", "Name a folder, or an .mp4, .mov or .mkv."
        )
    return media.movie_info(shot.info, job.quality) if movie and shot.info.kind == "images" else shot.info


def _picture_bytes(info: media.SourceInfo) -> int:
    return info.width * info.height * VideoFormat(info.pixel_format).padded_bits_per_pixel // 8 or 1


def _endings(job: RedubJob, shot: Shot) -> set[str]:
    """How the names of the files end that the job makes."""
    kind = _output_info(job, shot).kind
    return {Path(path).suffix.lower() for path in (shot.images() if kind == "images" else (job.output,))}


def _source_frames(job: RedubJob, shot: Shot, speech: Speech) -> np.ndarray:
    """(n,) which frame of the shot each frame of the output shows."""
    fits = job.sync_mode in ("cut_off", "silence")
    needed = shot.count if fits else sync_mode.frames_needed(speech.start, speech.length, shot.rate)
    return sync_mode.source_frames(job.sync_mode, shot.count, needed)


def _made(job: RedubJob, shot: Shot, source: np.ndarray) -> Shot:
    """The output as footage: its kind, its frames and, of images, their names."""
    made = replace(shot, info=_output_info(job, shot), count=len(source))
    if made.info.kind == "movie" or np.array_equal(source, np.arange(shot.count)):
        return made
    names = sync_mode.image_names(shot.images(), len(source))
    return replace(made, info=replace(made.info, paths=names), start=0)


def _hear(job: RedubJob, face: str, path: str, start: Fraction) -> Speech:
    wave = audio.load(path)
    if job.silence == "off":
        return Speech(face, path, start, wave, None)
    voiced = voice.spans(wave)
    voice.mute(wave, voiced)
    return Speech(face, path, start, wave, voiced)


def _engine(model: str, device: str) -> Engine:
    """The last job's engine when model and device are the same: loading takes longer than a short shot."""
    return _load_engine(model, device, _version(model))


def _version(path: str) -> int:
    """Another number once the file has been written anew; 0: there is none."""
    return os.stat(path).st_mtime_ns if os.path.isfile(path) else 0


@lru_cache(maxsize=1)
def _load_engine(model: str, device: str, changed: int) -> Engine:
    return Engine(model, device)


def _follow_faces(
    job: RedubJob, shot: Shot, speeches: Sequence[Speech], engine: Engine, done: Callable[[int], None]
) -> list[faces.Track]:
    """The face that says each speech, through the shot."""
    found = people.find(shot, done, detector=job.detector, device=str(engine.device), cached=job.cache)
    picks = [(speech.face, people.pick(shot, found, speech.face)) for speech in speeches]
    people.check_apart(picks)
    place = engine.rules.place
    return [faces.follow_through(found, list(chosen.values()), float(shot.rate), place) for _, chosen in picks]


@dataclass(frozen=True)
class _Dub:
    """One speech on its way to one face."""

    face: str
    plan: Plan
    painter: Painter
    heard: audio.MelWindows | np.ndarray
    """Of the sound, what the painter hands to the engine for each frame."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Drawn:
    """A picture on its way to the output."""

    picture: media.Picture
    parts: tuple[media.Picture] | tuple[media.Field, media.Field]
    """Of it, as media.split gives them."""
    mouths: list[tuple[int, int, Mouth]] = field(default_factory=list)
    """For which dub, for which frame of its painter, and what."""


def _dub(
    job: RedubJob,
    shot: Shot,
    speech: Speech,
    followed: faces.Track,
    source: np.ndarray,
    engine: Engine,
    restorer: Restorer | None,
    go_on: Callable[[], None],
) -> _Dub:
    """Everything that is known before the first frame is painted.

    Args:
        followed: the face through the shot.
        source: (n,) which frame of the shot each frame of the output shows.
        go_on: called after every decoded picture; may raise to end the work.
    """
    track = sync_mode.shown(followed, source)
    hidden = occlusion.Hidden(np.zeros(shot.count, bool))
    if job.in_front == "keep":
        hidden = _look_in_front(shot, followed, go_on)
    turned = turned_away(followed, float(shot.rate), job.turn_limit)
    unfit = np.where(turned, "turned away", np.where(hidden.mouth, "mouth hidden", ""))
    plan = plan_effect(
        track,
        shot.rate,
        speech.start,
        speech.length,
        speech.voiced if job.silence == "keep" else None,
        beyond=job.sync_mode != "cut_off",
        unfit=unfit[source],
    )
    clear = replace(followed, found=_clear(followed, unfit == "", hidden))
    own = manner.of_footage(clear, float(shot.rate))
    references: dict[int, reference.References] = {}
    side = _largest_side(track, plan)
    size = engine.image_size * int(np.clip(round(side / engine.image_size), 1, engine.finest))
    if not engine.rules.own_reference:
        used = np.zeros(shot.count, bool)
        used[source[plan.strength > 0]] = True
        references = reference.choose(shot, clear, used, size, go_on)
        if engine.moves and engine.hears_shapes:
            references = response.measured(engine, references, go_on)
        references = sync_mode.of_each_shot(references, followed, track)
    folder = str(Path(job.debug) / speech.face.replace(":", "_")) if job.debug and job.others else job.debug
    moments = media.moments(shot.info)
    if moments > 1:
        track = sync_mode.shown(faces.at_fields(followed), source, moments)
    strength = np.repeat(plan.strength, moments)
    of_frame = [hidden.fronts.get(frame) for frame in np.repeat(source, moments).tolist()]
    fronts = {i: front for i, front in enumerate(of_frame) if front is not None}
    rate = moments * shot.rate
    heard = engine.listen(speech.wave, rate, speech.start, len(strength))
    opening = None
    if isinstance(heard, np.ndarray):
        own = replace(own, seen=sync_mode.of_each_shot(own.seen, followed, track))
        heard = manner.moved(heard, track.shot, own, job.liveliness)
        opening = heard[:, 0] * opening_step
    shares = reference.weights(track, references, float(rate), opening)
    debug = Debug(folder, len(strength))
    painter = Painter(job, engine, restorer, size, track, strength, references, shares, fronts, debug)
    warnings = _warnings(plan, side, size, speech.voiced)
    if opening is None and job.liveliness != 1:
        warnings += (
            "This model tells no mouth shapes from the speech, so the liveliness changes nothing: leave it at 1.",
        )
    return _Dub(speech.face, plan, painter, heard, warnings)


def _drawn(
    pictures: Iterator[media.Picture], info: media.SourceInfo, dubs: Sequence[_Dub], batch_size: int
) -> Generator[deque[_Drawn], None, None]:
    """All pictures of the output with their new mouths, so many at a time as go through the net together."""
    moments = media.moments(info)
    at_once = max(1, min(batch_size, batch_bytes // _picture_bytes(info)) // moments)
    first = 0
    while batch := deque(_Drawn(each, media.split(each, info)) for each in itertools.islice(pictures, at_once)):
        parts = [part for each in batch for part in each.parts]
        for number, dub in enumerate(dubs):
            for i, mouth in dub.painter.draw(first, parts, dub.heard[first : first + len(parts)]):
                batch[i // moments].mouths.append((number, first + i, mouth))
        first += len(parts)
        parts.clear()
        yield batch


def _pasted(
    batches: Generator[deque[_Drawn], None, None], dubs: Sequence[_Dub]
) -> Generator[media.Picture, None, None]:
    """The pictures of the output."""
    with ahead(batches) as drawn:
        for batch in drawn:
            while batch:
                each = batch.popleft()
                for number, frame, mouth in each.mouths:
                    dubs[number].painter.paste(frame, each.parts[frame % len(each.parts)], mouth)
                yield media.woven(each.picture, each.parts)


def _untouched(dubs: Sequence[_Dub]) -> tuple[tuple[int, int, str], ...]:
    """As in job.Result; of several people it says whose lips stay."""
    if len(dubs) == 1:
        return dubs[0].plan.untouched
    return tuple(sorted((a, b, f"{why} ({dub.face})") for dub in dubs for a, b, why in dub.plan.untouched))


def _look_in_front(shot: Shot, track: faces.Track, go_on: Callable[[], None]) -> occlusion.Hidden:
    """What hides the face's mouth, in each frame of the shot."""
    with occlusion.Watch(track, float(shot.rate)) as watch:
        for frame, picture in enumerate(shot.pictures()):
            if track.found[frame]:
                watch.add(frame, picture)
            go_on()
        return watch.finish()


def _clear(track: faces.Track, fit: np.ndarray, hidden: occlusion.Hidden) -> np.ndarray:
    """(n,) bool: frames that may be references. Nothing is in front of the face, if a shot has such frames."""
    free = fit.copy()
    free[list(hidden.fronts)] = False
    shots = track.shot[track.found & free]
    return track.found & np.where(np.isin(track.shot, shots), free, fit)


def _largest_side(track: faces.Track, plan: Plan) -> float:
    """Of the face's crop in frame pixels, where it gets new lips; 0 if nowhere."""
    heights = np.linalg.norm(track.to_crop[:, 1, :2], axis=1)[plan.strength > 0]
    return float(1 / heights.min()) if len(heights) else 0.0


def _warnings(plan: Plan, side: float, size: int, voiced: voice.Spans | None) -> tuple[str, ...]:
    """What the user should know of a job that went well."""
    if voiced == ():
        return ("No voice is heard in the speech, so the lips follow nothing; with the silence `off` they would.",)
    if not (plan.strength > 0).any():
        return ("The face and the speech never meet: every frame is as it was.",)
    if side > soft_from * size:
        return (f"The face is up to {side:.0f} pixels high and the model paints {size}: the lips will look soft.",)
    return ()
