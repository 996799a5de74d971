# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""The sequencer's sidebar and menus. Nothing here opens a file: it is drawn with every move of the mouse."""

import textwrap

import bpy

from . import operators, preferences, properties, strips
from .shared import errors


class LIPSYNC_PT_sequencer(bpy.types.Panel):
    bl_label = "Lip Sync"
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "Lip Sync"

    @classmethod
    def poll(cls, context):
        return strips.scene_of(context) is not None

    def draw(self, context):
        layout = self.layout
        scene = strips.scene_of(context)
        work = operators.running
        if work:
            layout.progress(factor=work.fraction, text=f"{work.text}  {work.fraction:.0%}")
            layout.operator("lipsync.cancel", text="Cancel", icon="X")
            return
        if scene.sequence_editor is None:
            layout.label(text="No strips yet", icon="INFO")
            return

        chosen = strips.selected(context)
        redubbed = [strip for strip in chosen if strips.record_of(strip)]
        column = layout.column(align=True)
        column.label(text="Speech")
        collection = strips.collection_name(scene)
        column.prop_search(scene.lipsync, "speech", scene.sequence_editor, collection, text="", icon="SOUND")
        if not scene.lipsync.speech:
            small = column.column()
            small.active = False
            small.label(text="All sound over the strip")
        active = strips.active(scene)
        if active not in chosen:
            active = None
        row = column.row()
        row.active = not (active and len(active.lipsync_people))
        row.prop(scene.lipsync, "face")
        if active:
            _draw_people(layout, scene, active, collection)
        layout.prop(scene.lipsync, "silence")

        column = layout.column(align=True)
        column.scale_y = 1.4
        column.enabled = bool(chosen)
        count = f"{len(chosen)} Strips" if len(chosen) > 1 else "Strip"
        column.operator("lipsync.redub", text=f"Re-dub {count}", icon="PLAY_SOUND")
        row = layout.row()
        row.enabled = active is not None
        row.operator("lipsync.trial", icon="PLAY")
        row = layout.row()
        row.enabled = bool(redubbed)
        row.operator("lipsync.revert", icon="LOOP_BACK")
        for strip in redubbed[:3]:
            _wrapped(context, layout, f"Original: {strips.original_name(strip)}", "FILE_MOVIE")
            if strips.outgrown(strip):
                text = f"“{strip.name}” is longer than its new media and stands still there. Re-dub it again."
                _wrapped(context, layout.box(), text, "ERROR")

        try:
            preferences.find_python(context)
        except errors.LipSyncError as e:
            box = layout.box()
            _wrapped(context, box, f"{e} {e.hint}", "ERROR")
            box.operator("preferences.addon_show", text="Open Preferences").module = preferences.package
        if not chosen:
            layout.label(text="Select a movie or image strip", icon="INFO")
        for icon, text in operators.messages:
            _wrapped(context, layout.box(), text, icon)


class LIPSYNC_PT_picture(bpy.types.Panel):
    bl_label = "Picture"
    bl_parent_id = "LIPSYNC_PT_sequencer"
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "Lip Sync"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        for name in properties.of_the_picture:
            column.prop(strips.scene_of(context).lipsync, name)


def _draw_people(layout, scene, strip, collection: str) -> None:
    """Who of a strip was picked, with what they say."""
    column = layout.column()
    for index, person in enumerate(strip.lipsync_people):
        box = column.box().column(align=True)
        row = box.row(align=True)
        row.prop(person, "name", text="", icon="USER")
        row.operator("lipsync.remove_person", text="", icon="X").index = index
        box.prop_search(person, "speech", scene.sequence_editor, collection, text="", icon="SOUND")
    column.operator("lipsync.pick_person", icon="EYEDROPPER")


def _wrapped(context, layout, text: str, icon: str) -> None:
    """A text over as many lines as the sidebar's width needs."""
    scale = context.preferences.system.ui_scale
    width = max(int(context.region.width / scale / 6.5) - 8, 12)  # 6.5 pixels a letter, and the borders
    column = layout.column(align=True)
    column.scale_y = 0.8
    for number, line in enumerate(textwrap.wrap(text, width)):
        column.label(text=line, icon="BLANK1" if number else icon)


def draw_menu(self, context):
    self.layout.separator()
    self.layout.operator("lipsync.redub", icon="PLAY_SOUND")
    self.layout.operator("lipsync.trial")
    self.layout.operator("lipsync.revert")


menus = ("SEQUENCER_MT_strip", "SEQUENCER_MT_context_menu")


classes = (LIPSYNC_PT_sequencer, LIPSYNC_PT_picture)


def register() -> None:
    for cls in classes:
        bpy.utils.register_class(cls)
    for name in menus:
        getattr(bpy.types, name).append(draw_menu)


def unregister() -> None:
    for name in menus:
        getattr(bpy.types, name).remove(draw_menu)
    for cls in reversed(classes):
        bpy.utils.unregister_class(cls)
