# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech shorter or longer than the picture, silences in it, and stills: frame by frame what the output shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import cv2
import numpy as np
import pytest
import soundfile
from living_pictures import most_living

from core import audio, cli, faces, media, redub, sync_mode
from core.engine import Engine
from core.errors import JobError
from core.job import Progress, RedubJob

examples = Path(__file__).resolve().parents[2] / "examples"
frames = 12
rate = Fraction(25)
MakeJob = Callable[..., RedubJob]


@pytest.fixture
def make_job(make_clip: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> MakeJob:
    """A job on 12 frames of the swaying portrait with 0.84 s of a spoken sentence: 21 frames."""
    speech = tmp_path / "speech.wav"
    soundfile.write(speech, audio.load(str(examples / "speech.flac"))[16000 : 16000 + 13440], 16000)

    def make(**changes: object) -> RedubJob:
        job = RedubJob(
            video=str(make_clip(frames)),
            speech=str(speech),
            output=str(tmp_path / "out.mkv"),
            model=str(tiny_model),
            device="cpu",
            quality="lossless",
            sound="speech",
        )
        return replace(job, **changes)  # type: ignore[arg-type]

    return make


def rgb(path: str) -> list[np.ndarray]:
    return [picture.rgb() for picture in media.read(media.probe(path))]


def above_the_face(pictures: list[np.ndarray]) -> list[bytes]:
    """What no mask reaches of each picture: it tells which source frame this is."""
    return [picture[:80].tobytes() for picture in pictures]


@pytest.mark.parametrize(
    ("mode", "available", "needed", "expected"),
    [
        ("cut_off", 3, 9, [0, 1, 2]),
        ("silence", 3, 9, [0, 1, 2]),
        ("loop", 3, 8, [0, 1, 2, 0, 1, 2, 0, 1]),
        ("loop", 3, 2, [0, 1]),
        ("loop", 1, 3, [0, 0, 0]),
        ("bounce", 4, 9, [0, 1, 2, 3, 2, 1, 0, 1, 2]),
        ("bounce", 2, 5, [0, 1, 0, 1, 0]),
        ("bounce", 1, 3, [0, 0, 0]),
        ("stretch", 3, 6, [0, 0, 1, 1, 2, 2]),
        ("stretch", 5, 7, [0, 1, 1, 2, 3, 3, 4]),
        ("stretch", 6, 3, [1, 3, 5]),
        ("stretch", 6, 2, [1, 4]),
    ],
)
def test_each_mode_shows_the_frames_it_promises(mode: str, available: int, needed: int, expected: list[int]) -> None:
    assert sync_mode.source_frames(mode, available, needed).tolist() == expected


@pytest.mark.parametrize("kind", ["movie", "no index", "images"])
@pytest.mark.parametrize("mode", ["loop", "bounce", "stretch"])
def test_the_decoder_gives_the_frames_in_that_order(tmp_path: Path, kind: str, mode: str) -> None:
    """Backwards, again from the start, or the same one twice: what no decoder does by itself."""
    options = {"bf": "3", "g": "50", "crf": "12"}
    name = "clip.ts" if kind == "no index" else "clip.mp4"
    movie = clips.make_movie(tmp_path / name, 160, options=options)
    info = media.probe(str(movie))
    if kind == "images":
        paths = []
        for picture in media.read(info, 0, 90):
            paths.append(str(tmp_path / f"{picture.index:03d}.png"))
            cv2.imwrite(paths[-1], picture.rgb()[..., ::-1])
        info = media.probe_images(paths, rate)
    start, count = 7, 80
    source = sync_mode.source_frames(mode, count, 200)
    pictures = list(sync_mode.pictures(info, start, source))
    assert [clips.number_of(picture.rgb()) for picture in pictures] == (start + source).tolist()


def test_a_repeated_picture_is_not_painted_twice(tmp_path: Path) -> None:
    """Two frames from one picture: what is painted on the first must not show under the second."""
    info = media.probe(str(clips.make_movie(tmp_path / "clip.mp4", 2)))
    first, second = list(sync_mode.pictures(info, 0, np.array([1, 1])))
    before = second.rgb()
    first.blend(10, 10, np.full((8, 8, 3), 255, np.float32), np.ones((8, 8), np.float32))
    assert (first.rgb() != before).any()
    assert (second.rgb() == before).all()


def test_memory_is_bounded_backwards_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of footage shown backwards must not be held at once."""
    most = most_living(monkeypatch)
    monkeypatch.setattr(sync_mode, "held_bytes", 20 * 96 * 64 * 3 // 2)
    info = media.probe(str(clips.make_movie(tmp_path / "clip.mp4", 200)))
    for picture in sync_mode.pictures(info, 0, sync_mode.source_frames("bounce", 200, 400)):
        del picture
    assert 8 < most() <= 22


@pytest.mark.parametrize("mode", ["loop", "bounce", "stretch"])
def test_the_picture_lasts_as_long_as_the_speech(make_job: MakeJob, mode: str) -> None:
    job = make_job(sync_mode=mode)
    told: list[Progress] = []
    result = redub.run(job, told.append)
    assert (result.frames, result.changed, result.untouched) == (21, 21, ())
    info = media.probe(job.output)
    assert (info.frames, info.rate) == (21, rate)
    source, output = above_the_face(rgb(job.video)), above_the_face(rgb(job.output))
    expected = sync_mode.source_frames(mode, frames, 21)
    assert output == [source[i] for i in expected]
    assert len(audio.load(job.output)) == pytest.approx(13440, abs=200), "the end of the speech is missing"
    assert {(p.stage, p.total) for p in told} == {("faces", frames), ("lips", 21)}, "the face was followed anew"


def test_every_round_of_a_loop_has_the_look_of_the_first(make_job: MakeJob, tmp_path: Path) -> None:
    """Same pictures, same (silent) sound: round two differs from round one only if it is treated as other footage."""
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(3 * frames * 640, np.float32), 16000)
    job = make_job(speech=str(silent), sync_mode="loop", grain=0.0)  # grain is every frame's own
    redub.run(job)
    shown = rgb(job.output)
    assert len(shown) == 3 * frames
    source = rgb(job.video)
    assert all((a != b).any() for a, b in zip(source, shown, strict=False)), "nothing was painted"
    for i in range(frames):
        assert (shown[i] == shown[i + frames]).all()
        assert (shown[i] == shown[i + 2 * frames]).all()


def test_speech_shorter_than_the_picture(make_job: MakeJob, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    """cut_off leaves what follows alone, silence rests the mouth there, and a loop ends with the speech."""
    clip = str(make_clip(30))
    untouched = redub.run(make_job(video=clip, output=str(tmp_path / "a.mkv"))).untouched
    assert untouched == ((21, 29, "after the speech"),)
    result = redub.run(make_job(video=clip, output=str(tmp_path / "b.mkv"), sync_mode="silence"))
    assert (result.frames, result.changed, result.untouched) == (30, 30, ())
    result = redub.run(make_job(video=clip, output=str(tmp_path / "c.mkv"), sync_mode="loop"))
    assert (result.frames, result.changed) == (21, 21)


def test_a_speech_that_ends_before_the_picture_begins_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match="before the picture") as refusal:
        redub.run(make_job(sync_mode="loop", speech_start=Fraction(-2)))
    assert refusal.value.hint


@pytest.fixture
def with_a_gap(tmp_path: Path) -> Callable[[np.ndarray], str]:
    """Maker of speech: 0.5 s of a sentence, 0.8 s of something else, and the sentence's rest of 0.5 s."""
    told = audio.load(str(examples / "speech.flac"))

    def make(filling: np.ndarray) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.wav"
        parts = told[16800:24800], np.resize(filling, 12800).astype(np.float32), told[24800:32800]
        soundfile.write(path, np.concatenate(parts), 16000)
        return str(path)

    return make


def test_noise_between_words_moves_no_mouth(
    make_job: MakeJob,
    make_clip: Callable[..., Path],
    with_a_gap: Callable[[np.ndarray], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By default the mouth does what it does in digital silence; `off` lets it follow the noise.

    Looked at as the net draws it: the small net of the tests answers a sound with little but a shade of its light,
    which is taken out of the picture with the flicker.
    """
    noise = np.random.default_rng(2).normal(0, 0.05, 12800)
    shown: dict[str, np.ndarray] = {}
    drawn: list[np.ndarray] = []
    generate = Engine.generate

    def watched(*arguments: Any) -> np.ndarray:
        drawn.extend(mouths := generate(*arguments))
        return mouths

    monkeypatch.setattr(Engine, "generate", watched)
    for name, filling, silence in (("gated", noise, "rest"), ("quiet", np.zeros(9), "off"), ("loud", noise, "off")):
        job = make_job(
            video=str(make_clip(45)), speech=with_a_gap(filling), output=str(tmp_path / f"{name}.mkv"), silence=silence
        )
        assert redub.run(job).changed == 45
        shown[name] = np.stack(drawn)
        assert len(shown[name]) == 45
        drawn.clear()
    for frame in range(23, 26):  # whose windows of 0.2 s lie in the gap and not in the gate's margins
        quiet = shown["quiet"][frame].astype(int)
        gated, loud = (np.abs(shown[name][frame] - quiet).mean() for name in ("gated", "loud"))
        assert gated < 0.25 * loud, frame


def test_keep_leaves_the_original_where_nobody_speaks(
    make_job: MakeJob, make_clip: Callable[..., Path], with_a_gap: Callable[[np.ndarray], str]
) -> None:
    job = make_job(video=str(make_clip(45)), speech=with_a_gap(np.zeros(9)), silence="keep")
    result = redub.run(job)
    ((first, last, why),) = result.untouched
    assert why == "silence"
    assert 12 < first <= 20, "the gate closes soon after the voice, which ends in frame 12"
    assert 27 <= last < 32, "and opens before the next, in frame 32"
    source, output = rgb(job.video), rgb(job.output)
    same = [i for i in range(45) if (source[i] == output[i]).all()]
    assert same == list(range(first, last + 1))


def test_the_mouth_rests_in_two_seconds_of_silence(
    make_job: MakeJob, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """With the bundled model, measured on the output: what a viewer sees first when it fails."""
    told = audio.load(str(examples / "speech.flac"))[16000:]
    path = tmp_path / "pause.wav"
    soundfile.write(path, np.concatenate([told[:12800], np.zeros(32000, np.float32), told[12800:19200]]), 16000)
    job = make_job(video=str(make_clip(80)), speech=str(path), model="")
    redub.run(job)
    with faces.Tracker(25.0) as tracker:
        for picture in media.read(media.probe(job.output)):
            tracker.add(picture.rgb())
        opening = faces.lip_opening(tracker.finish().points)
    spoken, silent = opening[2:18], opening[28:66]  # 0.8 s, and from the gate's closing to its opening
    assert np.median(silent) < 0.6 * np.median(spoken)
    assert silent.max() < 0.8 * np.median(spoken)


def test_speech_without_a_voice_is_told(make_job: MakeJob, tmp_path: Path) -> None:
    """Singing or a shout that the detector misses would else look like a broken tool."""
    hum = tmp_path / "hum.wav"
    soundfile.write(hum, 0.2 * np.sin(np.arange(8000) * 0.2), 16000)
    result = redub.run(make_job(speech=str(hum)))
    assert "No voice" in result.warnings[0]
    assert redub.run(make_job(speech=str(hum), silence="off", output=str(tmp_path / "2.mkv"))).warnings == ()


@pytest.mark.parametrize("mode", ["loop", "bounce", "stretch"])
def test_the_track_follows_the_pictures(mode: str) -> None:
    """A mask from another frame than the picture's would sit beside the mouth."""
    n = 7
    track = faces.Track(
        np.arange(n) != 3,
        np.array([0, 0, 0, 0, 1, 1, 1], np.int32),
        np.arange(n * 6, dtype=np.float64).reshape(n, 2, 3),
        np.zeros((n, 478, 2), np.float32) + np.arange(n, dtype=np.float32)[:, None, None],
    )
    source = sync_mode.source_frames(mode, n, 17)
    shown = sync_mode.shown(track, source)
    assert (shown.to_crop == track.to_crop[source]).all()
    assert (shown.points[:, 0, 0] == source).all()
    assert (shown.found == (source != 3)).all()
    again = np.flatnonzero(np.diff(source) < -1) + 1
    assert len(again) == (2 if mode == "loop" else 0)
    assert (shown.shot[again] != shown.shot[again - 1]).all(), "masks would be smoothed, and fade, across a jump"
    known = {0: np.zeros(1), 1: np.ones(1)}
    references = sync_mode.of_each_shot(known, track, shown)
    assert all(references[int(shown.shot[i])] is known[int(track.shot[source[i]])] for i in range(17))


def test_a_still_becomes_a_movie_of_the_speechs_length(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The portrait of a person must be enough: no rate, no sync mode to be known."""
    job = make_job()
    picture = next(media.read(media.probe(job.video))).rgb()
    still, output = tmp_path / "portrait 7.png", tmp_path / "talk.mp4"
    cv2.imwrite(str(still), picture[..., ::-1])
    command = ["redub", str(still), job.speech, "-o", str(output), "--model", str(tiny_model), "--device", "cpu"]
    assert cli.main(command) == 0
    assert "21 frames, 21 with new lips" in capsys.readouterr().out
    info = media.probe(str(output))
    assert (info.frames, info.rate, info.has_sound) == (21, 25, True)
    assert (info.pixel_format, info.colorspace) == ("yuv420p", 1), "players show nothing else"
    for shown in rgb(str(output)):
        assert np.abs(shown[:80].astype(int) - picture[:80]).mean() < 2
        assert abs((shown[:80].astype(int) - picture[:80]).mean()) < 0.3, "the colours have shifted"


def test_images_of_a_loop_get_names_that_go_on(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    names = []
    for picture in media.read(media.probe(job.video), 0, 3):
        names.append(str(tmp_path / f"shot_{picture.index + 98:03d}.png"))
        cv2.imwrite(names[-1], picture.rgb()[..., ::-1])
    job = make_job(video="", images=tuple(names), rate=rate, sync_mode="loop", sound="none", start_frame=1)
    job = replace(job, output=str(tmp_path / "take"))
    result = redub.run(job)
    assert result.images == tuple(f"shot_{number:03d}.png" for number in range(99, 120))
    assert sorted(p.name for p in (tmp_path / "take").glob("*.png")) == sorted(result.images)
    third, first = (cv2.imread(str(tmp_path / folder)) for folder in ("take/shot_101.png", "shot_099.png"))
    assert (third[:80] == first[:80]).all()


@pytest.mark.parametrize("size", [(96, 64), (95, 63)])
def test_an_image_sequence_can_become_a_movie(tmp_path: Path, size: tuple[int, int]) -> None:
    image = clips.barcode(0, *size)
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path in paths:
        cv2.imwrite(path, image[..., ::-1])
    info = media.probe_images(paths, rate)
    for quality, most in (("high", 4), ("lossless", 0)):
        made = media.movie_info(info, quality)
        output = str(tmp_path / f"{quality}.mp4")
        with media.write(made, output, quality=quality, count=2) as writer:
            for picture in media.read(info):
                writer.add(media.converted(picture, made))
        for picture in media.read(media.probe(output)):
            assert np.abs(picture.rgb().astype(int) - image).mean() <= most


@pytest.mark.parametrize("changes", [{"alpha": True}, {"deep": True}], ids=str)
def test_what_a_still_has_more_than_others_is_kept(tmp_path: Path, changes: dict[str, bool]) -> None:
    """Alpha and more than 8 bit: a movie for every player would lose them."""
    path = str(tmp_path / "still.png")
    image = clips.barcode(5)
    if "alpha" in changes:
        cv2.imwrite(path, np.dstack([image, image[..., 0]]))
    else:
        cv2.imwrite(path, image.astype(np.uint16) * 257)
    info = media.probe_images([path], rate)
    made = media.movie_info(info, "high")
    assert made.pixel_format == (info.pixel_format if "alpha" in changes else "yuv420p10le")
    output = str(tmp_path / "still.mp4")
    with media.write(made, output, count=1) as writer:
        writer.add(media.converted(next(media.read(info)), made))
    shown = next(media.read(media.probe(output)))
    assert np.abs(shown.rgb().astype(int) - image[..., ::-1]).mean() < 4
    assert any(part.is_alpha for part in shown.frame.format.components) == ("alpha" in changes)
