# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sounds the lips follow: all that is heard over the shot, and a sentence where some of it would be lost."""

from __future__ import annotations

import os

import footage
import pytest

pytestmark = pytest.mark.blender


@pytest.mark.parametrize("packed", [False, True])
def test_a_speech_whose_file_is_gone_is_named_and_not_replaced_by_the_music(cut, echo, tmp_path, packed):
    """The lips sang along with the music for a whole film, and the done line was as usual."""
    import bpy

    cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    speech = cut.speech(name="her line", clicks=(0.4,))
    cut.speech(channel=9, name="music", level=300)
    path = bpy.path.abspath(speech.sound.filepath)
    if packed:
        speech.sound.pack()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    os.unlink(path)
    strip = cut.reopened(tmp_path / "film.blend")
    strip.select = True
    if packed:
        assert cut.redub() == {"FINISHED"}
        assert (footage.samples(echo / "0.wav") > 30000).any()
        return
    with pytest.raises(RuntimeError, match=r"The sound “her line” has lost its file: .*speech1\.wav\. Put it back"):
        cut.redub()
    cut.editor.active_strip = strip
    with pytest.raises(RuntimeError, match="“her line” has lost its file"):
        bpy.ops.lipsync.trial()
    assert not cut.jobs(echo)
    next(s for s in cut.addon.strips.all_strips(cut.scene) if s.name == "her line").mute = True
    assert cut.redub() == {"FINISHED"}


@pytest.mark.parametrize("depth", [1, 2])
def test_speech_in_a_scene_strip_is_heard_and_so_it_is_followed(cut, echo, tmp_path, depth):
    """Dialogue that is cut in a scene of its own: the lips followed the music beside it, or there was no speech."""
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 60))
    speech = cut.speech(channel=9, clicks=(1.0,), name="line")
    path = speech.sound.filepath
    cut.strips.remove(speech)

    def dialogue(name, fill):
        scene = bpy.data.scenes.new(name)
        scene.render.fps, scene.frame_end = 25, 200
        editor = scene.sequence_editor_create()
        fill(editor.strips if hasattr(editor, "strips") else editor.sequences)
        return scene

    def shown(known, scene):
        strip = known.new_scene(name=scene.name, scene=scene, channel=5, frame_start=1)
        strip.scene_input = "SEQUENCER"
        return strip

    scene = dialogue("inner", lambda known: known.new_sound(name="line", filepath=path, channel=1, frame_start=1))
    if depth == 2:
        scene = dialogue("outer", lambda known, inner=scene: shown(known, inner))
    over = shown(cut.strips, scene)
    over.select = False
    assert cut.redub() == {"FINISHED"}
    clicks = (footage.samples(echo / "0.wav") > 30000).nonzero()[0]
    assert len(clicks) and all(abs(i - 16000) < 20 for i in clicks)
    cut.speech(channel=9, name="music", level=300)
    cut.scene.lipsync.speech = scene.name
    over.mute = True
    assert cut.redub() == {"FINISHED"}
    assert (footage.samples(echo / "1.wav") > 30000).any()
    cut.scene.lipsync.speech = ""
    assert cut.redub() == {"FINISHED"}
    assert abs(footage.samples(echo / "2.wav")).max() < 400
    over.mute, over.scene_input = False, "CAMERA"  # which shows the scene's objects and not its sequencer
    assert cut.redub() == {"FINISHED"}
    assert cut.addon.speech.over(cut.scene, cut.addon.strips.read(strip, cut.scene, ""), "") == {"music"}
    over.scene_input = "SEQUENCER"
    (line,) = cut.addon.strips.all_strips(bpy.data.scenes["inner"])
    line.mute = True
    assert cut.addon.speech.over(cut.scene, cut.addon.strips.read(strip, cut.scene, ""), "") == {"music"}
    line.mute = False
    os.unlink(path)
    with pytest.raises(RuntimeError, match=f"The sound “{scene.name}” has lost its file"):
        cut.redub()


@pytest.mark.parametrize("start", [-19, -199])
def test_speech_before_frame_0_is_refused_because_blender_mixes_none_there(cut, echo, tmp_path, start):
    """The first lines of the shot were dumb, or the sound was called silent, which it was not."""
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 60), start=start)
    speech = cut.speech(start=start, seconds=3.0, clicks=(0.2, 1.8))
    with pytest.raises(RuntimeError, match=r"“speech” lies over the strip “shot” before frame 0.* Move all strips"):
        cut.redub()
    assert not cut.jobs(echo)
    if start == -19:
        cut.trim(speech, 1, 41)  # what is heard from frame 0 on is no reason to refuse
        assert cut.redub() == {"FINISHED"}
        cut.trim(speech, start, 41)
        cut.trim(strip, 3, 41)
        assert cut.redub() == {"FINISHED"}


def test_speech_that_its_meta_strip_cuts_off_is_not_heard(cut, echo, tmp_path):
    cut.movie(footage.movie(tmp_path / "clip.mp4", 60), start=51)
    speech = cut.speech(seconds=4.0, clicks=(3.0,), name="cut off")
    meta = cut.strips.new_meta(name="meta", channel=5, frame_start=1)
    speech.move_to_meta(meta)
    cut.trim(meta, 1, 31)
    meta.select = False
    with pytest.raises(RuntimeError, match="No sound is heard over the strip “shot”"):
        cut.redub()
    cut.scene.lipsync.speech = "cut off"
    with pytest.raises(RuntimeError, match="“cut off” does not lie over the strip “shot”"):
        cut.redub()


def test_the_done_line_names_what_the_lips_follow(cut, echo, tmp_path):
    """Music that was not muted is found before the film is watched."""
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech(name="line", clicks=(0.1,))
    cut.speech(name="music", channel=9)
    cut.speech(name="muted", channel=10).mute = True

    def said():
        work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
        while work.running:
            work.step(0.05)
        return work.done

    assert said() == ["shot: 30 of 30 frames have new lips, which follow “line”, “music”."]
    for number in range(9):
        cut.speech(name=f"noise {number}", channel=11 + number)
    assert said() == ["shot: 30 of 30 frames have new lips, which follow “line”, “music”, “noise 0”, 8 more."]
