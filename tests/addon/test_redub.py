# SPDX-License-Identifier: GPL-3.0-or-later
"""The editor's main job in a real Blender: select, re-dub, the same shot plays with other pictures; and back again.

The worker is echo_worker.py, so that every picture can be recognised; the speech it gets is Blender's own mixdown.
"""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import footage
import pytest

pytestmark = pytest.mark.blender


def marked(numbers):
    return [n | footage.dubbed for n in numbers]


def test_the_whole_shot_gets_new_pictures_and_revert_gives_exactly_the_old_strip(cut, echo, tmp_path):
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 60), start=11)
    strip.transform.offset_x, strip.blend_alpha, strip["note"] = 4, 0.9, "mine"
    cut.speech()
    before, pictures = cut.state(strip), cut.shown(11, 70, "before")
    assert pictures == list(range(60))

    assert cut.redub() == {"FINISHED"}
    assert strip.filepath == str(tmp_path / "lipsync" / "clip_lipsync_001.mp4")
    changed = {k for k, v in cut.state(strip).items() if v != before[k]}
    assert changed == {"filepath", "custom"}
    assert cut.shown(11, 70, "after") == marked(range(60))
    assert [path.name for path in (tmp_path / "lipsync").iterdir()] == ["clip_lipsync_001.mp4"]

    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert cut.state(strip) == before
    assert cut.shown(11, 70, "reverted") == pictures


@pytest.mark.parametrize("kind", ["movie", "images"])
def test_of_a_trimmed_shot_only_the_visible_part_is_made_and_every_frame_stays_in_place(cut, echo, tmp_path, kind):
    import bpy

    if kind == "movie":
        strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 120), start=1)
    else:
        strip = cut.images(footage.images(tmp_path / "frames", 120), start=1)
    cut.trim(strip, 41, 71)
    blur = cut.effect("GAUSSIAN_BLUR", strip)  # an effect moves with its strip's start if that is set carelessly
    cut.speech()
    before, pictures = cut.state(strip), cut.shown(41, 70, "before")
    assert pictures == list(range(40, 70)) and cut.addon.strips.visible(blur) == (41, 71)

    assert cut.redub() == {"FINISHED"}
    job = cut.jobs(echo)[0]
    assert (job["start_frame"], job["frame_count"]) == (40, 30)
    assert cut.shown(41, 70, "after") == marked(range(40, 70))
    assert cut.addon.strips.visible(strip) == cut.addon.strips.visible(blur) == (41, 71)

    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert cut.state(strip) == before
    cut.trim(strip, 1, 121)
    assert cut.shown(1, 120, "reverted") == list(range(120))


def test_an_image_sequence_keeps_its_elements(cut, echo, tmp_path):
    import bpy

    strip = cut.images(footage.images(tmp_path / "frames", 30), start=5)
    cut.speech()
    before = cut.state(strip)
    assert cut.redub() == {"FINISHED"}
    assert cut.jobs(echo)[0]["rate"] == "25"
    assert cut.shown(5, 34, "after") == marked(range(30))
    assert Path(strip.directory).name == "frames_lipsync_001"
    assert cut.state(strip)["elements"] == before["elements"]
    bpy.ops.lipsync.revert()
    assert cut.state(strip) == before


@pytest.mark.parametrize(
    ("start", "first", "end", "rate"),
    [(11, 11, 41, (25, 1)), (11, 31, 48, (25, 1)), (11, 4, 40, (30, 1.001)), (11, 11, 12, (24, 1.001))],
)
def test_a_still_becomes_a_talking_shot_of_its_length_in_its_place(cut, echo, tmp_path, start, first, end, rate):
    """One picture and a speech, the handle at its start dragged to either side too; revert gives the still again."""
    import bpy

    cut.scene.render.fps, cut.scene.render.fps_base = rate
    footage.write_image(tmp_path / "portrait.png", 77)
    strip = cut.images([tmp_path / "portrait.png"], start=start)
    cut.trim(strip, first, end)
    strip.transform.offset_x, strip["note"] = 4, "mine"
    blur = cut.effect("GAUSSIAN_BLUR", strip)
    cut.speech(seconds=1.5)
    before = cut.state(strip)
    assert cut.addon.strips.visible(strip) == cut.addon.strips.visible(blur) == (first, end)
    assert cut.shown(first, end - 1, "before") == [77] * (end - first)

    assert cut.redub() == {"FINISHED"}
    job = cut.jobs(echo)[0]
    assert (job["images"], job["start_frame"], job["frame_count"]) == ([str(tmp_path / "portrait.png")], 0, None)
    assert len(strip.elements) == end - first and Path(strip.directory) == tmp_path / "lipsync" / "portrait_lipsync_001"
    assert cut.addon.strips.original_name(strip) == "portrait.png"
    assert cut.addon.strips.visible(strip) == cut.addon.strips.visible(blur) == (first, end)
    assert cut.shown(first, end - 1, "after") == marked([77] * (end - first))
    assert strip.transform.offset_x == 4 and strip["note"] == "mine"

    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert cut.state(strip) == before
    assert cut.addon.strips.visible(blur) == (first, end)


def test_a_talking_still_that_was_moved_and_made_longer_is_made_anew_and_goes_back(cut, echo, tmp_path):
    import bpy

    (tmp_path / "film").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film" / "a.blend"))
    footage.write_image(tmp_path / "film" / "portrait.png", 77)
    strip = cut.window_still(tmp_path / "film" / "portrait.png", 21, 30)
    cut.speech(start=1, seconds=12, clicks=(2.0,))
    cut.redub()
    assert cut.shown(21, 50, "first") == marked([77] * 30)
    setattr(strip, cut.addon.strips._start, getattr(strip, cut.addon.strips._start) + 10)
    cut.trim(strip, 31, 81)
    assert cut.redub() == {"FINISHED"}
    job, wave = cut.jobs(echo)[1], footage.samples(echo / "1.wav")
    # The click is heard at 2 s, in frame 51: 20 frames after the strip's first.
    place = Fraction(int((wave > 30000).argmax()), 16000) + Fraction(job["speech_start"])
    assert abs(place - Fraction(20, 25)) <= Fraction(1, 16000)
    assert len(strip.elements) == 50 and Path(strip.directory).name == "portrait_lipsync_002"
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    cut.scene = bpy.context.scene
    cut.editor = cut.scene.sequence_editor
    (strip,) = [s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "IMAGE"]
    assert cut.shown(31, 80, "second") == marked([77] * 50)
    strip.select = True
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert [e.filename for e in strip.elements] == ["portrait.png"]
    assert cut.addon.strips.visible(strip) == (31, 81)
    assert cut.shown(31, 80, "reverted") == [77] * 50


@pytest.mark.parametrize(
    ("media", "timeline", "first", "end"),
    [
        (24, 25, 1, 126),
        (24, 25, 61, 101),
        (30, 25, 31, 81),
        (Fraction(30000, 1001), 25, 31, 81),
        (25, 50, 101, 201),
        (Fraction(24000, 1001), 25, 31, 101),
    ],
)
def test_a_movie_played_at_its_own_rate_shows_the_same_frames(cut, echo, tmp_path, media, timeline, first, end):
    """Added in the window to a timeline of another rate: neither the pictures nor the speech may slide."""
    import bpy

    cut.scene.render.fps = timeline
    strip = cut.window_movie(footage.movie(tmp_path / "clip.mp4", 120, media), start=1)
    cut.trim(strip, first, end)
    cut.speech()
    before, pictures = cut.state(strip), cut.shown(first, end - 1, "before")
    places = [min((f - 1) * Fraction(media) / timeline, 119) for f in range(first, end)]
    assert all(abs(shown - place) <= Fraction(1, 2) for shown, place in zip(pictures, places, strict=True))

    assert cut.redub() == {"FINISHED"}
    job = cut.jobs(echo)[0]
    assert Fraction(job["rate"]) == media
    # Sound and picture of the job meet where they meet on the timeline.
    begin = Fraction(cut.addon.strips.read(strip, cut.scene, "x").begin - 1) / timeline
    assert begin == job["start_frame"] / Fraction(media)
    assert cut.shown(first, end - 1, "after") == marked(pictures)
    assert not cut.addon.strips.outgrown(strip)
    bpy.ops.lipsync.revert()
    assert cut.state(strip) == before
    assert cut.shown(first, end - 1, "reverted") == pictures


def test_a_second_take_is_made_from_the_original_and_nothing_is_overwritten(cut, echo, tmp_path):
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 120)
    strip = cut.movie(clip)
    cut.trim(strip, 31, 61)
    cut.speech()
    before = cut.state(strip)
    cut.redub()
    first = (tmp_path / "lipsync" / "clip_lipsync_001.mp4").read_bytes()
    cut.trim(strip, 31, 56)
    assert cut.redub() == {"FINISHED"}
    jobs = cut.jobs(echo)
    assert [j["video"] for j in jobs] == [str(clip), str(clip)]
    assert [(j["start_frame"], j["frame_count"]) for j in jobs] == [(30, 30), (30, 25)]
    assert (tmp_path / "lipsync" / "clip_lipsync_001.mp4").read_bytes() == first
    assert Path(strip.filepath).name == "clip_lipsync_002.mp4"
    assert cut.shown(31, 55, "after") == marked(range(30, 55))
    bpy.ops.lipsync.revert()
    cut.trim(strip, 31, 61)
    assert cut.state(strip) == before


def test_revert_after_saving_moving_and_splitting(cut, echo, tmp_path):
    import bpy

    (tmp_path / "film").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film" / "a.blend"))
    clip = footage.movie(tmp_path / "film" / "clip.mp4", 120)
    strip = cut.movie(clip)
    strip.filepath = "//clip.mp4"
    cut.trim(strip, 31, 91)
    cut.speech()
    cut.redub()
    assert strip.filepath == "//lipsync/clip_lipsync_001.mp4" and cut.addon.strips.record_of(strip)
    setattr(strip, cut.addon.strips._start, getattr(strip, cut.addon.strips._start) + 7)
    right = strip.split(frame=68, split_method="SOFT")
    assert right is not None
    # Saved elsewhere, Blender rewrites the strips' relative paths but not what stands in our property.
    (tmp_path / "else" / "where").mkdir(parents=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "else" / "where" / "b.blend"), relative_remap=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "else" / "where" / "b.blend"))
    cut.scene = bpy.context.scene
    cut.editor = cut.scene.sequence_editor
    assert cut.shown(38, 97, "dubbed") == marked(range(30, 90))
    for strip in cut.addon.strips.all_strips(cut.scene):
        strip.select = strip.type == "MOVIE"
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert cut.shown(38, 97, "reverted") == list(range(30, 90))
    assert not any("lipsync" in s for s in cut.addon.strips.all_strips(cut.scene))


def test_the_speech_is_what_is_heard_exactly_in_time(cut, echo, tmp_path):
    cut.scene.use_audio = False  # playback switched off is no reason for silence
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 120), start=51)
    cut.trim(strip, 81, 131)
    cut.speech(start=76, clicks=(1.0,), name="heard")
    other = cut.speech(start=1, clicks=(3.6,), channel=9, name="muted")
    other.mute = True
    quiet = cut.speech(start=1, clicks=(3.7,), channel=10, name="muted channel")
    cut.editor.channels[10].mute = True
    assert cut.redub() == {"FINISHED"}
    job, wave = cut.jobs(echo)[0], footage.samples(echo / "0.wav")
    # The click is heard 1 s after timeline frame 76: frame 101, and the job's first picture is frame 81.
    assert (job["start_frame"], job["frame_count"]) == (30, 50)
    place = Fraction(int((wave > 30000).argmax()), 16000) + Fraction(job["speech_start"])
    assert abs(place - Fraction(20, 25)) <= Fraction(1, 16000)
    assert (wave > 30000).sum() <= 9
    assert len(wave) == 50 * 640
    assert other.mute and cut.editor.channels[10].mute and not quiet.mute and not cut.scene.use_audio


def test_the_named_sound_alone_is_used_even_if_it_is_muted(cut, echo, tmp_path):
    cut.movie(footage.movie(tmp_path / "clip.mp4", 60))
    cut.speech(clicks=(0.4,), name="original sound")
    cut.speech(clicks=(1.2,), channel=9, name="dub").mute = True
    cut.editor.channels[9].mute = True
    cut.scene.lipsync.speech = "dub"
    assert cut.redub() == {"FINISHED"}
    clicks = (footage.samples(echo / "0.wav") > 30000).nonzero()[0]
    assert len(clicks) and all(abs(i - 1.2 * 16000) < 20 for i in clicks)


def test_what_the_scene_says_about_silence_reaches_the_worker(cut, echo, tmp_path):
    """Else the panel's choice would change nothing, without a word."""
    clip = footage.movie(tmp_path / "clip.mp4", 30)
    cut.movie(clip)
    cut.speech()
    for choice in ("rest", "keep"):
        cut.scene.lipsync.silence = choice
        assert cut.redub() == {"FINISHED"}
    assert [job["silence"] for job in cut.jobs(echo)] == ["rest", "keep"]


@pytest.mark.parametrize("end", [0, 1])
def test_what_the_scene_says_about_the_picture_reaches_the_worker(cut, echo, tmp_path, end):
    """To both ends of every range, which Blender's numbers of 32 bits miss by a hair."""
    ranges = cut.addon.shared.job.number_ranges
    wanted = {"mask": "mouth", "in_front": "ignore"}
    wanted |= {name: ranges[name][end] for name in ("mask_padding", "mask_feather", "strength", "turn_limit")}
    wanted |= {name: ranges[name][end] for name in ("sharpen", "grain", "liveliness")}
    cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech()
    for name, value in wanted.items():
        setattr(cut.scene.lipsync, name, value)
    assert cut.redub() == {"FINISHED"}
    [job] = cut.jobs(echo)
    assert {name: job[name] for name in wanted} == wanted


def test_a_scene_that_says_nothing_about_the_picture_gets_the_usual_one(cut):
    """What a job has as its defaults is what was measured."""
    usual = cut.addon.shared.job.RedubJob(video="a", speech="b", output="c")
    for name, value in cut.addon.properties.picture(cut.scene).items():
        assert value == getattr(usual, name), name


def test_frames_that_a_handle_may_show_later_have_their_speech(cut, echo, tmp_path):
    """Less than a second is trimmed, so all frames are made: the lips of the hidden ones must not be dumb."""
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 60), start=26)
    cut.trim(strip, 36, 80)
    cut.speech(start=1, clicks=(1.2,))
    cut.redub()
    job, wave = cut.jobs(echo)[0], footage.samples(echo / "0.wav")
    assert (job["start_frame"], job["frame_count"]) == (0, 60)
    assert len(wave) == 60 * 640
    place = Fraction(int((wave > 30000).argmax()), 16000) + Fraction(job["speech_start"])
    assert abs(place - Fraction(5, 25)) <= Fraction(1, 16000)


def test_the_worker_does_not_see_blenders_python(cut, echo, tmp_path, monkeypatch):
    """PYTHONPATH or LD_LIBRARY_PATH of Blender's own would load its libraries into the runtime."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "trap"))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "trap"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "trap"))
    cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech()
    assert cut.redub() == {"FINISHED"}
    environment = json.loads((echo / "environment").read_text())
    assert "ECHO_FOLDER" in environment and not {"PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"} & set(environment)


def test_several_strips_are_done_and_one_bad_one_does_not_stop_the_others(cut, echo, tmp_path):
    clip = footage.movie(tmp_path / "clip.mp4", 30)
    first, second, locked = cut.movie(clip, 1), cut.movie(clip, 41, name="two"), cut.movie(clip, 81, name="locked")
    locked.lock = True
    cut.speech()
    assert cut.redub() == {"FINISHED"}
    assert {Path(s.filepath).name for s in (first, second)} == {"clip_lipsync_001.mp4", "clip_lipsync_002.mp4"}
    assert locked.filepath == str(clip)
    assert cut.shown(41, 70, "two") == marked(range(30))


def test_a_worker_killed_in_the_middle_leaves_everything_as_it_was(cut, echo, tmp_path):
    """kill -9: the strip, its media and the .blend are as before, and the user reads one sentence."""
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 60)
    strip = cut.movie(clip)
    cut.trim(strip, 11, 41)
    cut.speech()
    blend = tmp_path / "film.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    before, media, saved = cut.state(strip), clip.read_bytes(), blend.read_bytes()
    (echo / "behave").write_text("die")
    with pytest.raises(RuntimeError) as caught:
        cut.redub()
    sentence = str(caught.value)
    assert "ended unexpectedly (exit status -9)" in sentence and "Traceback" not in sentence
    log = sentence.split("its log is ")[1].split(".log")[0] + ".log"
    assert "echo worker started" in Path(log).read_text()
    assert cut.state(strip) == before
    assert (clip.read_bytes(), blend.read_bytes()) == (media, saved)
    assert not (tmp_path / "lipsync").exists(), "something half-written is left behind"
    (echo / "behave").unlink()
    assert cut.redub() == {"FINISHED"}


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        ("face", "There is no face in"),
        ("noise", "of the wrong kind"),
        ("short", "has 29 frames, but the strip needs 30"),
    ],
)
def test_a_job_that_fails_changes_nothing(cut, echo, tmp_path, behave, words):
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech()
    before = cut.state(strip)
    (echo / "behave").write_text(behave)
    with pytest.raises(RuntimeError, match=words):
        cut.redub()
    assert cut.state(strip) == before
    assert not (tmp_path / "lipsync").exists()


def test_cancel_stops_the_worker_and_changes_nothing(cut, echo, tmp_path):
    """What ESC does, on the batch itself: windows and their events exist only outside the tests."""
    clip = footage.movie(tmp_path / "clip.mp4", 30)
    strips = [cut.movie(clip), cut.movie(clip, 41, name="two")]
    cut.speech()
    before = [cut.state(s) for s in strips]
    (echo / "behave").write_text("hang")
    import bpy

    work = cut.addon.batch.Batch(cut.scene, strips, cut.addon.preferences.settings(bpy.context))
    while not cut.hanging(echo):
        work.step(0.05)
    assert work.text == "1/2 Finding the face" and "lipsync_job" in strips[0]
    work.cancel()
    assert work.text == "Stopping"
    while work.running:
        work.step(0.05)
    assert work.cancelled and not work.done and not work.problems
    assert [cut.state(s) for s in strips] == before
    with pytest.raises(ProcessLookupError):
        os.kill(cut.hanging(echo)["clip_lipsync_001.mp4"], 0)
    assert len(cut.jobs(echo)) == 1


def test_closing_the_file_ends_the_worker_and_leaves_nothing_half_written(cut, echo, tmp_path):
    """A worker left behind would keep the graphics card; half of a movie would stay on the disk for ever."""
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech()
    (echo / "behave").write_text("hang")
    work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
    while not cut.hanging(echo):
        work.step(0.05)
    assert list((tmp_path / "lipsync").iterdir())
    work.close()
    with pytest.raises(ProcessLookupError):
        os.kill(cut.hanging(echo)["clip_lipsync_001.mp4"], 0)
    assert not (tmp_path / "lipsync").exists()


def test_a_strip_renamed_unmarked_or_split_during_the_job_is_still_found(cut, echo, tmp_path):
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 60)
    renamed, unmarked, split = (cut.movie(clip, i * 100 + 1, name=n) for i, n in enumerate("abc"))
    gone = cut.movie(clip, 401, name="d")
    cut.speech(seconds=20)
    strips = [renamed, unmarked, split, gone]
    work = cut.addon.batch.Batch(cut.scene, strips, cut.addon.preferences.settings(bpy.context))
    renamed.name = "another"
    del unmarked["lipsync_job"]  # as an undo would
    half = split.split(frame=230, split_method="SOFT")
    cut.strips.remove(gone)
    while work.running:
        work.step(0.05)
    assert all("lipsync_" in s.filepath for s in (renamed, unmarked, split, half))
    assert split.filepath == half.filepath and cut.shown(201, 260, "split") == marked(range(60))
    assert len(work.problems) == 1 and "“d” is gone" in work.problems[0]
    assert not any("lipsync_job" in s for s in cut.addon.strips.all_strips(cut.scene))


def test_what_cannot_be_dubbed_is_refused_in_one_sentence(cut, echo, tmp_path):
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 60)
    text = tmp_path / "text.mp4"
    text.write_text("no movie")
    speech = cut.speech()
    if speech is None:
        pytest.skip("this bpy has no sound")

    def complaint():
        with pytest.raises(RuntimeError) as caught:
            cut.redub()
        assert "Traceback" not in str(caught.value)
        return str(caught.value)

    assert "No movie or image strip is selected" in complaint()
    strip = cut.movie(clip)
    strip.lock = True
    assert "is locked" in complaint()
    strip.lock = False
    cut.editor.channels[1].lock = True
    assert "is locked" in complaint()
    cut.editor.channels[1].lock = False
    strip.use_reverse_frames = True
    assert "plays backwards" in complaint()
    strip.use_reverse_frames = False
    strip.stream_index = 1
    assert "further video stream" in complaint()
    strip.stream_index = 0
    speech.mute = True
    assert "No sound is heard over the strip “shot”" in complaint()
    speech.mute = False
    speech.volume = 0
    assert "is silent" in complaint()
    speech.volume = 1
    cut.scene.lipsync.speech = "nobody"
    assert "There is no sound strip “nobody”" in complaint()
    cut.scene.lipsync.speech = ""
    strip.filepath = str(tmp_path / "gone.mp4")
    assert "is missing" in complaint()
    strip.filepath = str(text)
    assert "is no movie" in complaint()
    strip.filepath = str(clip)
    preferences = bpy.context.preferences.addons[cut.addon.root].preferences
    preferences.folder = str(clip / "below a file")
    assert "New media cannot be written" in complaint()
    preferences.folder = ""
    preferences.python = str(tmp_path / "nothing")
    assert "does not exist" in complaint()
    preferences.python = ""
    assert "no runtime yet" in complaint()
    assert not cut.jobs(echo) and strip.filepath == str(clip) and not (tmp_path / "lipsync").exists()


def test_a_retimed_or_speed_changed_strip_is_refused(cut, echo, tmp_path):
    import bpy

    strip = cut.window_movie(footage.movie(tmp_path / "clip.mp4", 60), start=1)
    cut.speech()
    effect = cut.effect("SPEED", strip)
    with pytest.raises(RuntimeError, match="speed effect “effect”"):
        cut.redub()
    cut.strips.remove(effect)
    window = bpy.context.window_manager.windows[0]
    cut.scene.frame_set(20)
    cut.editor.active_strip = strip
    with bpy.context.temp_override(window=window, screen=window.screen, area=window.screen.areas[0]):
        bpy.ops.sequencer.retiming_key_add(timeline_frame=20)
    assert len(strip.retiming_keys)
    with pytest.raises(RuntimeError, match="retimed"):
        cut.redub()


def test_time_changed_around_the_strip_is_refused_too(cut, echo, tmp_path):
    """A speed effect over the meta strip, or over another effect: the lips would follow speech of another moment."""
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 60)
    strip = cut.movie(clip)
    cut.speech()
    blur = cut.effect("GAUSSIAN_BLUR", strip)
    cut.effect("SPEED", blur).channel = 4
    with pytest.raises(RuntimeError, match="“shot” is under the speed effect"):
        cut.redub()
    cut.strips.remove(next(s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "SPEED"))
    cut.strips.remove(blur)
    meta = cut.strips.new_meta(name="meta", channel=3, frame_start=1)
    strip.move_to_meta(meta)
    cut.trim(meta, 1, 61)
    cut.effect("SPEED", meta)
    (strip,) = [s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "MOVIE"]
    work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
    assert not work.running and "“shot” is under the speed effect" in work.problems[0]
    meta.use_reverse_frames = True
    work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
    assert not work.running and "“meta” plays backwards" in work.problems[0]
    assert not cut.jobs(echo) and strip.filepath == str(clip)


@pytest.mark.parametrize("kind", ["movie", "images", "still"])
def test_a_strip_made_longer_than_its_new_media_is_noticed(cut, echo, tmp_path, kind):
    """An edit rolled after the dub: the first or last picture stood still in the film, and nothing said so."""
    if kind == "movie":
        strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 120))
    else:
        strip = cut.images(footage.images(tmp_path / "frames", 120 if kind == "images" else 1))
    cut.trim(strip, 41, 81)
    cut.speech()
    outgrown = cut.addon.strips.outgrown
    assert not outgrown(strip)
    assert cut.redub() == {"FINISHED"} and not outgrown(strip)
    for first, end in ((36, 81), (41, 86)):
        cut.trim(strip, first, end)
        assert outgrown(strip)
    cut.trim(strip, 46, 71)
    assert not outgrown(strip)
    cut.trim(strip, 36, 86)
    assert cut.redub() == {"FINISHED"} and not outgrown(strip)
    cut.trim(strip, 1, 121)
    assert outgrown(strip)
    cut.addon.strips.revert(strip)
    assert not outgrown(strip)


def test_a_strip_longer_than_its_source_from_the_first_is_no_matter_of_the_dub(cut, echo, tmp_path):
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 30), start=11)
    cut.trim(strip, 1, 61)
    cut.speech()
    assert cut.redub() == {"FINISHED"} and not cut.addon.strips.outgrown(strip)


def test_a_scene_linked_from_another_file_is_refused(cut, echo, tmp_path):
    """Blender lets a script change linked strips, and forgets it with the next save: an hour's work gone."""
    import bpy

    cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech()
    cut.scene.name = "reel"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "reel.blend"))
    bpy.ops.wm.read_homefile(use_empty=True)
    with bpy.data.libraries.load(str(tmp_path / "reel.blend"), link=True) as (_, wanted):
        wanted.scenes = ["reel"]
    scene = bpy.data.scenes["reel"]
    strips = [s for s in cut.addon.strips.all_strips(scene) if s.type == "MOVIE"]
    work = cut.addon.batch.Batch(scene, strips, cut.addon.preferences.settings(bpy.context))
    assert not work.running and not cut.jobs(echo)
    assert work.problems == ["The scene “reel” is linked from reel.blend. Open that file, or make the scene local."]


def test_a_missing_original_keeps_the_dub_and_the_way_back(cut, echo, tmp_path):
    """Reverting to media on an unplugged disk gave a pink strip and forgot the dub."""
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 90)
    strip = cut.movie(clip)
    second = cut.movie(footage.movie(tmp_path / "second.mp4", 30), start=101, name="second")
    cut.trim(strip, 31, 61)
    cut.speech()
    before = cut.state(strip)
    cut.redub()
    dubbed = cut.state(strip)
    clip.rename(tmp_path / "elsewhere.mp4")
    assert bpy.ops.lipsync.revert() == {"FINISHED"}  # the other one of the two
    assert second.filepath == str(tmp_path / "second.mp4")
    assert cut.state(strip) == dubbed and cut.addon.strips.record_of(strip)
    with pytest.raises(RuntimeError, match=r"is missing: .*clip\.mp4"):
        bpy.ops.lipsync.revert()
    assert cut.state(strip) == dubbed
    (tmp_path / "elsewhere.mp4").rename(clip)
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert cut.state(strip) == before


def test_revert_after_the_whole_project_has_moved_to_another_disk(cut, echo, tmp_path):
    """The editor mends the strips' absolute paths as with any footage; what our property says cannot be mended."""
    import bpy

    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    strip = cut.movie(footage.movie(old / "clip.mp4", 90))
    cut.trim(strip, 31, 61)
    cut.speech()
    cut.redub()
    assert strip.filepath == str(old / "lipsync" / "clip_lipsync_001.mp4")
    old.rename(new)
    strip.filepath = str(new / "lipsync" / "clip_lipsync_001.mp4")
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert strip.filepath == str(new / "clip.mp4")
    assert cut.shown(31, 60, "reverted") == list(range(30, 60))


def test_other_media_chosen_during_the_job_are_not_replaced(cut, echo, tmp_path):
    """The editor relinks the strip while the worker is busy: the dub of the old clip must not come over it."""
    import bpy

    other = footage.movie(tmp_path / "other.mp4", 60)
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 60))
    cut.speech()
    work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
    strip.filepath = str(other)
    while work.running:
        work.step(0.05)
    assert strip.filepath == str(other) and "lipsync" not in strip and not work.done
    made = tmp_path / "lipsync" / "clip_lipsync_001.mp4"
    assert work.problems == [f"The strip “shot” is gone or plays something else by now. Its new media is {made}."]
    assert made.exists()


def test_saving_into_another_folder_during_the_job_keeps_the_way_back(cut, echo, tmp_path):
    """Relative paths then mean something else: the strip was not found, and its record would have led nowhere."""
    import bpy

    (tmp_path / "film").mkdir()
    (tmp_path / "else" / "where").mkdir(parents=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film" / "a.blend"))
    clip = footage.movie(tmp_path / "film" / "clip.mp4", 90)
    strip = cut.movie(clip)
    strip.filepath = "//clip.mp4"
    cut.trim(strip, 31, 61)
    cut.speech()
    work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "else" / "where" / "b.blend"), relative_remap=True)
    while work.running:
        work.step(0.05)
    assert work.done and not work.problems
    assert cut.shown(31, 60, "dubbed") == marked(range(30, 60))
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert os.path.abspath(bpy.path.abspath(strip.filepath)) == str(clip)
    assert cut.shown(31, 60, "reverted") == list(range(30, 60))


def test_a_strip_retimed_during_the_job_keeps_its_pictures(cut, echo, tmp_path):
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 120)
    strip = cut.window_movie(clip, start=1)
    cut.trim(strip, 41, 71)
    cut.speech()
    work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
    window = bpy.context.window_manager.windows[0]
    cut.editor.active_strip = strip
    with bpy.context.temp_override(window=window, screen=window.screen, area=window.screen.areas[0]):
        bpy.ops.sequencer.retiming_key_add(timeline_frame=50)
    before = cut.shown(41, 70, "before")
    while work.running:
        work.step(0.05)
    assert not work.done and "is retimed" in work.problems[0] and "Its new media is" in work.problems[0]
    assert strip.filepath == str(clip) and cut.shown(41, 70, "after") == before


class Window:
    """What `modal` uses of Blender's window; a test has none."""

    def __init__(self, playing=False):
        from types import SimpleNamespace

        self.playing, self.timers, self.workspace = playing, [], None
        screen = SimpleNamespace(is_animation_playing=playing, areas=[])
        self.window_manager = SimpleNamespace(
            windows=[SimpleNamespace(screen=screen)], event_timer_remove=self.timers.append
        )

    def modal(self, operators, event):
        """The answer of the running operator to an event, and what it has reported."""
        from types import SimpleNamespace

        cls, reports = operators.LIPSYNC_OT_redub, []
        operator = SimpleNamespace(
            timer="timer",
            leave=lambda context: cls.leave(operator, context),
            report=lambda kind, text: reports.append(text),
        )
        return cls.modal(operator, self, SimpleNamespace(type=event, value="PRESS")), reports


class Work:
    """A batch whose steps are counted."""

    running, text, fraction, done, problems = True, "Working", 0.5, (), ()

    def __init__(self, fault=None):
        self.steps = self.cancels = self.closes = 0
        self.fault = fault

    def step(self, seconds):
        self.steps += 1
        if self.fault:
            raise self.fault
        return False

    def cancel(self):
        self.cancels += 1

    def close(self):
        self.closes += 1


@pytest.mark.parametrize("busy", ["playing", "rendering"])
def test_escape_stops_what_plays_or_renders_and_not_an_hours_work(addon, monkeypatch, busy):
    monkeypatch.setattr(addon.operators, "rendering", lambda: busy == "rendering")
    monkeypatch.setattr(addon.operators, "running", Work())
    answer, _ = Window(playing=busy == "playing").modal(addon.operators, "ESC")
    assert answer == {"PASS_THROUGH"} and addon.operators.running.cancels == 0


def test_no_media_are_swapped_while_blender_renders(addon, monkeypatch):
    """Half of the film would have other lips, and Blender may crash when it reads a movie that is taken away."""
    monkeypatch.setattr(addon.operators, "running", work := Work())
    monkeypatch.setattr(addon.operators, "rendering", lambda: True)
    assert Window().modal(addon.operators, "TIMER")[0] == {"PASS_THROUGH"} and work.steps == 0
    import bpy

    bpy.context.scene.sequence_editor_create()
    monkeypatch.setattr(addon.operators, "running", None)
    assert not bpy.ops.lipsync.redub.poll()
    monkeypatch.setattr(addon.operators, "rendering", lambda: False)
    assert bpy.ops.lipsync.redub.poll()


def test_a_fault_of_ours_does_not_lock_the_button_for_the_rest_of_the_day(addon, monkeypatch):
    monkeypatch.setattr(addon.operators, "running", work := Work(OSError("the disk is gone")))
    window = Window()
    answer, reports = window.modal(addon.operators, "TIMER")
    assert answer == {"CANCELLED"} and addon.operators.running is None
    assert work.closes == 1 and window.timers == ["timer"] and "the disk is gone" in reports[0]


def test_another_file_is_opened_without_the_last_ones_messages(addon, tmp_path):
    import bpy

    addon.operators.messages.append(("INFO", "shot: 30 of 30 frames have new lips."))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    assert addon.operators.messages
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "film.blend"))
    assert not addon.operators.messages


def test_a_log_that_cannot_be_written_is_one_sentence(cut, echo, tmp_path):
    cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech()
    folder = cut.addon.preferences.log_file("worker").parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file in its place")
    with pytest.raises(RuntimeError, match=r"The log .*worker\.log cannot be written") as caught:
        cut.redub()
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        "not json", "[]", "{}", "null", 7,
        {"head": -1}, {"head": "1"}, {"head": True}, {"take": "other.mov"}, {"rate": "1/0"}, {"rate": "-3"},
        {"beside": 1}, {"beside": "a\nb"}, {"size": "1"}, {"size": True},
        {"extra": 1}, {"tail": -1}, {"tail": "1"}, {"absolute": "a\0b"},
        {"media": {"filepath": "/etc/passwd"}}, {"media": {"filepath": "//clip.mp4", "stream": -1}},
        {"media": {"directory": "/etc", "filenames": ["passwd"]}}, {"media": {"filepath": ["//clip.mp4"]}},
    ],
)  # fmt: skip
def test_a_record_that_is_not_ours_is_not_believed(cut, echo, tmp_path, record):
    """The property comes with a stranger's .blend: it must not make us read what it likes."""
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 30)
    strip = cut.movie(clip)
    valid = {
        "media": {"filepath": "/films/other.mp4", "stream": 0, "directory": "", "filenames": []},
        "absolute": "/films/other.mp4", "take": "clip.mp4", "head": 0, "rate": "",
    }  # fmt: skip
    strip["lipsync"] = json.dumps(valid)
    assert cut.addon.strips.record_of(strip) is not None
    if isinstance(record, dict):
        record = {**valid, **record}
        if record["media"] is not valid["media"]:
            record["media"] = {**valid["media"], "filepath": "", **record["media"]}
        record = json.dumps(record)
    strip["lipsync"] = record
    assert cut.addon.strips.record_of(strip) is None
    with pytest.raises(RuntimeError, match="No re-dubbed strip"):
        bpy.ops.lipsync.revert()
    assert strip.filepath == str(clip)


@pytest.mark.parametrize("kind", ["movie", "still"])
def test_an_undo_takes_the_redub_back(cut, echo, tmp_path, kind):
    import bpy

    if kind == "movie":
        cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    else:
        footage.write_image(tmp_path / "clip.png", 3)
        cut.trim(cut.images([tmp_path / "clip.png"]), 1, 31)
    cut.speech()
    bpy.ops.ed.undo_push(message="before")
    cut.redub()
    bpy.ops.ed.undo_push(message="Re-dub Strip")

    def playing():
        (strip,) = [s for s in cut.addon.strips.all_strips(bpy.context.scene) if cut.addon.strips.redubbable(s)]
        names = [Path(path).name for path in cut.addon.strips.media_of(strip).paths()]
        return names[0] if kind == "movie" else (len(names), cut.addon.strips.visible(strip))

    before, after = ("clip.mp4", "clip_lipsync_001.mp4") if kind == "movie" else ((1, (1, 31)), (30, (1, 31)))
    assert playing() == after
    bpy.ops.ed.undo()
    assert playing() == before
    bpy.ops.ed.redo()
    assert playing() == after


def test_a_strip_inside_a_meta_strip(cut, echo, tmp_path):
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 30), start=1)
    cut.speech()
    meta = cut.strips.new_meta(name="meta", channel=3, frame_start=1)
    strip.move_to_meta(meta)
    cut.trim(meta, 1, 31)
    inner = [s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "MOVIE"]
    work = cut.addon.batch.Batch(cut.scene, inner, cut.addon.preferences.settings(bpy.context))
    while work.running:
        work.step(0.05)
    assert not work.problems and "clip_lipsync_001" in inner[0].filepath
    assert cut.shown(1, 30, "meta") == marked(range(30))


def test_a_selected_meta_strip_means_the_shots_that_it_shows(cut, echo, tmp_path):
    """An edit is kept in meta strips: the button told who had selected one that nothing was selected."""
    import bpy

    inner, outer = (cut.strips.new_meta(name=name, channel=6, frame_start=1) for name in ("inner", "outer"))
    for number, name in enumerate(("seen", "muted", "mute channel", "cut off")):
        strip = cut.movie(footage.movie(tmp_path / f"{name}.mp4", 20), start=1 + 20 * number, channel=1 + number)
        strip.name, strip.select, strip.mute = name, False, name == "muted"
        strip.move_to_meta(inner)
    inner.channels[3].mute = True
    cut.trim(inner, 1, 61)
    inner.move_to_meta(outer)
    cut.trim(outer, 1, 61)
    cut.speech()
    for strip in cut.addon.strips.all_strips(cut.scene):
        strip.select = strip.name == "outer"

    def playing():
        found = [s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "MOVIE"]
        return {s.name: Path(s.filepath).stem for s in found}

    before = playing()
    assert cut.redub() == {"FINISHED"}
    assert playing() == {**before, "seen": "seen_lipsync_001"}
    assert cut.shown(1, 20, "after") == marked(range(20))
    assert bpy.ops.lipsync.revert() == {"FINISHED"} and playing() == before
    cut.editor.channels[6].mute = True  # what is selected itself may be muted
    assert cut.redub() == {"FINISHED"} and playing() == {**before, "seen": "seen_lipsync_002"}


@pytest.mark.parametrize("channel", [False, True])
def test_a_locked_meta_strip_keeps_what_is_in_it(cut, echo, tmp_path, channel):
    """A reel that was approved is locked: its shots must not change, nor go back to their originals."""
    import bpy

    clip = footage.movie(tmp_path / "clip.mp4", 20)
    cut.speech()
    inner, outer = (cut.strips.new_meta(name=name, channel=6, frame_start=1) for name in ("inner", "outer"))
    strip = cut.movie(clip)
    strip.move_to_meta(inner)
    cut.trim(inner, 1, 21)
    inner.move_to_meta(outer)
    cut.trim(outer, 1, 21)
    for lock in (True, False, True):
        setattr(*((cut.editor.channels[6], "lock") if channel else (outer, "lock")), lock)
        (strip,) = [s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "MOVIE"]
        before = strip.filepath
        if not lock:
            assert cut.redub() == {"FINISHED"} and strip.filepath != before
            continue
        for operator in (bpy.ops.lipsync.redub, bpy.ops.lipsync.revert):
            if operator is bpy.ops.lipsync.redub or before != str(clip):
                with pytest.raises(RuntimeError, match="“shot” is locked"):
                    operator()
        assert strip.filepath == before


@pytest.mark.parametrize("views", ["INDIVIDUAL", "STEREO_3D"])
def test_a_stereoscopic_strip_is_refused(cut, echo, tmp_path, views):
    """The new media has one picture: the other eye's was gone."""
    for eye in "LR":
        footage.movie(tmp_path / f"clip_{eye}.mp4", 20)
    strip = cut.movie(tmp_path / "clip_L.mp4")
    cut.speech()
    strip.views_format, strip.use_multiview = views, True
    cut.scene.render.use_multiview = True
    with pytest.raises(RuntimeError, match="another picture to each eye"):
        cut.redub()
    assert not cut.jobs(echo)
    cut.scene.render.use_multiview = False  # then it shows one of them
    strip.views_format = "STEREO_3D"
    assert cut.redub() == {"FINISHED"}


@pytest.mark.parametrize(
    ("kind", "words"), [("SCENE", "Open the scene"), ("META", "shows none"), ("COLOR", "Select the shot to re-dub")]
)
def test_who_selects_another_kind_of_strip_is_told_what_to_do(cut, echo, kind, words):
    import bpy

    if kind == "SCENE":
        other = bpy.data.scenes.new("other")
        strip = cut.strips.new_scene(name="strip", scene=other, channel=2, frame_start=1)
    elif kind == "META":
        strip = cut.strips.new_meta(name="strip", channel=2, frame_start=1)
    else:
        length = {"length": 20} if bpy.app.version >= (5, 0) else {"frame_end": 21}
        strip = cut.strips.new_effect(name="strip", type="COLOR", channel=2, frame_start=1, **length)
    strip.select = True
    with pytest.raises(RuntimeError, match=f"No movie or image strip is selected. .*{words}"):
        cut.redub()


@pytest.mark.parametrize("kind", ["movie", "images", "still"])
def test_of_a_shot_that_its_meta_strip_trims_only_what_shows_is_made(cut, echo, tmp_path, kind):
    """Twenty frames of a movie of two hundred: ten times the work, with the lips of speech that nobody hears there."""
    import bpy

    if kind == "movie":
        strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 200))
    else:
        strip = cut.images(footage.images(tmp_path / "frames", 200 if kind == "images" else 1))
        cut.trim(strip, 1, 201)
    meta = cut.strips.new_meta(name="meta", channel=3, frame_start=1)
    strip.move_to_meta(meta)
    for start in (2, 1):  # Blender 4.5 makes the meta strip as long as what is in it only when that moves
        setattr(strip, cut.addon.strips._start, start)
    cut.trim(meta, 101, 121)
    (strip,) = [s for s in cut.addon.strips.all_strips(cut.scene) if cut.addon.strips.redubbable(s)]
    speech = cut.speech(start=1, seconds=2.0)

    def redub():
        work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
        while work.running:
            work.step(0.05)
        return " ".join(work.problems)

    if speech:
        assert "No sound is heard over the strip “shot”" in redub()
        assert not cut.jobs(echo)
        setattr(speech, cut.addon.strips._start, 101)
    before, pictures = cut.state(strip), cut.shown(101, 120, "before")
    assert pictures == ([0] * 20 if kind == "still" else list(range(100, 120)))
    assert redub() == ""
    (job,) = cut.jobs(echo)
    assert (job["start_frame"], job["frame_count"]) == ((0, None) if kind == "still" else (100, 20))
    assert cut.shown(101, 120, "after") == marked(pictures)
    assert cut.addon.strips.visible(strip) == (1, 201) and not cut.addon.strips.outgrown(strip)
    cut.trim(meta, 96, 121)
    assert cut.addon.strips.outgrown(strip)
    assert redub() == "" and not cut.addon.strips.outgrown(strip)
    cut.trim(meta, 96, 126)
    assert cut.addon.strips.outgrown(strip)
    assert cut.addon.strips.revert(strip)
    assert cut.state(strip) == before
    cut.trim(meta, 201, 221)
    assert "A meta strip hides all of the strip “shot”" in redub()


def test_a_recording_whose_length_blender_counts_otherwise_gets_as_many_frames_as_blender_counts(cut, echo, tmp_path):
    """A recorder's .mkv tells no length but the file's, in which Blenders with another FFmpeg than the worker's count
    the sound's first 21 ms or do not: every such take was made in full, and thrown away.
    """
    path = tmp_path / "recording.mkv"
    footage.recording(path, 25)
    strip = cut.movie(path)
    cut.speech()
    first, end = cut.addon.strips.visible(strip)
    assert end - first in (24, 25)
    assert cut.redub() == {"FINISHED"}
    (job,) = cut.jobs(echo)
    assert (job["start_frame"], job["frame_count"]) == (0, end - first)
    assert cut.shown(first, end - 1, "after") == marked(range(end - first))
    assert cut.addon.strips.revert(strip) and cut.addon.strips.visible(strip) == (first, end)


@pytest.mark.parametrize("letter", ["x", "ж"])
def test_a_name_as_long_as_the_disk_takes_leaves_room_for_the_takes(cut, echo, tmp_path, letter):
    """What we hang on it was too much, and the file system refused a name that the editor never chose."""
    clip = tmp_path / f"{letter * ((255 - 4) // len(letter.encode()))}.mp4"
    footage.movie(tmp_path / "clip.mp4", 30).rename(clip)
    strip = cut.movie(clip, name="shot")
    cut.speech()
    for _ in range(2):
        assert cut.redub() == {"FINISHED"}
    take = Path(strip.filepath)
    assert take.name.startswith(letter * 40) and take.name.endswith("_lipsync_002.mp4")
    (take.parent / f".{take.name}.lipsync.json.{'0' * 32}.part.json").touch()


@pytest.mark.parametrize("kind", ["home", "relative", "slashes"])
def test_a_folder_for_new_media_is_where_its_name_says(cut, echo, tmp_path, monkeypatch, kind):
    """A folder called ~ appeared wherever Blender had been started, and nobody found the takes in it."""
    import bpy

    (tmp_path / "film").mkdir()
    (tmp_path / "started").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film" / "a.blend"))
    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 30))
    cut.speech()
    named = {"home": "~/dubs", "relative": "dubs", "slashes": "//dubs"}[kind]
    bpy.context.preferences.addons[cut.addon.root].preferences.folder = named
    assert cut.redub() == {"FINISHED"}
    folder = tmp_path if kind == "home" else tmp_path / "film"
    assert strip.filepath == str(folder / "dubs" / "clip_lipsync_001.mp4")
    assert not list((tmp_path / "started").iterdir())


@pytest.mark.parametrize("ending", [".3gp", ".3g2", ".MP4", ""])
def test_a_telephones_movie_is_taken_and_one_without_an_ending_is_told_what_to_do(cut, echo, tmp_path, ending):
    """Blender plays a .3gp although its list of endings lacks it; without an ending nobody could trust a record."""
    import bpy

    footage.movie(tmp_path / "clip.mp4", 30).rename(tmp_path / f"phone{ending}")
    strip = cut.movie(tmp_path / f"phone{ending}")
    cut.speech()
    before = cut.state(strip)
    if not ending:
        with pytest.raises(RuntimeError, match=r"“shot” is named in an unusual way: phone\. Rename it"):
            cut.redub()
        return
    assert cut.redub() == {"FINISHED"}
    assert cut.shown(1, 30, "after") == marked(range(30))
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert cut.state(strip) == before


@pytest.mark.parametrize(
    ("base", "words"), [("", "No Python is named"), (" ", "No Python is named"), ("~/none", "/none")]
)
def test_a_runtime_from_no_python_is_refused_in_one_sentence(cut, tmp_path, monkeypatch, base, words):
    import bpy

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    bpy.context.preferences.system.use_online_access = True
    bpy.context.preferences.addons[cut.addon.root].preferences.base_python = base
    with pytest.raises(RuntimeError, match=words) as caught:
        bpy.ops.lipsync.install_runtime()
    said = str(caught.value)
    assert "Traceback" not in said and "~" not in said
