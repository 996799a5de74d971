# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way of a researcher, as the example goes it: videos → prepared → expert → offsets → generator → table."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.engine import Engine
from core.errors import MediaError
from core.nets.checkpoint import load_expert

repository = Path(__file__).resolve().parents[2]


def test_a_folder_of_videos_becomes_a_table_and_given_again_nothing_is_done_twice(corpus, tmp_path):
    rows = [("b/talk.mkv", "b", "train"), ("a/talk.mkv", "a", "dev"), ("a/faceless.mkv", "c", "train")]
    for name, *_ in rows:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(corpus[name], tmp_path / name)
    with open(tmp_path / "all.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "identity", "split"), *rows])
    words = [sys.executable, "examples/train.py", f"--videos={tmp_path}", f"--manifest={tmp_path / 'all.csv'}"]
    words += [f"--out={tmp_path / 'out'}", "--expert-steps=4", "--generator-steps=4"]
    words += ["--width=0.125", "--seconds=1", "--batch=4"]

    def run() -> str:
        done = subprocess.run(words, cwd=repository, capture_output=True, encoding="utf-8", timeout=600)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    said = run()
    out = tmp_path / "out"
    report = [json.loads(line) for line in (out / "prepared" / "report.jsonl").read_text(encoding="utf-8").splitlines()]
    fine = {row["source"]: row["verdict"] == "ok" for row in report}
    assert fine == {name: "faceless" not in name for name, *_ in rows}
    assert all(row["confidence"] is not None for row in report[-2:])  # measured by the expert of this very run
    load_expert(out / "expert" / "expert.safetensors")
    card = Engine(str(out / "generator" / "generator.safetensors"), "cpu").card
    assert card["step"] == 4 and card["training"]["loss"]["lpips_trunk"] == "untrained"
    table = (out / "table" / "table.md").read_text(encoding="utf-8")
    assert "Ground truth" in table and "Expert confidence" in table and "untrained trunk" in table
    assert table.splitlines()[2] in said
    for folder in ("prepared", "expert", "generator", "table"):
        assert (out / folder / "config.toml").stat().st_size > 100

    patterns = ("*.safetensors", "*.mp4")
    made = {path: path.stat().st_mtime_ns for pattern in patterns for path in out.rglob(pattern)}
    run()
    assert {path: path.stat().st_mtime_ns for pattern in patterns for path in out.rglob(pattern)} == made
    assert table == (out / "table" / "table.md").read_text(encoding="utf-8")


def test_a_folder_without_a_manifest_is_split_by_its_people(corpus, tmp_path):
    import train

    for name in ("a/talk.mkv", "b/talk.mkv"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        shutil.copy(corpus[name], tmp_path / "videos" / name)
    asked = argparse.Namespace(videos=str(tmp_path / "videos"), manifest="", out=tmp_path, clips=9, dev_clips=9)
    assert {row["split"] for row in train.choose(asked)} == {"train", "dev"}
    (tmp_path / "manifest.csv").unlink()
    shutil.rmtree(tmp_path / "videos" / "b")
    with pytest.raises(MediaError, match="split") as caught:
        train.choose(asked)
    assert caught.value.hint and not (tmp_path / "manifest.csv").exists()
