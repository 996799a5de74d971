# SPDX-License-Identifier: GPL-3.0-or-later
"""Mouth shapes and the lip measure: numbers a researcher reports have to mean what they say."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core import heard, media, mouth
from core.errors import MediaError, ModelError, NoFaceError, OutputError
from core.faces.mesh import forehead, lower_lip, point_count
from core.mouth import shape_size
from training_cli import lips, shards
from training_cli.config import parse
from training_cli.evaluate import lips as evaluate
from training_cli.evaluate.lips import LipSettings, evaluate_lips


def landmarks(opening: np.ndarray) -> np.ndarray:
    """Landmarks (T, 85, 2) of a still face whose mouth opens by `opening` crop units."""
    face = np.random.default_rng(0).uniform(0.2, 0.8, (shards.points.__len__(), 2))
    frames = np.tile(face, (len(opening), 1, 1))
    at = {point: i for i, point in enumerate(shards.points)}
    frames[:, at[13]] = (0.5, 0.7)
    frames[:, at[14], 0] = 0.5
    frames[:, at[14], 1] = 0.7 + opening
    return frames.astype(np.float32)


def test_a_shape_says_how_far_the_mouth_is_open_whoever_it_is():
    opening = np.array([0.0, 0.01, 0.02, 0.05, 0.01])
    shapes = lips.shapes(landmarks(opening))
    assert shapes.shape == (5, shape_size)
    assert np.allclose(shapes[:, 0] * mouth.steps[0], opening - 0.01, atol=1e-5)
    assert np.allclose(shapes[:, 3:], 0, atol=1e-5)
    moved = landmarks(opening) + np.float32(0.03)
    assert np.allclose(lips.shapes(moved), shapes, atol=1e-4)


def test_the_best_lag_is_the_one_that_was_put_in():
    truth = np.random.default_rng(1).normal(size=200).cumsum()
    seen = np.ones(200, bool)
    for lag in (-3, 0, 2):
        found = {k: evaluate._lagged(np.roll(truth, lag), truth, seen, k) for k in range(-8, 9)}
        assert max(found, key=lambda k: found[k]) == lag


def test_lips_that_do_not_move_follow_nothing():
    assert evaluate._correlation(np.zeros(9), np.arange(9.0)) == 0
    assert math.isclose(evaluate._correlation(np.arange(9.0), 2 * np.arange(9.0) + 1), 1)


def test_the_table_has_a_row_a_clip_and_their_mean():
    rows = [
        evaluate.LipScore(name, 100, r, lag, r, late, 0.0, 0.1, 0.5, 1.2, 0.9)
        for name, r, lag, late in (("a.mp4", 0.2, 5, 4), ("b.mp4", 0.4, 1, -2))
    ]
    lines = evaluate.lip_table(rows).splitlines()
    assert len(lines) == 7 and lines[2].startswith("| a.mp4 | 100 | 0.200 |") and "| 0.300 |" in lines[4]
    assert "on 1 of 2 clips" in lines[6] and lines[6].endswith("on 1.")


@pytest.mark.parametrize("late", [-2, 0, 3])
def test_sound_that_is_late_is_told_from_lips_that_are(monkeypatch, late):
    """Else lips in step with a late sound count against the model. What is heard is made up here; test_offset.py hears
    for real."""
    course = np.abs(np.random.default_rng(2).normal(size=400)).cumsum() % 7
    sound = heard.Heard(np.interp(np.arange(400), np.arange(0, 400, 4), course[::4]), np.ones(400, bool), 6.0)
    monkeypatch.setattr(heard, "hear", lambda *_: sound)
    monkeypatch.setattr(evaluate, "Engine", lambda *_: None)
    frames = np.arange(150)
    points = np.zeros((150, point_count, 2))
    points[:, forehead, 1] = -1
    points[:, lower_lip, 1] = sound.opening_at((frames + 0.5 + late) / 25)
    track = SimpleNamespace(found=frames != 70, points=points)
    info = SimpleNamespace(rate=Fraction(25), start=Fraction(0))
    assert evaluate._late(Path("clip.mp4"), info, track, "cpu") == late  # pyright: ignore[reportArgumentType]


def made_up(clip: Path, film: Path | None) -> evaluate.LipScore:
    """A score that the clip's size decides, and the film of it, which redub would not write over another."""
    if film:
        assert not film.exists()
        film.write_bytes(b"film of " + str(clip).encode())
    return evaluate.LipScore(clip.name, 100, clip.stat().st_size / 1e6, 1, 0.3, 0, 0.0, 0.1, 0.5, 1.2, 0.9)


def quick(clips: list[Path], model: Path, output: Path) -> LipSettings:
    return LipSettings([str(clip) for clip in clips], str(model), "cpu", 0.5, str(output))


@pytest.fixture
def takes(make_clip, tmp_path) -> list[Path]:
    """Three clips of one name in three folders."""
    clips = [tmp_path / folder / "take.mkv" for folder in "abc"]
    for clip, frames in zip(clips, (24, 26, 30), strict=True):
        clip.parent.mkdir()
        shutil.copy(make_clip(frames=frames), clip)
    return clips


@pytest.fixture
def measured(monkeypatch) -> list[Path]:
    """The clips that were measured, in order: quickly, by `made_up`."""
    clips: list[Path] = []

    def measure(clip: Path, model: str, device: str, film: Path | None) -> evaluate.LipScore:
        clips.append(clip)
        return made_up(clip, film)

    monkeypatch.setattr(evaluate, "lip_score", measure)
    return clips


def test_a_second_call_gives_the_same_table_and_measures_nothing(make_clip, tiny_model, tmp_path, monkeypatch):
    """With real pictures; else a second call would lose every clip whose film is there."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        shutil.copy(make_clip(frames=100), tmp_path / folder / "take.mkv")
    videos, output = [str(tmp_path / folder) for folder in "ab"], tmp_path / "out"
    settings = LipSettings(videos, str(tiny_model), "cpu", shortest=4.0, output=str(output))
    table = evaluate_lips(settings)
    assert table.count("| take.mkv |") == 2 and (output / "lips.md").read_text(encoding="utf-8") == table + "\n"
    left = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    films = {"00000_take.mkv.redubbed.mkv", "00001_take.mkv.redubbed.mkv"}
    records = {f"{film}.lipsync.json" for film in films}
    assert left.keys() == films | records | {"config.toml", "run.json", "lips.json", "lips.md"}
    assert all(media.probe(str(output / film)).frames == 50 for film in films)
    assert parse(LipSettings, ["--config", str(output / "config.toml")], "", "") == settings
    monkeypatch.setattr(evaluate, "lip_score", None)
    assert evaluate_lips(settings) == table
    assert all((output / film).stat().st_mtime_ns == left[film] for film in films)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OutputError("The disk is full.")])
def test_a_run_that_ends_in_the_middle_keeps_what_is_finished(takes, measured, tiny_model, tmp_path, monkeypatch, stop):
    settings = quick(takes, tiny_model, tmp_path / "out")
    whole = evaluate_lips(replace(settings, output=""))

    def fail(clip: Path, model: str, device: str, film: Path) -> evaluate.LipScore:
        if clip == takes[1]:
            film.write_bytes(b"half a film")
            raise stop
        return made_up(clip, film)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "lip_score", fail)
        with pytest.raises(type(stop)):
            evaluate_lips(settings)
    assert not (tmp_path / "out" / "lips.json").exists()
    measured.clear()
    assert evaluate_lips(settings) == whole and measured == takes[1:]
    for number, clip in enumerate(takes):
        film = tmp_path / "out" / f"0000{number}_take.mkv.redubbed.mkv"
        assert film.read_bytes() == b"film of " + str(clip).encode()


def test_new_and_changed_clips_are_measured_and_none_is_lost(takes, measured, tiny_model, tmp_path):
    output = tmp_path / "out"
    evaluate_lips(quick(takes[1:], tiny_model, output))
    measured.clear()
    shutil.copy(takes[2], takes[1])  # another clip of that name
    table = evaluate_lips(quick(takes, tiny_model, output))
    assert measured == takes[:2] and len(list(output.glob("*.redubbed.mkv"))) == 3
    assert table == evaluate_lips(quick(takes, tiny_model, tmp_path / "anew"))
    assert table == evaluate_lips(quick([*takes, takes[0]], tiny_model, output))  # named twice, counted once
    before = {path: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(OutputError, match="not among") as caught:
        evaluate_lips(quick(takes[:2], tiny_model, output))
    assert str(takes[2]) in str(caught.value) and caught.value.hint
    assert before == {path: path.read_bytes() for path in output.iterdir()}


def test_a_clip_that_was_left_out_is_not_tried_again(takes, tiny_model, tmp_path, monkeypatch, capsys):
    def measure(clip: Path, model: str, device: str, film: Path) -> evaluate.LipScore:
        if clip == takes[0]:
            raise NoFaceError("Nobody is there.")
        return made_up(clip, film)

    settings = quick(takes, tiny_model, tmp_path / "out")
    monkeypatch.setattr(evaluate, "lip_score", measure)
    table = evaluate_lips(settings)
    monkeypatch.setattr(evaluate, "lip_score", None)
    capsys.readouterr()
    assert evaluate_lips(settings) == table and table.count("take.mkv") == 2
    assert "left out: Nobody is there." in capsys.readouterr().err


def test_results_of_another_model_or_other_settings_are_not_mixed_in(takes, measured, tiny_model, tmp_path):
    settings = quick(takes, tiny_model, tmp_path / "out")
    evaluate_lips(settings)
    run, before = tmp_path / "out" / "run.json", {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for other in (replace(settings, model=""), replace(settings, shortest=0.6)):
        with pytest.raises(OutputError, match="another model or other settings") as caught:
            evaluate_lips(other)
        assert caught.value.hint and before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    elsewhere = before[run].replace(b'"00000_', b'"../00000_')
    for content in (b"", b"[]", before[run][:-9], before[run].replace(b'"jitter"', b'"shiver"'), elsewhere):
        run.write_bytes(content)
        with pytest.raises(OutputError, match="damaged"):
            evaluate_lips(settings)
    run.unlink()
    with pytest.raises(OutputError, match="another table"):
        evaluate_lips(settings)


@pytest.mark.parametrize(("shortest", "needed"), [(0.5, 4), (7.0, 7)])
def test_the_hint_names_the_length_that_is_needed(takes, tiny_model, shortest, needed):
    """Six seconds were asked for, whatever the limit: who has clips of five would look for others."""
    with pytest.raises(MediaError) as caught:
        evaluate_lips(LipSettings(str(takes[0]), str(tiny_model), "cpu", shortest))
    assert f"videos of {needed} seconds" in caught.value.hint


def test_a_model_that_cannot_be_read_is_told_before_any_work(takes, measured, tmp_path):
    with pytest.raises(ModelError):
        evaluate_lips(quick(takes, takes[0], tmp_path / "out"))
    assert not measured and not (tmp_path / "out").exists()
