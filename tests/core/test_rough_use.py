# SPDX-License-Identifier: GPL-3.0-or-later
"""What a studio's night run meets: odd names, full disks, missing rights, other people's files, broken lists. Each
ends in a right result or in one sentence with a hint, and nothing is lost or left half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from portrait_clips import write_images, write_movie

from core import audio, cli, errors, media, redub, worker
from core.job import Failure, RedubJob, from_json, to_json
from core.media.sound import loudest
from core.paint import Mouth, Painter

posix = pytest.mark.skipif(os.name == "nt", reason="about limits, rights and names as POSIX has them")


@pytest.fixture
def lipsync(
    make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """lipsync(video, output, *more): the status of `lipsync redub` in the test's folder, with a quick net."""
    monkeypatch.chdir(tmp_path)
    speech = str(make_speech(0.4))

    def run(video: str, output: str, *more: str) -> int:
        return cli.main(["redub", video, speech, "-o", output, "--model", str(tiny_model), "--device", "cpu", *more])

    return run


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """said(): the one sentence of a refusal, which has a hint and no traceback, neither shown nor in a file."""
    logs = tmp_path.with_name(f"{tmp_path.name}-logs")
    logs.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(logs))

    def look() -> str:
        error, hint = capsys.readouterr().err.strip().splitlines()[-2:]
        assert error.startswith("lipsync: error: ") and hint.startswith("hint: ")
        assert not os.listdir(logs), "a traceback was kept: nobody foresaw this"
        return error

    return look


# Names


@posix
@pytest.mark.parametrize("where", ["video", "output", "folder", "model", "restore", "sheet"])
def test_a_name_too_long_for_the_disk_is_refused_at_once(
    lipsync: Callable[..., int], said: Callable[[], str], tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output's name that fits, but not with what is written on the way, would fail after an hour of work."""
    monkeypatch.setattr(redub, "_follow_faces", None)  # never reached
    clip, images = str(write_movie(tmp_path / "clip.mp4", 2)), write_images(tmp_path / "in", "png", "rgb24", "png", 2)
    before = sorted(os.listdir(tmp_path))
    status = {
        "video": lambda: lipsync(300 * "a" + ".mp4", "o.mp4"),
        "output": lambda: lipsync(clip, 240 * "a" + ".mp4"),
        "folder": lambda: lipsync(str(Path(images[0]).parent), 250 * "a", "--rate", "25"),
        "model": lambda: lipsync(clip, "o.mp4", "--model", 300 * "a"),
        "restore": lambda: lipsync(clip, "o.mp4", "--restore", 300 * "a"),
        "sheet": lambda: cli.main(["faces", clip, "--sheet", 300 * "a" + ".png"]),
    }[where]()
    assert (status, sorted(os.listdir(tmp_path))) == (2, before)
    assert "too long" in said()


@pytest.mark.skipif(sys.platform != "linux", reason="only here can a name be any bytes")
def test_a_name_from_another_machine_is_a_name(lipsync: Callable[..., int], tmp_path: Path) -> None:
    """Footage from an old Windows disk has names that are no UTF-8; the job must not fail when its record is made."""
    video, output = os.fsdecode(b"caf\xe9.mp4"), os.fsdecode(b"n\xe9w.mp4")
    write_movie(tmp_path / "clip.mp4", 2).rename(tmp_path / video)
    assert lipsync(video, output) == 0
    assert media.probe(output).frames == 2
    assert json.loads((tmp_path / f"{output}.lipsync.json").read_bytes())["inputs"]["pictures"][0]["name"] == "caf?.mp4"


def test_a_terminal_that_cannot_show_a_name_does_not_fail_the_job(
    make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    """The log of a Windows service is cp1252; who reads status 1 does the finished job again."""
    write_movie(tmp_path / "日本.mp4", 2)
    command = [
        "redub",
        "日本.mp4",
        str(make_speech(0.4)),
        "-o",
        "声.mkv",
        "--model",
        str(tiny_model),
        "--device",
        "cpu",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", "import sys; from core import cli; sys.exit(cli.main(sys.argv[1:]))", *command],
        cwd=tmp_path, env=with_core(PYTHONIOENCODING="cp1252", PYTHONUTF8="1"), capture_output=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert b"\\u58f0.mkv: 2 frames" in ended.stdout


def with_core(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), **more}


# Sequences


def test_images_in_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """In the order of letters 10 comes before 2: every frame of the shot would be at another's place."""
    for number in range(98, 102):
        (tmp_path / f"a{number}b_take.png").touch()
    names = [f"b_{number}.png" for number in range(8, 13)]
    folder = tmp_path / "b"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    assert [Path(path).name for path in cli.image_files(str(folder))] == names
    found = [Path(path).name for path in cli.image_files(str(tmp_path))]
    assert found == [f"a{number}b_take.png" for number in range(98, 102)]


def test_a_gap_in_a_folder_is_told(tmp_path: Path) -> None:
    """A frame that the renderer left out would move all later ones, and the lips would be late."""
    for number in (7, 8, 10):
        (tmp_path / f"shot_{number:04}.exr").touch()
    with pytest.raises(errors.MediaError, match="Image 9 of"):
        cli.image_files(str(tmp_path))


def test_what_a_system_leaves_in_folders_is_no_image(tmp_path: Path) -> None:
    """macOS puts ._NAME beside every file on a server's disk."""
    for name in ("._f_1.png", ".DS_Store", "Thumbs.db", "f_1.png", "f_2.png", "._f_2.png"):
        (tmp_path / name).touch()
    (tmp_path / "f_3.png").mkdir()
    assert [Path(path).name for path in cli.image_files(str(tmp_path))] == ["f_1.png", "f_2.png"]
    assert len(cli.image_files(str(tmp_path / "f_#.png"))) == 2


# What is no file, and what may not be read


@posix
def test_a_folder_or_a_pipe_is_no_speech_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("pipe.wav", ""):
        with pytest.raises(errors.SpeechError, match="folder or a device"):
            audio.load(str(tmp_path / name))


@posix
@pytest.mark.parametrize("kind", ["video", "images"])
def test_missing_rights_are_called_so(
    lipsync: Callable[..., int], said: Callable[[], str], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads that the movie is none looks for a fault in the movie."""

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", kind)

    (tmp_path / "images").mkdir()
    (tmp_path / "video").write_bytes(b"some")
    monkeypatch.setattr("av.open", denied)  # root may read everything
    monkeypatch.setattr(Path, "iterdir", denied)
    assert lipsync(kind, "o.mp4", "--rate", "25") == 2
    assert f"{kind} cannot be " in (told := said()) and "Permission denied" in told


def test_a_loop_of_links_is_a_name_that_is_taken(
    lipsync: Callable[..., int], said: Callable[[], str], tmp_path: Path
) -> None:
    link = tmp_path / "o.mp4"
    try:
        link.symlink_to(link)
    except OSError:
        pytest.skip("no links here")
    assert lipsync(str(write_movie(tmp_path / "clip.mp4", 2)), "o.mp4") == 2
    assert "exists already" in said()


# Disks


@posix
@pytest.mark.parametrize("what", ["sheet", "debug"])
def test_a_full_disk_is_one_sentence_and_no_half_picture_stays(
    lipsync: Callable[..., int], said: Callable[[], str], tmp_path: Path, what: str
) -> None:
    import resource

    clip = str(write_movie(tmp_path / "clip.mp4", 4))
    before = sorted(os.listdir(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        if what == "sheet":
            status = cli.main(["faces", clip, "--sheet", "s.png", "--no-cache"])
        else:
            status = lipsync(clip, "o.mp4", "--debug", "stages", "--no-cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2 and "written" in said()
    assert [name for name in sorted(os.listdir(tmp_path)) if name != "stages"] == before


@pytest.mark.parametrize("folder", ["mine", "out", "out/stages", "note.txt"])
def test_the_stages_go_into_no_folder_with_other_things(
    lipsync: Callable[..., int], said: Callable[[], str], tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the user's frames they would be frames of the next run; at the output's place it would be lost."""
    monkeypatch.setattr(redub, "_follow_faces", None)  # never reached
    write_images(tmp_path / "mine", "png", "rgb24", "png", 2)
    (tmp_path / "note.txt").touch()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert lipsync("mine", "out", "--rate", "25", "--debug", folder) == 2
    assert folder in said()
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@posix
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", ">/dev/full", "| true"])
def test_where_nobody_listens_the_work_is_done(
    make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path, closed: str
) -> None:
    """A job of cron may have no terminal; a log's disk may be full. The movie is whole, and says no other thing."""
    if "full" in closed and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    write_movie(tmp_path / "clip.mp4", 2)
    command = (
        f'"{sys.executable}" -m core.cli redub clip.mp4 "{make_speech(0.4)}" -o o.mp4 --model "{tiny_model}" {closed}'
    )
    ended = subprocess.run(
        command, shell=True, cwd=tmp_path, env=with_core(), capture_output=True, text=True, timeout=300
    )
    assert media.probe(str(tmp_path / "o.mp4")).frames == 2
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "o.mp4", "o.mp4.lipsync.json"]
    assert "Traceback" not in ended.stderr and "foresaw" not in ended.stderr and "Exception" not in ended.stderr
    if closed in (">/dev/full", "| true"):
        assert "stays where it was asked for" in ended.stderr
    else:
        assert ended.returncode == 0


# Numbers


@pytest.mark.parametrize(
    "change",
    [
        {"rate": "1e9"},
        {"rate": "1e999999999"},
        {"rate": "1e-999999999"},
        {"rate": "3000000001/100000000"},
        {"rate": 33 * "2"},
        {"speech_start": "1e30"},
        {"others": [["track:2", "b.wav", "-1e30"]]},
        {"face": f"track:{5000 * '1'}"},
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_number_that_would_fill_disk_or_memory_is_refused(change: dict[str, Any]) -> None:
    """One such line in a list of jobs would keep the machine busy until somebody looks."""
    line = {"type": "redub", "video": "v.mp4", "speech": "s.wav", "output": "o.mp4", **change}
    with pytest.raises(errors.JobError) as refusal:
        from_json(json.dumps(line))
    assert refusal.value.hint and len(str(refusal.value)) < 300


@pytest.mark.parametrize("quality", ["high", "web"])
def test_damaged_samples_are_no_reason_to_refuse_a_speech(tmp_path: Path, quality: str) -> None:
    """A mixing desk's float file can hold what is no number; the sound around it is right, and is heard."""
    import soundfile

    wave = 0.1 * np.sin(np.arange(48000) * 0.05).astype(np.float32)
    wave[20000:20100], wave[21000], wave[21001], wave[22000:22050] = np.nan, np.inf, -np.inf, 1e30
    wave[30000:30100] = 2  # above full scale, but sound
    soundfile.write(tmp_path / "s.wav", wave, 48000, subtype="FLOAT")
    heard = audio.load(str(tmp_path / "s.wav"), rate=48000)
    assert np.isfinite(heard).all() and np.abs(heard).max() <= loudest
    assert np.allclose(np.delete(heard, np.s_[20000:22050]), np.delete(wave, np.s_[20000:22050]), atol=1e-6)
    clip = media.probe(str(write_movie(tmp_path / "c.mp4", 25)))
    sound = media.Sound([audio.stream(str(tmp_path / "s.wav"), None, 48000)], 48000, "mono")
    output = str(tmp_path / "o.mp4")
    with media.write(clip, output, sound="speech", speech=sound, count=25, quality=quality) as writer:
        for picture in media.read(clip):
            writer.add(picture)
    assert len(audio.load(output)) == pytest.approx(16000, abs=1100)


def test_large_pictures_go_through_the_net_in_smaller_groups(
    lipsync: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen frames of 8K and 32 bit a sample are 6 GB; the result is the same."""
    clip, groups = str(write_movie(tmp_path / "c.mp4", 10)), []
    draw = Painter.draw

    def told(
        self: Painter, first: int, pictures: list[media.Picture], heard: np.ndarray
    ) -> Iterator[tuple[int, Mouth]]:
        groups.append(len(pictures))
        return draw(self, first, pictures, heard)

    monkeypatch.setattr(Painter, "draw", told)
    assert lipsync(clip, "whole.mkv", "--quality", "lossless") == 0
    monkeypatch.setattr(redub, "batch_bytes", 3 * 320 * 240 * 3 // 2 + 9)
    assert lipsync(clip, "parts.mkv", "--quality", "lossless") == 0
    assert groups == [10, 3, 3, 3, 1]
    one, other = (np.stack([p.rgb() for p in media.read(media.probe(f"{name}.mkv"))]) for name in ("whole", "parts"))
    assert np.abs(one.astype(int) - other).max() <= 1


# Lists of jobs


def test_every_line_of_a_list_is_done_or_answered(
    lipsync: Callable[..., int],
    make_speech: Callable[..., Path],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line that nobody can read, written by somebody's script, must not cost the night's other shots."""
    clip = str(write_movie(tmp_path / "c.mp4", 3))
    good = to_json(
        RedubJob(video=clip, speech=str(make_speech(0.4)), output="a.mkv", model=str(tiny_model), device="cpu")
    )
    broken = ["null", "5", "{}", 100_000 * "[", '{"type": "hello", "version": "1", "python": "3"}']
    changes: list[dict[str, Any]] = [
        {"output": name} for name in ("", "\0.mkv", "\ud800.mkv", "no/b.mkv", 300 * "b" + ".mkv")
    ]
    changes += [{"video": "c\0.mp4"}, {"speech": "\ud800"}, {"frame_count": 1e99}, {"rate": float("nan")}]
    broken += [json.dumps({**json.loads(good), **change}) for change in changes]
    last = json.dumps({**json.loads(good), "output": "b\u2028c.mkv"}, ensure_ascii=False)
    text = "\r\n".join([good, *broken, good, last])
    (tmp_path / "jobs").write_bytes(b"\xef\xbb\xbf" + text.encode(errors="surrogatepass"))
    assert cli.main(["batch", "jobs"]) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, len(broken) + 4))
    assert [answer["type"] for answer in answers] == ["result", *len(broken) * ["failure"], "result", "result"]
    assert all(answer["kind"] != "Crash" and answer["hint"] for answer in answers[1:-2])
    assert [answers[i]["made_before"] for i in (0, -2, -1)] == [
        False,
        True,
        False,
    ]  # the last but one is the first again


@posix
def test_a_list_goes_on_when_its_log_is_gone(
    make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    """The window of a long list is closed, or its log's disk is full: the shots are what counts."""
    clip = str(write_movie(tmp_path / "c.mp4", 2))
    jobs = [
        RedubJob(video=clip, speech=str(make_speech(0.4)), output=f"{n}.mkv", model=str(tiny_model)) for n in range(3)
    ]
    (tmp_path / "jobs").write_text("\n".join(map(to_json, jobs)))
    command = f'"{sys.executable}" -m core.cli batch jobs | true'
    ended = subprocess.run(
        command, shell=True, cwd=tmp_path, env=with_core(), capture_output=True, text=True, timeout=300
    )
    assert "were done all the same" in ended.stderr and "Traceback" not in ended.stderr
    assert [media.probe(str(tmp_path / job.output)).frames for job in jobs] == [2, 2, 2]


def test_json_tells_a_crash_too(
    lipsync: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that gets no line waits for ever, or takes the job for done."""
    monkeypatch.setattr(redub, "run", lambda *_: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert lipsync(str(write_movie(tmp_path / "c.mp4", 2)), "o.mkv", "--json") == 1
    failure = json.loads(capsys.readouterr().out)
    assert (failure["type"], failure["kind"]) == ("failure", "Crash") and "lipsync-crash" in failure["hint"]


@pytest.mark.parametrize(
    "error", [SystemExit(3), OSError(28, "No space left on device"), MemoryError(), RecursionError()]
)
def test_no_error_of_a_job_ends_the_worker(error: BaseException) -> None:
    """A library that calls exit would end a batch's later strips with it."""
    told = worker.failure(error)
    assert told.message and told.hint
    assert (told.kind == "Crash") == (not isinstance(error, OSError))
    if isinstance(error, OSError):
        assert "No space left" in told.message


def test_a_worker_outlives_a_library_that_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import threading

    def leave(*_: Any) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(redub, "run", leave)
    job = RedubJob(video="v", speech="s", output="o")
    answer = worker.Worker(io.StringIO(), io.StringIO())._do(job, threading.Event())
    assert isinstance(answer, Failure) and answer.kind == "Crash"


@posix
def test_ctrl_c_that_a_library_swallows_or_renames_still_ends_the_job(
    lipsync: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that is interrupted fails with an ImportError; a callback from C drops the interruption."""
    clip = str(write_movie(tmp_path / "c.mp4", 2))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    find = redub.people.find
    try:
        for swallowed in (True, False):

            def interrupted(*given: Any, swallowed: bool = swallowed, **named: Any) -> Any:
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                except KeyboardInterrupt:
                    if not swallowed:
                        raise ImportError("initialization failed") from None
                return find(*given, **named)

            monkeypatch.setattr(redub.people, "find", interrupted)
            assert lipsync(clip, "o.mkv") == 130
            assert "Interrupted; nothing was changed." in capsys.readouterr().err
            assert sorted(os.listdir(tmp_path)) == ["c.mp4"]
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_a_still_is_called_by_its_own_name(tmp_path: Path) -> None:
    """`There is no face in /photos` says nothing of which photo."""
    import cv2

    cv2.imwrite(str(tmp_path / "empty.png"), np.full((64, 64, 3), 90, np.uint8))
    footage = redub.people.open_footage("", [str(tmp_path / "empty.png")], Fraction(25))
    with pytest.raises(errors.NoFaceError, match=r"empty\.png"):
        redub.people.find(footage)
