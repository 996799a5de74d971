# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none, reportOptionalMemberAccess=none
"""The operators with which the user picks people in the preview."""

from __future__ import annotations

import bpy

from . import operators, people, strips
from .shared import errors


def preview_place(context: bpy.types.Context, event: bpy.types.Event) -> tuple[float, float] | None:
    """Where in a preview the mouse is, as people.face_at takes it; None where it is over something else."""
    for area in context.screen.areas:
        if area.type != "SEQUENCE_EDITOR":
            continue
        for region in area.regions:
            x, y = event.mouse_x - region.x, event.mouse_y - region.y
            if region.type == "PREVIEW" and 0 <= x < region.width and 0 <= y < region.height:
                return region.view2d.region_to_view(x, y)
    return None


class LIPSYNC_OT_pick_person(bpy.types.Operator):
    """Click on a face in the preview: the lips of this person of the active strip are re-dubbed, and nobody else's"""

    bl_idname = "lipsync.pick_person"
    bl_label = "Pick Person in Preview"
    bl_options = {"REGISTER", "UNDO"}

    place: bpy.props.FloatVectorProperty(
        name="Place",
        description="In the preview: pixels of the render from its middle to the right and upwards",
        size=2,
        subtype="COORDINATES",
    )

    @classmethod
    def poll(cls, context):
        scene = strips.scene_of(context)
        if not (scene and strips.active(scene)):
            cls.poll_message_set("No movie or image strip is active")
            return False
        return operators.running is None

    def execute(self, context):
        scene = strips.scene_of(context)
        strip = strips.active(scene)
        try:
            face = people.face_at(strip, scene, scene.frame_current, self.place)
        except errors.LipSyncError as e:
            return operators.report_error(self, e)
        person = strip.lipsync_people.add()
        person.name, person.face = f"Person {len(strip.lipsync_people)}", face
        return {"FINISHED"}

    def invoke(self, context, event):
        if not any(
            area.type == "SEQUENCE_EDITOR" and area.spaces.active.view_type != "SEQUENCER"
            for area in context.screen.areas
        ):
            error = errors.LipSyncError("No preview is open.", "Set a sequencer's view type to Preview.")
            return operators.report_error(self, error)
        context.window.cursor_modal_set("EYEDROPPER")
        context.workspace.status_text_set("Lip Sync: click on a face in the preview   |   ESC: Cancel")
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        if event.value == "PRESS" and event.type in {"ESC", "RIGHTMOUSE"}:
            self.cancel(context)
            return {"CANCELLED"}
        place = preview_place(context, event) if (event.type, event.value) == ("LEFTMOUSE", "PRESS") else None
        if place is None:  # the user may go to another frame first
            return {"PASS_THROUGH"}
        self.cancel(context)
        self.place = place
        return self.execute(context)

    def cancel(self, context):
        context.window.cursor_modal_restore()
        operators.clear_status(context)
        operators.redraw(context)


class LIPSYNC_OT_remove_person(bpy.types.Operator):
    """Forget this person; where nobody is picked, Face tells whose lips change"""

    bl_idname = "lipsync.remove_person"
    bl_label = "Remove Person"
    bl_options = {"REGISTER", "UNDO"}

    index: bpy.props.IntProperty(name="Index", min=0)

    @classmethod
    def poll(cls, context):
        scene = strips.scene_of(context)
        return bool(scene and strips.active(scene))

    def execute(self, context):
        known = strips.active(strips.scene_of(context)).lipsync_people
        if self.index >= len(known):
            return {"CANCELLED"}
        known.remove(self.index)
        return {"FINISHED"}


classes = LIPSYNC_OT_pick_person, LIPSYNC_OT_remove_person


def register() -> None:
    for cls in classes:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(classes):
        bpy.utils.unregister_class(cls)
