# SPDX-License-Identifier: GPL-3.0-or-later
"""A timeline with strips of numbered pictures."""

from __future__ import annotations

import json
from fractions import Fraction
from math import floor

import footage
import pytest


class Cut:
    def __init__(self, addon, folder):
        import bpy

        self.addon, self.folder, self.scene = addon, folder, bpy.context.scene
        self.scene.render.fps, self.scene.render.fps_base = 25, 1
        self.scene.render.resolution_x, self.scene.render.resolution_y = footage.width, footage.height
        self.editor = self.scene.sequence_editor_create()
        if "sequencer_scene" in bpy.types.WorkSpace.bl_rna.properties:
            for workspace in bpy.data.workspaces:
                workspace.sequencer_scene = self.scene
        self.count = 0

    @property
    def strips(self):
        return self.editor.strips if hasattr(self.editor, "strips") else self.editor.sequences

    def movie(self, path, start=1, channel=1, name="shot"):
        strip = self.strips.new_movie(name=name, filepath=str(path), channel=channel, frame_start=start)
        strip.select = True
        return strip

    def images(self, paths, start=1, channel=1, name="shot"):
        strip = self.strips.new_image(name=name, filepath=str(paths[0]), channel=channel, frame_start=start)
        for path in paths[1:]:
            strip.elements.append(path.name)
        strip.select = True
        return strip

    def window_movie(self, path, start):
        """A movie added as the window's menu does it: played at its own rate, whatever the scene's."""
        import bpy

        known = bpy.ops.sequencer.movie_strip_add.get_rna_type().properties.keys()
        adjust = {"adjust_playback_rate": True} if "adjust_playback_rate" in known else {}
        given = {"filepath": str(path), "sound": False, "use_framerate": False, **adjust}
        return self.added_in_window("MOVIE", bpy.ops.sequencer.movie_strip_add, frame_start=start, **given)

    def window_still(self, path, start, frames):
        """A picture added as the window's menu does it."""
        import bpy

        operator = bpy.ops.sequencer.image_strip_add
        known = operator.get_rna_type().properties.keys()
        length = {"length": frames} if "length" in known else {"frame_end": start + frames}
        given = {"directory": str(path.parent), "files": [{"name": path.name}], **length}
        return self.added_in_window("IMAGE", operator, frame_start=start, **given)

    def added_in_window(self, kind, operator, **given):
        import bpy

        window = bpy.context.window_manager.windows[0]
        area = window.screen.areas[0]
        area.ui_type = "SEQUENCE_EDITOR"
        area.spaces.active.view_type = "SEQUENCER"
        if "move_strips" in operator.get_rna_type().properties:
            given["move_strips"] = False
        with bpy.context.temp_override(window=window, screen=window.screen, area=area):
            operator(channel=1, **given)
        strip = next(s for s in self.addon.strips.all_strips(self.scene) if s.type == kind)
        strip.name, strip.select = "shot", True
        return strip

    def trim(self, strip, first, end):
        """Moves the handles; `end` exclusive."""
        names = self.addon.strips._handles
        setattr(strip, names[1], end)  # first: a still's left handle goes no further than its right one
        setattr(strip, names[0], first)

    def effect(self, kind, strip):
        import bpy

        first, end = self.addon.strips.visible(strip)
        length = {"length": end - first} if bpy.app.version >= (5, 0) else {"frame_end": end}
        known = self.strips.bl_rna.functions["new_effect"].parameters.keys()
        return self.strips.new_effect(
            name="effect", type=kind, channel=2, frame_start=first, **length,
            **{"input1" if "input1" in known else "seq1": strip},
        )  # fmt: skip

    def speech(self, start=1, seconds=12.0, clicks=(), channel=8, name="speech", level=3000):
        self.count += 1
        path = footage.sound(self.folder / f"speech{self.count}.wav", seconds, clicks, level)
        try:
            strip = self.strips.new_sound(name=name, filepath=str(path), channel=channel, frame_start=start)
        except RuntimeError as e:  # the 4.2 module is built without sound: its strips can be tested all the same
            if clicks:
                pytest.skip(f"this bpy has no sound: {str(e).strip()}")
            self.addon.speech.over = lambda scene, shot, named: {name}
            self.addon.speech.mix = tone_mix
            return None
        strip.select = False
        return strip

    def state(self, strip):
        """Everything about a strip that an editor could miss."""
        kept = {
            p.identifier: _plain(getattr(strip, p.identifier))
            for p in strip.bl_rna.properties
            if not p.is_readonly and p.type in {"BOOLEAN", "INT", "FLOAT", "STRING", "ENUM"}
            and p.identifier not in {"strobe", "select", "select_left_handle", "select_right_handle"}
        }  # fmt: skip
        kept["transform"] = [_plain(getattr(strip.transform, n)) for n in ("offset_x", "scale_x", "rotation")]
        kept["elements"] = [e.filename for e in strip.elements] if strip.type == "IMAGE" else None
        kept["custom"] = {k: v for k, v in strip.items() if isinstance(v, (int, float, str))}
        return kept

    def shown(self, first, last, name):
        return footage.shown(self.scene, first, last, self.folder / name)

    def redub(self):
        import bpy

        return bpy.ops.lipsync.redub()

    def reopened(self, blend):
        """The only movie strip of a saved .blend, which is opened."""
        import bpy

        bpy.ops.wm.open_mainfile(filepath=str(blend))
        self.scene = bpy.context.scene
        self.editor = self.scene.sequence_editor
        (strip,) = [s for s in self.addon.strips.all_strips(self.scene) if s.type == "MOVIE"]
        return strip

    def jobs(self, echo):
        return [json.loads((echo / f"{i}.json").read_text()) for i in range(len(list(echo.glob("*.json"))))]

    def hanging(self, echo):
        """The processes that hang or did, by the name of the new media."""
        return {path.read_text(): int(path.suffix[1:]) for path in sorted(echo.glob("hanging.*"))}


def tone_mix(scene, shot, names, output):
    """A tone for as long as the shot's pictures, in the place of speech.mix."""
    footage.sound(output, floor(shot.count / shot.rate * 16000) / 16000)
    return Fraction(0)


def _plain(value):
    return tuple(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
