# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back from a re-dub: wherever the .blend or the project goes, it leads to the shot that it was made of."""

from __future__ import annotations

import json
import os
from fractions import Fraction

import footage
import pytest

pytestmark = pytest.mark.blender


def marked(numbers):
    return [n | footage.dubbed for n in numbers]


@pytest.fixture
def episodes(cut, tmp_path):
    """Two folders with a shot_010.mp4 each, of different length and pictures; the first one's is in a saved .blend."""
    import bpy

    for name, first in (("ep1", 0), ("ep2", 500)):
        (tmp_path / name).mkdir()
        footage.encode(tmp_path / name / "shot_010.mp4", list(range(first, first + 60 + first // 100)), Fraction(25))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "ep1" / "film.blend"))
    strip = cut.movie(tmp_path / "ep1" / "shot_010.mp4")
    strip.filepath = "//shot_010.mp4"
    cut.trim(strip, 1, 31)
    cut.speech()
    return tmp_path / "ep1", tmp_path / "ep2"


def without(strip, *names):
    """The strip's record as an older version of the add-on wrote it."""
    record = json.loads(strip["lipsync"])
    strip["lipsync"] = json.dumps({name: value for name, value in record.items() if name not in names})


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("how", ["saved", "appended"])
def test_in_another_folder_a_shot_of_the_same_name_is_not_taken_for_the_original(cut, echo, episodes, how, older):
    """Every episode has a shot_010.mp4: the film went on air with the other episode's."""
    import bpy

    ep1, ep2 = episodes
    assert cut.redub() == {"FINISHED"}
    if older:
        without(next(s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "MOVIE"), "beside", "size")
    cut.scene.name = "episode"
    bpy.ops.wm.save_mainfile()
    if how == "saved":
        bpy.ops.wm.save_as_mainfile(filepath=str(ep2 / "film.blend"), relative_remap=True)
        strip = cut.reopened(ep2 / "film.blend")
    else:
        bpy.ops.wm.read_homefile(use_empty=True)
        bpy.ops.wm.save_as_mainfile(filepath=str(ep2 / "film.blend"))
        with bpy.data.libraries.load(str(ep1 / "film.blend")) as (_, wanted):
            wanted.scenes = ["episode"]
        cut.scene = bpy.data.scenes["episode"]
        cut.editor = cut.scene.sequence_editor
        (strip,) = [s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "MOVIE"]
    work = cut.addon.batch.Batch(cut.scene, [strip], cut.addon.preferences.settings(bpy.context))
    while work.running:
        work.step(0.05)
    assert not work.problems and cut.jobs(echo)[1]["video"] == str(ep1 / "shot_010.mp4")
    if how == "saved":
        assert cut.shown(1, 30, "dubbed") == marked(range(30))
    assert cut.addon.strips.revert(strip)
    assert os.path.abspath(bpy.path.abspath(strip.filepath)) == str(ep1 / "shot_010.mp4")
    if how == "saved":
        assert strip.filepath.startswith("//") and cut.shown(1, 30, "reverted") == list(range(30))


def test_in_another_folder_images_of_the_same_names_are_not_taken_for_the_original(cut, echo, tmp_path):
    import bpy

    for name in ("ep1", "ep2"):
        (tmp_path / name).mkdir()
        footage.images(tmp_path / name / "frames", 20)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "ep1" / "film.blend"))
    strip = cut.images(sorted((tmp_path / "ep1" / "frames").iterdir()))
    strip.directory = "//frames/"
    cut.speech()
    assert cut.redub() == {"FINISHED"}
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "ep2" / "film.blend"), relative_remap=True)
    assert bpy.ops.lipsync.revert() == {"FINISHED"}
    assert os.path.abspath(bpy.path.abspath(strip.directory)) == str(tmp_path / "ep1" / "frames")
    assert cut.shown(1, 20, "reverted") == list(range(20))


def test_an_original_that_is_gone_is_not_replaced_by_another_shot_of_its_name(cut, echo, episodes):
    import bpy

    ep1, ep2 = episodes
    assert cut.redub() == {"FINISHED"}
    bpy.ops.wm.save_as_mainfile(filepath=str(ep2 / "film.blend"), relative_remap=True)
    strip = cut.reopened(ep2 / "film.blend")
    (ep1 / "shot_010.mp4").rename(ep1 / "elsewhere.mp4")
    with pytest.raises(cut.addon.shared.errors.MediaError, match=r"is missing: .*ep1/shot_010\.mp4"):
        cut.addon.strips.revert(strip)
    # Takes that were moved beside the other episode's shot do not make it the original either.
    (ep1 / "lipsync").rename(ep2 / "lipsync")
    (ep1 / "elsewhere.mp4").rename(ep1 / "shot_010.mp4")
    strip.filepath = "//lipsync/shot_010_lipsync_001.mp4"
    assert cut.addon.strips.revert(strip)
    assert cut.shown(1, 30, "reverted") == list(range(30))


def padded(path, size):
    """Makes a movie so many bytes large, with a box that players skip."""
    missing = size - path.stat().st_size
    with path.open("ab") as file:
        file.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - 8))


@pytest.mark.parametrize("older", [False, True])
def test_a_project_that_was_moved_as_a_whole_keeps_its_original(cut, echo, episodes, older):
    """To another disk, with another film now in the old place: the record's absolute path leads there."""
    import bpy

    ep1, ep2 = episodes
    for folder in episodes:
        padded(folder / "shot_010.mp4", 200_000)
    assert cut.redub() == {"FINISHED"}
    if older:
        without(next(s for s in cut.addon.strips.all_strips(cut.scene) if s.type == "MOVIE"), "beside", "size")
    bpy.ops.wm.save_mainfile()
    new = ep1.with_name("new")
    ep1.rename(new)
    if not older:
        ep2.rename(ep1)
    strip = cut.reopened(new / "film.blend")
    assert cut.addon.strips.revert(strip) and strip.filepath == "//shot_010.mp4"
    assert cut.shown(1, 30, "reverted") == list(range(30))


@pytest.mark.parametrize("moved", [False, True])
def test_a_regraded_original_is_still_the_original(cut, echo, episodes, moved):
    """Another size alone makes it no other shot."""
    import bpy

    folder, _ = episodes
    assert cut.redub() == {"FINISHED"}
    bpy.ops.wm.save_mainfile()
    if moved:
        folder = folder.rename(folder.with_name("new"))
    padded(folder / "shot_010.mp4", 200_000)
    strip = cut.reopened(folder / "film.blend")
    assert cut.addon.strips.revert(strip) and strip.filepath == "//shot_010.mp4"
