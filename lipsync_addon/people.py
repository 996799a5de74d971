# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Whose lips change in a strip with several people: the user clicks on faces in the preview, each says a speech."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, floor, sin
from typing import Any

import bpy

from . import strips
from .shared import errors, job

nothing = 1e-9
"""The scale of a picture that is scaled to nothing."""


class LIPSYNC_PG_person(bpy.types.PropertyGroup):
    """One of the people of a strip; `name` is the user's."""

    face: bpy.props.StringProperty(name="Face", description="Frame of the source, and pixel there: at:FRAME,X,Y")
    speech: bpy.props.StringProperty(
        name="Speech",
        description="Sound strip that this person says. Empty: the speech above, where only one person is picked",
    )


@dataclass(frozen=True)
class Person:
    """Whose lips say what."""

    face: str
    """As in job.RedubJob."""
    speech: str
    """Name of a sound strip; empty: all that are heard."""


def clicked(known: Sequence[Person]) -> tuple[int, ...]:
    """The source frames in which they were picked: without them nobody could tell who is meant."""
    clicks = [re.match(r"at:(\d+)", person.face, re.ASCII) for person in known]
    return tuple(int(click[1]) for click in clicks if click)


def of_strip(strip: Any, face: str, speech: str) -> tuple[Person, ...]:
    """The people of a strip, at least one.

    Args:
        face: who it is where nobody was picked, as in job.RedubJob.
        speech: name of the sound strip of the only one, unless they have one of their own.

    Raises:
        LipSyncError: several have no speech of their own, or the .blend says what no pick says.
    """
    picked = [Person(p.face, p.speech) for p in strip.lipsync_people]
    if any(not job.face_form.fullmatch(person.face) for person in picked):
        raise errors.LipSyncError(
            f"A picked person of the strip “{strip.name}” has no place in the picture.", "Remove and pick them again."
        )
    if len(picked) > 1 and not all(person.speech for person in picked):
        raise errors.LipSyncError(
            f"Several people are picked in the strip “{strip.name}”.", "Choose a speech for each of them."
        )
    if len(picked) == 1:
        return (Person(picked[0].face, picked[0].speech or speech),)
    return tuple(picked) or (Person(face, speech),)


def face_at(strip: Any, scene: bpy.types.Scene, frame: int, place: Sequence[float]) -> str:
    """What a click in the preview means, as job.RedubJob names faces.

    Args:
        strip: a movie or image strip.
        frame: the timeline's.
        place: x and y in the preview, in pixels of the render from its middle to the right and upwards.

    Raises:
        LipSyncError: the strip is not seen there.
    """
    shot = strips.read(strip, scene, "")
    if not shot.visible[0] <= frame < shot.visible[1]:
        raise errors.LipSyncError(
            f"The strip “{strip.name}” is not seen at frame {frame}.", "Move the playhead over it."
        )
    source = 0
    if not shot.still:
        source = shot.head + floor((frame - shot.begin) * shot.rate / shot.timeline_rate)
        source = min(max(source, shot.head), shot.head + shot.count - 1)
    element = strip.elements[0]
    width, height = element.orig_width, element.orig_height
    x, y = _in_source(strip, scene, (width, height), place)
    if not (0 <= x < width and 0 <= y < height):
        raise errors.LipSyncError(f"That is not in the picture of the strip “{strip.name}”.", "Click on a face.")
    return f"at:{source},{int(x)},{min(int(height - y), height - 1)}"


def _in_source(
    strip: Any, scene: bpy.types.Scene, size: tuple[int, int], place: Sequence[float]
) -> tuple[float, float]:
    """Pixels of a strip's picture, from its lower left, that are seen at a place of the preview.

    A strip's picture lies with its middle on the canvas's, is scaled and turned about its origin and moved, and the
    canvas is mirrored; a meta strip does the same with the canvas of what is in it [Blender: sequencer's render.cc].
    """
    canvas = scene.render.resolution_x, scene.render.resolution_y
    aspect = scene.render.pixel_aspect_x / scene.render.pixel_aspect_y
    x, y = place[0] / aspect + canvas[0] / 2, place[1] + canvas[1] / 2
    around = [strip]
    while parent := around[-1].parent_meta():
        around.append(parent)
    for layer in reversed(around):
        if layer.use_flip_x:
            x = canvas[0] - x
        if layer.use_flip_y:
            y = canvas[1] - y
        own = size if layer is strip else canvas
        change = layer.transform
        pivot = own[0] * change.origin[0], own[1] * change.origin[1]
        x -= (canvas[0] - own[0]) / 2 + change.offset_x + pivot[0]
        y -= (canvas[1] - own[1]) / 2 + change.offset_y + pivot[1]
        sine, cosine = sin(change.rotation), cos(change.rotation)
        x, y = cosine * x + sine * y, cosine * y - sine * x
        x, y = x / (change.scale_x or nothing) + pivot[0], y / (change.scale_y or nothing) + pivot[1]
    return x, y


def register() -> None:
    bpy.utils.register_class(LIPSYNC_PG_person)
    strips.strip_type.lipsync_people = bpy.props.CollectionProperty(type=LIPSYNC_PG_person)


def unregister() -> None:
    del strips.strip_type.lipsync_people
    bpy.utils.unregister_class(LIPSYNC_PG_person)
