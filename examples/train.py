# SPDX-License-Identifier: GPL-3.0-or-later
"""From a folder of videos to a table, in minutes on two cores: prepare → expert → offsets → generator → evaluate.

python examples/train.py --videos FOLDER --out build/train

It shows the way, not a result: what a researcher runs for days on LRS2 (docs/training.md) runs here for minutes on as
many clips as that allows. Stopped and given again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path

from core.errors import LipSyncError, MediaError
from training_cli.prepare.corpora import find, with_splits
from training_cli.prepare.settings import PrepareSettings


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--videos", required=True, help="folder of videos of talking people with their sound")
    parser.add_argument("--manifest", default="", help="CSV with file, identity and split, as `prepare` takes it")
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    parser.add_argument("--clips", type=int, default=60, help="videos to train on, of as many people as can be")
    parser.add_argument("--dev-clips", type=int, default=4, help="videos of other people for the dev set and the table")
    parser.add_argument("--expert-steps", type=int, default=120)
    parser.add_argument("--generator-steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=32, help="samples a step of the expert")
    parser.add_argument("--width", type=float, default=0.375, help="of both nets")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each clip in the table")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        chosen = choose(options)
    except LipSyncError as e:
        print(f"{e}\n{e.hint}", file=sys.stderr)
        return 2
    prepared, expert = options.out / "prepared", options.out / "expert" / "expert.safetensors"
    model = options.out / "generator" / "generator.safetensors"
    dev = [f"--videos+={Path(options.videos) / row['file']}" for row in chosen if row["split"] == "dev"]
    half = max(1, options.generator_steps // 2)
    loop = ["--fit.log_every=10", "--fit.save_every=50", "--fit.workers=1", "--fit.precision=bf16-mixed"]
    loop += [f"--model.width={options.width}", f"--data.folder={prepared}"]
    learn = [f"--fit.batch={options.batch}", "--fit.dev_samples=64", "--fit.rate=5e-4", "--fit.patience=0"]
    learn += [f"--fit.steps={options.expert_steps}", f"--fit.evaluate_every={max(1, options.expert_steps // 4)}"]
    draw = ["--config=narrow", "--loss.lpips_trunk=untrained", "--fit.dev_samples=16", f"--fit.evaluate_every={half}"]
    draw += [f"--fit.steps={2 * half}", f"--loss.alpha_from_step={half}", "--loss.alpha_ramp=20"]
    measure = [f"--seconds={options.seconds}", "--lpips_trunk=untrained", "--lips=false"]
    manifest, table = options.out / "manifest.csv", options.out / "table"
    steps = [
        ["prepare", f"--videos={options.videos}", f"--manifest={manifest}", f"--output={prepared}"],
        ["expert", f"--output={expert.parent}", *learn, *loop],
        ["prepare", "--videos=", f"--expert={expert}", f"--output={prepared}"],
        ["generator", *draw, f"--expert={expert}", f"--output={model.parent}", *loop],
        ["evaluate", "table", *dev, *measure, f"--model={model}", f"--expert={expert}", f"--output={table}"],
    ]
    for words in steps:
        print(f"\n$ lipsync-train {' '.join(words)}", flush=True)
        begun = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "training_cli.cli", *words]).returncode
        if code:
            return code
        print(f"({time.monotonic() - begun:.0f} s)", flush=True)
    return 0


def choose(options: argparse.Namespace) -> list[dict[str, str]]:
    """Takes turns among the people, so that few clips are of many; keeps the choice in manifest.csv."""
    path = options.out / "manifest.csv"
    if not path.exists():
        found = find(PrepareSettings(options.videos, str(options.out), manifest=options.manifest)).videos
        videos = with_splits(found, {})
        rows = []
        for split, most in (("train", options.clips), ("dev", options.dev_clips)):
            people: dict[str, list[str]] = {}
            for video in videos:
                if video.split == split:
                    people.setdefault(video.identity, []).append(video.source)
            if not people:
                hint = "Videos of two people are needed, each in a folder of their own, or a manifest with splits."
                raise MediaError(f"{options.videos} has no video for the split {split}.", hint)
            turns = [file for turn in zip_longest(*people.values()) for file in turn if file]
            who = {file: person for person, files in people.items() for file in files}
            rows += [{"file": file, "identity": who[file], "split": split} for file in turns[:most]]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file", "identity", "split"])
            writer.writeheader()
            writer.writerows(rows)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
