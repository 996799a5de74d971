# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""The add-on's preferences: where the runtime is, and what every job has in common."""

import tempfile
from pathlib import Path

import bpy

from . import batch, runtime
from .shared import client

package = __name__.rsplit(".", 2)[0]
"""What Blender calls the add-on: the extension's root package."""


class LIPSYNC_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = package

    python: bpy.props.StringProperty(
        name="Runtime's Python",
        description="Python of the environment with Lip Sync's packages. Empty: the variable LIPSYNC_PYTHON, "
        "or the runtime installed below",
        subtype="FILE_PATH",
    )
    base_python: bpy.props.StringProperty(
        name="Python 3.11 or 3.12",
        description="Interpreter from which a runtime is made",
        subtype="FILE_PATH",
    )
    device: bpy.props.EnumProperty(
        name="Device",
        description="What does the computing",
        items=(
            ("auto", "Automatic", "The graphics card if it can be used"),
            ("cpu", "CPU", "The processor"),
            ("cuda", "CUDA", "The NVIDIA graphics card"),
        ),
    )
    model: bpy.props.StringProperty(
        name="Model",
        description="Checkpoint (.safetensors) to use. Empty: the bundled one",
        subtype="FILE_PATH",
    )
    quality: bpy.props.EnumProperty(
        name="Quality",
        description="How new media are compressed",
        items=(
            ("high", "High", "Visually lossless; ProRes, DNxHR and HEVC footage stays what it is where that can be"),
            ("lossless", "Lossless", "Every pixel outside the mouth is kept exactly"),
            ("mezzanine", "Mezzanine", "ProRes 422 HQ, or 4444 for footage with transparency or full colour"),
            ("web", "Web", "H.264 of 8 bit that every browser plays"),
        ),
    )
    workers: bpy.props.IntProperty(
        name="Strips at a Time",
        description="How many strips are made at once. Each takes the memory of one; they divide the processor's cores",
        default=1,
        min=1,
        max=client.most_workers,
        soft_max=16,
    )
    folder: bpy.props.StringProperty(
        name="New Media",
        description="Folder for new media, from the .blend if not written in full. Empty: the folder lipsync beside "
        "the .blend, or beside the media while the .blend is not saved",
        subtype="DIR_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.prop(self, "python")
        column.operator("lipsync.check_runtime", icon="CHECKMARK")
        column = layout.column()
        column.prop(self, "base_python")
        column.operator("lipsync.install_runtime", icon="IMPORT")
        column = layout.column()
        for name in ("device", "model", "quality", "workers", "folder"):
            column.prop(self, name)


def own_folder() -> Path | None:
    """The extension's folder for data, which outlives upgrades; None if this is not installed as an extension."""
    try:
        return Path(bpy.utils.extension_path_user(package))
    except ValueError:
        return None


def log_file(name: str) -> Path:
    """Where a log goes."""
    return (own_folder() or Path(tempfile.gettempdir(), "lipsync")) / "logs" / f"{name}.log"


def runtime_folder() -> Path | None:
    """Where the runtime goes that the user installs from the preferences."""
    folder = own_folder()
    return folder / "runtime" if folder else None


def find_python(context: bpy.types.Context) -> Path:
    """The worker's interpreter.

    Raises:
        LipSyncError: there is none.
    """
    addon = context.preferences.addons.get(package)
    return runtime.find(bpy.path.abspath(addon.preferences.python) if addon else "", runtime_folder())


def settings(context: bpy.types.Context) -> batch.Settings:
    """What the preferences say about every job.

    Raises:
        LipSyncError: there is no runtime.
    """
    python, log = find_python(context), log_file("worker")
    addon = context.preferences.addons.get(package)
    if addon is None:  # registered by hand in a Python that has bpy
        return batch.Settings(python, log)
    chosen = addon.preferences
    return batch.Settings(
        python,
        log,
        model=bpy.path.abspath(chosen.model),
        device=chosen.device,
        quality=chosen.quality,
        folder=chosen.folder,
        workers=chosen.workers,
    )


def register() -> None:
    bpy.utils.register_class(LIPSYNC_AP_preferences)


def unregister() -> None:
    bpy.utils.unregister_class(LIPSYNC_AP_preferences)
