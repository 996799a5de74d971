# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled model, anew: prepare → pretrain → core/weights/default.safetensors.

make default-model VIDEOS=FOLDER MANIFEST=FOLDER/MANIFEST.csv

Stopped and given again, it goes on where it was; MINUTES=9 stops it by itself. At the end the lip measure is taken on
CLIPS, if given, and goes onto the file's card; then the bundled file is replaced, in one move. core/weights/README.md
is written by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from core.nets.checkpoint import default_model

about = Path(__file__).with_name("default_card.json")
"""What is true of the recipe, whoever runs it."""
measured = ("r", "lag", "r_at_lag", "late", "r_untouched", "r_replaced", "sharpness", "jitter", "opening_range")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--videos", default="", help="folder of videos of talking people; none: prepared ones are there"
    )
    parser.add_argument("--manifest", default="", help="CSV with file, identity and split, as `prepare` takes it")
    parser.add_argument("--clips", default="", help="videos of other people, for the measures on the card")
    parser.add_argument("--prepared", type=Path, default=Path("runs/prepared"))
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--minutes", type=float, default=0, help="stop training after so many; 0: when it is done")
    parser.add_argument("--model", type=Path, default=default_model, help="the file to replace")
    parser.add_argument("training", nargs="*", help="further words for `lipsync-train pretrain`, after --")
    options = parser.parse_args()
    trained, exported = options.run / "generator.safetensors", options.run / "exported.safetensors"
    lips = options.run / "lips"
    words = []
    if options.videos:
        sources = [f"--videos={options.videos}", *([f"--manifest={options.manifest}"] if options.manifest else [])]
        words.append(["prepare", *sources, f"--output={options.prepared}"])
    learn = ["--config=default_model", f"--data.folder={options.prepared}", f"--output={options.run}"]
    words.append(["pretrain", *learn, f"--minutes={options.minutes}", *options.training])
    for step in words:
        if code := run(step):
            return code
    if not trained.exists():
        print("Not done yet: the same command goes on from here.")
        return 0
    card = json.loads(about.read_text(encoding="utf-8"))
    card["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    card["steps"] = {stage: last_step(options.run / stage) for stage in ("listen", "paint")}
    if options.clips:
        if code := run(["evaluate", "lips", f"--videos={options.clips}", f"--model={trained}", f"--output={lips}"]):
            return code
        scores = json.loads((lips / "lips.json").read_text(encoding="utf-8"))
        card["results"] = {name: round(sum(score[name] for score in scores) / len(scores), 3) for name in measured}
        card["results"]["clips"] = len(scores)
    written = options.run / "card.json"
    written.write_text(json.dumps(card, indent=1), encoding="utf-8")
    exported.unlink(missing_ok=True)
    if code := run(["export", f"--run={trained}", f"--output={exported}", f"--card={written}"]):
        return code
    exported.replace(options.model)
    print(f"{options.model} is the new model.")
    return 0


def last_step(stage: Path) -> int:
    lines = (stage / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return max(json.loads(line)["step"] for line in lines)


def run(words: list[str]) -> int:
    print(f"\n$ lipsync-train {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "training_cli.cli", *words]).returncode


if __name__ == "__main__":
    raise SystemExit(main())
