# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that speaks the protocol and makes real media without a net: the asked for pictures, marked as dubbed.

The tests put it in the place of core/worker.py. It keeps every job, with a copy of its speech, in $ECHO_FOLDER, and
behaves badly when the file $ECHO_FOLDER/behave says so: `hang` (waits until it is told to stop), `die` (kill -9 of
itself half-way; both leave a half-made file), `face` (finds none), `noise` (an answer that is none), `short` (makes a
frame too few), `warn`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from fractions import Fraction
from math import ceil
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, os.environ["ECHO_HELPERS"])

import footage

from core import __version__, job

folder = Path(os.environ["ECHO_FOLDER"])
cancelled = threading.Event()
jobs: list[job.RedubJob] = []
arrived = threading.Semaphore(0)


def say(message: job.Message) -> None:
    print(job.to_json(message), flush=True)


def listen() -> None:
    for line in sys.stdin:
        message = job.from_json(line)
        if isinstance(message, job.RedubJob):
            jobs.append(message)
            arrived.release()
        else:
            cancelled.set()
    os._exit(0)


def work(request: job.RedubJob) -> job.Result | job.Failure:
    taken = len(list(folder.glob("*.json")))
    (folder / f"{taken}.json").write_text(job.to_json(request))
    shutil.copy(request.speech, folder / f"{taken}.wav")
    (folder / "environment").write_text("\n".join(sorted(os.environ)))
    behave = (folder / "behave").read_text() if (folder / "behave").exists() else ""
    output = Path(request.output)
    sources = [Path(p) for p in (request.images or (request.video,))]
    numbers = [n for path in sources for n in footage.read_numbers(path)]
    count = request.frame_count or len(numbers) - request.start_frame
    if request.sync_mode == "loop":
        assert request.rate
        length = Fraction(len(footage.samples(request.speech)), 16000)
        count = ceil((request.speech_start + length) * request.rate)
        numbers, sources = numbers * count, sources * count
    chosen = numbers[request.start_frame : request.start_frame + count]
    say(job.Progress("faces", count, count))
    if behave == "face":
        return job.Failure("NoFaceError", f"There is no face in {request.video}.", "Choose other footage.")
    if behave == "noise":
        print("hello there", flush=True)
    if behave == "short":
        chosen.pop()
    if behave in ("die", "hang"):
        (output.parent / f".{output.name}.1234.part{output.suffix}").write_bytes(b"half")
    if behave == "die":
        say(job.Progress("lips", 1, count))
        os.kill(os.getpid(), signal.SIGKILL)
    while behave == "hang" and not cancelled.is_set():
        (folder / "hanging").write_text(str(os.getpid()))
        time.sleep(0.02)
    if cancelled.is_set():
        return job.Failure("Cancelled", "The job was cancelled; nothing was changed.")
    new = [n | footage.dubbed for n in chosen]
    names = tuple(path.name for path in sources[request.start_frame : request.start_frame + count])
    if request.sync_mode == "loop":
        names = tuple(f"{i:04d}_{name}" for i, name in enumerate(names))
    images = bool(request.images) and not output.suffix
    if images:
        output.mkdir()
        for name, n in zip(names, new, strict=True):
            footage.write_image(output / name, n)
    else:
        rate = request.rate
        if request.video:
            with footage.av.open(request.video) as container:
                rate = container.streams.video[0].guessed_rate
        assert rate
        footage.encode(output, new, rate)
    say(job.Progress("lips", count, count))
    warnings = ("The lips will look soft.",) if behave == "warn" else ()
    return job.Result(request.output, len(new), len(new), warnings=warnings, images=names if images else ())


if __name__ == "__main__":
    say(job.Hello(__version__, "echo"))
    print("echo worker started", file=sys.stderr, flush=True)
    threading.Thread(target=listen, daemon=True).start()
    while True:
        arrived.acquire()
        say(work(jobs.pop(0)))
