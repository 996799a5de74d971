# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync`: the pipeline from a shell.

Exit status: 0 done, 1 failed work (a batch with a failed job, something missing, a crash), 2 a mistake in the request
or its files, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from . import __version__
from .errors import JobError, LipSyncError, MediaError
from .job import Failure, Progress, RedubJob, Result, from_json, to_json

image_suffixes = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".dpx", ".bmp", ".tga", ".webp")


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: does what the arguments say and returns the exit status."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's stop cleans up as Ctrl-C does
    try:
        arguments = _parser().parse_args(argv)
        return arguments.work(arguments)
    except KeyboardInterrupt:
        return _complain("Interrupted; nothing was changed.", status=130)
    except LipSyncError as e:
        return _complain(str(e), e.hint, status=2)
    except Exception as e:
        return _complain(f"An error nobody foresaw ({type(e).__name__}).", keep_traceback(), status=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lipsync", description="Gives talking heads the lips of other speech.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    redub = commands.add_parser("redub", help="re-dub one shot", description="Re-dubs one shot.")
    redub.set_defaults(work=_redub)
    redub.add_argument(
        "video", metavar="VIDEO", help="movie, or folder or pattern (shot_####.png, shot_%%04d.png) of images"
    )
    redub.add_argument("speech", metavar="SPEECH", help="any file with sound")
    redub.add_argument("-o", "--output", metavar="OUT", required=True, help="new movie; for images a new folder")
    redub.add_argument("--rate", type=_fraction, help="frames a second, such as 25 or 30000/1001; images need it")
    redub.add_argument("--start", type=int, default=0, metavar="FRAME", help="first frame, counted from 0")
    redub.add_argument("--count", type=int, metavar="FRAMES", help="number of frames; default: to the end")
    redub.add_argument(
        "--speech-start",
        type=_fraction,
        default=Fraction(0),
        metavar="SECONDS",
        help="when the speech begins, may be negative",
    )
    redub.add_argument("--sound", choices=("speech", "source", "none"), default="speech", help="sound of the new movie")
    redub.add_argument("--quality", choices=("high", "lossless"), default="high", help="of the new pictures")
    redub.add_argument("--model", default="", metavar="FILE", help="checkpoint; default: the bundled one")
    redub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    redub.add_argument("--batch-size", type=int, default=16, metavar="FRAMES", help="frames through the net together")
    redub.add_argument(
        "--debug", default="", metavar="FOLDER", help="write crops, masks and stages of some frames there"
    )
    redub.add_argument("--json", action="store_true", help="print the result, or the failure, as one line of JSON")

    batch = commands.add_parser(
        "batch",
        help="re-dub many shots",
        description="Does the jobs of a file, one RedubJob in JSON a line (core/job.py).",
    )
    batch.set_defaults(work=_batch)
    batch.add_argument("jobs", metavar="JOBS.jsonl", help="paths in it count from the current folder")

    doctor = commands.add_parser(
        "doctor", help="check the installation", description="Tells what is there and what is missing."
    )
    doctor.set_defaults(work=_doctor)
    return parser


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 25, 23.976 or 30000/1001") from None


def _redub(arguments: argparse.Namespace) -> int:
    try:
        job = _job(arguments)
        result = _run(job)
    except LipSyncError as e:
        if arguments.json:
            print(to_json(_failure(e)))
        raise
    if arguments.json:
        print(to_json(result))
    else:
        _tell(result)
    return 0


def _job(arguments: argparse.Namespace) -> RedubJob:
    images = image_files(arguments.video)
    if images and arguments.rate is None:
        raise JobError(
            "An image sequence has no frame rate of its own.", "Say how many frames a second it has with --rate."
        )
    return RedubJob(
        video="" if images else arguments.video,
        images=images,
        speech=arguments.speech,
        output=arguments.output,
        rate=arguments.rate,
        start_frame=arguments.start,
        frame_count=arguments.count,
        speech_start=arguments.speech_start,
        sound="none" if images else arguments.sound,
        model=arguments.model,
        device=arguments.device,
        quality=arguments.quality,
        batch_size=arguments.batch_size,
        debug=arguments.debug,
    )


def image_files(video: str) -> tuple[str, ...]:
    """The images that a folder, or a pattern with `####` or `%04d` in the file's name, stands for; empty for a movie.

    Raises:
        MediaError: no image there, images of several kinds in one folder, or a number of the sequence is missing.
    """
    path = Path(video)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in image_suffixes)
        if not files:
            raise MediaError(f"There are no images in the folder {video}.", "Name a movie or a folder with images.")
        kinds = sorted({p.suffix.lower() for p in files})
        if len(kinds) > 1:
            raise MediaError(
                f"The folder {video} holds {' and '.join(kinds)} files.", f"Name one kind: NAME_####{kinds[0]}."
            )
        return tuple(str(p) for p in files)
    number = re.search(r"#+|%0?\d*d", path.name)
    if number is None or path.exists():
        return ()
    before, after = path.name[: number.start()], path.name[number.end() :]
    like = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    numbered = sorted((int(m[1]), str(p)) for p in siblings if (m := like.fullmatch(p.name)))
    if not numbered:
        raise MediaError(f"No image matches {video}.", "Check the folder and the name before and after the number.")
    first, count = numbered[0][0], len(numbered)
    missing = next((first + i for i in range(count) if numbered[i][0] != first + i), None)
    if missing is not None:
        raise MediaError(
            f"Image {missing} of {video} is missing or there twice.",
            "Complete the sequence or give its parts one by one.",
        )
    return tuple(name for _, name in numbered)


def _run(job: RedubJob) -> Result:
    from . import redub  # late: torch takes seconds, which `--help` should not

    with libraries_silenced(), _ProgressLine() as line:
        return redub.run(job, line.show)


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """Keeps the terminal to ourselves: MediaPipe's C++ writes notes about itself straight to file descriptor 2."""
    python_stderr, terminal = sys.stderr, os.dup(2)
    with open(os.devnull, "w") as nowhere, os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace") as ours:
        if sys.stderr is sys.__stderr__:
            sys.stderr = ours
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(terminal, 2)
            os.close(terminal)


def _batch(arguments: argparse.Namespace) -> int:
    """Does every job it can, however many fail; a line of JSON for each, in order."""
    try:
        lines = Path(arguments.jobs).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise JobError(
            f"The list of jobs {arguments.jobs} cannot be read: {e}.", "Name a text file with a job a line."
        ) from None
    failed = number = 0
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            answer = _try(line)
            failed += isinstance(answer, Failure)
            print(json.dumps({"line": number, **json.loads(to_json(answer))}), flush=True)
    except KeyboardInterrupt:
        return _complain(
            f"Interrupted at line {number} of {arguments.jobs}; what the jobs above it made is complete and stays.",
            f"To go on, start again with line {number} and those below it.",
            status=130,
        )
    return 1 if failed else 0


def _try(line: str) -> Result | Failure:
    try:
        job = from_json(line)
        if not isinstance(job, RedubJob):
            raise JobError(f"A {job.type} message is no job.", 'A job has "type": "redub".')
        return _run(job)
    except LipSyncError as e:
        return _failure(e)
    except Exception as e:
        return Failure("Crash", f"An error nobody foresaw ({type(e).__name__}).", keep_traceback())


def _doctor(arguments: argparse.Namespace) -> int:
    from . import doctor

    return doctor.report()


class _ProgressLine:
    """One line on standard error that is written over; nothing where that is no terminal."""

    words: dict[str, str] = {"faces": "looking for the face", "lips": "painting the lips"}

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last = 0.0

    def __enter__(self) -> _ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._shown or (now - self._last < 0.1 and progress.done < progress.total):
            return
        self._last = now
        share = 100 * progress.done // max(1, progress.total)
        text = f"{self.words[progress.stage]}: frame {progress.done} of {progress.total} ({share} %)"
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _tell(result: Result) -> None:
    print(f"{result.output}: {result.frames} frames, {result.changed} with new lips, in {result.seconds:.1f} s")
    for first, last, why in result.untouched:
        print(f"untouched: frames {first} to {last}: {why}")
    for warning in result.warnings:
        print(f"lipsync: warning: {warning}", file=sys.stderr)


def _failure(error: LipSyncError) -> Failure:
    return Failure(type(error).__name__, str(error), error.hint)


def _complain(message: str, hint: str = "", *, status: int) -> int:
    print(f"lipsync: error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return status


def keep_traceback() -> str:
    """Writes the traceback of the exception being handled to a file, and says so."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="lipsync-crash-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        traceback.print_exc(file=log)
    return f"Please report it with {log.name}."


if __name__ == "__main__":
    sys.exit(main())
