# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker as Blender drives it: a real process, lines in, lines out, killed at any time."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import core
from core.job import Cancel, Failure, Hello, Message, Progress, RedubJob, Result, from_json, to_json

patience = 120
"""Seconds after which a test gives up on an answer; never reached on a machine that works."""
M = TypeVar("M", bound=Message)


class Driver:
    """A worker process and the lines it says."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        assert self.process.stdout
        assert self.process.stderr
        threading.Thread(target=self._drain, args=(self.process.stdout, self._lines.put), daemon=True).start()
        threading.Thread(target=self._drain, args=(self.process.stderr, self.errors.append), daemon=True).start()

    @staticmethod
    def _drain(stream: Iterator[str], take: Callable[[str], None]) -> None:
        for line in stream:
            take(line)

    def say(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def hear(self) -> Message:
        return from_json(self._lines.get(timeout=patience))

    def until(self, kind: type[M] | tuple[type[M], ...]) -> M:
        while True:
            message = self.hear()
            if isinstance(message, kind):
                return message
            assert isinstance(message, Progress), message

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(patience)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []
    package = Path(core.__file__).parent

    def make(*command: str, folder: Path = package.parent) -> Driver:
        drivers.append(Driver([sys.executable, *(command or ("-I", str(package / "worker.py")))], folder))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.process.kill()
        driver.process.wait()


@pytest.fixture
def job(make_clip: Callable[..., Path], make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> RedubJob:
    folder = tmp_path / "out"
    folder.mkdir()
    return RedubJob(
        video=str(make_clip()),
        speech=str(make_speech(1.2)),
        output=str(folder / "take.mkv"),
        model=str(tiny_model),
        device="cpu",
        frame_count=8,
    )


@pytest.fixture
def long_job(job: RedubJob, make_clip: Callable[..., Path]) -> RedubJob:
    from dataclasses import replace

    return replace(job, video=str(make_clip(300)), frame_count=None, batch_size=4)


@pytest.mark.parametrize("command", [(), ("-m", "core.worker")], ids=["file, isolated", "module"])
def test_a_job_is_answered_with_progress_and_one_result(
    start: Callable[..., Driver], job: RedubJob, command: tuple[str, ...], tmp_path: Path
) -> None:
    driver = start(*command) if command else start(folder=tmp_path)
    hello = driver.hear()
    assert isinstance(hello, Hello)
    assert hello.version == core.__version__
    driver.say(to_json(job))
    stages = []
    while isinstance(message := driver.hear(), Progress):
        stages.append((message.stage, message.done, message.total))
    assert isinstance(message, Result), message
    assert ("faces", 8, 8) in stages
    assert stages[-1] == ("lips", 8, 8)
    assert Path(job.output).stat().st_size > 1000
    assert driver.end() == 0


def test_a_users_mistake_is_a_failure_and_the_worker_goes_on(start: Callable[..., Driver], job: RedubJob) -> None:
    from dataclasses import replace

    driver = start()
    assert isinstance(driver.hear(), Hello)
    driver.say("what?")
    assert driver.until(Failure).kind == "JobError"
    driver.say(to_json(replace(job, video="/there/is/none.mp4")))
    failure = driver.until(Failure)
    assert failure.kind == "MediaError"
    assert "/there/is/none.mp4" in failure.message
    assert failure.hint
    for take in ("1.mkv", "2.mkv"):
        driver.say(to_json(replace(job, output=str(Path(job.output).with_name(take)))))
        assert driver.until(Result).frames == 8
    assert not any("Traceback" in line for line in driver.errors)


def test_no_line_makes_the_worker_deaf(start: Callable[..., Driver], long_job: RedubJob) -> None:
    """A listener that dies of a line would leave a job that cannot be cancelled and a process that never ends."""
    # The first stands for lines nobody thought of; the nesting is deeper than Python follows.
    program = (
        "from core import worker\nread = worker.from_json\n"
        "def fragile(line): return read(line) if 'unheard of' not in line else {}['unheard of']\n"
        "worker.from_json = fragile\nworker.main()"
    )
    driver = start("-c", program)
    assert isinstance(driver.hear(), Hello)
    bad = ("unheard of", "[" * 200_000, "null", "7", '{"type": []}', '{"type": "redub", "video": {"a": 1}}', "\0")
    for line in bad:
        driver.say(line)
        failure = driver.until(Failure)
        assert failure.kind == "JobError", line[:40]
        assert failure.message
        assert failure.hint
    driver.say(to_json(long_job))
    while driver.until(Progress).stage != "lips":
        pass
    driver.say(to_json(Cancel()))
    assert driver.until((Failure, Result)).kind == "Cancelled"  # type: ignore[union-attr]
    assert driver.end() == 0


def test_cancel_stops_the_job_and_leaves_nothing(
    start: Callable[..., Driver], long_job: RedubJob, job: RedubJob
) -> None:
    driver = start()
    assert isinstance(driver.hear(), Hello)
    driver.say(to_json(long_job))
    while driver.until(Progress).stage != "lips":
        pass
    driver.say(to_json(Cancel()))
    assert driver.until((Failure, Result)).kind == "Cancelled"  # type: ignore[union-attr]
    assert os.listdir(Path(job.output).parent) == []
    driver.say(to_json(job))
    assert driver.until(Result).frames == 8, "the next job must not be cancelled too"


def test_the_worker_ends_with_blender_also_in_the_middle_of_a_job(
    start: Callable[..., Driver], long_job: RedubJob
) -> None:
    driver = start()
    assert isinstance(driver.hear(), Hello)
    driver.say(to_json(long_job))
    while driver.until(Progress).stage != "lips":
        pass
    assert driver.end() == 0
    assert os.listdir(Path(long_job.output).parent) == []


def test_a_killed_worker_leaves_the_source_and_no_output_and_the_job_can_be_done_again(
    start: Callable[..., Driver], long_job: RedubJob
) -> None:
    from dataclasses import replace

    before = Path(long_job.video).read_bytes()
    driver = start()
    assert isinstance(driver.hear(), Hello)
    driver.say(to_json(long_job))
    while driver.until(Progress).stage != "lips":
        pass
    driver.process.kill()
    driver.process.wait()
    folder = Path(long_job.output).parent
    assert Path(long_job.video).read_bytes() == before
    assert not Path(long_job.output).exists()
    assert all(name.startswith(".take.mkv.") and ".part" in name for name in os.listdir(folder))
    again = start()
    assert isinstance(again.hear(), Hello)
    again.say(to_json(replace(long_job, frame_count=6)))
    assert again.until(Result).frames == 6
    assert Path(long_job.output).exists()


def test_what_libraries_print_does_not_tear_the_protocol(start: Callable[..., Driver], job: RedubJob) -> None:
    """Through Python and past it, as C++ libraries do."""
    program = (
        "import os\nfrom core import redub, worker\nrun = redub.run\n"
        "def loud(*arguments):\n    print('hear me')\n    os.write(1, b'and me')\n    return run(*arguments)\n"
        "redub.run = loud\nworker.main()"
    )
    driver = start("-c", program)
    assert isinstance(driver.hear(), Hello)
    driver.say(to_json(job))
    assert driver.until(Result).frames == 8
    driver.end()
    heard = "".join(driver.errors)
    assert "hear me" in heard
    assert "and me" in heard


def test_an_error_nobody_foresaw_is_one_sentence_with_the_traceback_in_the_log(
    start: Callable[..., Driver], job: RedubJob
) -> None:
    driver = start("-c", "from core import redub, worker\nredub.run = lambda *arguments: 1 / 0\nworker.main()")
    assert isinstance(driver.hear(), Hello)
    driver.say(to_json(job))
    failure = driver.until(Failure)
    assert failure.kind == "Crash"
    assert "Traceback" not in failure.message
    assert failure.hint
    driver.end()
    assert any("ZeroDivisionError" in line for line in driver.errors)
