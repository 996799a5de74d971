# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""The speech under a strip: the sounds that are heard there, mixed down to a file by Blender itself."""

from __future__ import annotations

import os
import wave
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import bpy

from . import strips
from .shared import errors

sample_rate = 16000
"""Hz; what the core works with, so Blender's resampling is the only one."""
margin = Fraction(1)
"""Seconds mixed beyond the visible frames, for those that become visible when the user moves a handle."""


def over(scene: bpy.types.Scene, shot: strips.Shot, named: str = "") -> set[str]:
    """Names of the strips heard while the shot is visible; or only of the one that the user has named.

    Raises:
        SpeechError: there is none.
    """
    sounds = {s.name: s for s in strips.all_strips(scene) if strips.sounds_of(s)}
    if named and named not in sounds:
        raise errors.SpeechError(f"There is no sound strip “{named}”.", "Choose the speech again.")
    overlapping = {name for name, s in sounds.items() if _overlap(strips.seen(s), shot.visible)}
    if named and named not in overlapping:
        raise errors.SpeechError(
            f"The speech “{named}” does not lie over the strip “{shot.name}”.", "Move it there, or choose another."
        )
    heard = {named} if named else {name for name in overlapping if not strips.muted(sounds[name], scene)}
    if not heard:
        raise errors.SpeechError(f"No sound is heard over the strip “{shot.name}”.", "Put unmuted speech over it.")
    return heard


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two spans of frames, their ends exclusive, have a frame in common."""
    return max(one[0], other[0]) < min(one[1], other[1])


def _refuse_lost(strip: Any, shot: strips.Shot) -> None:
    """Blender mixes no sound whose file is gone, nor before frame 0, and does not say so: the lips would follow the
    rest.

    Raises:
        SpeechError: some of what a strip lets be heard over the shot would be lost so.
    """
    for sound in strips.sounds_of(strip):
        path = os.path.abspath(bpy.path.abspath(sound.filepath, library=sound.library))
        if not (sound.packed_file or os.path.isfile(path)):
            raise errors.SpeechError(
                f"The sound “{strip.name}” has lost its file: {path}.", "Put it back, or mute it if it is no speech."
            )
    if max(strips.seen(strip)[0], shot.visible[0]) < 0:
        raise errors.SpeechError(
            f"“{strip.name}” lies over the strip “{shot.name}” before frame 0, where Blender mixes no sound.",
            "Move all strips to later frames.",
        )


def mix(scene: bpy.types.Scene, shot: strips.Shot, names: set[str], output: Path) -> Fraction:
    """Mixes the named sounds, with their volume and its animation, to a 16 kHz mono WAV file.

    The file lasts as long as the shot's pictures, to less than a sample, but ends `margin` beyond the visible frames.

    Returns:
        When it begins, in seconds after the first of the shot's source frames.

    Raises:
        SpeechError: Blender cannot mix all of it, or nothing but silence comes out.
    """
    for strip in strips.all_strips(scene):
        if strip.name in names:
            _refuse_lost(strip, shot)
    end = shot.begin + shot.count * shot.timeline_rate / shot.rate
    spare = margin * shot.timeline_rate
    # Blender mixes from frame 0 at the earliest.
    first = max(floor(shot.begin), floor(shot.visible[0] - spare), 0)
    stop = max(min(ceil(end), ceil(shot.visible[1] + spare)), first + 1)
    copy = scene.copy()
    try:
        strips.leave_only(copy, names)
        copy.frame_start, copy.frame_end = first, stop - 1
        copy.use_audio = True  # else a scene whose playback is off is silent
        copy.audio_volume = 1
        copy.render.ffmpeg.audio_mixrate = sample_rate  # Blender 4.2 reads it here, later ones in the arguments
        copy.render.ffmpeg.audio_channels = "MONO"
        arguments = {
            "filepath": str(output),
            "check_existing": False,
            "container": "WAV",
            "codec": "PCM",
            "format": "S16",
            "mixrate": sample_rate,
            "channels": "MONO",
        }
        known = bpy.ops.sound.mixdown.get_rna_type().properties.keys()
        with bpy.context.temp_override(scene=copy):
            bpy.ops.sound.mixdown(**{name: value for name, value in arguments.items() if name in known})
        if not _cut(output, floor((stop - first) / shot.timeline_rate * sample_rate)):
            raise errors.SpeechError(
                f"The sound over the strip “{shot.name}” is silent.", "Check its volume and its file."
            )
    except (RuntimeError, OSError, EOFError, wave.Error) as e:
        reason = str(e).strip().removeprefix("Error: ").rstrip(".")
        raise errors.SpeechError(f"Blender cannot mix the speech: {reason}.", "Check the sounds' files.") from None
    finally:
        strips.remove_scene(copy)
    return (first - shot.begin) / shot.timeline_rate


def _cut(path: Path, samples: int) -> bool:
    """Gives a 16 bit mono WAV file the exact length (Blender's is up to 770 samples longer); False if it is silent."""
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, sample_rate):
            raise wave.Error(f"it has mixed {file.getparams()}")
        data = file.readframes(samples).ljust(2 * samples, b"\0")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(data)
    return any(data)
