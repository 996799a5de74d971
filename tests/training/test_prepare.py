# SPDX-License-Identifier: GPL-3.0-or-later
"""Preparing a corpus: nothing of it is lost, done twice or put into the wrong split; what is kept is what it seems."""

from __future__ import annotations

import errno
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from drawn_faces import store, talking_clip

from core import media
from core.errors import JobError, LipSyncError, MediaError, OutputError
from core.faces.mesh import rigid_in_crop
from core.nets.checkpoint import save_net
from core.nets.syncnet import SyncNet, SyncNetConfig
from training_cli import shards
from training_cli.prepare import PrepareSettings, corpora, crew, offsets, prepare, run
from training_cli.prepare.clips import make_clips, why_none
from training_cli.prepare.corpora import Video
from training_cli.sync import Offset

project = Path(__file__).resolve().parents[2]


def settings(videos: Path | str, output: Path, **changes: Any) -> PrepareSettings:
    return PrepareSettings(str(videos), str(output), **{"workers": 1, **changes})


def film(path: Path, pictures: Iterable[np.ndarray], rate: int = 25, sound: tuple[float, float] = (0, 99)) -> Path:
    """A lossless video, 320x240, whose sound is a tone from one second to another, or to the pictures' end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("ffv1", rate=rate)
        track = container.add_stream("flac", rate=16000, layout="mono") if sound[1] > sound[0] else None
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        count = 0
        for rgb in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, rate)
            container.mux(video.encode(frame))
            count += 1
        container.mux(video.encode(None))
        if track is not None:
            begin, end = round(sound[0] * 16000), round(min(sound[1], count / rate) * 16000)
            wave = (8000 * np.sin(np.arange(begin, end) * 0.2)).astype(np.int16)
            part = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            part.sample_rate, part.pts, part.time_base = 16000, begin, Fraction(1, 16000)
            container.mux(track.encode(part))
            container.mux(track.encode(None))
    return path


@pytest.fixture(scope="session")
def portrait(make_clip) -> list[np.ndarray]:
    """Sixty frames of the swaying portrait."""
    return [picture.rgb() for picture in media.read(media.probe(str(make_clip(frames=60))))]


def other_shot(pictures: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """The same face after a cut: from the other side, in the dark."""
    return (picture[:, ::-1] // 2 for picture in pictures)


def clips_of(path: Path, **changes: Any) -> tuple[list[tuple[int, shards.Clip]], str]:
    """A video's clips, made in this process, and why there is none."""
    lost: Counter[str] = Counter()
    chosen = settings(path.parent, path.parent, **changes)
    made = list(make_clips(path.parent, Video(path.name, "a", "train"), chosen, 0, lost))
    return made, "" if made else why_none(lost, chosen)


# --- a whole run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, corpus) -> Path:
    """The corpus of nobody: two people's clips, one without sound, one without a face, a text file."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, source in corpus.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(source, folder / name)
    (folder / "c").mkdir()
    (folder / "c" / "notes.mp4").write_text("no film")
    torn = (folder / "a" / "talk.mkv").read_bytes()
    (folder / "c" / "torn.mkv").write_bytes(torn[: len(torn) // 50])
    prepare(settings(folder, folder / "prepared", workers=2))
    return folder / "prepared"


def verdicts(folder: Path) -> dict[str, str]:
    return {verdict.source: verdict.verdict for verdict in shards.read_report(folder)}


def test_every_video_gets_a_verdict_and_the_run_goes_on(prepared):
    said = verdicts(prepared)
    assert said["a/talk.mkv"] == said["b/talk.mkv"] == "ok"
    assert said["a/silent.mkv"].startswith("no sound: ") and said["a/faceless.mkv"].startswith("no face: ")
    assert said["c/notes.mp4"].startswith("unreadable: ") and "notes.mp4" in said["c/notes.mp4"]
    assert "Traceback" not in str(said) and said["c/torn.mkv"] != "ok"
    assert len(list((prepared / "clips").iterdir())) == 2


def test_the_summary_counts_clips_minutes_people_and_reasons(prepared):
    summary = json.loads((prepared / "summary.json").read_text(encoding="utf-8"))
    assert summary["videos"] == 6 and sum(part["clips"] for part in summary["splits"].values()) == 2
    assert sum(part["minutes"] for part in summary["splits"].values()) == pytest.approx(54 / 25 / 60, abs=0.01)
    assert summary["reasons"]["no sound"] == summary["reasons"]["no face"] == 1


def test_run_again_nothing_is_done_twice(prepared):
    before = {p: p.stat().st_mtime_ns for p in (prepared / "clips").iterdir()}
    report = (prepared / "report.jsonl").read_bytes()
    summary = prepare(settings(prepared.parent, prepared))
    assert "6 videos, layout folder" in str(summary) and "1  no sound" in str(summary)
    assert before == {p: p.stat().st_mtime_ns for p in (prepared / "clips").iterdir()}
    assert report == (prepared / "report.jsonl").read_bytes()


def test_clips_of_another_size_are_not_mixed_in(prepared):
    with pytest.raises(JobError, match="96") as caught:
        prepare(settings(prepared.parent, prepared, size=192))
    assert "--size 96" in caught.value.hint


def test_a_clip_shows_the_face_in_its_place_with_its_sound(prepared):
    verdict = next(v for v in shards.read_report(prepared) if v.source == "a/talk.mkv")
    clip = shards.load(shards.clip_path(prepared, verdict))
    assert clip.crops.shape == (30, 112, 112, 3) and clip.landmarks.shape == (30, 85, 2)
    assert clip.wave.dtype == np.int16 and len(clip.wave) == 30 * 16000 // 25
    tone = 8000 * np.sin(np.arange(len(clip.wave)) * 0.2)
    assert np.abs(clip.wave - tone)[100:-100].mean() < 40  # neither moved nor scaled
    assert clip.info.rate == 25 and clip.info.identity == "a" and verdict.frames == 30
    assert np.abs(clip.landmarks[:, -9:] - rigid_in_crop).mean() < 0.03


def test_videos_left_out_are_tried_again_when_asked(prepared, corpus, tmp_path):
    """A copy that was torn is replaced by a good one: its old verdict counts no more."""
    shutil.copytree(prepared.parent, tmp_path / "corpus")
    folder, output = tmp_path / "corpus", tmp_path / "corpus" / "prepared"
    shutil.copy(corpus["b/talk.mkv"], folder / "c" / "torn.mkv")
    shutil.rmtree(folder / "a")
    summary = prepare(settings(folder, output, again=True))
    assert sum(part.clips for part in summary.splits.values()) == 3
    assert sum(summary.reasons.values()) == 3  # silent, faceless and the text file


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_a_folder_without_videos_is_a_sentence_and_a_hint(tmp_path, content):
    if content:
        (tmp_path / content).write_text("hello")
    with pytest.raises(MediaError, match="no video") as caught:
        prepare(settings(tmp_path, tmp_path / "out"))
    assert caught.value.hint
    with pytest.raises(MediaError, match="no folder"):
        prepare(settings(tmp_path / "missing", tmp_path / "out"))


# --- what is kept of a video


def test_each_shot_gives_a_clip_and_none_reaches_over_a_cut(tmp_path, portrait):
    pictures = [*portrait[:22], *other_shot(portrait[20:45]), *portrait[30:60]]
    made, _ = clips_of(film(tmp_path / "cuts.mkv", pictures))
    assert [(start, len(clip.crops)) for start, clip in made] == [(0, 22), (22, 25), (47, 30)]
    assert made[1][1].crops.mean() < 0.7 * made[0][1].crops.mean()


def test_a_long_shot_is_cut_into_clips_each_with_its_own_sound(tmp_path, portrait):
    """An hour is held in memory twenty seconds at a time."""
    made, _ = clips_of(film(tmp_path / "long.mkv", portrait), longest=1.0)
    assert [(start, len(clip.crops)) for start, clip in made] == [(0, 25), (25, 25)]  # ten frames are too short
    for start, clip in made:
        tone = 8000 * np.sin(np.arange(start * 640, start * 640 + 16000) * 0.2)
        assert len(clip.wave) == 16000 and np.abs(clip.wave - tone)[100:-100].mean() < 40
        assert np.abs(clip.landmarks[:, -9:] - rigid_in_crop).mean() < 0.03


def test_crops_come_at_the_size_that_is_asked_for(tmp_path, portrait):
    made, why = clips_of(film(tmp_path / "a.mkv", portrait[:20]), size=192, smallest=0.4)
    assert made[0][1].crops.shape == (20, 224, 224, 3)
    made, why = clips_of(tmp_path / "a.mkv", size=288)
    assert not made and why.startswith("small face: ") and "173" in why


def test_a_picture_that_stands_still_is_left_out(tmp_path, portrait):
    """A photograph with a voice teaches a net not to move its lips; so does a torn file's last frame."""
    made, why = clips_of(film(tmp_path / "still.mkv", [portrait[0]] * 40))
    assert not made and why.startswith("still picture: ")
    made, _ = clips_of(film(tmp_path / "torn.mkv", [*portrait[:25], *[portrait[24]] * 40]))
    assert [len(clip.crops) for _, clip in made] == [25]


def test_pictures_without_sound_are_cut_off_and_what_is_left_is_in_time(tmp_path, portrait):
    """Recordings whose sound begins late or ends early would teach silence for moving lips."""
    made, _ = clips_of(film(tmp_path / "late.mkv", portrait, sound=(0.4, 1.6)))
    ((start, clip),) = made
    assert (start, len(clip.crops)) == (10, 30)
    tone = 8000 * np.sin(np.arange(6400, 6400 + 30 * 640) * 0.2)
    assert np.abs(clip.wave - tone)[100:-100].mean() < 40


def test_silence_and_odd_rates_are_left_out(tmp_path, portrait):
    quiet = film(tmp_path / "quiet.mkv", portrait[:20], sound=(0, 0.1))
    assert clips_of(quiet)[1].startswith("silent: ")
    for rate in (12, 100):
        with pytest.raises(MediaError, match="frame rate: "):
            clips_of(film(tmp_path / f"{rate}.mkv", portrait[:20], rate))


def test_a_face_seen_in_flashes_is_too_short(tmp_path, portrait):
    blank = np.zeros_like(portrait[0])
    pictures = [blank if i // 10 % 2 else picture for i, picture in enumerate(portrait)]
    assert clips_of(film(tmp_path / "flash.mkv", pictures))[1].startswith(("too short: ", "no face: "))


def test_a_profile_is_left_out(footage):
    side = footage / "SpkVid_range_side_2_9f1880.mp4"
    if not side.is_file():
        pytest.skip("no side face beside the project")
    film_info = media.probe(str(side))
    lost: Counter[str] = Counter()
    chosen = settings(footage, footage, longest=2.0)
    list(islice(make_clips(footage, Video(side.name, "a", "train"), chosen, film_info.frames - 60, lost), 5))
    assert lost["turned"] > 0.5 * lost["frames"]


# --- killed, crashed, full


@pytest.fixture(scope="module")
def four_videos(tmp_path_factory, portrait) -> Path:
    """Four people; the last has two shots."""
    folder = tmp_path_factory.mktemp("four")
    for number in range(3):
        film(folder / f"p{number}" / "talk.mkv", portrait[number : number + 20])
    film(folder / "p3" / "talk.mkv", [*portrait[:20], *other_shot(portrait[:20])])
    return folder


@pytest.fixture
def four_prepared(four_videos, tmp_path) -> Path:
    """A copy of these, prepared."""
    once = four_videos.parent / f"{four_videos.name}_prepared"
    if not once.exists():
        prepare(settings(four_videos, once, workers=2))
    return Path(shutil.copytree(once, tmp_path / "out"))


def test_killed_at_any_moment_no_finished_clip_is_redone_and_none_is_lost(four_videos, tmp_path):
    """kill -9 of the whole command, in the middle; then the same command again."""
    arguments = ["prepare", "--videos", str(four_videos), "--output", str(tmp_path / "out"), "--workers", "1"]
    command = [sys.executable, "-m", "training_cli.cli", *arguments]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.DEVNULL, start_new_session=True)
    report = tmp_path / "out" / "report.jsonl"
    deadline = time.monotonic() + 120
    while not (report.is_file() and report.read_bytes()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if os.name == "nt":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() != 0, "it ended before it was killed"
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "clips").glob("*.safetensors")}
    assert before
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "clips").iterdir()}
    assert before.items() <= after.items() and all(name.endswith(".safetensors") for name in after)
    kept = [v for v in shards.read_report(tmp_path / "out") if v.verdict == "ok"]
    assert sorted(v.clip for v in kept) == sorted(after) and len(after) == 5
    assert len({v.source for v in kept}) == 4 and "4 videos" in done.stdout


def test_a_second_run_in_the_same_folder_is_refused_with_a_sentence(four_videos, four_prepared):
    """Two terminals at work in one folder would double the corpus' lines, and remove each other's unfinished clips."""
    code = "import sys; from pathlib import Path; from training_cli.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    unfinished = four_prepared / "clips" / "p9.123.part"
    unfinished.write_bytes(b"half a clip")
    before = (four_prepared / "report.jsonl").read_bytes()
    command = [sys.executable, "-c", code, str(four_prepared)]
    with subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        with pytest.raises(JobError, match="Another command is preparing") as caught:
            prepare(settings(four_videos, four_prepared, again=True))
        assert caught.value.hint and unfinished.exists()
        other.kill()
    assert (four_prepared / "report.jsonl").read_bytes() == before
    prepare(settings(four_videos, four_prepared))
    assert not unfinished.exists()


def test_clips_killed_before_their_line_was_written_are_adopted(four_videos, four_prepared):
    """The first of two shots is on disk, the second and the whole report are not; a torn line and a torn clip are."""
    output = four_prepared
    clips = sorted((output / "clips").iterdir())
    _, second = [path for path in clips if path.name.startswith("p3")]
    second.unlink()
    (output / "clips" / "p0.123.part").write_bytes(b"half a clip")
    damaged = next(path for path in clips if path.name.startswith("p1"))
    damaged.write_bytes(damaged.read_bytes()[:5000])
    (output / "report.jsonl").write_text('{"source": "p0/talk.mk')
    before = {p.name: p.stat().st_mtime_ns for p in clips if p not in (second, damaged)}
    prepare(settings(four_videos, output))
    after = {p.name: p.stat().st_mtime_ns for p in (output / "clips").iterdir()}
    assert before.items() <= after.items() and sorted(after) == [p.name for p in clips]
    kept = [v for v in shards.read_report(output) if v.verdict == "ok"]
    assert sorted(v.clip for v in kept) == sorted(after) and {v.frames for v in kept} == {20}
    assert len(shards.load(damaged).crops) == 20


def test_a_clip_that_was_deleted_is_made_again(four_videos, four_prepared):
    gone = next(iter((four_prepared / "clips").iterdir()))
    gone.unlink()
    prepare(settings(four_videos, four_prepared))
    assert gone.is_file()


def without(folder: Path, *fields: str) -> None:
    """Makes a report as it was before these fields were kept."""
    path = folder / "report.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(field in row for row in rows for field in fields)
    lines = [json.dumps({name: value for name, value in row.items() if name not in fields}) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def stamps(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "clips").iterdir()}


def test_a_video_that_was_replaced_is_prepared_anew(four_videos, four_prepared, tmp_path, monkeypatch, capsys):
    """Else a net trains on pictures and sound of a video that was taken back. Killed half-way, it stays gone."""
    videos = Path(shutil.copytree(four_videos, tmp_path / "videos"))
    before = stamps(four_prepared)
    shutil.copy(videos / "p0" / "talk.mkv", videos / "p3" / "talk.mkv")  # one shot instead of two
    with monkeypatch.context() as patch:
        patch.setattr(run, "_make_clips", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            prepare(settings(videos, four_prepared))
    assert "are prepared anew: 1." in capsys.readouterr().err
    prepare(settings(videos, four_prepared))
    after = stamps(four_prepared)
    kept = {name: stamp for name, stamp in before.items() if not name.startswith("p3")}
    assert kept.items() <= after.items() and len(kept) == 3 and len(after) == 4
    ok = [v for v in shards.read_report(four_prepared) if v.verdict == "ok"]
    assert sorted(v.clip for v in ok) == sorted(after)
    clips = {v.source: shards.load(shards.clip_path(four_prepared, v)) for v in ok}
    assert (clips["p3/talk.mkv"].crops == clips["p0/talk.mkv"].crops).all()
    report = (four_prepared / "report.jsonl").read_bytes()
    prepare(settings(videos, four_prepared))
    assert stamps(four_prepared) == after and (four_prepared / "report.jsonl").read_bytes() == report


def test_a_corpus_that_was_only_copied_is_not_prepared_anew_nor_one_of_an_older_report(
    four_videos, four_prepared, tmp_path
):
    """Hours of work: another time on the same bytes is no other video."""
    videos, before = Path(shutil.copytree(four_videos, tmp_path / "videos")), stamps(four_prepared)
    os.utime(videos / "p1" / "talk.mkv")
    prepare(settings(videos, four_prepared))
    assert stamps(four_prepared) == before
    without(four_prepared, "film_bytes", "film_modified", "film_sha256", "expert")
    shutil.copy(videos / "p0" / "talk.mkv", videos / "p3" / "talk.mkv")
    summary = prepare(settings(videos, four_prepared))
    assert stamps(four_prepared) == before and sum(part.clips for part in summary.splits.values()) == 5


def test_a_video_that_was_left_out_is_tried_again_once_it_is_another(four_videos, tmp_path):
    videos, output = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(four_videos / "p0", videos / "p0")
    film = videos / "p0" / "talk.mkv"
    whole = film.read_bytes()
    film.write_bytes(whole[:200])  # as a copy that broke off
    assert not sum(part.clips for part in prepare(settings(videos, output)).splits.values())
    film.write_bytes(whole)
    summary = prepare(settings(videos, output))
    assert sum(part.clips for part in summary.splits.values()) == 1 and not summary.reasons


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """A module whose work() a new process can import: it dies of `die` always, of `once` the first time."""
    source = """
        import os, signal
        from pathlib import Path

        def work(task):
            name, folder = task
            if name == "die" or name == "once" and not Path(folder, "once").exists():
                Path(folder, name).touch()
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
            return name.upper()
    """
    (tmp_path / "deadly_work.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("deadly_work").work


@pytest.mark.parametrize("count", [1, 3])
def test_a_killed_worker_costs_only_its_own_video_and_never_hangs_the_run(deadly, tmp_path, count):
    names = ["a", "die", "b", "once", "c"]
    got = {task[0]: r for task, r in crew.work(deadly, [(name, str(tmp_path)) for name in names], count)}
    assert got.keys() == set(names)
    assert isinstance(got["die"], crew.Died) and got["die"].exit_code not in (0, None)
    assert [got[name] for name in ("a", "b", "once", "c")] == ["A", "B", "ONCE", "C"]


def test_workers_are_replaced_before_they_grow_and_end_with_the_run(deadly, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "tasks_of_a_process", 2)
    work = crew.work(deadly, [(str(k), str(tmp_path)) for k in range(5)], 1)
    assert [result for _, result in work] == ["0", "1", "2", "3", "4"]
    left = crew.work(deadly, [(str(k), str(tmp_path)) for k in range(5)], 2)
    next(left)
    left.close()
    assert not multiprocessing.active_children()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signal to one process alone")
def test_ctrl_c_ends_the_run_with_a_sentence(four_videos, tmp_path):
    def hears_ctrl_c() -> None:
        """What a shell runs in the background, as these tests may be, is deaf to it, and so are its children."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "training_cli.cli", "prepare", "--videos", str(four_videos)]
    command += ["--output", str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen(
        command, cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hears_ctrl_c
    )
    while not list(tmp_path.glob("out/clips/*.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "goes on from here" in said and "Traceback" not in said
    assert not list(tmp_path.glob("out/clips/*.part"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_a_clip_that_cannot_be_written_stops_the_run_with_a_sentence_and_nothing_is_lost(four_videos, tmp_path):
    """A real refusal by the system, of every file above 200 kB; then there is room again."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
    code += "from training_cli.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["prepare", "--videos", str(four_videos), "--output", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=project, capture_output=True, text=True)
    assert done.returncode == 2 and "could not be written" in done.stderr and "hint: " in done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "out" / "clips").iterdir())
    summary = prepare(settings(four_videos, tmp_path / "out"))
    assert sum(part.clips for part in summary.splits.values()) == 5


def test_a_full_disk_is_called_full(four_videos, tmp_path, monkeypatch):
    """Simulated: the report's write raises what the system raises when there is no room."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run.shards, "append", refuse)
    with pytest.raises(OutputError, match="full") as caught:
        prepare(settings(four_videos, tmp_path / "out"))
    assert "Make room" in caught.value.hint


# --- corpora


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def found(root: Path, **changes: Any) -> tuple[str, dict[str, tuple[str, str]]]:
    """The layout, and each video's identity and split."""
    corpus = corpora.find(settings(root, root, **changes))
    return corpus.layout, {v.source: (v.identity, v.split) for v in corpora.with_splits(corpus.videos, {})}


def test_lrs2_follows_its_lists(tmp_path):
    ids = [str(6_000_000_000_000_000_000 + k) for k in range(3)]
    films = [f"mvlrs_v1/main/{name}/0000{k}.mp4" for name in ids for k in (1, 2)]
    tree(tmp_path, *films, f"mvlrs_v1/pretrain/{ids[0]}/00009.mp4")
    (tmp_path / "train.txt").write_text(f"{ids[0]}/00001\n{ids[0]}/00002\n")
    (tmp_path / "val.txt").write_text(f"{ids[1]}/00001\n")
    (tmp_path / "test.txt").write_text(f"{ids[2]}/00001 NF\n{ids[2]}/00002 MV\n{ids[2]}/00003 MV\n")
    layout, videos = found(tmp_path)
    assert layout == "lrs2" and [split for _, split in videos.values()] == ["train", "train", "dev", "test", "test"]
    assert videos[films[0]] == (ids[0], "train")
    assert corpora.find(settings(tmp_path, tmp_path)).missing == 1
    for part in ("mvlrs_v1", "mvlrs_v1/main"):  # named by one of its folders
        assert Counter(s for _, s in found(tmp_path / part)[1].values()) == {"train": 2, "dev": 1, "test": 2}
    assert len(found(tmp_path, pretrain=True)[1]) == 6
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").unlink()
    with pytest.raises(JobError, match=r"train\.txt") as caught:
        found(tmp_path)
    assert "--lists" in caught.value.hint


def test_lrs3_lrw_and_voxceleb2_are_known_by_their_folders(tmp_path):
    lrs3 = tree(tmp_path / "3", "trainval/0Fi83BHQsMA/50001.mp4", "trainval/1JxxCB9GiGU/50002.mp4", "test/xx/00001.mp4")
    layout, videos = found(tree(lrs3, "pretrain/0Fi83BHQsMA/00001.mp4"))
    assert layout == "lrs3" and videos["test/xx/00001.mp4"] == ("xx", "test") and len(videos) == 3
    assert sorted(split for _, split in videos.values()) == ["dev", "test", "train"]
    lrw = tree(tmp_path / "w", *(f"lipread_mp4/ABOUT/{part}/ABOUT_00001.mp4" for part in ("train", "val", "test")))
    layout, videos = found(lrw)
    assert layout == "lrw" and [split for _, split in videos.values()] == ["test", "train", "dev"]
    assert len({identity for identity, _ in videos.values()}) == 3
    people = [f"dev/mp4/id0001{k}/21Uxsk56VDQ/00001.mp4" for k in range(9)]
    vox = tree(tmp_path / "v", *people, "vox2_test_mp4/mp4/id00017/01dfn2spqyE/00001.mp4")
    layout, videos = found(tree(vox, "dev/aac/id00010/21Uxsk56VDQ/00001.m4a"))
    assert layout == "voxceleb2" and videos["vox2_test_mp4/mp4/id00017/01dfn2spqyE/00001.mp4"] == ("id00017", "test")
    assert "dev" in {split for _, split in videos.values()} and videos[people[0]][0] == "id00010"
    with_sound = [v.sound for v in corpora.find(settings(vox, vox)).videos if v.sound]
    assert with_sound == ["dev/aac/id00010/21Uxsk56VDQ/00001.m4a"]


@pytest.mark.parametrize(
    ("root", "test"),
    [
        *(("vox2_test_mp4/mp4", True), ("test", True), ("vox2/Test/mp4", True), ("vox2_test", True)),
        *(("latest", False), ("latest/mp4", False), ("vox2_dev_mp4/mp4", False), ("my_contest", False)),
        *(("testing", False), ("tested_mp4/mp4", False), ("vox2_dev/latest_mp4/mp4", False)),
    ],
)
def test_only_voxceleb2s_own_test_folders_are_the_test(tmp_path, root, test):
    """In a folder named `latest` all would be test, and none left to train on."""
    names = [f"id0001{k}/21Uxsk56VDQ/00001.mp4" for k in range(5)]
    layout, videos = found(tree(tmp_path / "v" / root, *names))
    assert layout == "voxceleb2" and ({split for _, split in videos.values()} == {"test"}) == test


def test_grid_is_known_by_its_sentences(tmp_path):
    names = [
        "s1/video/mpg_6000/bbaf2n.mpg",
        "s3/swwp2s.mpg",
        "s23.mpg_6000.part1/s23/video/lrwp9a.mpg",
        "s4/pwij3p.mpg",
    ]
    layout, videos = found(tree(tmp_path, *names, "s3/audio_25k/swwp2s.wav"))
    assert layout == "grid" and videos[names[0]] == ("s1", "test") and videos[names[2]][0] == "s23"
    assert {v.source: v.sound for v in corpora.find(settings(tmp_path, tmp_path)).videos}[names[1]]
    layout, videos = found(tree(tmp_path / "own", "s1/interview.mp4", "s2/talk.mp4"))
    assert layout == "folder" and "test" not in {split for _, split in videos.values()}


def test_sound_apart_from_its_pictures_is_found(tmp_path, portrait):
    soundfile = pytest.importorskip("soundfile")
    film(tmp_path / "mp4" / "id00012" / "21Uxsk56VDQ" / "00001.mp4", portrait[:20], sound=(0, 0))
    apart = tmp_path / "aac" / "id00012" / "21Uxsk56VDQ" / "00001.wav"
    apart.parent.mkdir(parents=True)
    soundfile.write(apart, 0.25 * np.sin(np.arange(16000) * 0.2), 16000)
    chosen = settings(tmp_path, tmp_path)
    (video,) = corpora.find(chosen).videos
    ((_, clip),) = make_clips(tmp_path, replace(video, split="train"), chosen, 0, Counter())
    assert np.abs(clip.wave - 8192 * np.sin(np.arange(12800) * 0.2)).max() < 10


def test_a_manifest_says_it_all_and_its_mistakes_are_sentences(tmp_path):
    root = tree(tmp_path / "v", "x.mp4", "y.mp4")
    manifest = tmp_path / "m.csv"
    manifest.write_text("file,identity,split,licence_class\nx.mp4,Ann,val,free\ny.mp4,Bob,train,\nz.mp4,Cid,train,\n")
    layout, videos = found(root, manifest=str(manifest))
    assert layout == "manifest" and videos == {"x.mp4": ("Ann", "dev"), "y.mp4": ("Bob", "train")}
    corpus = corpora.find(settings(root, root, manifest=str(manifest)))
    assert corpus.missing == 1 and corpus.videos[0].licence == "free"
    for text in (
        "identity\nAnn\n",
        "file,identity,split\nx.mp4,Ann,most\n",
        "file,identity\n\x00\xff",
        "file,identity\nq.mp4,A\n",
    ):
        manifest.write_text(text, encoding="latin-1")
        with pytest.raises(LipSyncError) as caught:
            found(root, manifest=str(manifest))
        assert caught.value.hint


def test_no_person_is_in_two_splits_whatever_the_lists_say(tmp_path):
    names = [f"{person}/{clip}.mp4" for person in "ab" for clip in range(3)]
    rows = zip(names, "aaabbb", ("train", "train", "test", "train", "dev", "train"), strict=True)
    videos = [Video(name, person, split) for name, person, split in rows]
    left = corpora.overlapping(videos)
    assert left == {"a/0.mp4": "test", "a/1.mp4": "test", "b/0.mp4": "dev", "b/2.mp4": "dev"}
    kept = [v for v in videos if v.source not in left]
    assert {v.identity for v in kept if v.split == "test"} & {v.identity for v in kept if v.split == "dev"} == set()


def test_overlapping_lists_are_reported_or_followed_as_asked(four_videos, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("file,identity,split\np0/talk.mkv,Ann,train\np1/talk.mkv,Ann,test\np2/talk.mkv,Bob,train\n")
    strict = prepare(settings(four_videos, tmp_path / "strict", manifest=str(manifest)))
    assert strict.reasons == {"split": 1} and strict.shared_people == 0
    assert verdicts(tmp_path / "strict")["p0/talk.mkv"] == "split: its person is also in test"
    kept = prepare(settings(four_videos, tmp_path / "kept", manifest=str(manifest), overlap="keep"))
    assert not kept.reasons and kept.shared_people == 1 and "1 people are in more than one split" in str(kept)


def test_people_stay_where_they_are_when_a_corpus_grows():
    few = [Video(f"{k}.mp4", str(k), "") for k in range(7)]
    splits = {v.identity: v.split for v in corpora.with_splits(few, {})}
    assert Counter(splits.values())["dev"] >= 1
    many = [Video(f"{k}.mp4", str(k), "") for k in range(2000)]
    later = {v.identity: v.split for v in corpora.with_splits(many, splits)}
    assert splits.items() <= later.items() and 60 < Counter(later.values())["dev"] < 145


# --- offsets


@pytest.fixture
def expert(tmp_path_factory, monkeypatch) -> str:
    """An expert without training, whose measurement is simulated: a clip's offset is its source's number, and its
    confidence 0.3. That a trained one measures right is for test_expert.py to show."""

    def measured(net: SyncNet, clip: shards.ClipFile) -> Offset:
        assert not net.training and len(clip.mel) == 80
        return Offset(int(clip.info.source.removesuffix(".mp4")), 0.3, np.zeros(31))

    monkeypatch.setattr(offsets, "measure_offset", measured)
    path = tmp_path_factory.mktemp("expert") / "expert.safetensors"
    save_net(path, SyncNet(SyncNetConfig(width=0.25)), {})
    return str(path)


def lagging(late: int, **changes: Any) -> shards.Clip:
    clip = talking_clip(5, frames=60, late=late)
    return replace(clip, info=replace(clip.info, source=f"{late}.mp4"), **changes)


@pytest.mark.parametrize("quality", [0, 95])
def test_with_an_expert_each_clips_sound_is_moved_once_and_no_video_is_read(expert, tmp_path, quality):
    lags = (0, 3, -4, 9)
    store(tmp_path, *map(lagging, lags), quality=quality)
    stored = [shards.load(tmp_path / "clips" / f"{k}.safetensors") for k in range(4)]
    chosen = settings("", tmp_path, expert=expert, device="cpu", quality=quality)
    summary = prepare(chosen)
    lines = shards.read_report(tmp_path)
    assert [v.offset for v in lines] == list(lags) and {v.confidence for v in lines} == {0.3}
    assert [v.verdict == "ok" for v in lines] == [True, True, True, False]
    assert lines[3].verdict == "out of sync: the sound is 9 frames too late"
    assert summary.offsets == {"-4": 1, "0": 1, "3": 1} and summary.reasons == {"out of sync": 1}
    for k, late in enumerate(lags[:3]):
        now, then = shards.load(tmp_path / "clips" / f"{k}.safetensors"), stored[k]
        assert now.info.offset == late and len(now.crops) == lines[k].frames == 60 - abs(late)
        first = max(0, -late)
        assert (now.crops == then.crops[first : first + len(now.crops)]).all()  # not one more compression
        assert (now.wave == then.wave[max(0, late) * 640 :][: len(now.wave)]).all()
        assert len(now.wave) == len(now.crops) * 640
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "clips").iterdir()}
    report = (tmp_path / "report.jsonl").read_bytes()
    prepare(chosen)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "clips").iterdir()}
    assert report == (tmp_path / "report.jsonl").read_bytes()


def test_killed_between_clip_and_report_the_sound_is_not_moved_twice(expert, tmp_path):
    store(tmp_path, lagging(3))
    before = (tmp_path / "report.jsonl").read_bytes()
    chosen = settings("", tmp_path, expert=expert, device="cpu")
    prepare(chosen)
    moved = (tmp_path / "clips" / "0.safetensors").read_bytes()
    (tmp_path / "report.jsonl").write_bytes(before)
    prepare(chosen)
    assert (tmp_path / "clips" / "0.safetensors").read_bytes() == moved
    (line,) = shards.read_report(tmp_path)
    assert line.offset == 3 and line.frames == 57


def test_an_offset_that_cannot_be_believed_moves_nothing(expert, tmp_path):
    store(tmp_path, lagging(5))
    before = (tmp_path / "clips" / "0.safetensors").read_bytes()
    chosen = settings("", tmp_path, expert=expert, device="cpu", confidence=0.6)
    summary = prepare(chosen)
    (line,) = shards.read_report(tmp_path)
    assert line.verdict == "ok" and line.offset is None and line.confidence == 0.3
    assert before == (tmp_path / "clips" / "0.safetensors").read_bytes()
    assert summary.offsets == {"unsure": 1}
    store(tmp_path / "strict", lagging(5))
    prepare(replace(chosen, output=str(tmp_path / "strict"), unsure="leave_out"))
    why = "unsure: the offset's confidence is 0.30, 0.6 is needed"
    assert verdicts(tmp_path / "strict") == {"5.mp4": why}


def test_a_clip_too_short_to_compare_is_kept_as_it_is(tmp_path):
    path = tmp_path / "expert.safetensors"
    save_net(path, SyncNet(SyncNetConfig(width=0.25)), {})
    prepare(settings("", store(tmp_path / "out", talking_clip(1, frames=8)), expert=str(path), device="cpu"))
    (line,) = shards.read_report(tmp_path / "out")
    assert line.verdict == "ok" and line.offset is None and line.confidence == 0


def surer(expert: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another expert, whose confidence is 0.9; how often it was asked for which clip is in its folder's `asked`."""
    path = folder / "better.safetensors"
    path.write_bytes(Path(expert).read_bytes())
    save_net(path, SyncNet(SyncNetConfig(width=0.25)), {"it": "is another"})

    def measured(net: SyncNet, clip: shards.ClipFile) -> Offset:
        with open(folder / "asked", "a", encoding="utf-8") as file:
            file.write(clip.info.source + "\n")
        return Offset(int(clip.info.source.removesuffix(".mp4")), 0.9, np.zeros(31))

    monkeypatch.setattr(offsets, "measure_offset", measured)
    return str(path)


@pytest.mark.parametrize("unsure", ["keep", "leave_out"])
def test_an_offset_that_one_expert_was_unsure_of_is_measured_again_by_a_better_one(
    expert, tmp_path, monkeypatch, unsure
):
    """Expert, offsets, better expert, offsets: the second round did nothing, and the sound stayed late."""
    folder = store(tmp_path / "out", lagging(5))
    chosen = settings("", folder, expert=expert, device="cpu", confidence=0.6, unsure=unsure)
    prepare(chosen)
    report = (folder / "report.jsonl").read_bytes()
    prepare(chosen)
    assert (folder / "report.jsonl").read_bytes() == report  # the same one would say the same
    summary = prepare(replace(chosen, expert=surer(expert, tmp_path, monkeypatch)))
    (line,) = shards.read_report(folder)
    assert (line.verdict, line.offset, line.confidence, line.frames) == ("ok", 5, 0.9, 55)
    assert summary.offsets == {"5": 1} and shards.load(folder / "clips" / "0.safetensors").info.offset == 5


def test_an_unsure_offset_is_measured_again_when_less_confidence_is_asked_for_or_when_told(
    expert, tmp_path, monkeypatch
):
    folder = store(tmp_path / "out", lagging(5), lagging(2))
    chosen = settings("", folder, expert=expert, device="cpu", confidence=0.6)
    prepare(chosen)
    assert prepare(replace(chosen, confidence=0.25)).offsets == {"2": 1, "5": 1}
    again = store(tmp_path / "again", lagging(5))
    strict = replace(chosen, output=str(again))
    prepare(strict)
    without(tmp_path / "again", "expert")
    surer(expert, tmp_path, monkeypatch)
    prepare(replace(strict, confidence=0.95))  # an older report does not say whose opinion it is
    prepare(replace(strict, confidence=0.95))
    assert (tmp_path / "asked").read_text() == "5.mp4\n"
    prepare(replace(strict, confidence=0.95, again=True))
    assert (tmp_path / "asked").read_text() == "5.mp4\n" * 2
