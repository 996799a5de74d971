# SPDX-License-Identifier: GPL-3.0-or-later
"""benchmarks/bench.py must fit the pipeline: who asks what is slow wants an answer after the minutes it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.job import RedubJob

bench = pytest.importorskip("bench", reason="benchmarks/bench.py needs librosa and scikit-image")


def test_each_stage_of_a_redub_is_seen(
    make_clip: Callable[..., Path], make_speech: Callable[[float], Path], tiny_model: Path, tmp_path: Path
) -> None:
    job = RedubJob(
        video=str(make_clip(8)),
        speech=str(make_speech(0.4)),
        output=str(tmp_path / "new.mp4"),
        model=str(tiny_model),
        device="cpu",
        cache=False,
    )
    shares = bench.shares_of(job)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values()), shares
