# SPDX-License-Identifier: GPL-3.0-or-later
"""Three seconds around the playhead to look at before an hour's strip is made: the right ones, and nothing changes.

The worker is echo_worker.py; test_real.py has one with the real worker.
"""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path

import footage
import pytest

pytestmark = pytest.mark.blender


def made(echo):
    """The movies that the worker was asked for, and their pictures' numbers."""
    import bpy

    folder = Path(bpy.app.tempdir, "lipsync")
    return [footage.read_numbers(path) for path in sorted(folder.glob("*.mp4"))]


def marked(numbers):
    return [n | footage.dubbed for n in numbers]


@pytest.mark.parametrize(
    ("playhead", "frames"), [(100, range(62, 137)), (11, range(10, 85)), (150, range(75, 150)), (12, range(10, 85))]
)
def test_what_is_seen_around_the_playhead_is_made_with_its_speech_and_the_strip_stays(
    cut, echo, tmp_path, playhead, frames
):
    """At the strip's ends the three seconds lie inside it."""
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 200), start=1)
    cut.trim(strip, 11, 151)
    cut.editor.active_strip = strip
    cut.speech(clicks=[3.0])  # in frame 76 of the timeline, where the movie's frame 75 is
    before = cut.state(strip)
    cut.scene.frame_current = playhead
    assert bpy.ops.lipsync.trial() == {"FINISHED"}
    assert made(echo) == [marked(frames)]
    assert cut.state(strip) == before and not (tmp_path / "lipsync").exists()
    (job,) = cut.jobs(echo)
    assert (job["sound"], job["quality"]) == ("speech", "web")
    click = Fraction(int((footage.samples(echo / "0.wav") > 30000).argmax()), 16000) + Fraction(job["speech_start"])
    assert abs(click - Fraction(75 - frames[0], 25)) <= Fraction(1, 16000)


def test_a_second_trial_has_a_file_of_its_own_and_a_redub_afterwards_is_whole(cut, echo, tmp_path):
    """The first one may still be playing."""
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 100), start=1)
    cut.editor.active_strip = strip
    cut.speech()
    cut.scene.frame_current = 50
    assert bpy.ops.lipsync.trial(seconds=1) == {"FINISHED"}
    assert bpy.ops.lipsync.trial(seconds=2) == {"FINISHED"}
    assert made(echo) == [marked(range(37, 62)), marked(range(24, 74))]
    assert cut.redub() == {"FINISHED"}
    assert cut.shown(1, 100, "after") == marked(range(100))
    assert bpy.ops.lipsync.trial(seconds=1) == {"FINISHED"}  # of the original, not of the last take
    assert made(echo)[2] == marked(range(37, 62))


def test_a_movie_at_its_own_rate_is_tried_where_the_playhead_is(cut, echo, tmp_path):
    import bpy

    cut.scene.render.fps = 50
    strip = cut.window_movie(footage.movie(tmp_path / "clip.mp4", 120), start=1)
    cut.editor.active_strip = strip
    cut.speech()
    cut.scene.frame_current = 101
    assert bpy.ops.lipsync.trial(seconds=2) == {"FINISHED"}
    (numbers,) = made(echo)
    assert numbers == marked(range(25, 75))  # what the timeline frames 51 to 150 show


@pytest.mark.parametrize("kind", ["still", "images"])
def test_of_pictures_a_movie_is_made_that_players_play(cut, echo, tmp_path, kind):
    import bpy

    paths = footage.images(tmp_path / "frames", 1 if kind == "still" else 100)
    strip = cut.images(paths, start=1)
    if kind == "still":
        cut.trim(strip, 1, 101)
    cut.editor.active_strip = strip
    cut.speech()
    cut.scene.frame_current = 51
    before = cut.state(strip)
    assert bpy.ops.lipsync.trial(seconds=1) == {"FINISHED"}
    assert made(echo) == [marked([0] * 25 if kind == "still" else range(38, 63))]
    assert cut.state(strip) == before


def test_a_trial_tells_what_is_missing_and_starts_nothing(cut, echo, tmp_path):
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 200), start=11)
    cut.speech(seconds=2.0, clicks=[1.0])
    with pytest.raises(RuntimeError, match=r"No movie or image strip is active.* Click on the shot"):
        cut.editor.active_strip = None
        bpy.ops.lipsync.trial()
    cut.editor.active_strip = strip
    cut.scene.frame_current = 5
    with pytest.raises(RuntimeError, match=r"The playhead is not over the strip “shot”.* Move it"):
        bpy.ops.lipsync.trial()
    cut.scene.frame_current = 180
    with pytest.raises(RuntimeError, match=r"No speech is heard here .* Move the playhead"):
        bpy.ops.lipsync.trial()
    cut.scene.lipsync.speech = "gone"
    with pytest.raises(RuntimeError, match=r"There is no sound strip “gone”"):
        bpy.ops.lipsync.trial()
    assert cut.jobs(echo) == []


def test_of_two_picked_people_those_speak_who_are_heard_and_their_clicks_are_in_it(cut, echo, tmp_path):
    """A click away from the playhead still says who is meant, so the trial reaches there."""
    import bpy

    strip = cut.movie(footage.movie(tmp_path / "clip.mp4", 250), start=1)
    cut.editor.active_strip = strip
    cut.speech(seconds=4.0, clicks=[1.0], name="early", channel=7)
    cut.speech(start=151, seconds=4.0, name="late", channel=8)
    for name, face in (("early", "at:20,100,40"), ("late", "at:140,30,40")):
        person = strip.lipsync_people.add()
        person.speech, person.face = name, face
    for playhead, face, frames in ((51, "at:20,100,40", (20, 62)), (176, "at:140,30,40", (140, 187))):
        cut.scene.frame_current = playhead
        assert bpy.ops.lipsync.trial(seconds=1) == {"FINISHED"}
        job = cut.jobs(echo)[-1]
        assert (job["face"], job["others"]) == (face, [])
        assert (job["start_frame"], job["start_frame"] + job["frame_count"] - 1) == frames


def test_a_player_is_started_with_the_systems_own_settings_and_its_lack_is_no_error(addon, tmp_path, monkeypatch):
    """Blender's libraries would break another program; and nobody waits for the player to be closed."""
    if os.uname().sysname != "Linux":
        pytest.skip("here it is the system's own")
    player = tmp_path / "bin" / "xdg-open"
    player.parent.mkdir()
    player.write_text(f'#!/bin/sh\necho "$1 $LD_LIBRARY_PATH" > {tmp_path}/played\nsleep 5\n')
    player.chmod(0o755)
    monkeypatch.setenv("PATH", f"{player.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/blender/lib")
    begun = time.monotonic()
    addon.trial.play("a b.mp4")
    while not (tmp_path / "played").exists() or not (tmp_path / "played").read_text():
        assert time.monotonic() - begun < 4
        time.sleep(0.05)
    assert (tmp_path / "played").read_text().strip() == "a b.mp4"
    monkeypatch.setenv("PATH", str(tmp_path))
    addon.trial.play("a b.mp4")
