# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Settings kept in the .blend, on each scene."""

from typing import Any

import bpy

from .shared import job


def _number(name: str, label: str, description: str) -> Any:
    """A number that is a field of job.RedubJob, with its range and its default."""
    low, high = job.number_ranges[name]
    return bpy.props.FloatProperty(
        name=label,
        description=description,
        default=getattr(job.RedubJob, name),
        min=low,
        max=high,
        step=max(1, round(2 * (high - low))),  # hundredths: a fiftieth of the range
        precision=3,
    )


class LIPSYNC_PG_scene(bpy.types.PropertyGroup):
    speech: bpy.props.StringProperty(
        name="Speech",
        description="Sound strip whose speech the lips follow. Empty: everything that is heard over the strip",
    )
    face: bpy.props.EnumProperty(
        name="Face",
        description="Whose lips change where several people are in the picture",
        items=(
            ("largest", "Largest", "The largest face of each shot"),
            ("speaking", "Speaking", "Whose lips fit the movie's own sound best"),
        ),
    )
    silence: bpy.props.EnumProperty(
        name="Silence",
        description="What the mouth does where nobody speaks; music and noise count as silence",
        items=(
            ("rest", "Rest", "The mouth rests closed"),
            ("keep", "Original", "The original pictures are kept"),
            ("off", "Follow All Sound", "The lips follow every sound, whether or not it is a voice"),
        ),
    )
    mask: bpy.props.EnumProperty(
        name="Mask",
        description="What gets new pictures",
        items=(
            ("jaw", "Lower Face", "Mouth, cheeks and jaw"),
            ("mouth", "Mouth", "The lips and what is close to them"),
        ),
    )
    mask_padding: _number("mask_padding", "Padding", "Part of its own size by which the mask is larger, or smaller")
    mask_feather: _number("mask_feather", "Feather", "Softness of the mask's edge; it grows with the face")
    strength: _number("strength", "Strength", "How much of the new lips shows")
    sharpen: _number("sharpen", "Sharpen", "How far the new lips are sharpened to the footage's detail; 1 is alike")
    grain: _number("grain", "Grain", "How much of the skin's grain the new picture gets; 1 is as much")
    liveliness: _number("liveliness", "Liveliness", "How widely the lips move; 1 is as suits the speech and the person")
    turn_limit: _number(
        "turn_limit", "Turn Limit", "Degrees a head may be turned to a side; beyond, the original pictures are kept"
    )
    in_front: bpy.props.EnumProperty(
        name="In Front",
        description="What becomes of hands, microphones and the like before the mouth",
        items=(
            ("keep", "Keep", "They stay in front of the new lips"),
            ("ignore", "Ignore", "Nobody looks for them, which takes less time"),
        ),
    )


of_the_picture = (
    "mask",
    "mask_padding",
    "mask_feather",
    "strength",
    "sharpen",
    "grain",
    "liveliness",
    "turn_limit",
    "in_front",
)
"""Settings of a scene that are job.RedubJob's fields of the same names."""


def picture(scene: bpy.types.Scene) -> dict[str, Any]:
    """The values of `of_the_picture` as a job takes them: Blender's 0.15 is a hair above a range that ends at 0.15."""
    values = {name: getattr(scene.lipsync, name) for name in of_the_picture}
    return {name: value if isinstance(value, str) else round(value, 4) for name, value in values.items()}


def register() -> None:
    bpy.utils.register_class(LIPSYNC_PG_scene)
    bpy.types.Scene.lipsync = bpy.props.PointerProperty(type=LIPSYNC_PG_scene)


def unregister() -> None:
    del bpy.types.Scene.lipsync
    bpy.utils.unregister_class(LIPSYNC_PG_scene)
