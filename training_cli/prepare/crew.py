# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that work through a list and may die: of a codec's fault, or by the system when memory is short.

multiprocessing's Pool waits for ever for what a killed process had in hand, and concurrent.futures gives up all of
its processes for one. Here each has a pipe and one task in hand; when the pipe ends, that task is the suspect. It is
tried once more with nothing beside it, since the system may have killed an innocent for its memory.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import cv2

tasks_of_a_process = 200
"""Tasks after which a process is replaced: MediaPipe leaks about half a megabyte with every face mesh it closes."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Died:
    """What comes instead of a result when a task has killed its process twice."""

    exit_code: int | None
    """Negative: the number of the signal."""


@dataclass
class _Member(Generic[T]):
    process: BaseProcess
    pipe: Connection
    tasks_left: int
    task: T | None = None


def work(function: Callable[[T], R], tasks: Iterable[T], count: int) -> Generator[tuple[T, R | Died], None, None]:
    """Results as they come. Left early, by an error or Ctrl-C, it ends its processes.

    Args:
        function: a module's own, so that a new process can import it. Must not raise.
        count: processes; 0: one a core.
    """
    waiting, suspects = iter(tasks), deque[T]()
    count = count or os.cpu_count() or 1
    crew: list[_Member[T]] = []
    more = True
    try:
        while True:
            idle = [member for member in crew if member.task is None]
            while more and (idle or len(crew) < count):
                task = next(waiting, None)
                if task is None:
                    more = False
                    break
                _give(idle, crew, function, task)
            busy = [member for member in crew if member.task is not None]
            if not more and not busy:
                if not suspects:
                    return
                _give(idle, crew, function, suspects[0])
                busy = [member for member in crew if member.task is not None]
            ready = wait([member.pipe for member in busy])
            for member in [member for member in busy if member.pipe in ready]:
                task = member.task
                assert task is not None
                alone = bool(suspects) and task is suspects[0] and not more
                try:
                    result: R | Died = member.pipe.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    crew.remove(member)
                    member.process.join()
                    if not alone:
                        suspects.append(task)
                        continue
                    result = Died(member.process.exitcode)
                else:
                    member.task = None
                    member.tasks_left -= 1
                    if not member.tasks_left:
                        crew.remove(member)
                        _dismiss(member)
                if alone:
                    suspects.popleft()
                yield task, result
    finally:
        for member in crew:
            if member.task is not None:
                member.process.terminate()
            else:
                _dismiss(member)
        for member in crew:
            member.process.join()


def _give(idle: list[_Member[T]], crew: list[_Member[T]], function: Callable[[T], Any], task: T) -> None:
    """Hands a task to one who waits, or to somebody new."""
    if idle:
        member = idle.pop()
    else:
        context = multiprocessing.get_context("spawn")  # MediaPipe does not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        process.start()
        theirs.close()  # so that ours ends with the process
        member = _Member[T](process, ours, tasks_of_a_process)
        crew.append(member)
    member.task = task
    with suppress(OSError):  # if it has died, its pipe will say so
        member.pipe.send(task)


def _dismiss(member: _Member[Any]) -> None:
    with suppress(OSError):
        member.pipe.send(None)
    member.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """The life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    cv2.setNumThreads(1)  # the processes share the cores
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return  # the parent was killed
        if task is None:
            return
        try:
            pipe.send(function(task))
        except OSError:
            return
