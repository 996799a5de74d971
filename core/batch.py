# SPDX-License-Identifier: GPL-3.0-or-later
"""Many jobs in worker processes: one that crashes ends no other, and what an earlier run has made is not made again."""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from .client import Worker, divided, remove_leftovers
from .errors import JobError, LipSyncError
from .job import Cancel, Failure, Progress, RedubJob, Result, from_json

listen = 0.2
"""Seconds between two looks at whether somebody wants the batch to end."""
patience = 10.0
"""Seconds that a worker gets to give up a job before it is ended by force."""


def job_of(line: str) -> RedubJob:
    """The job of a line of the list.

    Raises:
        JobError: it holds none.
    """
    job = from_json(line)
    if not isinstance(job, RedubJob):
        raise JobError(f"A {job.type} message is no job.", 'A job has "type": "redub".')
    return job


def place(output: str) -> str:
    """Alike for all names of one file that tell the same path."""
    return os.path.normcase(os.path.realpath(output))


class Batch:
    """A list of jobs and the workers that do them. A context manager: leaving it ends the workers.

    A worker is a process with its own nets, so each takes the memory of one job.

    Args:
        lines: one job in JSON each; blank ones count, and are skipped.
        workers: how many jobs are done at a time.
    """

    def __init__(self, lines: Sequence[str], workers: int = 1) -> None:
        self.running: dict[int, Progress] = {}
        """By line, how far the jobs are that are being done."""
        self.outputs: dict[int, str] = {}
        """By line, what the jobs that were begun make."""
        self.taken: dict[int, float] = {}
        """By line, the seconds that each job took which has an answer."""
        self._todo: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._todo.put((number, line))
        self.count = self._todo.qsize()
        """Jobs in the list."""
        self._answers: queue.SimpleQueue[tuple[int, Result | Failure]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._turns: dict[str, threading.Lock] = {}
        """By output: who makes it."""
        self._environment = divided(os.environ, min(workers, self.count))
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(workers, self.count))]

    def __enter__(self) -> Batch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def answers(self) -> Iterator[tuple[int, Result | Failure] | None]:
        """The number of each job's line with its answer, as they end; now and then None, so that the caller can act."""
        told = 0
        while told < self.count:
            try:
                yield self._answers.get(timeout=listen)
                told += 1
            except queue.Empty:
                yield None

    def _work(self) -> None:
        hand = _Hand(self._environment, self._stop)
        try:
            while not self._stop.is_set():
                number, line = self._todo.get_nowait()
                begun = time.monotonic()
                answer = self._answer(hand, number, line)
                self.taken[number] = time.monotonic() - begun
                self.running.pop(number, None)
                self._answers.put((number, answer))
        except queue.Empty:
            pass
        finally:
            hand.close()

    def _answer(self, hand: _Hand, number: int, line: str) -> Result | Failure:
        try:
            job = job_of(line)
            self.outputs[number] = job.output
            turn = self._turns.setdefault(place(job.output), threading.Lock())
            with turn:
                if os.path.lexists(job.output):
                    from .provenance import made_before  # late: torch takes seconds

                    if made := made_before(job):
                        return made
                return hand.do(job, partial(self.running.__setitem__, number))
        except LipSyncError as e:
            return Failure(type(e).__name__, str(e), e.hint)
        except Exception as e:  # of this process, such as too few file descriptors: the other jobs go on
            return Failure("Crash", f"The job could not be handed on ({type(e).__name__}: {e}).", "Try again.")


class _Hand:
    """One worker, started when there is a job for it and anew after a crash."""

    def __init__(self, environment: dict[str, str], stop: threading.Event) -> None:
        self._environment, self._stop = environment, stop
        self._worker: Worker | None = None

    def do(self, job: RedubJob, report: Callable[[Progress], None]) -> Result | Failure:
        """The worker's answer to a job. After a crash, or an end by force, nothing is left of its output."""
        if self._worker is None:
            handle, log = tempfile.mkstemp(prefix="lipsync-worker-", suffix=".log")
            os.close(handle)
            program = Path(__file__).with_name("worker.py")
            self._worker = Worker([sys.executable, "-X", "utf8", str(program)], Path(log), self._environment)
        self._worker.send(job)
        give_up = 0.0
        while not give_up or time.monotonic() < give_up:
            message = self._worker.receive(listen)
            if isinstance(message, Progress):
                report(message)
            elif isinstance(message, Result) or (isinstance(message, Failure) and message.kind != "Crash"):
                return message
            elif isinstance(message, Failure):
                self._clear_away(job, keep_log=True)
                return message
            if self._stop.is_set() and not give_up:
                self._worker.send(Cancel())
                give_up = time.monotonic() + patience
        self._clear_away(job)
        return Failure("Cancelled", "The job was cancelled; nothing was changed.")

    def _clear_away(self, job: RedubJob, keep_log: bool = False) -> None:
        pid = self._worker.pid if self._worker else 0
        self.close(keep_log)
        remove_leftovers(Path(job.output), pid)

    def close(self, keep_log: bool = False) -> None:
        if self._worker:
            self._worker.close()
            if not keep_log:
                with suppress(OSError):
                    self._worker.log.unlink()
            self._worker = None
