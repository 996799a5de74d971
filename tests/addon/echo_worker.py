# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that speaks the protocol and makes real media without a net: the asked for pictures, marked as dubbed.

The tests put it in the place of core/worker.py. It keeps every job, with a copy of its speech, in $ECHO_FOLDER, and
behaves badly when the file $ECHO_FOLDER/behave says so, or behave.STEM for the output of that name: `hang` (waits until
it is told to stop, or the file says something else), `die` (kill -9 of itself half-way; both leave a half-made file),
`wait` (hangs with nothing written), `late` (is done in spite of being told to stop), `meet` (waits until two jobs are
begun), `face` (finds none), `noise` (an answer that is none), `short` (makes a frame too few), `warn`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from fractions import Fraction
from itertools import count
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


def keep(request: job.RedubJob) -> None:
    """Under the next number that no other worker has taken."""
    for number in count():
        try:
            with (folder / f"{number}.json").open("x") as file:
                file.write(job.to_json(request))
        except FileExistsError:
            continue
        shutil.copy(request.speech, folder / f"{number}.wav")
        return


def behaviour(output: Path) -> str:
    for path in (folder / f"behave.{output.stem}", folder / "behave"):
        with suppress(FileNotFoundError):
            return path.read_text()
    return ""


def work(request: job.RedubJob) -> job.Result | job.Failure:
    keep(request)
    (folder / "environment").write_text(json.dumps(dict(os.environ)))
    output = Path(request.output)
    behave = behaviour(output)
    sources = [Path(p) for p in (request.images or (request.video,))]
    numbers = [n for path in sources for n in footage.read_numbers(path)]
    wanted = request.frame_count or len(numbers) - request.start_frame
    if request.sync_mode == "loop":
        assert request.rate
        length = Fraction(len(footage.samples(request.speech)), 16000)
        wanted = ceil((request.speech_start + length) * request.rate)
        numbers, sources = numbers * wanted, sources * wanted
    chosen = numbers[request.start_frame : request.start_frame + wanted]
    say(job.Progress("faces", wanted, wanted))
    if behave == "face":
        return job.Failure("NoFaceError", f"There is no face in {request.video}.", "Choose other footage.")
    if behave == "noise":
        print("hello there", flush=True)
    if behave == "short":
        chosen.pop()
    half = output.parent / f".{output.name}.{os.getpid()}.part{output.suffix}"
    if behave in ("die", "hang"):
        half.write_bytes(b"half")
    if behave == "die":
        say(job.Progress("lips", 1, wanted))
        os.kill(os.getpid(), signal.SIGKILL)
    begun = time.monotonic()
    while behave in ("hang", "wait", "late") and not cancelled.is_set():
        told = folder / f".hanging.{os.getpid()}"  # nobody shall read a half written name
        told.write_text(output.name)
        told.replace(folder / f"hanging.{os.getpid()}")
        time.sleep(0.02)
        behave = behaviour(output)
    while behave == "meet" and not (folder / "1.json").exists():
        if time.monotonic() - begun > 20:
            return job.Failure("LipSyncError", "Nobody else has come.")
        time.sleep(0.02)
    if cancelled.is_set() and behave != "late":
        return job.Failure("Cancelled", "The job was cancelled; nothing was changed.")
    half.unlink(missing_ok=True)
    new = [n | footage.dubbed for n in chosen]
    names = tuple(path.name for path in sources[request.start_frame : request.start_frame + wanted])
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
    say(job.Progress("lips", wanted, wanted))
    warnings = ("The lips will look soft.",) if behave == "warn" else ()
    return job.Result(request.output, len(new), len(new), warnings=warnings, images=names if images else ())


if __name__ == "__main__":
    say(job.Hello(__version__, "echo"))
    print(f"echo worker started, process {os.getpid()}.", file=sys.stderr, flush=True)
    threading.Thread(target=listen, daemon=True).start()
    while True:
        arrived.acquire()
        say(work(jobs.pop(0)))
