# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README prints is what a new user types first: each command of `lipsync` in it runs as it is printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from portrait_clips import picture, write_images, write_movie

from core import cli, media

lines = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
names = re.compile(r"lipsync (redub|faces|sync|batch|doctor)\b")
commands = [line for line in lines if names.match(line) and "runs/" not in line]
jobs = [line for line in lines if line.startswith('{"type": "redub"')]


def test_every_command_and_every_job_of_the_readme_runs_as_printed(
    make_speech: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("german.wav", 0.5), ("long.wav", 1.0), ("anna-fr.wav", 0.4), ("ben-fr.wav", 0.3)):
        (tmp_path / name).write_bytes(make_speech(seconds).read_bytes())
    for name in ("interview.mp4", "short.mp4"):
        write_movie(tmp_path / name, 12, tone=True)
    write_images(tmp_path / "frames", "png", "rgb24", "png")
    cv2.imwrite("portrait.png", picture(0)[..., ::-1])
    write_two_shot(tmp_path / "two-shot.mp4")
    (tmp_path / "jobs.jsonl").write_text("\n".join(jobs).replace("german.mp4", "listed.mp4"))
    assert len(commands) >= 9 and jobs
    for command in commands:
        status = cli.main(shlex.split(command, comments=True)[1:])
        said = capsys.readouterr()
        assert status == 0, f"{command}\n{said.err}"
        if command.startswith("lipsync faces"):
            assert len(json.loads(said.out)["tracks"]) == 2
    made = {
        name: media.probe(name).frames for name in ("german.mp4", "talk.mp4", "long.mp4", "french.mp4", "listed.mp4")
    }
    assert made == {"german.mp4": 12, "talk.mp4": 13, "long.mp4": 25, "french.mp4": 12, "listed.mp4": 12}
    assert len(list(Path("new_frames").glob("shot_*.png"))) == 6 and Path("faces.png").exists()


def write_two_shot(path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, width=640, height=240)
        video.pix_fmt = "yuv420p"
        for i in range(12):
            both = np.hstack([picture(i), picture(i + 4)[:, ::-1]])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(both), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
