# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Settings kept in the .blend, on each scene."""

import bpy


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
    strength: bpy.props.FloatProperty(
        name="Strength",
        description="How much of the new lips shows",
        subtype="FACTOR",
        default=1.0,
        min=0.01,
        max=1.0,
    )


def register() -> None:
    bpy.utils.register_class(LIPSYNC_PG_scene)
    bpy.types.Scene.lipsync = bpy.props.PointerProperty(type=LIPSYNC_PG_scene)


def unregister() -> None:
    del bpy.types.Scene.lipsync
    bpy.utils.unregister_class(LIPSYNC_PG_scene)
