# SPDX-License-Identifier: GPL-3.0-or-later
"""A farm's way: no window, a .blend in, a .blend out, an exit status."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import footage
import pytest

pytestmark = pytest.mark.blender


@pytest.fixture
def film(addon, tmp_path, monkeypatch):
    """A saved .blend with two shots, and one that is muted, over one speech."""
    import bpy

    (tmp_path / "echo").mkdir()
    monkeypatch.setenv("ECHO_FOLDER", str(tmp_path / "echo"))
    monkeypatch.setenv("ECHO_HELPERS", str(Path(__file__).parent))
    scene = bpy.context.scene
    scene.render.fps = 25
    scene.render.resolution_x, scene.render.resolution_y = footage.width, footage.height
    editor = scene.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    clip = footage.movie(tmp_path / "clip.mp4", 30)
    for name, start in (("one", 1), ("two", 41), ("b-roll", 81)):
        strips.new_movie(name=name, filepath=str(clip), channel=1, frame_start=start).mute = name == "b-roll"
    try:
        strips.new_sound(name="speech", filepath=str(footage.sound(tmp_path / "s.wav", 6)), channel=2, frame_start=1)
    except RuntimeError as e:
        pytest.skip(f"this bpy has no sound: {str(e).strip()}")
    blend = tmp_path / "film.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    return blend


def media(addon) -> dict[str, str]:
    """What each movie strip of the open .blend plays."""
    import bpy

    found = addon.strips.all_strips(bpy.context.scene)
    return {s.name: Path(s.filepath).name for s in found if s.type == "MOVIE"}


def test_a_saved_film_is_dubbed_and_saved(addon, film, tmp_path):
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True)
    assert addon.headless.redub_file(film) == 0
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip_lipsync_002.mp4", "b-roll": "clip.mp4"}
    assert footage.shown(bpy.context.scene, 41, 70, tmp_path / "two") == [n | footage.dubbed for n in range(30)]


def test_named_strips_go_to_another_file_and_come_back(addon, film, tmp_path):
    import bpy

    before = film.read_bytes()
    other = tmp_path / "other.blend"
    assert addon.headless.main(["--strip", "two", "--speech", "speech", "-o", str(other)]) == 0
    assert film.read_bytes() == before
    bpy.ops.wm.open_mainfile(filepath=str(other))
    assert media(addon) == {"one": "clip.mp4", "two": "clip_lipsync_001.mp4", "b-roll": "clip.mp4"}
    assert addon.headless.main(["--revert"]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(other))
    assert set(media(addon).values()) == {"clip.mp4"}


def test_a_failed_strip_shows_in_the_exit_status_and_leaves_the_film(addon, film, tmp_path, capfd):
    before = film.read_bytes()
    (tmp_path / "echo" / "behave").write_text("die")
    assert addon.headless.redub_file(film) == 1
    assert film.read_bytes() == before
    said = capfd.readouterr().err
    assert said.count("ended unexpectedly") == 2 and "Traceback" not in said


def test_a_run_that_is_cut_short_keeps_what_is_done_and_the_next_one_does_the_rest(
    addon, film, tmp_path, monkeypatch, capfd
):
    """Two hundred strips are a night's work, and the power may fail in the last of them."""
    import bpy

    before = film.read_bytes()
    batch = sys.modules[addon.headless.redub_scene.__module__.replace("headless", "batch")]
    step = batch.Batch.step

    def cut_short(work, seconds):
        if work.done:
            raise KeyboardInterrupt
        return step(work, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(batch.Batch, "step", cut_short)
        assert addon.headless.redub_file(film) == 130
    assert "--remaining" in capfd.readouterr().err
    assert film.with_name("film.blend1").read_bytes() == before
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip.mp4", "b-roll": "clip.mp4"}
    assert addon.headless.main(["--remaining"]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip_lipsync_002.mp4", "b-roll": "clip.mp4"}
    jobs = len(list((tmp_path / "echo").glob("*.json")))
    assert addon.headless.main(["--remaining"]) == 0
    assert "already" in capfd.readouterr().out
    assert len(list((tmp_path / "echo").glob("*.json"))) == jobs


def test_two_strips_are_made_at_a_time_and_the_film_is_saved_after_each(addon, film, tmp_path, monkeypatch, capfd):
    """A night has to be enough for a film, and what ends it may cost only what is being made."""
    import bpy

    (tmp_path / "echo" / "behave").write_text("meet")
    saved, save = [], addon.headless._Save.__call__

    def noted(self):
        saved.append(sorted(media(addon).values()))
        save(self)

    monkeypatch.setattr(addon.headless._Save, "__call__", noted)
    assert addon.headless.main(["--workers", "2"]) == 0
    assert [sum("lipsync" in name for name in names) for names in saved] == [1, 2]
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip_lipsync_002.mp4", "b-roll": "clip.mp4"}
    assert "1-2/2 Finding the face" in capfd.readouterr().out


def test_what_ends_two_workers_costs_what_they_are_making_and_the_next_run_does_that(
    addon, film, tmp_path, monkeypatch, capfd
):
    import bpy

    echo = tmp_path / "echo"
    (echo / "behave").write_text("hang")
    step, begun = addon.batch.Batch.step, time.monotonic()

    def cut_short(work, seconds):
        assert time.monotonic() - begun < 60, "there is one worker only"
        if len(list(echo.glob("hanging.*"))) == 2:
            (echo / "behave.clip_lipsync_001").write_text("")
        if work.done:
            raise KeyboardInterrupt
        return step(work, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(addon.batch.Batch, "step", cut_short)
        assert addon.headless.redub_file(film, workers=2) == 130
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip.mp4", "b-roll": "clip.mp4"}
    assert os.listdir(tmp_path / "lipsync") == ["clip_lipsync_001.mp4"]
    for hanging in echo.glob("hanging.*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(hanging.suffix[1:]), 0)
    (echo / "behave").unlink()
    assert addon.headless.main(["--remaining", "--workers", "2"]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip_lipsync_002.mp4", "b-roll": "clip.mp4"}


def test_ctrl_c_ends_the_command_although_blender_only_notes_it(addon, film, monkeypatch):
    """Whoever stops the night's work by hand would wait for the strip, or press again and kill Blender."""
    import bpy

    bpy.ops.wm.open_mainfile(filepath=str(film))
    noted = []

    def blenders_own(number, frame):
        noted.append(number)

    before = signal.signal(signal.SIGINT, blenders_own)
    step = addon.batch.Batch.step

    def pressed(work, seconds):
        if work.done:
            os.kill(os.getpid(), signal.SIGINT)
        return step(work, seconds)

    monkeypatch.setattr(addon.batch.Batch, "step", pressed)
    try:
        assert addon.headless.main([]) == 130
        assert not noted and signal.getsignal(signal.SIGINT) is blenders_own
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_however_often_a_film_is_saved_its_backup_is_from_before(addon, film, tmp_path, elsewhere):
    """One backup is Blender's default: a save after every strip would push the editor's own version out of it."""
    import bpy

    target = tmp_path / "elsewhere" / "new.blend" if elsewhere else film
    target.parent.mkdir(exist_ok=True)
    bpy.context.preferences.filepaths.save_version = 1
    if elsewhere:
        assert addon.headless.main(["-o", str(target)]) == 0
        bpy.ops.wm.open_mainfile(filepath=str(film))
        for made in (tmp_path / "lipsync").iterdir():
            made.unlink()
    before = target.read_bytes()
    assert addon.headless.main(["-o", str(target)] if elsewhere else []) == 0
    assert target.with_name(f"{target.name}1").read_bytes() == before
    assert bpy.context.preferences.filepaths.save_version == 1
    assert {path.parent for path in tmp_path.rglob("clip_lipsync_*.mp4")} == {tmp_path / "lipsync"}
    bpy.ops.wm.open_mainfile(filepath=str(target))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip_lipsync_002.mp4", "b-roll": "clip.mp4"}
    assert all(
        Path(bpy.path.abspath(s.filepath)).exists()
        for s in addon.strips.all_strips(bpy.context.scene)
        if s.type == "MOVIE"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strip", "three"], "has no movie or image strip “three”"),
        (["--scene", "Act 2"], "There is no scene “Act 2”"),
        (["--nonsense"], "unrecognized arguments"),
        (["--workers", "0"], "“0” is no number from 1 to 64"),
        (["--workers", "65"], "“65” is no number from 1 to 64"),
        (["--workers", "two"], "“two” is no number from 1 to 64"),
        (["--revert", "--strip", "three"], "has no movie or image strip “three”"),
        (["-o", "gone/film.blend"], "cannot be saved as"),
        (["-o", "film"], "film would be no .blend"),
        (["--revert", "-o", "."], "it is a folder"),
    ],
)
def test_a_mistake_in_the_request_is_status_2_and_one_sentence(addon, film, capfd, arguments, words):
    before = film.read_bytes()
    assert addon.headless.main(arguments) == 2
    said = capfd.readouterr().err
    assert words in said and "Traceback" not in said
    assert film.read_bytes() == before
    assert not list((film.parent / "echo").glob("*.json")), "the mistake was found only after the work"


@pytest.mark.parametrize("arguments", [[], ["--revert"]])
@pytest.mark.parametrize("name", ["clip.mp4", "s.wav", "other.blend", "text.blend", "dubbed.blend"])
def test_nothing_but_an_earlier_output_is_written_over(addon, film, tmp_path, capfd, name, arguments):
    """A slip of the hand at -o cost the footage, the speech or another film, without a word."""
    import bpy

    (tmp_path / "text.blend").write_text("no film")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "other.blend"), copy=True)
    assert addon.headless.main(["--strip", "one", "-o", str(tmp_path / "dubbed.blend")]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "dubbed.blend"))
    bpy.ops.wm.save_mainfile()  # by somebody who goes on working in it
    if not arguments:
        bpy.ops.wm.open_mainfile(filepath=str(film))
    elif name == "dubbed.blend":
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "yet another.blend"))
    target = tmp_path / name
    before, jobs = target.read_bytes(), len(list((tmp_path / "echo").glob("*.json")))
    capfd.readouterr()
    assert addon.headless.main([*arguments, "-o", str(target)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and name in said and ("Name another --output" in said or "Name an --output" in said)
    assert target.read_bytes() == before
    assert len(list((tmp_path / "echo").glob("*.json"))) == jobs, "it was found only after the work"


def test_the_same_command_can_be_given_again_also_after_the_project_has_moved(addon, film, tmp_path):
    """A second take into the same German version: its own earlier output is no stranger's file."""
    import bpy

    (tmp_path / "old").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "old" / "film.blend"))
    assert addon.headless.main(["--strip", "one", "-o", str(tmp_path / "old" / "german.blend")]) == 0
    assert addon.headless.copy_key not in bpy.context.scene
    (tmp_path / "old").rename(tmp_path / "new")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "new" / "film.blend"))
    german = tmp_path / "new" / "german.blend"
    assert addon.headless.main(["--strip", "two", "-o", str(german)]) == 0
    assert addon.headless.main(["--strip", "two", "-o", str(german)]) == 0
    bpy.ops.wm.open_mainfile(filepath=str(german))
    assert media(addon)["one"] == "clip.mp4" and media(addon)["two"] == "clip_lipsync_003.mp4"
    assert addon.headless.copy_key not in bpy.context.scene


def test_what_is_gone_from_the_disk_remains_to_be_done(addon, film, tmp_path, capfd):
    """The takes lay on a disk that was wiped: “has been re-dubbed already” and status 0 sent a pink film on air."""
    import bpy

    assert addon.headless.main([]) == 0
    (tmp_path / "lipsync" / "clip_lipsync_001.mp4").unlink()
    bpy.ops.wm.open_mainfile(filepath=str(film))
    capfd.readouterr()
    assert addon.headless.main(["--remaining"]) == 0
    assert "already" not in capfd.readouterr().out
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon)["two"] == "clip_lipsync_002.mp4"
    assert footage.shown(bpy.context.scene, 1, 30, tmp_path / "one") == [n | footage.dubbed for n in range(30)]


def test_a_strip_that_its_meta_strip_hides_is_left_alone(addon, film, tmp_path, capfd):
    """As a muted one is: a night's work for what nobody sees, or a failure where there is none."""
    import bpy

    editor = bpy.context.scene.sequence_editor
    known = editor.strips if hasattr(editor, "strips") else editor.sequences
    meta = known.new_meta(name="meta", channel=5, frame_start=1)
    for strip in [s for s in addon.strips.all_strips(bpy.context.scene) if s.name in ("one", "two")]:
        strip.move_to_meta(meta)
    setattr(meta, addon.strips._handles[0], 1)
    setattr(meta, addon.strips._handles[1], 35)
    assert addon.headless.main([]) == 0
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip.mp4", "b-roll": "clip.mp4"}
    assert addon.headless.main(["--strip", "two"]) == 1
    assert "A meta strip hides all of the strip “two”" in capfd.readouterr().err


def test_every_scene_of_a_film_is_dubbed_saved_and_reverted(addon, film, tmp_path, capfd):
    """A reel is a scene: those that were not open when the film was saved went out in the old language."""
    import bpy

    for scene in [bpy.data.scenes.new(name) for name in ("reel 2", "credits", "models")]:
        scene.render.fps = 25
        if scene.name == "models":  # where nothing was ever cut
            continue
        editor = scene.sequence_editor_create()
        known = editor.strips if hasattr(editor, "strips") else editor.sequences
        known.new_movie(name="one", filepath=str(tmp_path / "clip.mp4"), channel=1, frame_start=1)
        known[0].mute = scene.name == "credits"
        known.new_sound(name="speech", filepath=str(tmp_path / "s.wav"), channel=2, frame_start=1)
    bpy.ops.wm.save_mainfile()

    def playing():
        bpy.ops.wm.open_mainfile(filepath=str(film))
        found = [s for scene in bpy.data.scenes for s in addon.strips.all_strips(scene) if s.type == "MOVIE"]
        return {(s.id_data.name, s.name): Path(s.filepath).stem for s in found}

    before = playing()
    main = bpy.context.scene.name
    assert addon.headless.main(["--all-scenes", "--strip", "one"]) == 2
    assert "--strip names strips of one scene" in capfd.readouterr().err
    assert addon.headless.main(["--all-scenes"]) == 0
    assert "reel 2: one: 30 of 30 frames" in capfd.readouterr().out
    dubbed = playing()
    takes = [dubbed.pop(strip) for strip in ((main, "one"), (main, "two"), ("reel 2", "one"))]
    assert sorted(takes) == [f"clip_lipsync_00{take}" for take in (1, 2, 3)] and dubbed.items() <= before.items()
    assert addon.headless.main(["--all-scenes", "--remaining"]) == 0
    assert "already" in capfd.readouterr().out
    assert addon.headless.redub_file(film, remaining=True, all_scenes=True) == 0
    assert addon.headless.main(["--all-scenes", "--revert"]) == 0
    assert playing() == before


def test_a_scene_that_fails_leaves_what_another_one_has_got(addon, film, tmp_path, capfd):
    import bpy

    scene = bpy.data.scenes.new("A")  # before the other one, and silent
    editor = scene.sequence_editor_create()
    known = editor.strips if hasattr(editor, "strips") else editor.sequences
    known.new_movie(name="one", filepath=str(tmp_path / "clip.mp4"), channel=1, frame_start=1)
    assert addon.headless.main(["--all-scenes"]) == 1
    assert "A: No sound is heard over the strip “one”" in capfd.readouterr().err
    bpy.ops.wm.open_mainfile(filepath=str(film))
    assert media(addon) == {"one": "clip_lipsync_001.mp4", "two": "clip_lipsync_002.mp4", "b-roll": "clip.mp4"}


def test_a_locked_strip_is_not_reverted_behind_its_owners_back(addon, film, capfd):
    import bpy

    assert addon.headless.main(["--strip", "one", "--strip", "two"]) == 0
    dubbed = media(addon)
    next(s for s in addon.strips.all_strips(bpy.context.scene) if s.name == "two").lock = True
    assert addon.headless.main(["--revert"]) == 2
    assert "The strip “two” is locked" in capfd.readouterr().err
    assert media(addon) == dubbed


def test_a_file_that_is_no_film_is_status_2(addon, tmp_path, capfd):
    text = tmp_path / "text.blend"
    text.write_text("no film")
    for path in (text, tmp_path / "gone.blend"):
        assert addon.headless.redub_file(path) == 2
        assert "cannot be opened" in capfd.readouterr().err


def test_everything_of_the_addon_can_be_switched_off_and_on_again(addon, film):
    """A leftover menu entry or class makes Blender complain at the next start."""
    import addon_utils  # pyright: ignore[reportMissingImports]
    import bpy

    addon_utils.disable(addon.root)
    assert not hasattr(bpy.types.Scene, "lipsync") and not hasattr(bpy.types, "LIPSYNC_PT_sequencer")
    addon_utils.enable(addon.root)
    assert "lipsync" in bpy.context.scene.bl_rna.properties
    assert hasattr(bpy.types, "LIPSYNC_OT_redub")
