# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker process as Blender and a batch see it: start it, send a job, hear its messages, cancel, notice its death.

Standard library only: Blender's Python loads it.
"""

from __future__ import annotations

import glob
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from . import errors, job

grace = 5.0
"""Seconds that a worker gets to clean up before it is ended by force."""
most_workers = 64
"""How many may work at a time."""
thread_variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def divided(environment: Mapping[str, str], workers: int) -> dict[str, str]:
    """A worker's environment: several share the processor's cores, where the user has not divided them otherwise."""
    if workers < 2 or any(name in environment for name in thread_variables):
        return dict(environment)
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {**environment, **{name: str(max(1, ours // workers)) for name in thread_variables}}


def remove_leftovers(output: Path, pid: int | None = None) -> None:
    """Removes what an ended worker could not: `.NAME.TOKEN.part` beside its output, as core.media.write names it.

    Args:
        pid: the worker's process; None: anybody's, beside an output whose name nobody else has.
    """
    for path in output.parent.glob(f".{glob.escape(output.name)}.{'' if pid is None else f'{pid}-'}*.part*"):
        remove(path)


def remove(path: Path) -> None:
    """Removes a movie or a folder of images, as far as the system lets us."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


class Worker:
    """A running worker.

    Args:
        command: the program and its arguments.
        log: file that gets what the worker writes to stderr; replaced.
        environment: its environment variables; None: this process's.

    Raises:
        WorkerError: the program cannot be started, or the log not be written.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.pid = 0
        """Of the process that does the work, once it has said hello: on Windows another than the one started here."""
        self._patience_ends = 0.0
        self._messages: queue.SimpleQueue[job.Message | None] = queue.SimpleQueue()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("wb")
        except OSError as e:
            raise errors.WorkerError(f"The log {log} cannot be written: {e.strerror or e}.") from None
        try:
            with output as stderr:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # else Windows shows a console
                )
        except OSError as e:
            raise errors.WorkerError(
                f"The runtime's Python cannot be started: {e}.", "Choose another one in the add-on's preferences."
            ) from None
        self._reader = threading.Thread(target=self._read, name="lipsync worker", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            try:
                message = job.from_json(line.decode("utf-8", "replace"))
                if isinstance(message, job.Hello):
                    self.pid = message.pid
                self._messages.put(message)
            except errors.JobError as e:
                self._messages.put(job.Failure("Crash", f"The lip-sync process gave an answer of the wrong kind. {e}"))
        self._messages.put(None)

    def send(self, message: job.RedubJob | job.Cancel) -> None:
        """Sends a message. A worker that is gone is noticed by `receive`."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.write(job.to_json(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float) -> job.Message | None:
        """The worker's next message, waited for at most so long; None: it has said nothing.

        The end of the worker arrives as a Failure of the kind `Crash`.
        """
        try:
            message = self._messages.get(timeout=seconds) if seconds > 0 else self._messages.get_nowait()
        except queue.Empty:
            return None
        if message is None:
            status = self._process.wait()
            message = job.Failure("Crash", f"The lip-sync process ended unexpectedly (exit status {status}).")
            self._messages.put(None)
        if isinstance(message, job.Failure) and message.kind == "Crash":
            return job.Failure("Crash", message.message, f"Try again; its log is {self.log}.")
        return message

    def hang_up(self) -> None:
        """Lets the process end, by closing its stdin (it cleans up), and does not wait for that."""
        assert self._process.stdin
        if not self._patience_ends:
            self._patience_ends = time.monotonic() + grace
            with suppress(OSError):
                self._process.stdin.close()

    def close(self) -> None:
        """Ends the process: politely, by hanging up, and by force when it then takes longer than `grace`."""
        assert self._process.stdout
        self.hang_up()
        try:
            self._process.wait(timeout=max(self._patience_ends - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=2)
        if not self._reader.is_alive():  # a grandchild may hold the pipe open
            self._process.stdout.close()
