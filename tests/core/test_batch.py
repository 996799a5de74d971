# SPDX-License-Identifier: GPL-3.0-or-later
"""A night's list of shots: one bad shot costs no other, and a list that was cut short goes on where it was."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from portrait_clips import write_images, write_movie

from core import batch, cli, client, people, redub
from core.batch_report import Report
from core.client import Worker
from core.errors import OutputError
from core.job import Failure, RedubJob, Result, to_json
from core.provenance import made_before


@pytest.fixture
def job(make_clip: Callable[..., Path], make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> RedubJob:
    return RedubJob(
        video=str(make_clip()),
        speech=str(make_speech(1.2)),
        model=str(tiny_model),
        device="cpu",
        output=str(tmp_path / "a.mkv"),
        frame_count=3,
    )


@pytest.fixture
def lipsync_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[Any]]]:
    """lipsync_batch(job or line, …, options): exit status and answers in the order of their lines."""

    def run(*jobs: RedubJob | str, options: tuple[str, ...] = ()) -> tuple[int, list[Any]]:
        lines = [job if isinstance(job, str) else to_json(job) for job in jobs]
        (tmp_path / "jobs.jsonl").write_text("\n".join(lines) + "\n")
        status = cli.main(["batch", str(tmp_path / "jobs.jsonl"), *options])
        answers = map(json.loads, capsys.readouterr().out.splitlines())
        return status, sorted(answers, key=lambda answer: answer["line"])

    return run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """All workers that a batch starts."""
    workers: list[Worker] = []

    class Known(Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            workers.append(self)

    monkeypatch.setattr(batch, "Worker", Known)
    return workers


def test_a_batch_goes_on_after_a_failure_and_says_so_in_its_status(
    job: RedubJob, lipsync_batch: Callable[..., tuple[int, list[Any]]], tmp_path: Path
) -> None:
    bad = RedubJob(video="none.mp4", speech=job.speech, output=str(tmp_path / "b.mkv"))
    status, answers = lipsync_batch("{broken", bad, "", job)
    assert status == 1
    assert [(a["line"], a["type"], a.get("kind")) for a in answers] == [
        (1, "failure", "JobError"),
        (2, "failure", "MediaError"),
        (4, "result", None),
    ]
    assert Path(job.output).exists()


def test_a_list_given_again_makes_only_what_is_missing(
    job: RedubJob, lipsync_batch: Callable[..., tuple[int, list[Any]]], started: list[Worker], tmp_path: Path
) -> None:
    """After a power cut two hundred finished shots would be refused, or made once more under new names."""
    late = tmp_path / "late.wav"
    second = replace(job, speech=str(late), output=str(tmp_path / "b.mkv"))
    other = replace(job, strength=0.5)
    status, first = lipsync_batch(job, second, other)
    assert (status, [a["type"] for a in first]) == (1, ["result", "failure", "failure"])
    assert "exists already" in first[2]["message"]
    kept = Path(job.output).stat().st_mtime_ns, Path(job.output).read_bytes()
    late.write_bytes(Path(job.speech).read_bytes())
    status, again = lipsync_batch(job, second)
    assert (status, [a["made_before"] for a in again]) == (0, [True, False])
    said_once = {"seconds": 0, "made_before": False, "warnings": []}
    assert {**again[0], **said_once} == {**first[0], **said_once}
    assert (Path(job.output).stat().st_mtime_ns, Path(job.output).read_bytes()) == kept
    begun = len(started)
    assert [a["made_before"] for a in lipsync_batch(job, second)[1]] == [True, True]
    assert len(started) == begun  # nothing to do, no nets loaded


def test_what_another_job_has_made_is_not_taken_for_this_ones(job: RedubJob, tmp_path: Path) -> None:
    """The editor has a new take of the speech: the old lips must not pass for those of the new one."""
    for name in ("speech", "model"):
        copy = tmp_path / Path(getattr(job, name)).name
        shutil.copy(getattr(job, name), copy)
        job = replace(job, **{name: str(copy)})
    job = replace(job, speech_start=Fraction(1, 25))
    assert made_before(job) is None
    made = redub.run(job)
    assert made_before(job) == replace(made, seconds=0.0, warnings=(), made_before=True)
    changes: list[dict[str, Any]] = [
        *({"strength": 0.5}, {"start_frame": 1}, {"frame_count": None}, {"speech": job.video}, {"sound": "speech"}),
        {"c2pa_certificate": "chain.pem", "c2pa_key": "key.pem"},  # what is there is not signed
        {"debug": str(tmp_path / "debug")},  # and left no debug pictures
    ]
    for change in changes:
        assert made_before(replace(job, **change)) is None, change
    for path in (Path(job.speech), Path(job.model)):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert made_before(job) is None, path
        path.write_bytes(whole)
    assert made_before(job)
    whole = Path(job.output).read_bytes()
    for spoilt in (b"", whole[:-1]):  # a full disk, a copy that was cut short
        Path(job.output).write_bytes(spoilt)
        assert made_before(job) is None
    Path(job.output).unlink()
    Path(job.output).symlink_to(tmp_path / "moved.mkv")
    assert made_before(job) is None
    Path(job.output).unlink()
    Path(job.output).write_bytes(whole)
    record = Path(job.output + ".lipsync.json")
    good = json.loads(record.read_text())
    for broken in (
        "",
        "[]",
        "{}",
        *(json.dumps({**good, **odd}) for odd in ({"result": {"frames": "9"}}, {"model": 5})),
    ):
        record.write_text(broken)
        assert made_before(job) is None, broken
    record.unlink()
    assert made_before(job) is None


def checked(lines: list[RedubJob | str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status and lines of `lipsync batch --check`."""
    (tmp_path / "jobs.jsonl").write_text("\n".join(one if isinstance(one, str) else to_json(one) for one in lines))
    status = cli.main(["batch", str(tmp_path / "jobs.jsonl"), "--check"])
    out, err = capsys.readouterr()
    assert err == ""
    return status, out.splitlines()


def test_a_check_names_every_line_that_would_fail_at_night(
    job: RedubJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who comes back in the morning finds that each third shot had a typing mistake, and the delivery is a day late."""
    text = tmp_path / "notes.txt"
    text.write_text("no media\n" * 99)
    silent = write_movie(tmp_path / "silent.mp4", 3)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"video": "none.mp4"}, "none.mp4"),
        ({"video": str(text)}, "notes.txt"),
        ({"speech": "none.wav"}, "none.wav"),
        ({"speech": str(silent)}, "no sound"),
        ({"sound": "speech", "mix": str(silent)}, "no sound"),
        ({"others": (("track:2", "ben.wav", Fraction(0)),)}, "ben.wav"),
        ({"model": str(text)}, "safetensors"),
        ({"restore": str(text)}, "ONNX"),
        ({"device": "abacus"}, "abacus"),
        ({"start_frame": 99}, "past the end"),
        ({"output": str(tmp_path / "gone" / "o.mkv")}, "no folder"),
        ({"output": str(tmp_path / "o.webm")}, ".webm"),
        ({"output": str(text)}, "exists already"),
        ({"c2pa_certificate": str(text), "c2pa_key": str(text)}, "Content Credentials"),
    ]
    made = [{"output": str(tmp_path / f"{n}.mkv"), **change} for n, (change, _) in enumerate(changes)]
    bad = [replace(job, **change) for change in made]
    twice = replace(job, output=str(tmp_path / "x" / ".." / "a.mkv"), strength=0.5)
    after = replace(job, video=job.output, output=str(tmp_path / "b.mkv"))
    before = sorted(os.listdir(tmp_path))
    status, said = checked(["{broken", job, "", job, twice, after, *bad], tmp_path, capsys)
    assert status == 1
    words = {1: "not JSON", 5: "line 2 writes", 6: "line 2 is to make"}
    words.update({number: word for number, (_, word) in enumerate(changes, 7)})
    assert [line.split(":")[0] for line in said[:-1]] == [f"line {number}" for number in words]
    for line, word in zip(said, words.values(), strict=False):
        assert word in line and line.count(". ") >= 1, line
    assert said[-1] == f"{len(bad) + 5} jobs: 2 to make, 0 made already, {len(bad) + 3} that cannot be done"
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "jobs.jsonl"])


def test_a_check_takes_what_is_made_for_made(
    job: RedubJob, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a night's list would be called failing in the morning, because its outputs are there."""
    assert isinstance(redub.run(job), Result)
    monkeypatch.setattr(people, "find", None)  # looking for faces is what takes long
    second = replace(job, output=str(tmp_path / "b.mkv"))
    assert checked([job, second], tmp_path, capsys) == (
        0,
        ["2 jobs: 1 to make, 1 made already, 0 that cannot be done"],
    )
    assert not Path(second.output).exists()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_tells_of_every_job_and_goes_on_with_the_list(
    job: RedubJob, lipsync_batch: Callable[..., tuple[int, list[Any]]], tmp_path: Path
) -> None:
    """Warnings are told once, in the night of the making: after a second run nobody would know which shots to see."""
    report = tmp_path / "report.csv"
    job = replace(job, liveliness=1.5)
    missing = replace(job, speech="späte, \"Szene\".wav", output=str(tmp_path / "b.mkv"))
    clash = replace(job, strength=0.5)
    options = ("--report", str(report))
    assert lipsync_batch(job, missing, clash, "{broken", options=options)[0] == 1
    made, *failed = rows(report)
    assert (made["line"], made["output"], made["state"]) == ("1", job.output, "made")
    assert (made["seconds of footage"], made["frames changed"]) == ("0.120", "3")
    assert "liveliness" in made["warnings"] and float(made["seconds taken"]) > 0
    assert [(row["line"], row["output"], row["state"]) for row in failed] == [
        ("2", missing.output, "failed"), ("3", job.output, "failed"), ("4", "", "failed"),
    ]  # fmt: skip
    for row, word in zip(failed, (missing.speech, "exists already", "JSON"), strict=True):
        assert word in row["error"] and row["hint"]
    assert lipsync_batch("", "", job, options=options)[0] == 0
    assert rows(report) == [failed[0], {**made, "line": "3", "state": "made before"}]
    assert report.read_bytes().count(b"\r\n") == 3


def test_a_report_is_whole_after_each_job(tmp_path: Path) -> None:
    """A batch that dies at dawn, or a full disk, would leave half a row, or nothing."""
    path = tmp_path / "r.csv"
    report = Report(str(path))
    for number in range(1, 4):
        report.add(number, f"{number}.mp4", Result(f"{number}.mp4", 25, 20, warnings=("soft", "dark"), length=1.0), 2.5)
        assert [row["line"] for row in rows(path)] == [str(n) for n in range(1, number + 1)]
    assert rows(path)[0]["warnings"] == "soft dark" and os.listdir(tmp_path) == ["r.csv"]
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        report.add(4, "4.mp4", Failure("Crash", "It ended.", "Try again."), 1)
    assert os.listdir(tmp_path) == ["r.csv"]
    path.rmdir()
    report.add(5, "5.mp4", Failure("Crash", "It ended.", "Try again."), 1)
    assert [row["line"] for row in rows(path)] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_a_report_becomes_a_formula(tmp_path: Path, sign: str) -> None:
    """A file called =HYPERLINK(…) from a client's drive would run in the producer's spreadsheet."""
    name = f"{sign}cmd('x', \"y\")\u2028\udc80.mp4"
    for _ in range(2):
        Report(str(tmp_path / "r.csv")).add(1, name, Failure("MediaError", name, name), 0)
    (row,) = rows(tmp_path / "r.csv")
    shown = "'" + name.replace("\udc80", "\\udc80")
    assert [row[key] for key in ("output", "error", "hint")] == 3 * [shown]


@pytest.mark.parametrize("there", ["", "name;state\r\n", "a job\n", "\x00", "list"])
def test_a_report_overwrites_nothing_but_a_report(
    job: RedubJob, tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    """A slip of the keyboard would cost the list of jobs, or the producer's notes in the table."""
    path = tmp_path / "jobs.jsonl"
    path.write_text(to_json(job))
    report = path if there == "list" else tmp_path / "notes.csv"
    if there != "list":
        report.write_text(there)
    before = report.read_bytes()
    assert cli.main(["batch", str(path), "--report", str(report)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert report.read_bytes() == before and not Path(job.output).exists()


def test_a_folder_of_images_is_known_again(job: RedubJob, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    write_images(folder, "png", "rgb24", "png")
    paths = tuple(sorted(map(str, folder.iterdir())))
    job = replace(job, video="", images=paths, rate=Fraction(24), start_frame=1, output=str(tmp_path / "new"))
    made = redub.run(job)
    known = made_before(job)
    assert known and (known.frames, known.changed) == (made.frames, made.changed)
    lost = tmp_path / "new" / Path(paths[3]).name
    lost.rename(tmp_path / "away.png")
    assert made_before(job) is None
    (tmp_path / "away.png").rename(lost)
    assert made_before(job)
    Path(paths[2]).write_bytes(Path(paths[3]).read_bytes())
    assert made_before(job) is None


def test_a_shot_that_kills_its_worker_costs_no_other(
    job: RedubJob, make_clip: Callable[..., Path], started: list[Worker], tmp_path: Path
) -> None:
    """A decoder that crashes, or the system that wants memory back, would end the whole night's list."""
    first = replace(job, video=str(make_clip(300)), frame_count=None)
    second = replace(job, output=str(tmp_path / "b.mkv"))
    with batch.Batch([to_json(first), to_json(second)]) as work:
        answers = {}
        for answered in work.answers():
            if answered:
                answers[answered[0]] = answered[1]
            elif 1 in work.running and list(tmp_path.glob(".a.mkv.*.part*")):
                (tmp_path / ".a.mkv.1-0000.part.mkv").write_bytes(b"of somebody else who makes a.mkv")
                started[0]._process.kill()
    assert isinstance(answers[1], Failure) and answers[1].kind == "Crash"
    assert str(started[0].log) in answers[1].hint and started[0].log.exists()
    started[0].log.unlink()
    assert isinstance(answers[2], Result) and len(started) == 2 and not started[1].log.exists()
    assert sorted(os.listdir(tmp_path)) == [".a.mkv.1-0000.part.mkv", "b.mkv", "b.mkv.lipsync.json"]


def test_a_job_given_twice_is_done_once(job: RedubJob, started: list[Worker]) -> None:
    """Two workers would each make all of it, and the slower one's line would be called a failure."""
    with batch.Batch([to_json(job), to_json(job)], workers=2) as work:
        answers = [answered[1] for answered in work.answers() if answered]
    assert [isinstance(answer, Result) for answer in answers] == [True, True]
    assert sorted(answer.made_before for answer in answers if isinstance(answer, Result)) == [False, True]


def test_several_workers_do_several_jobs_at_a_time(
    job: RedubJob, lipsync_batch: Callable[..., tuple[int, list[Any]]], started: list[Worker], tmp_path: Path
) -> None:
    jobs = [replace(job, frame_count=20, output=str(tmp_path / f"{n}.mkv")) for n in range(4)]
    with batch.Batch([to_json(one) for one in jobs], 2) as work:
        for answered in work.answers():
            assert answered is None or isinstance(answered[1], Result)
    assert len(started) == 2  # each for a job of its own, before either had an answer
    assert all(worker._process.returncode is not None for worker in started)
    status, answers = lipsync_batch(*jobs, options=("--workers", "3"))
    assert (status, [a["made_before"] for a in answers]) == (0, 4 * [True])


def test_workers_divide_the_cores_among_those_that_have_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single job would leave most of the processor idle."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    for name in client.thread_variables:
        monkeypatch.delenv(name, raising=False)
    for jobs, workers, threads in ((3, 2, "6"), (2, 64, "6"), (64, 64, "1"), (1, 4, None), (3, 1, None), (0, 4, None)):
        environment = batch.Batch(["{}"] * jobs, workers)._environment
        assert [environment.get(name) for name in client.thread_variables] == [threads, threads], (jobs, workers)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    environment = batch.Batch(["{}"] * 3, 2)._environment
    assert [environment.get(name) for name in client.thread_variables] == [None, "3"]


@pytest.mark.parametrize("workers", ["0", "65", "-1"])
def test_a_wrong_number_of_workers_is_a_mistake(
    workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["batch", str(tmp_path / "none.jsonl"), "--workers", workers]) == 2
    assert "out of range" in capsys.readouterr().err


def test_a_missing_list_of_jobs_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["batch", str(tmp_path / "none.jsonl")]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert "cannot be read" in error and hint.startswith("hint: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to consoles, not to processes")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_says_what_is_done(
    job: RedubJob, make_clip: Callable[..., Path], tmp_path: Path, sent: signal.Signals
) -> None:
    """Whoever hears that nothing was changed starts all jobs again, and loses hours of them."""
    second = replace(job, video=str(make_clip(300)), output=str(tmp_path / "b.mkv"), frame_count=None)
    (tmp_path / "jobs.jsonl").write_text(f"{to_json(job)}\n{to_json(second)}\n")
    program = (
        "import signal, sys\nfrom core import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # the jobs of a shell's background ignore it
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "batch", str(tmp_path / "jobs.jsonl")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob(".b.mkv.*.part*")):
        assert process.poll() is None, "the batch ended before it could be interrupted"
        time.sleep(0.05)
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "1 of 2 jobs" in err and "is complete" in err and "nothing was changed" not in err
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == ["a.mkv", "a.mkv.lipsync.json", "jobs.jsonl"]
