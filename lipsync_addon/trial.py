# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""A few seconds around the playhead, as a movie to look at before the whole strip is made. No strip changes by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import bpy

from . import batch, operators, people, preferences, runtime, speech, strips
from .shared import errors, job


def around(shot: strips.Shot, playhead: int, seconds: float, clicked: Sequence[int] = ()) -> strips.Shot:
    """The part of a shot that is seen so many seconds around a timeline frame, or all if it is shorter.

    Args:
        clicked: source frames that have to be in it, because a click into them tells who is meant.

    Raises:
        LipSyncError: the shot is not seen there.
    """
    start, end = shot.visible
    if not start <= playhead < end:
        raise errors.LipSyncError(
            f"The playhead is not over the strip “{shot.name}”.", "Move it to the moment to be tried."
        )
    length = min(max(round(seconds * shot.timeline_rate), 1), end - start)
    first = min(max(playhead - length // 2, start), end - length)
    if shot.still:
        head = shot.head + first - start
        return replace(shot, head=head, count=length, begin=Fraction(first), visible=(first, first + length))
    speed = shot.rate / shot.timeline_rate
    of_source = [floor((first - shot.begin) * speed), floor((first + length - 1 - shot.begin) * speed)]
    of_source += [frame - shot.head for frame in clicked]
    low = min(max(min(of_source), 0), shot.count - 1)
    high = min(max(*of_source, low), shot.count - 1)
    begin = shot.begin + low / speed
    seen = max(floor(begin), start), min(ceil(begin + (high + 1 - low) / speed), end)
    return replace(shot, head=shot.head + low, count=high + 1 - low, begin=begin, visible=seen)


class Trial(batch.Batch):
    """One strip's few seconds, in the folder of temporary files that Blender removes when it quits.

    Args:
        strip: the movie or image strip.
        seconds: how long the movie is to be.
    """

    def __init__(self, scene: bpy.types.Scene, strip: Any, settings: batch.Settings, seconds: float) -> None:
        self.movie = ""
        """The movie that was made."""
        self._seconds = seconds
        super().__init__(scene, [strip], settings, scene.lipsync.speech)

    def _asked(self, scene: bpy.types.Scene, strip: Any, key: str) -> tuple[strips.Shot, tuple[people.Person, ...]]:
        """The part around the playhead, and those who say something in it."""
        whole, known = super()._asked(scene, strip, key)
        shot = around(whole, scene.frame_current, self._seconds)
        heard = tuple(person for person in known if not _quiet(scene, shot, person.speech))
        if not heard:
            raise errors.SpeechError(
                f"No speech is heard here over the strip “{shot.name}”.", "Move the playhead to where somebody speaks."
            )
        return around(whole, scene.frame_current, self._seconds, people.clicked(heard)), heard

    def _suffix(self, media: strips.Media) -> str:
        return ".mp4"

    def _folder(self, beside: Path) -> Path:
        return Path(bpy.app.tempdir, "lipsync")

    def _request(self, request: job.RedubJob) -> job.RedubJob:
        """With the speech as its sound, and such that any player plays it."""
        return replace(request, sound="speech", quality="web")

    def _use(self, task: batch.Task, result: job.Result) -> bool:
        self.movie = result.output
        self.done.append(f"Trial of {self._told(task, result)}")
        return False


def _quiet(scene: bpy.types.Scene, shot: strips.Shot, named: str) -> bool:
    """Whether a speech (all that are heard, if none is named) is there, but not over this shot."""
    if named and named not in {s.name for s in strips.all_strips(scene)}:
        return False
    try:
        speech.over(scene, shot, named)
    except errors.SpeechError:
        return True
    return False


class LIPSYNC_OT_trial(operators.Waits, bpy.types.Operator):
    """Make a few seconds of the active strip around the playhead and play them; the strip stays as it is"""

    bl_idname = "lipsync.trial"
    bl_label = "Try at Playhead"
    bl_options = {"REGISTER"}

    seconds: bpy.props.FloatProperty(
        name="Seconds", description="How much of the strip is made", default=3, min=0.5, max=60
    )

    def begin(self, context: bpy.types.Context) -> batch.Batch:
        """Starts with the active strip."""
        scene = strips.scene_of(context)
        strip = strips.active(scene)
        if not strip:
            raise errors.LipSyncError("No movie or image strip is active.", "Click on the shot to try.")
        return Trial(scene, strip, preferences.settings(context), self.seconds)

    def finish(self, work: batch.Batch) -> set[str]:
        """Reports what has come of it, and plays it with what this computer plays movies with."""
        answer = super().finish(work)
        assert isinstance(work, Trial)
        if work.movie:
            self.report({"INFO"}, f"The trial is {work.movie}.")
            if not bpy.app.background:
                play(work.movie)
        return answer


def play(path: str) -> None:
    """Opens a movie in the system's player, which goes on by itself; where there is none nothing happens."""
    with suppress(OSError):  # wm.path_open would wait for some players to be closed, and print a traceback
        if sys.platform == "win32":
            os.startfile(path)
        else:
            command = ["open" if sys.platform == "darwin" else "xdg-open", path]
            subprocess.Popen(
                command,
                env=runtime.clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


def register() -> None:
    bpy.utils.register_class(LIPSYNC_OT_trial)


def unregister() -> None:
    bpy.utils.unregister_class(LIPSYNC_OT_trial)
