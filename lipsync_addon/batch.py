# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Re-dubs some strips, one after the other: makes the jobs, feeds the worker, swaps the media when it has answered.

The window's modal operator calls `step` from a timer, everything else calls it in a loop; both get the same.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import bpy

from . import people, properties, runtime, speech, strips
from .shared import client, errors, job

patience = 10
"""Seconds that a worker gets to give up a job before it is ended by force."""
stages = {"faces": "Finding the face", "lips": "Making the lips"}


@dataclass(frozen=True)
class Settings:
    """What the preferences say about every job."""

    python: Path
    """The worker's interpreter."""
    log: Path
    """File for what the worker writes to stderr."""
    model: str = ""
    device: str = "auto"
    quality: str = "high"
    folder: str = ""
    """Where new media go; empty: `lipsync` beside the .blend, or beside the media while the .blend has no file yet."""


@dataclass(frozen=True)
class _Task:
    shot: strips.Shot
    speeches: tuple[tuple[str, str, Fraction], ...]
    """For each person the face, as in job.RedubJob, the sound file, and when it begins after the shot's first frame."""


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
        self.total = 0
        self.progress = job.Progress("faces", 0, 0)
        self.cancelled = False
        self._scene = scene.session_uid
        self._named = named
        self._settings = settings
        self._silence = scene.lipsync.silence
        self._picture = properties.picture(scene)
        self._worker: client.Worker | None = None
        self._output = Path()
        self._made_folder = False
        self._asked_to_stop = 0.0
        self._sounds = tempfile.TemporaryDirectory(prefix="lipsync-", ignore_cleanup_errors=True)
        self._tasks = [task for strip in chosen if (task := self._prepare(scene, strip))]
        self._marked = [task.shot.key for task in self._tasks]
        self.total = len(self._tasks)
        self._next()

    def _prepare(self, scene: bpy.types.Scene, strip: Any) -> _Task | None:
        """Reads the strip and mixes its speech, both as they are when the user asks."""
        key = uuid.uuid4().hex
        try:
            shot, known = self._asked(scene, strip, key)
            speeches = []
            for number, person in enumerate(known):
                sound = Path(self._sounds.name, f"{key}_{number}.wav")
                start = speech.mix(scene, shot, speech.over(scene, shot, person.speech), sound)
                speeches.append((person.face, str(sound), start))
        except errors.LipSyncError as e:
            self.problems.append(f"{e} {e.hint}".strip())
            return None
        strip[strips.job_key] = key
        return _Task(shot, tuple(speeches))

    def _asked(self, scene: bpy.types.Scene, strip: Any, key: str) -> tuple[strips.Shot, tuple[people.Person, ...]]:
        """What is to be made of the strip, and whose lips are to say what in it."""
        return strips.read(strip, scene, key), people.of_strip(strip, scene.lipsync.face, self._named)

    @property
    def running(self) -> bool:
        return bool(self._tasks)

    @property
    def text(self) -> str:
        """What is being done, for people."""
        if self._asked_to_stop:
            return "Stopping"
        number = f"{self.total - len(self._tasks) + 1}/{self.total} " if self.total > 1 else ""
        return f"{number}{stages.get(self.progress.stage, 'Working')}"

    @property
    def fraction(self) -> float:
        """How much of the running strip is done, 0 to 1."""
        part = self.progress.done / self.progress.total if self.progress.total else 0.0
        return (part + (self.progress.stage == "lips")) / 2

    def step(self, seconds: float) -> bool:
        """Hears what the worker has said and acts on it; never much longer than the wait.

        Args:
            seconds: how long to wait for its next message.

        Returns:
            True if a strip has got new media.
        """
        deadline = time.monotonic() + seconds + 0.05
        while self._tasks and self._worker and time.monotonic() < deadline:
            if self._asked_to_stop and time.monotonic() - self._asked_to_stop > patience:
                self._end_task(job.Failure("Cancelled", ""))
                break
            message = self._worker.receive(seconds)
            if message is None:
                break
            if isinstance(message, job.Progress):
                self.progress = message
            elif isinstance(message, job.Result):
                return self._finish(message)
            elif isinstance(message, job.Failure):
                self._end_task(message)
            seconds = 0
        return False

    def cancel(self) -> None:
        """Asks the worker to give up; `step` sees the end of it. What is done stays done."""
        if self._worker and not self._asked_to_stop:
            self._asked_to_stop = time.monotonic()
            self._worker.send(job.Cancel())

    def close(self) -> None:
        """Ends the worker and removes the temporary files. Touches no strip: the file may be closing."""
        self._tasks = []
        self._end_worker()
        self._remove_leftovers()
        self._sounds.cleanup()

    def _next(self) -> None:
        """Sends the next job, or ends the batch."""
        while self._tasks:
            try:
                self._send(self._tasks[0])
                return
            except errors.LipSyncError as e:
                self._end_task(job.Failure(type(e).__name__, str(e), e.hint), then_next=False)
        for strip in [s for scene in self._scenes() for s in strips.all_strips(scene)]:
            if strip.get(strips.job_key) in self._marked:
                del strip[strips.job_key]
        self.close()

    def _send(self, task: _Task) -> None:
        shot = task.shot
        self.progress = job.Progress("faces", 0, shot.count)
        self._output = self._new_output(shot.media)
        paths = shot.media.paths()
        (face, sound, start), *others = task.speeches
        request = job.RedubJob(
            speech=sound,
            output=str(self._output),
            video=paths[0] if shot.media.filepath else "",
            images=() if shot.media.filepath else paths,
            rate=shot.rate,
            start_frame=0 if shot.still else shot.head,
            frame_count=None if shot.still or shot.count == shot.frames else shot.count,
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
        if self._worker is None:
            self._worker = client.Worker(
                runtime.command(self._settings.python), self._settings.log, runtime.clean_environment()
            )
        self._worker.send(self._request(request))

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
        chosen = self._settings.folder
        if chosen and (bpy.data.filepath or not chosen.startswith("//")):
            return Path(bpy.path.abspath(chosen))
        return (Path(bpy.data.filepath).parent if bpy.data.filepath else beside) / "lipsync"

    def _new_output(self, media: strips.Media) -> Path:
        """A name for the new media that nothing has yet; makes the folder.

        Raises:
            OutputError: the folder cannot be made or written to.
        """
        source = Path(media.paths()[0])
        own = bool(media.filepath) or len(media.filenames) == 1  # a folder of images is known by its own name
        folder = self._folder(source.parent if own else source.parent.parent)
        try:
            self._made_folder = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            raise errors.OutputError(
                f"New media cannot be written to {folder} ({reason}).", "Choose another folder in the preferences."
            ) from None
        stem = source.stem if own else source.parent.name
        suffix = self._suffix(media)
        take = 1
        while os.path.lexists(output := folder / f"{stem}_lipsync_{take:03d}{suffix}"):
            take += 1
        return output.resolve()

    def _scenes(self) -> list[bpy.types.Scene]:
        """The batch's scene, fetched anew: an undo invalidates what was held. Empty if it is gone."""
        return [scene for scene in bpy.data.scenes if scene.session_uid == self._scene]

    def _finish(self, result: job.Result) -> bool:
        shot = self._tasks[0].shot
        if result.frames != shot.count:  # the pictures would slide against the strip's handles
            client.remove(self._output)
            client.remove(self._output.with_name(f"{self._output.name}.lipsync.json"))
            message = f"The new media has {result.frames} frames, but the strip needs {shot.count}."
            self._end_task(job.Failure("MediaError", message, "Convert the footage to an even frame rate first."))
            return False
        self._tasks.pop(0)
        self._output = Path()
        changed = self._use(shot, result)
        self._next()
        return changed

    def _use(self, shot: strips.Shot, result: job.Result) -> bool:
        """Gives the strip its new media; whether it has got them."""
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
            self.done.append(self._told(shot, result))
        return changed

    def _told(self, shot: strips.Shot, result: job.Result) -> str:
        notes = " ".join(result.warnings)
        return f"{shot.name}: {result.changed} of {result.frames} frames have new lips. {notes}".strip()

    def _end_task(self, failure: job.Failure, then_next: bool = True) -> None:
        """Notes why the running strip stays as it is, and goes on with the next one."""
        shot = self._tasks.pop(0).shot
        if failure.kind == "Cancelled":
            self.cancelled = True
            self._tasks = []
        else:
            self.problems.append(f"{shot.name}: {failure.message} {failure.hint}".strip())
        if failure.kind in ("Crash", "Cancelled"):
            self._end_worker()
        self._remove_leftovers()
        if then_next:
            self._next()

    def _end_worker(self) -> None:
        if self._worker:
            self._worker.close()
            self._worker = None

    def _remove_leftovers(self) -> None:
        """What an ended worker could not remove itself, and the folder, if it was made for the job and stayed empty."""
        output, self._output = self._output, Path()
        if not output.name:  # no job is running
            return
        client.remove_leftovers(output)
        if self._made_folder:
            with suppress(OSError):  # something lies in it
                output.parent.rmdir()
