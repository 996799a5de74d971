# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Settings kept in the .blend, on each scene."""

import bpy


class LIPSYNC_PG_scene(bpy.types.PropertyGroup):
    speech: bpy.props.StringProperty(
        name="Speech",
        description="Sound strip whose speech the lips follow. Empty: everything that is heard over the strip",
    )


def register() -> None:
    bpy.utils.register_class(LIPSYNC_PG_scene)
    bpy.types.Scene.lipsync = bpy.props.PointerProperty(type=LIPSYNC_PG_scene)


def unregister() -> None:
    del bpy.types.Scene.lipsync
    bpy.utils.unregister_class(LIPSYNC_PG_scene)
