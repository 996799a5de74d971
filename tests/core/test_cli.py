# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: what it makes, what it says, and with which exit status it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from portrait_clips import write_images

from core import cli, media
from core.errors import MediaError
from core.media import leftovers


@pytest.fixture
def inputs(make_clip: Callable[..., Path], make_speech: Callable[..., Path], tiny_model: Path) -> list[str]:
    return [str(make_clip()), str(make_speech(1.2)), "--model", str(tiny_model), "--device", "cpu"]


def refused(capsys: pytest.CaptureFixture[str], status: int = 2) -> Callable[[list[str]], str]:
    """A caller that wants a refusal: one sentence, a hint, no traceback, nothing on standard output."""

    def call(arguments: list[str]) -> str:
        assert cli.main(arguments) == status
        out, err = capsys.readouterr()
        error, hint = err.strip().splitlines()[-2:]
        assert error.startswith("lipsync: error: ")
        assert hint.startswith("hint: ")
        assert len(hint) > 10
        assert "Traceback" not in err + out
        return error

    return call


def test_a_movie_is_redubbed_and_the_user_told(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    status = cli.main(["redub", *inputs, "-o", str(output), "--start", "4", "--count", "10", "--speech-start", "0.08"])
    assert status == 0
    info = media.probe(str(output))
    assert (info.frames, info.has_sound) == (10, True)
    out = capsys.readouterr().out
    assert str(output) in out
    assert "untouched: frames 0 to 1: before the speech" in out


def test_json_is_one_line_that_a_script_can_read(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["redub", *inputs, "-o", str(tmp_path / "o.mkv"), "--json", "--count", "4"]
    assert cli.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["type"], result["frames"], result["changed"]) == ("result", 4, 4)
    assert cli.main(command) == 2
    failure = json.loads(capsys.readouterr().out)
    assert (failure["type"], failure["kind"]) == ("failure", "OutputError")


@pytest.mark.parametrize("name", ["frames", "frames/shot_####.png", "frames/shot_%04d.png"])
def test_images_are_named_by_folder_or_pattern(inputs: list[str], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for picture in media.read(media.probe(inputs[0]), 0, 3):
        cv2.imwrite(str(folder / f"shot_{picture.index + 9:04d}.png"), picture.rgb()[..., ::-1])
    output = tmp_path / "out"
    command = ["redub", str(tmp_path / name), *inputs[1:], "-o", str(output), "--rate", "24000/1001"]
    assert cli.main(command) == 0
    assert sorted(os.listdir(output)) == ["out.lipsync.json", "shot_0009.png", "shot_0010.png", "shot_0011.png"]


def test_images_without_a_rate_are_refused(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    error = refused(capsys)(["redub", str(tmp_path), inputs[1], "-o", str(tmp_path / "out")])
    assert "rate" in error


@pytest.mark.parametrize(
    ("names", "pattern", "word"),
    [
        (["a_01.png", "a_02.png", "a_04.png"], "a_##.png", "3"),
        (["a_1.png", "a_01.png"], "a_#.png", "twice"),
        (["b_01.png"], "a_##.png", "matches"),
        (["a.png", "a.jpg"], "", ".jpg and .png"),
        (["a.txt"], "", "no images"),
        (["a_1.png", "a_2.png", "b_1.png", "b_2.png"], "", "several sequences"),
    ],
)
def test_a_broken_image_sequence_is_named(tmp_path: Path, names: list[str], pattern: str, word: str) -> None:
    """A gap that goes unseen would put every later frame out of sync."""
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(MediaError, match=word):
        cli.image_files(str(tmp_path / pattern))


def test_images_of_any_names_are_a_sequence(tmp_path: Path) -> None:
    for name in ("first.png", "last.png"):
        (tmp_path / name).touch()
    assert len(cli.image_files(str(tmp_path))) == 2


@pytest.mark.parametrize(
    ("told", "rate"),
    [("29.97", "30000/1001"), ("23.98", "24000/1001"), ("59.94", "60000/1001"), ("25", "25"), ("12.5", "25/2")],
)
def test_a_broadcast_rate_is_taken_as_it_is_meant(told: str, rate: str) -> None:
    """After an hour at 29.97 frames a second the sound would be a tenth of a second away."""
    words = ["redub", "frames", "a.wav", "-o", "new", "--rate", told]
    assert cli._parser().parse_args(words).rate == Fraction(rate)


@pytest.mark.parametrize("suffix", [".avi", ".png"])
def test_images_do_not_become_a_folder_that_is_called_like_a_movie(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    write_images(tmp_path / "frames", "png", "rgb24", "png")
    output = tmp_path / f"talk{suffix}"
    command = ["redub", str(tmp_path / "frames"), inputs[1], "-o", str(output), "--rate", "24", *inputs[2:]]
    assert suffix in refused(capsys)(command) and not output.exists()


def test_a_movie_whose_name_looks_like_a_pattern_is_a_movie(tmp_path: Path) -> None:
    movie = tmp_path / "take #2.mp4"
    movie.touch()
    assert cli.image_files(str(movie)) == ()


@pytest.mark.parametrize("wrong", ["text", "gone", "speech", "model", "device"])
def test_wrong_inputs_get_a_sentence_a_hint_and_status_2_and_nothing_is_written(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no movie\n" * 50)
    video, speech, _, model, _, device = inputs
    chosen = {
        "text": [str(text), speech, model, device],
        "gone": [str(tmp_path / "gone.mp4"), speech, model, device],
        "speech": [video, str(text), model, device],
        "model": [video, speech, str(text), device],
        "device": [video, speech, model, "abacus"],
    }[wrong]
    before = os.listdir(tmp_path)
    command = ["redub", *chosen[:2], "-o", str(tmp_path / "out.mp4"), "--model", chosen[2], "--device", chosen[3]]
    refused(capsys)(command)
    assert os.listdir(tmp_path) == before


def test_a_crash_is_a_sentence_and_a_file_to_report(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from core import redub

    monkeypatch.setattr(redub, "run", lambda *arguments: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["redub", *inputs, "-o", str(tmp_path / "o.mp4")]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (log,) = tmp_path.glob("lipsync-crash-*.log")
    assert str(log) in err
    assert "ZeroDivisionError" in log.read_text()


def telling(what: str, when: str) -> str:
    """A program that is `lipsync` and prints, of a job and its progress p, what is asked for when it is asked for."""
    return (
        "import signal, sys\nfrom core import cli, redub\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # the jobs of a shell's background ignore it
        "if sys.platform != 'win32': signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and so does nohup
        "run = redub.run\n"
        "def telling(job, report, cancelled):\n"
        f"    return run(job, lambda p: print({what}, flush=True) if {when} else None, cancelled)\n"
        "redub.run = telling\nsys.exit(cli.main(sys.argv[1:]))"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to consoles, not to processes")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupted_job_leaves_nothing(
    inputs: list[str], make_clip: Callable[..., Path], tmp_path: Path, sent: str
) -> None:
    program = telling("p.stage", "p.stage == 'lips'")
    command = ["redub", str(make_clip(300)), *inputs[1:], "-o", str(tmp_path / "out.mkv")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "lips\n"
    process.send_signal(getattr(signal, sent))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows is not asked whether a process lives")
def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(inputs: list[str], tmp_path: Path) -> None:
    """Hidden files of gigabytes would fill the studio's drive; and none of a colleague's at work may go."""
    output = tmp_path / "out [1].mkv"
    program = (
        "import os, sys\nfrom core import media\n"
        "info = media.probe(sys.argv[1])\n"
        "with media.write(info, sys.argv[2], count=99) as writer:\n"
        "    for picture in media.read(info): writer.add(picture)\n"
        "    print(len(os.listdir(os.path.dirname(sys.argv[2]))), flush=True)\n"
        "    sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, inputs[0], str(output)]
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert killed.stdout and killed.stdout.readline() == "1\n"
    killed.kill()
    killed.wait()
    (left,) = os.listdir(tmp_path)
    assert left.startswith(f".out [1].mkv.{killed.pid}-") and left.endswith(".part.mkv")
    here = leftovers.machine()
    there = "0" * 8 if here != "0" * 8 else "1" * 8
    dead = left.replace(".part.mkv", "")[len(".out [1].mkv") :]
    kept = [
        f".out [1].mkv.{os.getpid()}-{here}-01234567.part.mkv",
        f".out [1].mkv.{killed.pid}-{there}-01234567.part.mkv",
        f".out [1].mkv.{killed.pid}-01234567.part.mkv",
        f".out 1.mkv{dead}.part.mkv",
        f"out [1].mkv{dead}.part.mkv",
        f".out [1].mkv{dead}.part.mkv.old",
    ]
    gone = [f".out [1].mkv{dead}.part.mkv.json", f".out [1].mkv{dead}.part.signed.mkv"]
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    (tmp_path / f".out [1].mkv{dead}.part").mkdir()
    (tmp_path / f".out [1].mkv{dead}.part" / "1.png").touch()
    leftovers.remove_of_the_dead(str(output))
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    (tmp_path / left).touch()
    info = media.probe(inputs[0])
    with media.write(info, str(output), count=1) as writer:
        writer.add(next(media.read(info)))
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, output.name])


def test_the_doctor_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    from core.nets import checkpoint

    monkeypatch.setattr(checkpoint, "default_model", tiny_model)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("Python", "torch", "mediapipe", "libx264", '"width": 0.25', "Everything"):
        assert word in out
    monkeypatch.setattr(checkpoint, "default_model", tmp_path / "gone.safetensors")
    assert cli.main(["doctor"]) == 1
    monkeypatch.setitem(sys.modules, "mediapipe", None)  # importing it fails, as when it is not installed
    assert cli.main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert "MISSING" in out
    assert "pip install mediapipe" in err


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys\nfrom core import cli\n"
        "try: cli.main(['redub', '--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "SPEECH" in ended.stdout
