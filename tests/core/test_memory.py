# SPDX-License-Identifier: GPL-3.0-or-later
"""A long shot must not need more memory than a short one: benchmarks/memory.py, at a size that a test can wait for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

memory = pytest.importorskip("memory", reason="benchmarks/memory.py needs scikit-image and soundfile")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not tell a process's peak memory")
def test_a_worker_needs_no_more_memory_for_four_times_the_frames(tmp_path: Path, tiny_model: Path) -> None:
    short, long = (memory.measure(tmp_path, count, (320, 180), str(tiny_model)) for count in (250, 1000))
    assert long < 1.1 * short
    a_frame = 320 * 180 * 3 // 2
    assert long - short < 750 * a_frame / 3, "750 more frames, and not a third of them kept"
