# SPDX-License-Identifier: GPL-3.0-or-later
"""Peak memory of a worker process for a short and a long clip of the same kind: it must not grow with the clip.

python benchmarks/memory.py                                    500 against 10,000 frames of 1080p: hours on a CPU
python benchmarks/memory.py --size 320x180 --frames 300 3000   a minute
python benchmarks/memory.py --speech 3600                      also what an hour of speech costs, over a short one
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

repository = Path(__file__).resolve().parent.parent
rate = 25


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the peak memory of a worker process.")
    parser.add_argument("--frames", type=int, nargs=2, default=(500, 10_000), metavar=("SHORT", "LONG"))
    parser.add_argument("--size", default="1920x1080", help="WIDTHxHEIGHT")
    parser.add_argument("--model", default="", help="checkpoint; default: the bundled one")
    parser.add_argument("--speech", type=int, metavar="SECONDS", help="also the short clip with speech as long as this")
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    with tempfile.TemporaryDirectory(prefix="lipsync-memory-") as folder:
        peaks = []
        for count in arguments.frames:
            peaks.append(measure(Path(folder), count, (width, height), arguments.model, shown=_line))
            print(f"\r{count} frames of {arguments.size}: {peaks[-1] / 2**20:.0f} MiB at most")
        print(f"the long one takes {100 * (peaks[1] / peaks[0] - 1):+.1f} %")
        if arguments.speech:
            job = {"model": arguments.model, "speech_seconds": arguments.speech, "shown": _line}
            peak = measure(Path(folder), arguments.frames[0], (width, height), **job)
            print(f"\r{arguments.speech} s of speech: {(peak - peaks[0]) / 2**20:+.0f} MiB")


def measure(
    folder: Path,
    count: int,
    size: tuple[int, int],
    model: str = "",
    *,
    speech_seconds: float | None = None,
    shown: Callable[[str], None] = lambda text: None,
) -> int:
    """Bytes of memory that a fresh worker process needed at most for one job.

    Args:
        count: frames of a swaying portrait.
        speech_seconds: None: as long as the clip.
    """
    clip, speech, output = (folder / name for name in ("clip.mp4", "speech.wav", "new.mp4"))
    for path in (clip, speech, output, folder / "new.mp4.lipsync.json"):
        path.unlink(missing_ok=True)
    write_clip(clip, count, size)
    write_speech(speech, speech_seconds or count / rate)
    job = {"type": "redub", "video": str(clip), "speech": str(speech), "output": str(output), "sound": "none"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "core.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=repository,
    )
    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps({**job, "model": model, "device": "cpu"}) + "\n")
    worker.stdin.flush()
    answer: dict[str, Any] = {}
    for line in worker.stdout:
        answer = json.loads(line)
        if answer["type"] == "progress":
            shown(f"\r{answer['stage']} {answer['done']} of {answer['total']} ")
        if answer["type"] in ("result", "failure"):
            break
    worker.stdin.close()  # which ends the worker
    usage = os.wait4(worker.pid, 0)[2]
    worker.returncode = 0
    worker.stdout.close()
    if answer.get("type") != "result" or not answer["changed"]:
        sys.exit(f"The job did not end well: {answer}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_clip(path: Path, count: int, size: tuple[int, int]) -> None:
    """H.264 of a public-domain portrait that sways."""
    from skimage import data

    width, height = size
    still = data.astronaut()[0:300, 60:460]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(count):
            affine = cv2.getRotationMatrix2D((165, 120), 3 * np.sin(index / 15), height / 240)
            affine[:, 2] += (width / 2 - 165 + 6 * np.sin(index / 40), height / 2 - 120 + 2 * np.sin(index / 9))
            rgb: Any = cv2.warpAffine(still, affine, size, borderMode=cv2.BORDER_REFLECT)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_speech(path: Path, seconds: float) -> None:
    """Bursts of noise like syllables, 16 kHz, second by second."""
    import soundfile

    random = np.random.default_rng(1)
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
        for _ in range(round(seconds) + 1):
            bursts = np.sin(8 * np.pi * np.arange(16000) / 16000) > 0
            file.write((random.normal(0, 0.2, 16000) * bursts).clip(-1, 1).astype(np.float32))


def _line(text: str) -> None:
    if sys.stdout.isatty():
        print(text, end="", flush=True)


if __name__ == "__main__":
    main()
