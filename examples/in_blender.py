# SPDX-License-Identifier: GPL-3.0-or-later
"""The demonstration's part inside Blender, in a process of its own: strips, the operator, the .blend.

Run by demo.py, with BLENDER_USER_RESOURCES naming an empty folder, so that no settings of the user's are touched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from fractions import Fraction
from pathlib import Path
from typing import Any

import bpy

package = "bl_ext.user_default.lip_sync_redub"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("extension", "video", "speech", "blend", "answer"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rate", type=Fraction, required=True)
    arguments = parser.parse_args()
    try:
        answer = _redub(arguments)
    except RuntimeError as error:  # what an operator reports
        answer = {"problem": str(error).strip().removeprefix("Error: ")}
    arguments.answer.write_text(json.dumps(answer), encoding="utf-8")


def _redub(arguments: argparse.Namespace) -> dict[str, Any]:
    _install(arguments.extension)
    strip = _build_scene(arguments.video, arguments.speech, arguments.rate)
    bpy.ops.wm.save_as_mainfile(filepath=str(arguments.blend))
    heard = _listen_to_worker()
    begin = time.monotonic()
    bpy.ops.lipsync.redub()
    seconds = time.monotonic() - begin
    media = Path(bpy.path.abspath(strip.filepath))
    if media == arguments.video:
        raise RuntimeError("The operator ended well, but the strip still plays the old media.")
    bpy.ops.wm.save_mainfile()
    return {"media": str(media), "seconds": round(seconds, 2), "blender": bpy.app.version_string, **heard}


def _install(extension: Path) -> None:
    """Installs and enables the built extension; its worker runs with the Python that runs this."""
    bpy.ops.extensions.package_install_files(filepath=str(extension), repo="user_default", enable_on_install=True)
    preferences = bpy.context.preferences
    preferences.addons[package].preferences.python = sys.executable
    preferences.filepaths.save_version = 0  # no film.blend1 beside film.blend


def _build_scene(video: Path, speech: Path, rate: Fraction) -> Any:
    """A scene with the movie on channel 1, selected, and the speech on channel 2. Returns the movie strip."""
    scene = bpy.context.scene
    whole = round(rate) if rate.denominator in (1, 1001) else 1000
    scene.render.fps, scene.render.fps_base = whole, float(whole / rate)
    editor = scene.sequence_editor_create()
    movie = editor.strips.new_movie(name="Shot", filepath=str(video), channel=1, frame_start=1)
    editor.strips.new_sound(name="Speech", filepath=str(speech), channel=2, frame_start=1)
    for strip in editor.strips:
        strip.select = strip == movie
    scene.frame_start, scene.frame_end = 1, movie.frame_final_duration
    return movie


def _listen_to_worker() -> dict[str, Any]:
    """A dict that gets the job sent to the worker and the result it answers with, for the report."""
    client, job = (sys.modules[f"{package}.core.{name}"] for name in ("client", "job"))
    heard: dict[str, Any] = {}

    class Tapped(client.Worker):
        def send(self, message: Any) -> None:
            heard[message.type] = json.loads(job.to_json(message))
            super().send(message)

        def receive(self, seconds: float) -> Any:
            message = super().receive(seconds)
            if message is not None:
                heard[message.type] = json.loads(job.to_json(message))
            return message

    vars(client)["Worker"] = Tapped
    return heard


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    shutil.rmtree(bpy.app.tempdir, ignore_errors=True)
    os._exit(status)  # bpy can hang when it is unloaded, which would also take its temporary folder away
