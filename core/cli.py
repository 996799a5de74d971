# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync`: the pipeline from a shell.

Exit status: 0 done, 1 failed work (a batch with a failed job, something missing, a crash), 2 a mistake in the request
or its files, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

from . import __version__
from .batch import Batch
from .batch_check import ListCheck
from .batch_report import Report
from .client import most_workers
from .errors import JobError, LipSyncError, MediaError, OutputError, refused
from .job import (
    Failure,
    Progress,
    RedubJob,
    Result,
    check_detector,
    check_face,
    fraction,
    number_ranges,
    to_json,
)

still_rate = Fraction(25)
"""Frames a second of a movie that is made of a single image, unless the user says another."""
image_suffixes = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".dpx", ".bmp", ".tga", ".webp")

_number_options = {
    "mask_padding": "part of its size by which the mask grows",
    "mask_feather": "softness of the mask's edge over the face's size",
    "strength": "how much of the new lips shows",
    "sharpen": "sharpening of the new lips, 1: as the footage",
    "grain": "grain of the new lips, 1: as the skin",
    "liveliness": "how widely the lips move, 1: as suits the speech and the person",
    "turn_limit": "degrees a head may be turned; beyond, frames stay as they were",
    "restore_weight": "w of a net like CodeFormer",
}
"""Options that are numbers of a RedubJob, and what they are."""
_interrupted = threading.Event()
"""Somebody pressed Ctrl-C or stopped the process: libraries make other errors of it, or overlook it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: does what the arguments say and returns the exit status."""
    _ready_streams()
    _interrupted.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # a cluster's stop cleans up as Ctrl-C does
        # so does a closed terminal, but not under nohup; Windows has none
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, _interrupt)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
    try:
        arguments = _parser().parse_args(argv)
        return arguments.work(arguments)
    except (Exception, KeyboardInterrupt) as e:
        if isinstance(e, KeyboardInterrupt) or _interrupted.is_set():
            return _complain("Interrupted; nothing was changed.", status=130)
        return _give_up(_failure(e))


def _interrupt(*_: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _ready_streams() -> None:
    """Opens what a daemon has closed, for the next file opened would get its number and a library's notes with it.

    And a name that the terminal cannot show must not end the work.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lipsync", description="Gives talking heads the lips of other speech.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    redub = commands.add_parser("redub", help="re-dub one shot", description="Re-dubs one shot.")
    redub.set_defaults(work=_redub)
    redub.add_argument(
        "video", metavar="VIDEO", help="movie, image, or folder or pattern (shot_####.png, shot_%%04d.png) of images"
    )
    redub.add_argument("speech", metavar="SPEECH", help="any file with sound")
    redub.add_argument("-o", "--output", metavar="OUT", required=True, help="new movie; for images also a new folder")
    redub.add_argument("--rate", type=_rate, help="frames a second, such as 25 or 30000/1001; images need it")
    redub.add_argument("--start", type=int, default=0, metavar="FRAME", help="first frame, counted from 0")
    redub.add_argument("--count", type=int, metavar="FRAMES", help="number of frames; default: to the end")
    redub.add_argument(
        "--speech-start",
        type=_fraction,
        default=Fraction(0),
        metavar="SECONDS",
        help="when the speech begins; before the picture: --speech-start=-0.5",
    )
    redub.add_argument(
        "--face",
        default="largest",
        help="whose lips: largest, speaking, track:N or at:FRAME,X,Y (see `lipsync faces`)",
    )
    redub.add_argument(
        "--also",
        nargs="+",
        action="append",
        default=[],
        metavar=("FACE SPEECH", "SECONDS"),
        help="another speech for another face in the same pictures, and when it begins; may be given again",
    )
    _add_face_options(redub)
    redub.add_argument(
        "--silence",
        choices=("rest", "keep", "off"),
        default="rest",
        help="where nobody speaks: rest the mouth, keep the original, or let the lips follow every sound",
    )
    redub.add_argument(
        "--sync-mode",
        choices=("cut_off", "silence", "loop", "bounce", "stretch"),
        help="speech and picture of different length: change the lips while both last, rest the mouth beyond the "
        "speech, or fit the picture to the speech; default: cut_off, for a single image loop",
    )
    redub.add_argument("--sound", choices=("speech", "source", "none"), default="speech", help="sound of the new movie")
    redub.add_argument(
        "--mix",
        default="",
        metavar="FILE",
        help="what is heard instead of the speech, as its voice with music; begins with the speech",
    )
    redub.add_argument(
        "--quality", choices=("high", "lossless", "mezzanine", "web"), default="high", help="of a new movie's pictures"
    )
    redub.add_argument("--model", default="", metavar="FILE", help="checkpoint; default: the bundled one")
    redub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    redub.add_argument("--batch-size", type=int, default=16, metavar="FRAMES", help="frames through the net together")
    redub.add_argument(
        "--c2pa-certificate", default="", metavar="PEM", help="certificate that signs the output's Content Credentials"
    )
    redub.add_argument("--c2pa-key", default="", metavar="PEM", help="the certificate's private key")
    look = redub.add_argument_group("look of the new lips")
    look.add_argument(
        "--mask", choices=("jaw", "mouth"), default="jaw", help="the lower face (default), or the mouth only"
    )
    for name, of in _number_options.items():
        option, default = f"--{name.replace('_', '-')}", getattr(RedubJob, name)
        low, high = number_ranges[name]
        look.add_argument(
            option, type=float, default=default, metavar="N", help=f"{of}; {low:g} to {high:g}, default {default:g}"
        )
    look.add_argument(
        "--in-front",
        choices=("keep", "ignore"),
        default="keep",
        help="hands and microphones before the mouth stay in front (default), or are not looked for",
    )
    look.add_argument(
        "--restore", default="", metavar="FILE", help="ONNX net of the class of GFPGAN or CodeFormer, over the new lips"
    )
    redub.add_argument(
        "--debug", default="", metavar="FOLDER", help="write crops, masks and stages of some frames there; a new folder"
    )
    redub.add_argument("--json", action="store_true", help="print the result, or the failure, as one line of JSON")

    show = commands.add_parser(
        "faces",
        help="show who is in the footage",
        description="Prints the tracks of all faces as JSON: their number for --face track:N, the frames they are "
        "seen in, the median box (left, top, right, bottom) and size in pixels, how far they are turned in degrees, "
        "a click at the mouth for --face, and how well their lips fit the footage's own sound, -1 to 1.",
    )
    show.set_defaults(work=_faces)
    show.add_argument("video", metavar="VIDEO", help="movie, image, or folder or pattern of images")
    show.add_argument("--sheet", default="", metavar="FILE.png", help="draw a contact sheet")
    show.add_argument("--start", type=int, default=0, metavar="FRAME", help="first frame, counted from 0")
    show.add_argument("--count", type=int, metavar="FRAMES", help="number of frames; default: to the end")
    show.add_argument("--device", default="auto", help="of face-alignment: auto, cpu, cuda or cuda:N")
    _add_face_options(show)

    sync = commands.add_parser(
        "sync",
        help="measure whether sound and lips are in sync",
        description="Measures by how much a movie's own sound is late or early against the lips seen in it, up to half "
        "a second; it tells differences of a few milliseconds, but what it takes for in sync may itself be off by a "
        "frame. One line for each movie, which says so where it cannot be told. Exit status 1: a movie of several "
        "could not be used.",
    )
    sync.set_defaults(work=_sync)
    sync.add_argument("videos", metavar="VIDEO", nargs="+", help="movie with its own sound")
    sync.add_argument(
        "--face",
        default="largest",
        help="whose lips: largest, speaking, track:N or at:FRAME,X,Y (see `lipsync faces`)",
    )
    sync.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _add_face_options(sync)
    sync.add_argument("--json", action="store_true", help="a line of JSON for each movie (core/offset.py), or failure")

    batch = commands.add_parser(
        "batch",
        help="re-dub many shots",
        description="Does the jobs of a file, one RedubJob in JSON a line (core/job.py). Given again it goes on: what "
        "is there, made of the same files with the same settings, is not made again.",
    )
    batch.set_defaults(work=_batch)
    also = batch.add_mutually_exclusive_group()
    also.add_argument(
        "--report",
        default="",
        metavar="FILE.csv",
        help="keep a table of what became of each job; one that is there from an earlier run goes on",
    )
    also.add_argument(
        "--check",
        action="store_true",
        help="make nothing, but say of every line that could not be done why, and how many are made already",
    )
    batch.add_argument("jobs", metavar="JOBS.jsonl", help="paths in it count from the current folder")
    batch.add_argument(
        "--workers", type=int, default=1, metavar="N", help="jobs at a time, each with a job's memory; default 1"
    )

    doctor = commands.add_parser(
        "doctor", help="check the installation", description="Tells what is there and what is missing."
    )
    doctor.set_defaults(work=_doctor)
    return parser


def _add_face_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detector",
        default="mediapipe",
        help="what finds faces: mediapipe, or face-alignment[:FOLDER] with the folder of its weights",
    )
    parser.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="search the faces even if they are known from an earlier run, and do not keep them",
    )


def _fraction(text: str) -> Fraction:
    try:
        return fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 25, 23.976 or 30000/1001") from None


def _rate(text: str) -> Fraction:
    """Frames a second; 23.976, 29.97 and the like are the broadcasters' rates, which are such parts of 1001."""
    told = _fraction(text)
    broadcast = Fraction(round(told * 1001 / 1000) * 1000, 1001)
    return broadcast if told.denominator > 1 and abs(told - broadcast) < Fraction(1, 200) else told


def _redub(arguments: argparse.Namespace) -> int:
    try:
        result = _run(_job(arguments))
    except Exception as e:
        if not arguments.json or _interrupted.is_set():
            raise
        failure = _failure(e)
        _answer(to_json(failure))
        return _give_up(failure)
    if arguments.json:
        _answer(to_json(result))
    else:
        _tell(result)
    return 0


def _job(arguments: argparse.Namespace) -> RedubJob:
    images = image_files(arguments.video)
    still = images == (arguments.video,)
    rate = still_rate if still and arguments.rate is None else arguments.rate
    if images and rate is None:
        raise JobError(
            "An image sequence has no frame rate of its own.", "Say how many frames a second it has with --rate."
        )
    return RedubJob(
        video="" if images else arguments.video,
        images=images,
        speech=arguments.speech,
        output=arguments.output,
        rate=rate,
        start_frame=arguments.start,
        frame_count=arguments.count,
        speech_start=arguments.speech_start,
        face=arguments.face,
        others=tuple(_other(given) for given in arguments.also),
        detector=arguments.detector,
        cache=arguments.cache,
        silence=arguments.silence,
        sync_mode=arguments.sync_mode or ("loop" if still else "cut_off"),
        sound=arguments.sound,
        mix=arguments.mix,
        model=arguments.model,
        device=arguments.device,
        quality=arguments.quality,
        batch_size=arguments.batch_size,
        c2pa_certificate=arguments.c2pa_certificate,
        c2pa_key=arguments.c2pa_key,
        mask=arguments.mask,
        in_front=arguments.in_front,
        restore=arguments.restore,
        **{name: getattr(arguments, name) for name in _number_options},
        debug=arguments.debug,
    )


def _other(given: list[str]) -> tuple[str, str, Fraction]:
    if len(given) not in (2, 3):
        raise JobError("--also takes a face, a speech and perhaps a time.", "As in: --also track:2 spanish.wav 0.5")
    try:
        return given[0], given[1], fraction(given[2]) if len(given) == 3 else Fraction(0)
    except (ValueError, ZeroDivisionError):
        raise JobError(f"{given[2]!r} is no number of seconds.", "Use one such as 0.5 or -0.25.") from None


def _faces(arguments: argparse.Namespace) -> int:
    from . import people, show_faces  # late: SciPy takes a second, which `--help` should not

    images = image_files(arguments.video)
    footage = people.open_footage("" if images else arguments.video, images, None, arguments.start, arguments.count)
    if arguments.sheet:
        show_faces.check_sheet(arguments.sheet)
    device = "cpu"
    if arguments.detector != "mediapipe":
        from .engine import choose_device

        device = str(choose_device(arguments.device))
    with libraries_silenced(), _ProgressLine() as line:
        found = people.find(
            footage,
            lambda frames: line.show(Progress("faces", frames, footage.count)),
            detector=arguments.detector,
            device=device,
            cached=arguments.cache,
        )
    if arguments.sheet:
        show_faces.write_sheet(arguments.sheet, footage, found)
    _answer(json.dumps(show_faces.as_json(footage, found), indent=1))
    return 0


def _sync(arguments: argparse.Namespace) -> int:
    """Measures every movie it can; a single one that cannot be used is a mistake like any other."""
    check_face(arguments.face)
    check_detector(arguments.detector)
    from . import offset  # late: torch takes seconds, which `--help` should not
    from .engine import Engine

    engine = Engine("", arguments.device)
    failures: list[Failure] = []
    for video in arguments.videos:
        try:
            with libraries_silenced(), _ProgressLine() as line:
                measured = offset.measure(
                    video,
                    engine,
                    arguments.face,
                    lambda *progress, line=line: line.show(Progress(*progress)),
                    detector=arguments.detector,
                    cached=arguments.cache,
                )
        except Exception as e:
            if _interrupted.is_set():
                raise
            failures.append(_failure(e))
            if arguments.json:
                _answer(json.dumps({"video": video, **json.loads(to_json(failures[-1]))}))
            if len(arguments.videos) > 1:
                _give_up(failures[-1])
        else:
            _answer(measured.to_json() if arguments.json else measured.told())
    if failures and len(arguments.videos) == 1:
        return _give_up(failures[0])
    return 1 if failures else 0


def image_files(video: str) -> tuple[str, ...]:
    """The images that a folder, a pattern with `####` or `%04d` in the file's name, or an image stands for.

    Empty for a movie. In a folder numbers count as numbers (2 comes before 10), and hidden files not at all.

    Raises:
        MediaError: no image there, images of several kinds in one folder, or a number of the sequence is missing.
        OSError: the path cannot be looked at.
    """
    path = Path(video)
    if video and path.is_dir():
        seen = (p for p in path.iterdir() if p.suffix.lower() in image_suffixes and not p.name.startswith("."))
        files = sorted((p for p in seen if p.is_file()), key=_by_numbers)
        if not files:
            raise MediaError(f"There are no images in the folder {video}.", "Name a movie or a folder with images.")
        kinds = sorted({p.suffix.lower() for p in files})
        if len(kinds) > 1:
            raise MediaError(
                f"The folder {video} holds {' and '.join(kinds)} files.", f"Name one kind: NAME_####{kinds[0]}."
            )
        parts = [_by_numbers(p) for p in files]
        names = Counter((*one[:-2], one[-1]) for one in parts)
        if len(names) == 1 and len(parts[0]) > 1:
            _refuse_gap(video, [int(one[-2]) for one in parts])
        elif len(names) < len(files):
            usual, _ = names.most_common(1)[0]
            pattern = f"{''.join(map(str, usual[:-1]))}####{usual[-1]}{kinds[0]}"
            raise MediaError(f"The folder {video} holds images of several sequences.", f"Name one: {pattern}.")
        return tuple(str(p) for p in files)
    if path.is_file() and path.suffix.lower() in image_suffixes:
        return (video,)
    number = re.search(r"#+|%0?\d*d", path.name)
    if number is None or path.exists():
        return ()
    before, after = path.name[: number.start()], path.name[number.end() :]
    like = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    numbered = sorted((int(m[1]), str(p)) for p in siblings if (m := like.fullmatch(p.name)) and p.is_file())
    if not numbered:
        raise MediaError(f"No image matches {video}.", "Check the folder and the name before and after the number.")
    _refuse_gap(video, [number for number, _ in numbered])
    return tuple(name for _, name in numbered)


def _by_numbers(path: Path) -> list[str | int]:
    """The name without its ending, in text and numbers by turns, which sorts as people count."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", path.stem))]


def _refuse_gap(video: str, numbers: Sequence[int]) -> None:
    """Raises MediaError where the rising numbers of a sequence do not follow each other."""
    missing = next((numbers[0] + i for i, number in enumerate(numbers) if number != numbers[0] + i), None)
    if missing is not None:
        raise MediaError(
            f"Image {missing} of {video} is missing or there twice.",
            "Complete the sequence or give its parts one by one.",
        )


def _run(job: RedubJob) -> Result:
    from . import redub  # late: torch takes seconds, which `--help` should not

    with libraries_silenced(), _ProgressLine() as line:
        return redub.run(job, line.show, _interrupted.is_set)


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
    """Does every job it can, however many fail; a line of JSON for each."""
    if not 1 <= arguments.workers <= most_workers:
        raise JobError(f"{arguments.workers} workers are out of range.", f"Use 1 to {most_workers}.")
    lines = _lines(arguments.jobs)
    if arguments.check:
        return _check(lines)
    report = Report(arguments.report) if arguments.report else None
    failed: list[int] = []
    done = 0
    heard = True
    unwritten: OutputError | None = None
    batch = Batch(lines, arguments.workers)
    try:
        with batch, _ProgressLine() as shown:
            for answered in batch.answers():
                if answered is None:
                    shown.say(_how_far(done, batch))
                    continue
                number, answer = answered
                done += 1
                if isinstance(answer, Failure):
                    failed.append(number)
                shown.clear()
                heard = heard and _printed(json.dumps({"line": number, **json.loads(to_json(answer))}))
                try:
                    if report:
                        report.add(number, batch.outputs.get(number, ""), answer, batch.taken[number])
                        unwritten = None
                except OutputError as e:  # as while somebody looks at it in Windows: the jobs go on
                    unwritten = e
    except KeyboardInterrupt:
        return _complain(
            f"Interrupted; {done - len(failed)} of {batch.count} jobs are done, and what they made is complete.",
            "Give the same command again: it goes on with the others.",
            status=130,
        )
    if not heard:
        return _complain("Not all answers could be written; the jobs were done all the same.", status=1)
    if unwritten:
        return _complain(f"{unwritten} The jobs were done all the same.", unwritten.hint, status=1)
    if failed:
        which = ", ".join(map(str, sorted(failed)))
        return _complain(
            f"{len(failed)} of {done} jobs failed, in line {which}.",
            "Given again, the same command does only what is missing.",
            status=1,
        )
    return 0


def _lines(jobs: str) -> list[str]:
    try:
        return Path(jobs).read_text(encoding="utf-8-sig").split("\n")  # a name may hold other breaks
    except (OSError, UnicodeDecodeError) as e:
        raise JobError(
            f"The list of jobs {jobs} cannot be read: {getattr(e, 'strerror', None) or 'it is no UTF-8'}.",
            "Name a text file in UTF-8 with a job a line.",
        ) from None


def _check(lines: Sequence[str]) -> int:
    """A sentence for each line that could not be done, and how many could."""
    checks, made, failed = ListCheck(), 0, 0
    todo = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    with libraries_silenced(), _ProgressLine() as shown:
        for done, (number, line) in enumerate(todo):
            shown.say(f"{done} of {len(todo)} lines checked")
            try:
                made += checks.made_before(number, line)
            except Exception as e:
                if _interrupted.is_set():
                    raise
                failure = _failure(e)
                failed += 1
                shown.clear()
                _answer(f"line {number}: {failure.message} {failure.hint}".rstrip())
    left = len(todo) - made - failed
    jobs = f"{len(todo)} job{'' if len(todo) == 1 else 's'}"
    _answer(f"{jobs}: {left} to make, {made} made already, {failed} that cannot be done")
    return 1 if failed else 0


def _how_far(done: int, batch: Batch) -> str:
    lines = [f"line {number}: {_ProgressLine.told(progress)}" for number, progress in sorted(batch.running.items())]
    return "; ".join([f"{done} of {batch.count} jobs done", *lines])


def _answer(text: str) -> None:
    """Prints what the user asked for.

    Raises:
        OutputError: nobody takes it, as a full disk or a `head` that has seen enough.
    """
    if not _printed(text):
        raise OutputError(
            "The answer cannot be written.", "What was made is complete and stays where it was asked for."
        )


def _printed(text: str) -> bool:
    try:
        print(text, flush=True)
    except OSError:
        with suppress(OSError):  # or the interpreter's end would try again, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _doctor(arguments: argparse.Namespace) -> int:
    from . import doctor

    return doctor.report()


class _ProgressLine:
    """One line on standard error that is written over; nothing where that is no terminal."""

    words: dict[str, str] = {"sound": "listening", "faces": "looking for faces", "lips": "painting the lips"}

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last = 0.0

    def __enter__(self) -> _ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        if self._last:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def show(self, progress: Progress) -> None:
        if time.monotonic() - self._last >= 0.1 or progress.done == progress.total:
            self.say(self.told(progress))

    def say(self, text: str) -> None:
        if self._shown:
            self._last = time.monotonic()
            text = text[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    @classmethod
    def told(cls, progress: Progress) -> str:
        share = 100 * progress.done // max(1, progress.total)
        return f"{cls.words[progress.stage]}: frame {progress.done} of {progress.total} ({share} %)"


def _tell(result: Result) -> None:
    told = [f"{result.output}: {result.frames} frames, {result.changed} with new lips, in {result.seconds:.1f} s"]
    told += [f"untouched: frames {first} to {last}: {why}" for first, last, why in result.untouched]
    _answer("\n".join(told))
    for warning in result.warnings:
        print(f"lipsync: warning: {warning}", file=sys.stderr)


def _failure(error: BaseException) -> Failure:
    """What the user is told of the exception being handled."""
    if isinstance(error, OSError):
        error = refused(error)
    if isinstance(error, LipSyncError):
        return Failure(type(error).__name__, str(error), error.hint)
    return Failure("Crash", f"An error nobody foresaw ({type(error).__name__}).", keep_traceback())


def _give_up(failure: Failure) -> int:
    return _complain(failure.message, failure.hint, status=1 if failure.kind == "Crash" else 2)


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
