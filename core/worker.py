# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that does the work: jobs in on standard input, answers out on standard output, one line of JSON each.

    python -m core.worker            from a checkout or an installed package
    python -I <folder>/core/worker.py   from the extension's folder, with nothing but this file's path

Lines in: RedubJob, Cancel (every job not ended yet). The end of standard input ends the process: a running job is
cancelled first, so that it can remove what it began, but is waited for only `grace` seconds.
Lines out: Hello, then for each job some Progress and exactly one Result or Failure. Whatever else libraries print goes
to standard error.
"""

from __future__ import annotations

import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TextIO

if not __package__:  # run as a file: the package is the folder this file is in
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p).resolve() != here)]

from core import __version__
from core.errors import JobError, LipSyncError, refused
from core.job import Cancel, Failure, Hello, Message, Progress, RedubJob, Result, from_json, to_json

grace = 2.0
"""Seconds that a job gets to clean up after standard input has ended."""
report_interval = 0.1
"""Seconds between two Progress lines of one stage."""


class Worker:
    """Reads from `source`, answers on `sink`, works on the thread that calls `serve`."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._source = source
        self._sink = sink
        self._writing = threading.Lock()
        self._jobs: queue.Queue[tuple[RedubJob, threading.Event]] = queue.Queue()
        self._asked: list[threading.Event] = []
        self._idle = threading.Event()

    def serve(self) -> None:
        """Never returns: the end of the source ends the process."""
        self._say(Hello(__version__, platform.python_version(), os.getpid()))
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            self._idle.set()
            job, stop = self._jobs.get()
            self._idle.clear()
            self._say(self._do(job, stop))

    def _say(self, message: Message) -> None:
        with self._writing:
            try:
                self._sink.write(to_json(message) + "\n")
                self._sink.flush()
            except OSError:  # nobody listens any more: the end of standard input follows
                pass

    def _listen(self) -> None:
        for line in self._source:
            try:
                message = from_json(line)
                if isinstance(message, RedubJob):
                    stop = threading.Event()
                    self._asked.append(stop)
                    self._jobs.put((message, stop))
                elif isinstance(message, Cancel):
                    self._cancel()
                else:
                    raise JobError(f"A worker cannot do anything with a {message.type} message.", "Send a job.")
            except LipSyncError as e:
                self._say(failure(e))
            except Exception as e:  # whatever a line does: who listens no longer hears Cancel nor the end
                traceback.print_exception(e)
                told = f"A line sent to the worker cannot be read ({type(e).__name__})."
                self._say(Failure("JobError", told, "Send one message of core/job.py a line."))
        self._cancel()
        self._idle.wait(grace)
        os._exit(0)

    def _cancel(self) -> None:
        for stop in self._asked:
            stop.set()
        self._asked.clear()

    def _do(self, job: RedubJob, stop: threading.Event) -> Result | Failure:
        shown: dict[str, float] = {}

        def report(progress: Progress) -> None:
            now = time.monotonic()
            if progress.done == progress.total or now - shown.get(progress.stage, -report_interval) >= report_interval:
                shown[progress.stage] = now
                self._say(progress)

        try:
            from core import redub  # late: torch takes seconds, and Hello should not wait for it

            return redub.run(job, report, stop.is_set)
        except BaseException as e:  # a library's exit or a panic of one in Rust must not end the worker either
            return failure(e)


def failure(error: BaseException) -> Failure:
    """What the other side is told of `error`; of one that nobody foresaw, the traceback goes to standard error."""
    if isinstance(error, LipSyncError):
        return Failure(type(error).__name__, str(error), error.hint)
    traceback.print_exception(error)
    if isinstance(error, OSError):
        return failure(refused(error))
    if isinstance(error, ImportError):  # an environment half made, or without a library of the system
        hint = "Check Runtime in the add-on's preferences says what is missing; install it as the README tells."
        return Failure("LipSyncError", f"The runtime's packages cannot be loaded: {error}.", hint)
    return Failure(
        "Crash",
        f"The worker met an error nobody foresaw ({type(error).__name__}).",
        "Please report it, with the worker's log.",
    )


def main() -> None:
    """Serves standard input and output until the former ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the parent decides
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library's print must not look like an answer
    source = os.fdopen(os.dup(0), encoding="utf-8", errors="replace")
    Worker(source, protocol).serve()


if __name__ == "__main__":
    main()
