# SPDX-License-Identifier: GPL-3.0-or-later
"""Several people in one picture: who is followed, who is picked, and that nobody gets another's words or lips."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import skimage.data

from core import audio, cli, faces, media, people, redub, sync_mode
from core.errors import JobError, LipSyncError, ModelError, NoFaceError, SpeechError
from core.faces import cache, fan
from core.faces.detectors import open_detector
from core.faces.mesh import face_oval, lips
from core.job import RedubJob

rate = 25
frames = 24


def write(path: Path, pictures: Iterable[np.ndarray], sound: np.ndarray | None = None) -> Path:
    """Lossless footage of (H, W, 3) uint8 pictures, with a sound of 16 kHz or none."""
    with av.open(path, "w") as container:
        video, voice = container.add_stream("ffv1", rate=rate), None
        if sound is not None:
            voice = container.add_stream("flac", rate=16000, layout="mono")
        for i, rgb in enumerate(pictures):
            if i == 0:
                video.height, video.width = rgb.shape[:2]
                video.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if voice is not None and sound is not None:
            part = av.AudioFrame.from_ndarray((sound * 32000).astype(np.int16)[None], format="s16", layout="mono")
            part.sample_rate, part.pts = 16000, 0
            container.mux(voice.encode(part))
            container.mux(voice.encode(None))
    return path


def portrait(other: bool = False) -> np.ndarray:
    """(240, 240, 3): the public-domain portrait, or the same face mirrored in other colours for another person."""
    picture = cv2.resize(skimage.data.astronaut()[0:240, 100:340], (240, 240), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture[:, ::-1, ::-1]) if other else picture


def side_by_side(count: int = frames) -> Iterator[np.ndarray]:
    """Two people, swaying: (240, 480, 3)."""
    for i in range(count):
        halves = []
        for other in (False, True):
            shift = np.array([[1, 0, 3 * np.sin(i / 5 + other)], [0, 1, 2 * np.cos(i / 6)]])
            halves.append(cv2.warpAffine(portrait(other), shift, (240, 240), borderMode=cv2.BORDER_REFLECT))
        yield np.hstack(halves)


def crossing(one: list[np.ndarray], other: list[np.ndarray]) -> Iterator[tuple[np.ndarray, float, float]]:
    """Two cut-out faces that pass each other, the first in front; and x of their middles."""
    side, width, height, n = one[0].shape[0], 960, 480, len(one)
    paper = np.random.default_rng(0).integers(60, 160, (9, 16, 3), dtype=np.uint8)
    background = cv2.resize(paper, (width, height), interpolation=cv2.INTER_CUBIC)
    cut_out = np.zeros((side, side), np.float32)
    cv2.ellipse(cut_out, (side // 2, side // 2), (int(side * 0.36), int(side * 0.48)), 0, 0, 360, (1,), -1)
    cut_out = cv2.GaussianBlur(cut_out, (0, 0), 3)[..., None]
    for i in range(n):
        picture = background.astype(np.float32)
        way = round(i / (n - 1) * (width - side - 80))
        for face, x, y in ((other[i], width - side - 40 - way, -10), (one[i], 40 + way, 10)):
            place = picture[(height - side) // 2 + y :, x : x + side][:side]
            place[:] = place * (1 - cut_out) + face * cut_out
        yield picture.astype(np.uint8), 40 + way + side / 2, width - 40 - way - side / 2


def check_crossing(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    middles = []
    with open_detector("mediapipe") as detector:
        follower = faces.Follower(detector)
        for picture, *xs in crossing(one, other):
            follower.add(picture)
            middles.append(xs)
        found = follower.finish()
    assert len(found.tracks) == 2
    apart = [i for i, (x, u) in enumerate(middles) if abs(x - u) > 200]
    for person, track in enumerate(found.tracks):
        assert track.frames[0] == 0 and track.frames[-1] == len(one) - 1
        seen = {int(frame): box for frame, box in zip(track.frames, track.boxes, strict=True)}
        at = [abs((seen[i][0] + seen[i][2]) / 2 - middles[i][person]) for i in apart if i in seen]
        assert len(at) > 0.8 * len(apart)
        assert max(at) < 60, "the track went over to the other person"


def test_two_people_who_cross_keep_their_tracks():
    """Else the dub would change sides in the middle of the shot."""
    check_crossing([cv2.resize(portrait(), (300, 300))] * 60, [cv2.resize(portrait(True), (300, 300))] * 60)


@pytest.mark.parametrize(
    ("one", "other"),
    [("HDTF_WDA_EdMarkey0_a8de98.mp4", "German_speaker_852ef4.mp4"), ("Vox2_681100216_160432.mp4", "VRT_1_fd1b5c.mp4")],
)
def test_real_people_who_cross_keep_their_tracks(footage: Path, one: str, other: str):
    check_crossing(*(real(footage / name, 100) for name in (one, other)))


def real(path: Path, count: int) -> list[np.ndarray]:
    if not path.is_file():
        pytest.skip(f"no {path.name} in the folder of clips")
    return [
        cv2.resize(p.rgb(), (300, 300), interpolation=cv2.INTER_AREA)
        for p in media.read(media.probe(str(path)), 0, count)
    ]


@pytest.mark.parametrize(("lost", "filled"), [(4, True), (9, False)])
def test_a_face_lost_for_a_few_frames_is_taken_to_have_gone_on(tmp_path: Path, lost: int, filled: bool):
    """A blink of the detector must not fade the effect out and in; a face that is gone for longer passes through."""

    def pictures() -> Iterator[np.ndarray]:
        for i, picture in enumerate(side_by_side(30)):
            if 12 <= i < 12 + lost:
                picture[20:200, 40:200] = picture[20:200, 40:200].mean((0, 1))
            yield picture

    shot = people.open_footage(str(write(tmp_path / "two.mkv", pictures())), (), None)
    found = people.find(shot)
    assert len(found.tracks) == 2
    left = next(track for track in found.tracks if track.boxes[0, 0] < 240)
    assert not np.isin(np.arange(12, 12 + lost), left.frames).any()
    track = faces.follow_through(found, [left], rate)
    assert track.found.all() == filled and len(set(track.shot)) == 1
    if filled:
        moved = np.linalg.norm(np.diff(track.points.mean(1), axis=0), axis=1)
        assert moved.max() < 3
    else:
        assert not track.found[12 : 12 + lost].any() and track.found.sum() >= 30 - lost - 3


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("two") / "two.mkv", side_by_side())


@pytest.fixture
def make_job(two: Path, make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> Callable[..., RedubJob]:
    def make(name: str = "out.mkv", **changes: Any) -> RedubJob:
        job = RedubJob(
            video=str(two),
            speech=str(make_speech(1.0)),
            output=str(tmp_path / name),
            model=str(tiny_model),
            device="cpu",
            quality="lossless",
            sound="none",
            silence="off",
        )
        return replace(job, **changes)

    return make


def left_and_right(path: str) -> tuple[np.ndarray, np.ndarray]:
    pictures = np.stack([np.array(p.frame.to_ndarray()) for p in media.read(media.probe(path))])
    luma = pictures[:, :240, :480]
    return luma[:, :, :240], luma[:, :, 240:]


def test_each_of_two_people_gets_their_own_speech_and_nobody_elses_lips_change(
    make_job: Callable[..., RedubJob], make_speech: Callable[..., Path]
):
    """An interview dubbed in one pass: each half is that of a job for this person alone, sample for sample."""
    other = str(make_speech(0.6))
    late = Fraction(1, 5)
    first, second = "at:0,120,130", "at:0,360,130"
    one = redub.run(make_job("one.mkv", face=first))
    two = redub.run(make_job("two.mkv", face=second, speech=other, speech_start=late))
    both = redub.run(make_job("both.mkv", face=first, others=((second, other, late),)))
    source = left_and_right(make_job().video)
    alone, elsewhere = left_and_right(one.output), left_and_right(two.output)
    together = left_and_right(both.output)
    assert (alone[1] == source[1]).all() and (elsewhere[0] == source[0]).all()
    assert (alone[0] != source[0]).any(axis=(1, 2)).all() and (elsewhere[1] != source[1]).any()
    assert (together[0] == alone[0]).all() and (together[1] == elsewhere[1]).all()
    assert both.changed == frames
    assert both.untouched == tuple((a, b, f"{why} ({second})") for a, b, why in two.untouched)


def interview(path: Path) -> Path:
    """Two people, then after a cut the second one alone before a wall; each picture is shown for another time."""
    wall: Any = cv2.resize(np.random.default_rng(2).integers(90, 200, (8, 8, 3), dtype=np.uint8), (240, 240))
    times = np.cumsum([0, *(23 * [40, 20, 67])])[:18].tolist()
    with av.open(path, "w") as container:
        video = container.add_stream("ffv1", rate=rate, width=480, height=240)
        video.codec_context.time_base = Fraction(1, 1000)
        for i, (both, time) in enumerate(zip(side_by_side(18), times, strict=True)):
            alone = np.hstack([wall, both[:, 228:468] // 2 + 60])
            frame = av.VideoFrame.from_ndarray(both if i < 9 else alone, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("mode", ["loop", "bounce", "stretch"])
def test_two_people_a_cut_a_phones_frame_times_and_a_longer_speech_go_together(
    make_job: Callable[..., RedubJob], make_speech: Callable[..., Path], tmp_path: Path, mode: str
):
    """Each alone is right; together the frames must still be the source's, and a wall must not get a mouth."""
    video = str(interview(tmp_path / "phone.mkv"))
    faces_there = "track:1", "at:2,360,130"
    job = make_job(
        video=video,
        sync_mode=mode,
        face=faces_there[0],
        others=((faces_there[1], str(make_speech(1.6)), Fraction(1, 5)),),
    )
    info = media.probe(video)
    found = people.find(people.open_footage(video, (), None))
    cut = int(np.flatnonzero(np.diff(found.shots))[0]) + 1
    result = redub.run(job)
    needed = -(-(Fraction(9, 5) * info.rate) // 1)
    source = sync_mode.source_frames(mode, info.frames, int(needed))
    before = [part[source] for part in left_and_right(video)]
    after = left_and_right(result.output)
    assert result.frames == needed == len(after[0])
    first_shot = source < cut
    assert 5 < cut < info.frames - 5 and 5 < first_shot.sum() < needed - 5
    differs = [(a != b).any(axis=(1, 2)) for a, b in zip(before, after, strict=True)]
    assert (differs[0] == first_shot).all(), "the wall has changed, or somebody at it has not"
    assert differs[1][first_shot].all()
    left_out = {
        frame for first, last, why in result.untouched if faces_there[1] in why for frame in range(first, last + 1)
    }
    assert left_out >= set(np.flatnonzero(~differs[1]).tolist())
    for side in (0, 1):
        assert (before[side][:, :90] == after[side][:, :90]).all(), "above the faces a sample has changed"


def test_the_speeches_of_two_people_are_heard_together(
    make_job: Callable[..., RedubJob], make_speech: Callable[..., Path]
):
    job = make_job(sound="speech", others=(("track:2", str(make_speech(0.5)), Fraction(2, 5)),), face="track:1")
    result = redub.run(job)
    with av.open(result.output) as container:
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(container.streams.audio[0])]).astype(float)
    assert len(sound) / 48000 == pytest.approx(frames / rate, abs=0.05)
    wave = np.zeros(len(sound))
    for path, start in ((job.speech, Fraction(0)), *((path, start) for _, path, start in job.others)):
        speech = audio.load(path, rate=48000)
        first = round(start * 48000)
        wave[first : first + len(speech)] += speech[: len(wave) - first]
    assert np.corrcoef(sound, wave)[0, 1] > 0.95


def test_two_speeches_for_one_face_are_refused(make_job: Callable[..., RedubJob], tmp_path: Path):
    job = make_job(face="track:1", others=(("at:3,120,130", make_job().speech, Fraction(0)),))
    with pytest.raises(JobError, match="track:1 and at:3,120,130 are one person, track 1") as caught:
        redub.run(job)
    assert "lipsync faces" in caught.value.hint
    assert not Path(job.output).exists()


@pytest.mark.parametrize(
    ("face", "kind", "sentence"),
    [
        ("track:3", NoFaceError, "no track 3 in .*, but tracks 1 to 2"),
        ("track:0", NoFaceError, "no track 0"),
        ("at:5,240,10", NoFaceError, "no face at 240, 10 in frame 5"),
        ("at:99,120,130", NoFaceError, "Frame 99 is not among the frames 0 to 23"),
        ("speaking", SpeechError, "no sound of its own"),
    ],
)
def test_a_pick_that_hits_nobody_says_how_to_see_who_is_there(
    make_job: Callable[..., RedubJob], face: str, kind: type[LipSyncError], sentence: str, tmp_path: Path
):
    with pytest.raises(kind, match=sentence) as caught:
        redub.run(make_job(face=face))
    assert "lipsync faces" in caught.value.hint
    assert list(tmp_path.glob("out*")) == []


def test_a_click_on_a_photo_means_the_files_own_pixels_though_the_face_is_seen_upright(tmp_path: Path):
    """People click in Blender, which shows a phone's portrait lying on its side."""
    path = str(tmp_path / "portrait.jpg")
    scene = np.vstack([portrait(), np.full((120, 240, 3), 90, np.uint8)])  # the face is in the upper half
    data = cv2.imencode(".jpg", np.rot90(scene)[..., ::-1])[1].tobytes()
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    Path(path).write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:])
    footage = people.open_footage("", [path], None)
    found = people.find(footage, cached=False)
    left, top, right, bottom = found.tracks[0].boxes[0]
    assert bottom < 240
    across, down = (left + right) / 2, (top + bottom) / 2
    assert list(people.pick(footage, found, f"at:0,{down:.0f},{240 - across:.0f}")) == [1]
    assert list(people.pick(footage, found, str(people.describe(footage, found)[0]["mouth_at"]))) == [1]
    with pytest.raises(NoFaceError, match="no face at 300, 120 "):
        people.pick(footage, found, "at:0,300,120")


@pytest.mark.parametrize("face", ["", "tallest", "track:", "track:1,", "track:-1", "at:1,2", "at:1,2,x", "at:1,2,3;ls"])
def test_what_is_no_pick_is_refused_before_any_work(make_job: Callable[..., RedubJob], face: str):
    with pytest.raises(JobError, match="Unknown face"):
        make_job(face=face)
    with pytest.raises(JobError, match="Unknown face"):
        make_job(others=((face, "speech.wav", Fraction(0)),))


def test_by_default_the_largest_face_speaks(tmp_path: Path):
    def pictures() -> Iterator[np.ndarray]:
        for picture in side_by_side(6):
            small = cv2.resize(picture[:, :240], (168, 168), interpolation=cv2.INTER_AREA)
            yield np.hstack([cv2.copyMakeBorder(small, 36, 36, 36, 36, cv2.BORDER_REPLICATE), picture[:, 240:]])

    shot = people.open_footage(str(write(tmp_path / "two.mkv", pictures())), (), None)
    found = people.find(shot)
    assert len(found.tracks) == 2
    [track] = people.pick(shot, found, "largest").values()
    assert track.boxes[0, 0] > 240 and len(track.frames) == 6


@pytest.mark.parametrize("speaker", [0, 1])
def test_who_speaks_is_told_by_the_footages_own_sound(footage: Path, tmp_path: Path, speaker: int):
    """The pick that finds the person to dub in a two-shot."""
    from core import audio

    names = ["HDTF_WDA_EdMarkey0_a8de98.mp4", "German_speaker_852ef4.mp4"]
    halves = [real(footage / name, 150) for name in names]
    sound = audio.load(str(footage / names[speaker]), media.probe(str(footage / names[speaker])).start)[: 6 * 16000]
    movie = write(tmp_path / "two.mkv", (np.hstack(pair) for pair in zip(*halves, strict=True)), sound)
    shot = people.open_footage(str(movie), (), None)
    [track] = people.pick(shot, people.find(shot), "speaking").values()
    assert (track.boxes[0, 0] > 300) == bool(speaker)


def same(one: faces.People, other: faces.People) -> bool:
    pairs = zip(one.tracks, other.tracks, strict=True)
    alike = [
        (a.frames == b.frames).all() and (a.mesh == b.mesh).all() and (a.origin == b.origin).all() for a, b in pairs
    ]
    return bool((one.shots == other.shots).all()) and all(alike)


def test_footage_seen_before_is_not_searched_again_and_gives_the_same(two: Path, monkeypatch: pytest.MonkeyPatch):
    shot = people.open_footage(str(two), (), None)
    fresh = people.find(shot)
    with monkeypatch.context() as blind:
        blind.delattr(faces.Follower, "add")
        told: list[int] = []
        assert same(people.find(shot, told.append), fresh)
        assert told == [0, frames]
        for changed in ({"count": 10}, {"start": 1, "count": frames - 1}):
            with pytest.raises(AttributeError):  # another range is searched
                people.find(replace(shot, **changed))
        with pytest.raises(AttributeError):
            people.find(shot, cached=False)
    assert same(people.find(shot, cached=False), fresh)


def test_footage_that_was_changed_is_searched_again(tmp_path: Path):
    movie = write(tmp_path / "shot.mkv", side_by_side(3))
    assert len(people.find(people.open_footage(str(movie), (), None)).tracks) == 2
    write(movie, (picture[:, :240] for picture in side_by_side(3)))
    assert len(people.find(people.open_footage(str(movie), (), None)).tracks) == 1


@pytest.mark.parametrize("damage", ["cut", "text", "other tensors", "wild numbers"])
def test_a_damaged_cache_costs_time_and_nothing_else(two: Path, damage: str):
    from safetensors.numpy import load_file, save_file

    shot = people.open_footage(str(two), (), None)
    fresh = people.find(shot)
    [kept] = cache.folder().iterdir()
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-100])
    elif damage == "text":
        kept.write_bytes(b"\x80\x04cposix\nsystem\n")
    elif damage == "other tensors":
        save_file({"a": np.zeros(3, np.float32)}, kept)
    else:
        tensors = load_file(kept)
        tensors["0.frames"] = tensors["0.frames"] + 1000
        save_file(tensors, kept)
    assert same(people.find(shot), fresh)
    assert cache.load(kept.stem) is not None, "the damaged file was not replaced"


def test_the_cache_stays_small_and_keeps_what_was_used_last(two: Path, monkeypatch: pytest.MonkeyPatch):
    import os

    shot = people.open_footage(str(two), (), None)
    found = people.find(shot)
    [kept] = cache.folder().iterdir()
    monkeypatch.setattr(cache, "most_bytes", int(2.5 * kept.stat().st_size))
    for age, name in enumerate(("b" * 64, "c" * 64), 1):
        cache.save(name, found)
        os.utime(cache.folder() / f"{name}.safetensors", (1000 - age, 1000 - age))
    assert cache.load(kept.stem) is not None
    cache.save("d" * 64, found)
    assert {path.stem for path in cache.folder().iterdir()} == {kept.stem, "d" * 64}


def test_a_cache_that_cannot_be_written_is_no_error(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "file" / "cache"))
    assert len(people.find(people.open_footage(str(two), (), None)).tracks) == 2


def test_the_command_prints_the_tracks_and_draws_a_sheet(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_job: Callable[..., RedubJob]
):
    """What the user picks from: each number, range and click printed must be one that a job takes."""
    sheet = tmp_path / "faces.png"
    assert cli.main(["faces", str(two), "--start", "4", "--sheet", str(sheet)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shots"] == [[4, frames - 1]] and [t["track"] for t in told["tracks"]] == [1, 2]
    shot = people.open_footage(str(two), (), None)
    found = people.find(shot)
    for track in told["tracks"]:
        assert track["frames"] == [[4, frames - 1]] and track["seen"] == frames - 4 and track["speaking"] is None
        assert abs(track["yaw"]) < 35 and 60 < track["size"] < 140
        assert list(people.pick(shot, found, track["mouth_at"])) == [track["track"]]
    picture = cv2.imread(str(sheet))
    assert picture is not None and picture.shape[0] > 2 * 128 + 200
    before = sheet.read_bytes()
    assert cli.main(["faces", str(two), "--sheet", str(sheet)]) == 2
    assert "exists already" in capsys.readouterr().err and sheet.read_bytes() == before


def test_the_command_line_takes_a_second_speech(
    two: Path, make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
):
    speech, output = str(make_speech(1.0)), str(tmp_path / "out.mkv")
    given = ["redub", str(two), speech, "-o", output, "--model", str(tiny_model), "--quality", "lossless"]
    given += ["--face", "track:1", "--also", "track:2", speech, "0.1", "--count", "6", "--no-cache", "--silence", "off"]
    assert cli.main(given) == 0
    source, made = left_and_right(str(two)), left_and_right(output)
    assert all((a[:6] != b).any() for a, b in zip(source, made, strict=True))
    assert not cache.folder().exists() or not list(cache.folder().iterdir())


def test_a_turned_head_is_told_with_its_side(footage: Path):
    """The number by which an editor sees that the net cannot serve a face."""
    turned = {}
    for name in ("SpkVid_range_side_2_9f1880.mp4", "GRID_id2_c853a1.mp4"):
        shot = people.open_footage(str(footage / name), (), None, 0, 2)
        [track] = people.find(shot).tracks
        turned[name] = people.yaw(track.points).mean()
        points = track.points.copy()
        points[..., 0] *= -1
        points[:, [234, 454]] = points[:, [454, 234]]
        assert people.yaw(points).mean() == pytest.approx(-turned[name], abs=0.1)
    side, front = turned.values()
    assert 25 < abs(side) < 80 and abs(front) < 10


def mesh_of_portrait() -> np.ndarray:
    with faces.Tracker(rate) as tracker:
        points = tracker.add(portrait())
    assert points is not None
    return points


def test_68_landmarks_say_where_the_478_lie():
    """The table that lets face-alignment stand in for MediaPipe: a wrong row would bend every mask."""
    points = mesh_of_portrait()
    assert len(set(fan.mesh_of_fan)) == 68
    bent = fan.to_mesh(points[list(fan.mesh_of_fan)])
    size = np.ptp(points[list(face_oval)], axis=0).max()
    away = np.linalg.norm(bent - points, axis=1) / size
    assert away.mean() < 0.015 and away[list(lips)].max() < 0.015
    place = [faces.fit(mesh[None])[0] for mesh in (points, bent)]
    assert np.abs(place[0] - place[1]).max() < 0.03


def test_missing_weights_are_named(tmp_path: Path):
    pytest.importorskip("face_alignment")
    with pytest.raises(ModelError, match=r"needs s3fd-\S+\.pth and 2DFAN4-\S+, missing in") as caught:
        open_detector(f"face-alignment:{tmp_path}")
    assert "face-alignment:FOLDER" in caught.value.hint


def test_weights_of_face_alignment_are_loaded_from_the_users_folder(tmp_path: Path):
    """Untrained nets of the published shapes: the loading and the calls are real, the landmarks are not."""
    import torch

    pytest.importorskip("face_alignment")
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    torch.save(FAN(4).state_dict(), tmp_path / fan.weights["fan"])
    torch.save(s3fd().state_dict(), tmp_path / fan.weights["s3fd"])
    with open_detector(f"face-alignment:{tmp_path}") as detector:
        assert isinstance(detector.boxes(portrait()[:64, :64]), list)
        landmarks, _, _ = detector._net.get_landmarks_from_image(  # type: ignore[attr-defined]
            portrait(), [np.array([60.0, 40, 180, 170])], return_landmark_score=True
        )
        assert landmarks[0].shape == (68, 2)
        assert detector.points(portrait(), (-500, 0, 200), 0, True) is None
    (tmp_path / fan.weights["fan"]).write_bytes(b"not a net")
    with pytest.raises(ModelError, match="cannot be loaded"), open_detector(f"face-alignment:{tmp_path}"):
        pass
