# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Re-dubs some strips: makes the jobs, feeds one worker or several, swaps a strip's media when its job is answered.

The window's modal operator calls `step` from a timer, everything else calls it in a loop; both get the same.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import bpy

from . import people, properties, runtime, speech, strips
from .shared import client, errors, job

named_at_most = 4
"""Strips that are named where it is said what the lips follow."""
patience = 10
"""Seconds that a worker gets to give up a job before it is ended by force."""
longest = 160
"""Bytes of its source's name that a take's name begins with; file systems take 255 in all, with what is added to it."""
stages = {"faces": "Finding the face", "lips": "Making the lips"}


@dataclass(frozen=True)
class Settings:
    """What the preferences say about every job."""

    python: Path
    """The worker's interpreter."""
    log: Path
    """File for what the worker writes to stderr; further workers have one beside it."""
    model: str = ""
    device: str = "auto"
    quality: str = "high"
    folder: str = ""
    """Where new media go; empty: `lipsync` beside the .blend, or beside the media while the .blend has no file yet."""
    workers: int = 1
    """Strips that are made at a time."""


@dataclass(frozen=True)
class Task:
    """A strip of which new media are asked for."""

    shot: strips.Shot
    speeches: tuple[tuple[str, str, Fraction], ...]
    """For each person the face, as in job.RedubJob, the sound file, and when it begins after the shot's first frame."""
    heard: tuple[str, ...] = ()
    """Names of the strips that are in the speeches."""


class _Hand:
    """A worker, started when there is a job for it, and what it is doing.

    Args:
        python: the worker's interpreter.
        environment: its environment variables.
        logs: where the next one's log goes.
    """

    def __init__(self, python: Path, environment: Mapping[str, str], logs: Iterator[Path]) -> None:
        self.task: Task | None = None
        self.progress = job.Progress("faces", 0, 0)
        self.output = Path()
        """Of the running job."""
        self._python, self._environment, self._logs = python, environment, logs
        self._worker: client.Worker | None = None

    @property
    def fraction(self) -> float:
        """How much of the running job is done, 0 to 1."""
        part = self.progress.done / self.progress.total if self.progress.total else 0.0
        return (part + (self.progress.stage == "lips")) / 2

    def send(self, message: job.RedubJob | job.Cancel) -> None:
        """
        Raises:
            WorkerError: the worker cannot be started.
        """
        if self._worker is None:
            self._worker = client.Worker(runtime.command(self._python), next(self._logs), self._environment)
        self._worker.send(message)

    def receive(self) -> job.Message | None:
        """What the worker has said; does not wait for it."""
        return self._worker.receive(0) if self._worker else None

    def hang_up(self) -> None:
        """Lets the worker end; `end` waits for it. Several end at the same time so."""
        if self._worker:
            self._worker.hang_up()

    def end(self) -> None:
        """Ends the worker."""
        if self._worker:
            self._worker.close()
            self._worker = None


def _logs(first: Path) -> Iterator[Path]:
    """A file for each worker that is started: after a crash the next one leaves the log that tells about it."""
    yield first
    for number in count(2):
        yield first.with_stem(f"{first.stem}-{number}")


def _cut(stem: str) -> str:
    """A name short enough that its take, the report beside it and what is half-made have names too."""
    system = sys.getfilesystemencoding()
    return os.fsencode(stem)[:longest].decode(system, "ignore") if len(os.fsencode(stem)) > longest else stem


class Batch:
    """The strips of one press of the button (trial.Trial is one whose strips keep their media).

    Args:
        scene: the scene they are in.
        chosen: movie and image strips.
        settings: the preferences.
        named: the sound strip to use; empty: all that are heard.
    """

    def __init__(self, scene: bpy.types.Scene, chosen: Sequence[Any], settings: Settings, named: str = "") -> None:
        self.done: list[str] = []
        """A line about each strip that has new media."""
        self.problems: list[str] = []
        """A sentence and a hint about each that has not."""
        self.cancelled = False
        self._scene = scene.session_uid
        self._named = named
        self._settings = settings
        self._silence = scene.lipsync.silence
        self._picture = properties.picture(scene)
        self._asked_to_stop = 0.0
        self._ended = 0
        self._made: set[Path] = set()
        """Folders that there were not before."""
        self._sounds = tempfile.TemporaryDirectory(prefix="lipsync-", ignore_cleanup_errors=True)
        self._waiting = deque(task for strip in chosen if (task := self._prepare(scene, strip)))
        self._marked = [task.shot.key for task in self._waiting]
        self.total = len(self._waiting)
        """Strips of which new media are asked for."""
        several = min(settings.workers, self.total)
        environment, logs = client.divided(runtime.clean_environment(), several), _logs(settings.log)
        self._hands = [_Hand(settings.python, environment, logs) for _ in range(several)]
        for hand in self._hands:
            self._next(hand)
        if not self._hands:
            self.close()

    def _prepare(self, scene: bpy.types.Scene, strip: Any) -> Task | None:
        """Reads the strip and mixes its speech, both as they are when the user asks."""
        key = uuid.uuid4().hex
        try:
            shot, known = self._asked(scene, strip, key)
            speeches, heard = [], set()
            for number, person in enumerate(known):
                sound = Path(self._sounds.name, f"{key}_{number}.wav")
                names = speech.over(scene, shot, person.speech)
                start = speech.mix(scene, shot, names, sound)
                speeches.append((person.face, str(sound), start))
                heard |= names
        except errors.LipSyncError as e:
            self.problems.append(f"{e} {e.hint}".strip())
            return None
        strip[strips.job_key] = key
        return Task(shot, tuple(speeches), tuple(sorted(heard)))

    def _asked(self, scene: bpy.types.Scene, strip: Any, key: str) -> tuple[strips.Shot, tuple[people.Person, ...]]:
        """What is to be made of the strip, and whose lips are to say what in it."""
        known = people.of_strip(strip, scene.lipsync.face, self._named)
        return strips.read(strip, scene, key, people.clicked(known)), known

    @property
    def running(self) -> bool:
        return bool(self._waiting or self._busy())

    def _busy(self) -> list[_Hand]:
        return [hand for hand in self._hands if hand.task]

    @property
    def text(self) -> str:
        """What is being done, for people."""
        if self._asked_to_stop:
            return "Stopping"
        busy = self._busy()
        if not busy:
            return "Working"
        stage = stages.get(busy[0].progress.stage, "Working")
        if self.total == 1:
            return stage
        first, last = self._ended + 1, self._ended + len(busy)
        return f"{first if first == last else f'{first}-{last}'}/{self.total} {stage}"

    @property
    def fraction(self) -> float:
        """How much of all strips is done, 0 to 1."""
        return (self._ended + sum(hand.fraction for hand in self._busy())) / self.total if self.total else 1.0

    def step(self, seconds: float) -> bool:
        """Hears what the workers have said and acts on it; never much longer than the wait.

        Args:
            seconds: how long to wait for their next message.

        Returns:
            True if a strip has got new media.
        """
        begun = time.monotonic()
        deadline = begun + seconds + 0.05
        while self.running and time.monotonic() < deadline:
            if self._asked_to_stop and time.monotonic() - self._asked_to_stop > patience:
                for hand in self._busy():
                    hand.hang_up()
                for hand in self._busy():
                    self._end_task(hand, job.Failure("Cancelled", ""))
                break
            heard = False
            for hand in self._busy():
                message = hand.receive()
                heard = heard or message is not None
                if isinstance(message, job.Progress):
                    hand.progress = message
                elif isinstance(message, job.Result):
                    return self._finish(hand, message)
                elif isinstance(message, job.Failure):
                    self._end_task(hand, message)
            if heard:
                seconds = 0
            elif time.monotonic() >= begun + seconds:
                break
            else:
                time.sleep(0.01)
        return False

    def cancel(self) -> None:
        """Asks the workers to give up; `step` sees the end of it. What is done stays done."""
        if not self._asked_to_stop:
            self._asked_to_stop = time.monotonic()
            if self._waiting:  # a worker that is done all the same must find nothing to go on with
                self._waiting.clear()
                self.cancelled = True
            for hand in self._busy():
                hand.send(job.Cancel())

    def close(self) -> None:
        """Ends the workers and removes the temporary files. Touches no strip: the file may be closing."""
        self._waiting.clear()
        for hand in self._hands:
            hand.hang_up()
        for hand in self._hands:
            hand.task = None
            hand.end()
            self._clear_away(hand)
        self._sounds.cleanup()

    def _next(self, hand: _Hand) -> None:
        """Gives a worker the next job; after the last one the batch ends."""
        while self._waiting:
            hand.task = self._waiting.popleft()
            try:
                self._send(hand, hand.task)
                return
            except errors.LipSyncError as e:
                if isinstance(e, errors.WorkerError) and len(self._busy()) > 1:
                    # No more processes are to be had; those that work do this one too.
                    self._waiting.appendleft(hand.task)
                    hand.task = None
                    self._clear_away(hand)
                    break
                self._note(hand, job.Failure(type(e).__name__, str(e), e.hint))
        if self._busy():
            hand.end()
            return
        for strip in [s for scene in self._scenes() for s in strips.all_strips(scene)]:
            if strip.get(strips.job_key) in self._marked:
                del strip[strips.job_key]
        self.close()

    def _send(self, hand: _Hand, task: Task) -> None:
        shot = task.shot
        hand.progress = job.Progress("faces", 0, shot.count)
        hand.output = self._new_output(shot.media)
        paths = shot.media.paths()
        (face, sound, start), *others = task.speeches
        request = job.RedubJob(
            speech=sound,
            output=str(hand.output),
            video=paths[0] if shot.media.filepath else "",
            images=() if shot.media.filepath else paths,
            rate=shot.rate,
            start_frame=0 if shot.still else shot.head,
            frame_count=None if shot.still else shot.count,  # Blender's FFmpeg may count otherwise than the worker's
            speech_start=start,
            face=face,
            others=tuple(others),
            silence=self._silence,
            sync_mode="loop" if shot.still else "cut_off",  # to the end of the speech, which ends with the strip
            model=self._settings.model,
            device=self._settings.device,
            quality=self._settings.quality,
            **self._picture,
        )
        hand.send(self._request(request))

    def _request(self, request: job.RedubJob) -> job.RedubJob:
        """The job as the worker gets it."""
        return request

    def _suffix(self, media: strips.Media) -> str:
        """The ending of the new media: .mov holds ProRes and DNxHR, .mp4 whatever else the core writes, images none."""
        if not media.filepath:
            return ""
        quality, movie = self._settings.quality, media.filepath.lower().endswith(".mov")
        return ".mov" if quality == "mezzanine" or (quality == "high" and movie) else ".mp4"

    def _folder(self, beside: Path) -> Path:
        """Where the new media goes whose source, or its folder, lies in `beside`."""
        chosen = os.path.expanduser(self._settings.folder)
        relative = chosen.startswith("//") or not os.path.isabs(chosen)
        if chosen and (bpy.data.filepath or not relative):  # else it lay wherever Blender was started
            return Path(bpy.data.filepath).parent / bpy.path.abspath(chosen)
        return (Path(bpy.data.filepath).parent if bpy.data.filepath else beside) / "lipsync"

    def _new_output(self, media: strips.Media) -> Path:
        """A name for the new media that nothing has and no running job was promised; makes the folder.

        Raises:
            OutputError: the folder cannot be made or written to.
        """
        source = Path(media.paths()[0])
        own = bool(media.filepath) or len(media.filenames) == 1  # a folder of images is known by its own name
        folder = self._folder(source.parent if own else source.parent.parent)
        try:
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            folder = folder.resolve()
            if made:
                self._made.add(folder)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            raise errors.OutputError(
                f"New media cannot be written to {folder} ({reason}).", "Choose another folder in the preferences."
            ) from None
        stem = _cut(source.stem if own else source.parent.name)
        suffix = self._suffix(media)
        promised = {str(hand.output).casefold() for hand in self._busy()}  # many disks do not tell A from a
        takes = (folder / f"{stem}_lipsync_{take:03d}{suffix}" for take in count(1))
        return next(take for take in takes if str(take).casefold() not in promised and not os.path.lexists(take))

    def _scenes(self) -> list[bpy.types.Scene]:
        """The batch's scene, fetched anew: an undo invalidates what was held. Empty if it is gone."""
        return [scene for scene in bpy.data.scenes if scene.session_uid == self._scene]

    def _finish(self, hand: _Hand, result: job.Result) -> bool:
        assert hand.task
        task, shot = hand.task, hand.task.shot
        if result.frames != shot.count:  # the pictures would slide against the strip's handles
            client.remove(hand.output)
            client.remove(hand.output.with_name(f"{hand.output.name}.lipsync.json"))
            message = f"The new media has {result.frames} frames, but the strip needs {shot.count}."
            self._end_task(hand, job.Failure("MediaError", message, "Convert the footage to an even frame rate first."))
            return False
        hand.task, hand.output = None, Path()
        self._ended += 1
        changed = self._use(task, result)
        self._next(hand)
        return changed

    def _use(self, task: Task, result: job.Result) -> bool:
        """Gives the strip its new media; whether it has got them."""
        shot = task.shot
        found = [strip for scene in self._scenes() for strip in strips.find(scene, shot)]
        changed = False
        kept = f"Its new media is {result.output}."
        for strip in found:
            try:
                strips.swap(strip, shot, result.output, result.images)
                changed = True
            except errors.LipSyncError as e:
                self.problems.append(f"{e} {kept} {e.hint}".strip())
        if not found:
            self.problems.append(f"The strip “{shot.name}” is gone or plays something else by now. {kept}")
        if changed:
            self.done.append(self._told(task, result))
        return changed

    def _told(self, task: Task, result: job.Result) -> str:
        heard = [f"“{name}”" for name in task.heard[:named_at_most]]
        if len(task.heard) > named_at_most:
            heard[-1:] = [f"{len(task.heard) - named_at_most + 1} more"]
        lips = f"{result.changed} of {result.frames} frames have new lips, which follow {', '.join(heard)}."
        return " ".join((f"{task.shot.name}: {lips}", *result.warnings))

    def _end_task(self, hand: _Hand, failure: job.Failure) -> None:
        """Notes why the running strip stays as it is, and goes on with the next one."""
        self._note(hand, failure)
        self._next(hand)

    def _note(self, hand: _Hand, failure: job.Failure) -> None:
        assert hand.task
        shot, hand.task = hand.task.shot, None
        self._ended += 1
        if failure.kind == "Cancelled":
            self.cancelled = True
        else:
            self.problems.append(f"{shot.name}: {failure.message} {failure.hint}".strip())
        if failure.kind in ("Crash", "Cancelled"):
            hand.end()
        self._clear_away(hand)

    def _clear_away(self, hand: _Hand) -> None:
        """Removes what an ended job has left, and its folder, if that was made for these strips and is empty."""
        output, hand.output = hand.output, Path()
        if not output.name:  # no job was running
            return
        client.remove_leftovers(output)
        if output.parent in self._made and all(other.output.parent != output.parent for other in self._busy()):
            with suppress(OSError):  # something lies in it
                output.parent.rmdir()
                self._made.remove(output.parent)
