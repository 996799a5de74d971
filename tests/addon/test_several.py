# SPDX-License-Identifier: GPL-3.0-or-later
"""Several strips made at a time: each for itself, whatever becomes of the others.

The worker is echo_worker.py, a process for each strip that is being made. What is without a window: test_headless.py.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import footage
import pytest

pytestmark = pytest.mark.blender


@pytest.fixture
def begin(cut, echo, tmp_path):
    """begin(strips, workers): some strips of one movie, and the batch that makes them."""
    import bpy

    def started(count, workers=2, clips=()):
        clips = clips or [footage.movie(tmp_path / "clip.mp4", 30)] * count
        strips = [cut.movie(clip, 1 + 40 * i, name=f"shot {i + 1}") for i, clip in enumerate(clips)]
        cut.speech()
        settings = replace(cut.addon.preferences.settings(bpy.context), workers=workers)
        return cut.addon.batch.Batch(cut.scene, strips, settings), strips

    return started


def until(work, condition):
    """Steps until something is the case; how many strips got new media meanwhile."""
    changed, begun = 0, time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 60, f"{work.text}, {work.done}, {work.problems}"
        changed += work.step(0.02)
    return changed


def finish(work):
    return until(work, lambda: not work.running)


def playing(strips):
    return [Path(strip.filepath).name for strip in strips]


def ended(processes):
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    return bool(processes)


def test_two_strips_are_made_at_once_and_each_plays_its_new_media_as_soon_as_it_is_done(begin, cut, echo):
    """Else a short strip would wait for the longest, and two of one movie would be written into one file."""
    (echo / "behave").write_text("hang")
    work, strips = begin(3)
    assert until(work, lambda: len(cut.hanging(echo)) == 2) == 0
    first = cut.hanging(echo)
    assert sorted(first) == ["clip_lipsync_001.mp4", "clip_lipsync_002.mp4"] and len(set(first.values())) == 2
    until(work, lambda: work.text == "1-2/3 Finding the face")
    (echo / "behave.clip_lipsync_002").write_text("")
    assert until(work, lambda: work.done) == 1
    assert playing(strips) == ["clip.mp4", "clip_lipsync_002.mp4", "clip.mp4"]
    until(work, lambda: "clip_lipsync_003.mp4" in cut.hanging(echo))
    assert cut.hanging(echo)["clip_lipsync_003.mp4"] == first["clip_lipsync_002.mp4"], "its nets were loaded twice"
    (echo / "behave").unlink()
    assert finish(work) == 2 and not work.problems
    assert playing(strips) == ["clip_lipsync_001.mp4", "clip_lipsync_002.mp4", "clip_lipsync_003.mp4"]
    assert ended(first.values())
    for first in (1, 41, 81):
        assert cut.shown(first, first + 29, f"at {first}") == [n | footage.dubbed for n in range(30)]


def test_what_is_done_never_shrinks_and_grows_to_the_whole(begin, echo):
    """A bar that goes back makes people press Cancel."""
    (echo / "behave.clip_lipsync_002").write_text("face")
    work, strips = begin(5)
    fractions, changed = [work.fraction], 0
    while work.running:
        changed += work.step(0)
        fractions.append(work.fraction)
        assert changed == len(work.done) == sum("lipsync" in name for name in playing(strips))
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert work.problems and changed + len(work.problems) == 5


@pytest.mark.parametrize("names", [("clip", "clip"), ("clip", "CLIP")])
def test_movies_of_the_same_name_made_at_once_are_not_written_into_one_file(begin, cut, echo, tmp_path, names):
    """On most disks of Windows and macOS a name in other letters is the same one."""
    import bpy

    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    clips = []
    for folder, name in zip("ab", names, strict=True):
        (tmp_path / folder).mkdir()
        clips.append(footage.movie(tmp_path / folder / f"{name}.mp4", 30))
    (echo / "behave").write_text("meet")
    work, strips = begin(2, clips=clips)
    assert finish(work) == 2 and not work.problems
    assert {Path(bpy.path.abspath(strip.filepath)).parent for strip in strips} == {tmp_path / "lipsync"}
    assert len({name.casefold() for name in playing(strips)}) == 2


def test_a_worker_killed_in_the_middle_costs_its_strip_only_and_its_log_stays(begin, cut, echo, tmp_path):
    """The system that wants memory back takes one of four shots, not all."""
    (echo / "behave").write_text("hang")
    work, strips = begin(4)
    until(work, lambda: len(cut.hanging(echo)) == 2)
    before = cut.state(strips[0])
    killed = cut.hanging(echo)["clip_lipsync_001.mp4"]
    os.kill(killed, signal.SIGKILL)
    (echo / "behave").unlink()
    assert finish(work) == 3
    assert [problem.partition(":")[0] for problem in work.problems] == ["shot 1"]
    assert "ended unexpectedly (exit status -9)" in work.problems[0]
    log = Path(work.problems[0].partition("its log is ")[2].removesuffix("."))
    assert f"process {killed}." in log.read_text(), "the next worker has written its own over it"
    made = sorted(path.name for path in (tmp_path / "lipsync").iterdir())
    assert made == [f"clip_lipsync_{take:03d}.mp4" for take in (1, 2, 3)] == sorted(playing(strips[1:]))
    changed = {k for k, v in cut.state(strips[0]).items() if v != before[k]}
    assert changed == {"custom"} and "lipsync_job" in before["custom"] and "lipsync_job" not in strips[0]


def test_a_crash_does_not_take_the_folder_from_the_strip_beside_it(begin, cut, echo):
    """Which was made for both, and is empty while the other one's pictures are still being thought of."""
    (echo / "behave.clip_lipsync_001").write_text("die")
    (echo / "behave.clip_lipsync_002").write_text("wait")
    work, strips = begin(2)
    until(work, lambda: work.problems and cut.hanging(echo))
    (echo / "behave.clip_lipsync_002").unlink()
    assert finish(work) == 1 and len(work.problems) == 1
    assert playing(strips) == ["clip.mp4", "clip_lipsync_002.mp4"]


def test_cancel_ends_all_that_runs_and_leaves_nothing_of_it(begin, cut, echo, tmp_path, monkeypatch):
    monkeypatch.setattr(cut.addon.batch, "patience", 1000)  # each has to be told, and ends at once
    (echo / "behave").write_text("hang")
    work, strips = begin(3)
    until(work, lambda: len(cut.hanging(echo)) == 2)
    assert len(list((tmp_path / "lipsync").iterdir())) == 2  # half of each
    work.cancel()
    assert work.text == "Stopping"
    finish(work)
    assert work.cancelled and not work.done and not work.problems
    assert playing(strips) == ["clip.mp4"] * 3 and not any("lipsync_job" in strip for strip in strips)
    assert ended(cut.hanging(echo).values()) and len(cut.jobs(echo)) == 2
    assert not (tmp_path / "lipsync").exists(), "something half-written is left behind"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_strip_that_is_done_as_cancel_is_pressed_stays_done_and_begins_no_other(begin, cut, echo, workers):
    """The user would wait for work that nobody wants any more, or that is ended by force."""
    (echo / "behave").write_text("late")
    work, strips = begin(3, workers)
    until(work, lambda: len(cut.hanging(echo)) == workers)
    work.cancel()
    assert finish(work) == workers and work.cancelled and not work.problems
    assert playing(strips)[workers:] == ["clip.mp4"] * (3 - workers)
    assert len(cut.jobs(echo)) == workers


def test_closing_the_file_ends_all_workers_and_leaves_nothing_half_written(begin, cut, echo, tmp_path):
    (echo / "behave").write_text("hang")
    work, _ = begin(3)
    until(work, lambda: len(cut.hanging(echo)) == 2)
    work.close()
    assert not work.running and ended(cut.hanging(echo).values())
    assert len(cut.jobs(echo)) == 2 and not (tmp_path / "lipsync").exists()


def test_workers_share_the_cores_and_a_single_strip_has_them_all(begin, cut, echo, monkeypatch):
    """Two with a thread for every core each wait for one another; one with half the threads leaves cores idle."""
    for name in cut.addon.shared.client.thread_variables:
        monkeypatch.delenv(name, raising=False)

    def threads():
        return json.loads((echo / "environment").read_text()).get("OMP_NUM_THREADS")

    finish(begin(1)[0])
    assert threads() is None
    finish(begin(2)[0])
    assert threads() == str(max(1, len(os.sched_getaffinity(0)) // 2))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    finish(begin(2)[0])
    assert threads() == "7"


def test_where_no_second_process_can_be_had_the_first_one_does_all(begin, cut, echo, monkeypatch):
    """A limit of the system is no reason to refuse a hundred strips in a second."""
    client, errors = cut.addon.shared.client, cut.addon.shared.errors
    started = []

    class Limited(client.Worker):
        def __init__(self, *given):
            if started:
                raise errors.WorkerError("The runtime's Python cannot be started: out of processes.")
            super().__init__(*given)
            started.append(self)

    monkeypatch.setattr(client, "Worker", Limited)
    work, _ = begin(4)
    assert finish(work) == 4 and not work.problems


def test_the_window_makes_as_many_at_a_time_as_the_preferences_say(cut, echo, tmp_path):
    import bpy

    preferences = bpy.context.preferences.addons[cut.addon.root].preferences
    assert preferences.workers == 1, "each takes the memory of one"
    preferences.workers = 2
    (echo / "behave").write_text("meet")
    clip = footage.movie(tmp_path / "clip.mp4", 30)
    strips = [cut.movie(clip, start) for start in (1, 41)]
    cut.speech()
    assert cut.redub() == {"FINISHED"}
    assert sorted(playing(strips)) == ["clip_lipsync_001.mp4", "clip_lipsync_002.mp4"]


def test_an_undo_takes_one_strip_back_and_not_all_that_were_made_with_it(begin, cut, echo, tmp_path, monkeypatch):
    import bpy

    def names():
        found = cut.addon.strips.all_strips(bpy.context.scene)
        return [Path(s.filepath).name for s in sorted(found, key=lambda s: s.name) if s.type == "MOVIE"]

    operators = cut.addon.operators
    window = SimpleNamespace(
        workspace=SimpleNamespace(status_text_set=lambda text: None),
        window_manager=SimpleNamespace(windows=[], event_timer_remove=lambda timer: None),
        temp_override=nullcontext,
    )
    operator = SimpleNamespace(timer="timer", report=lambda kind, text: None, finish=lambda work: {"FINISHED"})
    operator.leave = lambda context: operators.Waits.leave(operator, context)
    monkeypatch.setattr(operators, "clear_status", lambda context: None)
    (echo / "behave").write_text("hang")
    work, _ = begin(2)
    until(work, lambda: len(cut.hanging(echo)) == 2)
    bpy.ops.ed.undo_push(message="before")
    (echo / "behave").unlink()
    while len(list((tmp_path / "lipsync").glob("clip_*.mp4"))) < 2:
        time.sleep(0.02)
    time.sleep(1)  # both have answered when the window looks again
    monkeypatch.setattr(operators, "running", work)
    event = SimpleNamespace(type="TIMER", value="NOTHING")
    while operators.running:
        assert operators.LIPSYNC_OT_redub.modal(operator, window, event) != {"CANCELLED"}
    assert sorted(names()) == ["clip_lipsync_001.mp4", "clip_lipsync_002.mp4"]
    bpy.ops.ed.undo()
    assert sorted(name.partition("_00")[0] for name in names()) == ["clip.mp4", "clip_lipsync"]
    bpy.ops.ed.undo()
    assert names() == ["clip.mp4", "clip.mp4"]
