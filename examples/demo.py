# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole path without a window: footage and speech on Blender's timeline, the operator, the strip re-dubbed.

Leaves before.mp4, after.mp4, sheet.png, report.json and film.blend (which plays the new media) in the output folder.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import comparison
import numpy as np
import portrait

from core import __version__, audio, media
from core.errors import LipSyncError
from core.nets.checkpoint import default_model, load_generator
from lipsync_addon import package
from training_cli.evaluate.show import write_png

here = Path(__file__).resolve().parent
columns = 8
results = ("before.mp4", "before.mkv", "after.mp4", "after.mkv", "sheet.png", "report.json", "film.blend")
packages = ("av", "mediapipe", "numpy", "opencv-contrib-python", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description="Re-dubs a shot in a headless Blender and shows before and after.")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for the results")
    parser.add_argument("--video", type=Path, help="your own movie instead of the moved portrait")
    parser.add_argument("--speech", type=Path, default=here / "speech.flac", help="your own speech")
    arguments = parser.parse_args()
    os.environ.setdefault("GLOG_minloglevel", "2")  # MediaPipe's start-up notes are no news to the user
    try:
        _demonstrate(arguments.out.resolve(), arguments.video and arguments.video.resolve(), arguments.speech.resolve())
    except LipSyncError as error:
        sys.exit(f"{error} {error.hint}".strip())


def _demonstrate(out: Path, video: Path | None, speech: Path) -> None:
    _refuse_results(out, video, speech)
    out.mkdir(parents=True, exist_ok=True)
    length = len(audio.load(str(speech))) / audio.sample_rate
    if video is None:
        video = out / "footage.mp4"
        print(f"Making {length:.1f} s of footage …", flush=True)
        portrait.write_clip(video, math.ceil(length * portrait.rate))
    info = media.probe(str(video))
    _remove_earlier(out, video)

    print(f"Re-dubbing {video.name} in Blender …", flush=True)
    answer = _redub(out, video, speech, str(info.rate))
    after = Path(answer["media"])

    print("Comparing …", flush=True)
    stills = sorted({round((i + 0.5) * info.frames / columns) for i in range(columns)} & set(range(info.frames)))
    shot_before, shot_after = (comparison.look(path, stills) for path in (video, after))
    films = [
        comparison.add_speech(video, speech, out / "before.mp4"),
        comparison.add_speech(after, speech, out / "after.mp4"),
    ]
    picture = comparison.sheet(shot_before, shot_after, info.rate)
    write_png(out / "sheet.png", picture)
    report = _report(answer, {"before": shot_before, "after": shot_after})
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{report['changed']} of {report['frames']} frames have new lips, in {report['seconds']:.0f} s.")
    print("\n".join(str(path) for path in (*films, out / "sheet.png", out / "report.json", out / "film.blend")))


def _refuse_results(out: Path, video: Path | None, speech: Path) -> None:
    """Raises a LipSyncError if what is asked for would be replaced by its own result."""
    replaced = [out / name for name in (*results, *(() if video else ("footage.mp4",)))]
    own = next((path for path in (video, speech) if path in replaced), None)
    if own:
        raise LipSyncError(
            f"{own} is a file that the demonstration replaces.", "Copy it elsewhere, or choose another --out."
        )


def _remove_earlier(out: Path, video: Path) -> None:
    """What an earlier demonstration left there, and nothing else."""
    takes = (out / "lipsync").glob(f"{glob.escape(video.stem)}_lipsync_???.mp4")
    for path in (*(out / name for name in results), *takes):
        path.unlink(missing_ok=True)


def _redub(out: Path, video: Path, speech: Path, rate: str) -> dict[str, Any]:
    """Runs in_blender.py with the extension built from this checkout. Ends the process when that fails."""
    with tempfile.TemporaryDirectory(prefix="lipsync-demo-") as folder:
        extension = package.build(Path(folder) / "lip_sync_redub.zip")
        answer = Path(folder) / "answer.json"
        (Path(folder) / "blender").mkdir()
        given = {
            "extension": extension,
            "video": video,
            "speech": speech,
            "blend": out / "film.blend",
            "answer": answer,
        }
        command = [sys.executable, str(here / "in_blender.py"), "--rate", rate]
        command += [part for name, value in given.items() for part in (f"--{name}", str(value))]
        ended = subprocess.run(command, env=os.environ | {"BLENDER_USER_RESOURCES": str(Path(folder) / "blender")})
        if ended.returncode:
            sys.exit(f"The demonstration failed: Blender's process ended with status {ended.returncode}.")
        answered = json.loads(answer.read_text(encoding="utf-8"))
    if "problem" in answered:
        sys.exit(f"The demonstration failed: {answered['problem']}")
    return answered


def _report(answer: dict[str, Any], looks: dict[str, comparison.Look]) -> dict[str, Any]:
    result = answer["result"]
    generator, card = load_generator(default_model)
    versions = {"lip_sync_redub": __version__, "blender": answer["blender"], "python": platform.python_version()}
    return {
        "frames": result["frames"],
        "changed": result["changed"],
        "untouched": result["untouched"],
        "warnings": result["warnings"],
        "seconds": answer["seconds"],
        "worker_seconds": result["seconds"],
        "lip_opening": {
            name: {"mean": float(np.nanmean(look.opening)), "standard_deviation": float(np.nanstd(look.opening))}
            for name, look in looks.items()
        },
        "job": answer["redub"],
        "model": {"settings": vars(generator.config), "card": card},
        "versions": versions | {name: metadata.version(name) for name in packages},
        "system": platform.platform(),
    }


if __name__ == "__main__":
    main()
