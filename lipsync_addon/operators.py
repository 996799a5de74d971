# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""The operators: thin hands between Blender's window and batch, strips and runtime."""

import os
import time
import traceback
from pathlib import Path

import bpy

from . import batch, preferences, runtime, strips
from .shared import errors

tick = 0.1
"""Seconds between two looks at the workers."""

running: batch.Batch | None = None
"""The batch the window is waiting for; there is one at most."""
messages: list[tuple[str, str]] = []
"""What the last batch of the window had to say, for the panel: icon and text."""


def report_error(operator: bpy.types.Operator, error: errors.LipSyncError) -> set[str]:
    """Tells the user, and gives what the operator is to return."""
    operator.report({"ERROR"}, f"{error} {error.hint}".strip())
    return {"CANCELLED"}


def rendering() -> bool:
    """Whether Blender renders: a strip's media must not be taken away under its hands."""
    return bpy.app.is_job_running("RENDER")


def clear_status(context: bpy.types.Context) -> None:
    """Takes our text off the status bar of every workspace: each has its own, and the user may have gone to another."""
    for workspace in bpy.data.workspaces:
        with context.temp_override(workspace=workspace):
            workspace.status_text_set(None)


@bpy.app.handlers.persistent
def forget_messages(*_) -> None:
    """Another file is opened: what the panel says about strips was about the old one's."""
    messages.clear()


def redraw(context: bpy.types.Context) -> None:
    """Has every sequencer drawn anew."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "SEQUENCE_EDITOR":
                area.tag_redraw()


class Waits:
    """What operators have in common that make new pictures: the workers are waited for, in the window by a timer."""

    @classmethod
    def poll(cls, context):
        if running or rendering():
            cls.poll_message_set("A re-dub is running" if running else "A render is running")
            return False
        scene = strips.scene_of(context)
        if not (scene and scene.sequence_editor):
            cls.poll_message_set("The scene has no strips")
            return False
        return True

    def begin(self, context: bpy.types.Context) -> batch.Batch:
        """Starts the work.

        Raises:
            LipSyncError: nothing suitable is selected, or there is no runtime.
        """
        raise NotImplementedError

    def finish(self, work: batch.Batch) -> set[str]:
        """Reports what has come of it."""
        if work.problems:
            self.report({"WARNING"} if work.done else {"ERROR"}, " ".join(work.problems))
        elif work.cancelled:
            self.report({"INFO"}, "The re-dub was cancelled; strips that were not done stay as they were.")
        for line in work.done:
            self.report({"INFO"}, line)
        return {"FINISHED"} if work.done else {"CANCELLED"}

    def execute(self, context):
        """Waits for the workers: for scripts and the background."""
        try:
            work = self.begin(context)
        except errors.LipSyncError as e:
            return report_error(self, e)
        try:
            while work.running:
                work.step(tick)
        finally:
            work.close()
        return self.finish(work)

    def invoke(self, context, event):
        global running
        messages.clear()
        context.window.cursor_set("WAIT")
        try:
            running = self.begin(context)
        except errors.LipSyncError as e:
            return report_error(self, e)
        finally:
            context.window.cursor_set("DEFAULT")
        self.timer = context.window_manager.event_timer_add(tick, window=context.window)
        context.window_manager.modal_handler_add(self)
        redraw(context)
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        assert running
        if event.type == "ESC" and event.value == "PRESS":
            # While something plays or renders, that is what the key is to stop: not the work of an hour.
            if rendering() or any(w.screen.is_animation_playing for w in context.window_manager.windows):
                return {"PASS_THROUGH"}
            running.cancel()
        elif event.type != "TIMER" or rendering():
            return {"PASS_THROUGH"}
        try:
            changed = running.step(0)
        except Exception as e:  # else no other re-dub could be begun until Blender is started anew
            traceback.print_exception(e)
            self.leave(context)
            self.report({"ERROR"}, f"The re-dub ended by a fault in the add-on ({type(e).__name__}: {e}).")
            return {"CANCELLED"}
        if changed:
            # At once: without it the next undo would take the change away along with the step before.
            bpy.ops.ed.undo_push(message="Re-dub Strip")
        if running.running:
            text = f"Lip Sync: {running.text}, {running.fraction:.0%}   |   ESC: Cancel"
            context.workspace.status_text_set(text)
            redraw(context)
            return {"PASS_THROUGH"}
        work = running
        self.leave(context)
        messages.extend(("ERROR", text) for text in work.problems)
        messages.extend(("INFO", text) for text in work.done)
        redraw(context)
        return self.finish(work)

    def cancel(self, context):
        """Blender closes the file or quits."""
        self.leave(context)

    def leave(self, context: bpy.types.Context) -> None:
        global running
        if running:
            running.close()
        running = None
        context.window_manager.event_timer_remove(self.timer)
        if context.workspace:  # not when Blender quits
            clear_status(context)


class LIPSYNC_OT_redub(Waits, bpy.types.Operator):
    """Give the selected movie and image strips, also those in meta strips, lips that follow the speech under them"""

    bl_idname = "lipsync.redub"
    bl_label = "Re-dub Strips"
    bl_options = {"REGISTER"}

    def begin(self, context: bpy.types.Context) -> batch.Batch:
        """Starts with the selected strips."""
        chosen = strips.selected(context)
        if not chosen:
            raise errors.LipSyncError("No movie or image strip is selected.", strips.what_to_select(context))
        scene = strips.scene_of(context)
        return batch.Batch(scene, chosen, preferences.settings(context), scene.lipsync.speech)


class LIPSYNC_OT_cancel(bpy.types.Operator):
    """Stop the running re-dub; strips that are not done stay as they are"""

    bl_idname = "lipsync.cancel"
    bl_label = "Cancel Re-dub"

    @classmethod
    def poll(cls, context):
        return running is not None

    def execute(self, context):
        assert running
        running.cancel()
        return {"FINISHED"}


class LIPSYNC_OT_revert(bpy.types.Operator):
    """Give the selected re-dubbed strips their original media back"""

    bl_idname = "lipsync.revert"
    bl_label = "Revert to Original"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        scene = strips.scene_of(context)
        return bool(scene and scene.sequence_editor)

    def execute(self, context):
        chosen = [strip for strip in strips.selected(context) if strips.record_of(strip)]
        if not chosen:
            return report_error(
                self, errors.LipSyncError("No re-dubbed strip is selected.", "Select a strip that was re-dubbed.")
            )
        messages.clear()
        try:
            done, problems = strips.revert_each(chosen)
        except errors.LipSyncError as e:
            return report_error(self, e)
        if problems:
            self.report({"WARNING"} if done else {"ERROR"}, " ".join(problems))
        if done:
            self.report({"INFO"}, f"{done} strip(s) play the original media again.")
        return {"FINISHED"} if done else {"CANCELLED"}


class LIPSYNC_OT_check_runtime(bpy.types.Operator):
    """See whether the runtime has everything that Lip Sync needs"""

    bl_idname = "lipsync.check_runtime"
    bl_label = "Check Runtime"

    def execute(self, context):
        try:
            self.report({"INFO"}, runtime.check(preferences.find_python(context)))
        except errors.LipSyncError as e:
            return report_error(self, e)
        return {"FINISHED"}


class LIPSYNC_OT_install_runtime(bpy.types.Operator):
    """Make an environment for Lip Sync in the extension's folder and install its packages there (some gigabytes)"""

    bl_idname = "lipsync.install_runtime"
    bl_label = "Install Runtime"

    @classmethod
    def poll(cls, context):
        if not bpy.app.online_access:
            cls.poll_message_set("Allow Online Access in the preferences' System page first")
            return False
        return preferences.runtime_folder() is not None

    def begin(self, context: bpy.types.Context) -> None:
        """Gets ready; the work is done by going through `steps`.

        Raises:
            LipSyncError: no Python is named.
        """
        base = context.preferences.addons[preferences.package].preferences.base_python.strip()
        if not base:
            raise errors.LipSyncError(
                "No Python is named to make the runtime from.",
                "Give the path of a Python 3.11 or 3.12 in the add-on's preferences.",
            )
        folder = preferences.runtime_folder()
        assert folder
        python = Path(os.path.expanduser(bpy.path.abspath(base)))
        self.steps = runtime.create(python, folder, preferences.log_file("install"))

    def execute(self, context):
        try:
            self.begin(context)
            for _ in self.steps:
                time.sleep(tick)
        except errors.LipSyncError as e:
            return report_error(self, e)
        self.report({"INFO"}, "The runtime is ready.")
        return {"FINISHED"}

    def invoke(self, context, event):
        try:
            self.begin(context)
        except errors.LipSyncError as e:
            return report_error(self, e)
        self.timer = context.window_manager.event_timer_add(tick, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        if event.type == "ESC" and event.value == "PRESS":
            self.cancel(context)
            self.report({"INFO"}, "The installation was cancelled.")
            return {"CANCELLED"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        try:
            text = next(self.steps)
        except StopIteration:
            self.cancel(context)
            self.report({"INFO"}, "The runtime is ready.")
            return {"FINISHED"}
        except errors.LipSyncError as e:
            self.cancel(context)
            return report_error(self, e)
        context.workspace.status_text_set(f"Lip Sync: {text}   |   ESC: Cancel")
        return {"PASS_THROUGH"}

    def cancel(self, context):
        self.steps.close()
        context.window_manager.event_timer_remove(self.timer)
        if context.workspace:  # not when Blender quits
            clear_status(context)


classes = (
    LIPSYNC_OT_redub,
    LIPSYNC_OT_cancel,
    LIPSYNC_OT_revert,
    LIPSYNC_OT_check_runtime,
    LIPSYNC_OT_install_runtime,
)


def register() -> None:
    for cls in classes:
        bpy.utils.register_class(cls)
    bpy.app.handlers.load_post.append(forget_messages)


def unregister() -> None:
    global running
    if running:
        running.close()
        running = None
    bpy.app.handlers.load_post.remove(forget_messages)
    for cls in reversed(classes):
        bpy.utils.unregister_class(cls)
