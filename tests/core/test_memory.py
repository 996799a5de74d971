# SPDX-License-Identifier: GPL-3.0-or-later
"""A long shot must not need more memory than a short one: benchmarks/memory.py, at a size that a test can wait for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

memory = pytest.importorskip("memory", reason="benchmarks/memory.py needs scikit-image and soundfile")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not tell a process's peak memory")
def test_a_worker_needs_no_more_memory_for_many_more_frames(tmp_path: Path, tiny_model: Path) -> None:
    speech = 40  # seconds for both: up to 30 are heard at once, and would count as frames
    short, long = (
        memory.measure(tmp_path, count, (640, 360), str(tiny_model), speech_seconds=speech) for count in (200, 700)
    )
    assert long < 1.1 * short
    a_frame = 640 * 360 * 3 // 2  # 500 of them are 165 MiB; threads alone make 30 MiB more or less
    assert long - short < 500 * a_frame / 3, "500 more frames, and not a third of them kept"


def test_a_worker_forgets_a_job_that_is_done(make_clip: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> None:
    """Whatever keeps the faces of a scene's first shot takes memory from all that come after it."""
    memory.write_speech(tmp_path / "speech.wav", 1.0)
    job = f"video={str(make_clip(25))!r}, speech={str(tmp_path / 'speech.wav')!r}, output={str(tmp_path / 'new.mp4')!r}"
    code = f"""
import gc
from core import faces, redub
from core.job import RedubJob

seen = []
def report(progress):
    if progress.stage == "lips" and not progress.done:
        gc.collect()
        seen.append([type(o).__name__ for o in gc.get_objects() if type(o) in (faces.People, faces.FaceTrack)])

result = redub.run(RedubJob({job}, model={str(tiny_model)!r}, silence="off", sound="none", cache=False), report)
gc.collect()
print(result.changed, seen, [type(o).__name__ for o in gc.get_objects() if type(o) in (faces.People, faces.Track)])
"""
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, cwd=memory.repository, capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[-2] == "25 [[]] []"
