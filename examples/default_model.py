# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled model, anew: prepare → pretrain → core/weights/default.safetensors.

make default-model VIDEOS=FOLDER MANIFEST=FOLDER/MANIFEST.csv

Stopped and given again, it goes on where it was; MINUTES=9 stops it by itself. The bundled file is replaced at the end,
in one move; its measures, in core/weights/README.md, are to be taken again then.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from core.nets.checkpoint import default_model

card = Path(__file__).with_name("default_card.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--videos", default="", help="folder of videos of talking people; none: prepared ones are there"
    )
    parser.add_argument("--manifest", default="", help="CSV with file, identity and split, as `prepare` takes it")
    parser.add_argument("--prepared", type=Path, default=Path("runs/prepared"))
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--minutes", type=float, default=0, help="stop training after so many; 0: when it is done")
    parser.add_argument("--model", type=Path, default=default_model, help="the file to replace")
    parser.add_argument("training", nargs="*", help="further words for `lipsync-train pretrain`, after --")
    options = parser.parse_args()
    trained, exported = options.run / "generator.safetensors", options.run / "exported.safetensors"
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
    exported.unlink(missing_ok=True)
    if code := run(["export", f"--run={trained}", f"--output={exported}", f"--card={card}"]):
        return code
    exported.replace(options.model)
    print(f"{options.model} is the new model.")
    return 0


def run(words: list[str]) -> int:
    print(f"\n$ lipsync-train {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "training_cli.cli", *words]).returncode


if __name__ == "__main__":
    raise SystemExit(main())
