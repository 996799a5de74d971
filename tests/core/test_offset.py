# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync sync`: a number that a delivery is checked by has to be right, and absent where nothing can be told."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from living_pictures import most_living

from core import audio, cli, media, redub
from core.job import RedubJob

speech = Path(__file__).resolve().parents[2] / "examples" / "speech.flac"
rate = 30


@pytest.fixture(scope="module")
def still(make_clip: Callable[..., Path]) -> Path:
    """A swaying portrait whose lips never move."""
    return make_clip(190, rate=rate)


@pytest.fixture(scope="module")
def talking(still: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portrait saying the example's sentence, in sync as far as anybody can make it."""
    output = tmp_path_factory.mktemp("talking") / "talking.mkv"
    job = RedubJob(
        video=str(still), speech=str(speech), output=str(output), sound="speech", device="cpu", in_front="ignore"
    )
    redub.run(job)
    return output


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    return audio.load(str(speech))


def moved(wave: np.ndarray, milliseconds: int) -> np.ndarray:
    """The sound so much later, of the same length."""
    n = 16 * abs(milliseconds)
    silence = np.zeros(n, np.float32)
    return np.append(silence, wave)[: len(wave)] if milliseconds > 0 else np.append(wave[n:], silence)


def dub(path: Path, movie: Path, wave: np.ndarray | None, late: Fraction = Fraction(0)) -> str:
    """The same pictures with another sound, whose stream begins so many seconds after them."""
    with av.open(str(movie)) as source, av.open(str(path), "w") as container:
        pictures = source.streams.video[0]
        video = container.add_stream_from_template(pictures)
        voice = None if wave is None else container.add_stream("flac", rate=16000, layout="mono")
        for packet in source.demux(pictures):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
        if voice is not None and wave is not None:
            part = av.AudioFrame.from_ndarray((wave * 32000).astype(np.int16)[None], format="s16", layout="mono")
            part.sample_rate, part.time_base, part.pts = 16000, Fraction(1, 16000), round(late * 16000)
            container.mux(voice.encode(part))
            container.mux(voice.encode(None))
    return str(path)


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict]]:
    """What the command says of movies, a line of JSON each."""

    def call(*arguments: str, status: int = 0) -> list[dict]:
        assert cli.main(["sync", *arguments, "--json"]) == status
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def test_a_sound_that_was_moved_is_told_by_as_much(
    talking: Path, sentence: np.ndarray, tmp_path: Path, measured: Callable[..., list[dict]]
) -> None:
    """What the studio sends back: "your sound is 120 ms late" has to be 120 ms, and not its opposite."""
    by = (0, -200, -80, 120, 320)
    movies = [dub(tmp_path / f"{ms}.mkv", talking, moved(sentence, ms)) for ms in by]
    movies.append(dub(tmp_path / "stream.mkv", talking, sentence, late=Fraction(1, 4)))
    told = measured(*movies)
    assert [one["video"] for one in told] == movies and not any(one["why"] for one in told)
    zero = told[0]["seconds"]
    assert abs(zero) < 0.03, "lips made for this very sound are not in sync with it"
    for one, ms in zip(told, (*by, 250), strict=True):
        assert one["seconds"] - zero == pytest.approx(ms / 1000, abs=0.02)
        assert one["frames"] == pytest.approx(rate * one["seconds"], abs=0.02)
        assert one["r"] > one["r_by_chance"] and one["r"] > one["r_elsewhere"] + 0.1
    assert told[0]["r_unmoved"] > 0.8 > 0.5 > told[-2]["r_unmoved"]


def test_people_read_a_line_for_each_movie(
    talking: Path, sentence: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late, early = (dub(tmp_path / f"{ms}.mkv", talking, moved(sentence, ms)) for ms in (200, -200))
    assert cli.main(["sync", late, early, "--face", "track:1", "--no-cache", "--device", "cpu"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{late}: the sound is 0.") and "frames) late: r 0." in first
    assert second.startswith(f"{early}: the sound is 0.") and "frames) early: r 0." in second


@pytest.mark.parametrize("what", ["other words", "far away", "still", "noise", "silence"])
def test_where_nothing_can_be_told_no_number_is_given(
    talking: Path,
    still: Path,
    sentence: np.ndarray,
    tmp_path: Path,
    what: str,
    capsys: pytest.CaptureFixture[str],
    measured: Callable[..., list[dict]],
) -> None:
    """A wrong number that looks sure would have a delivery "corrected" that was right, or sent on that is wrong."""
    noise = np.random.default_rng(1).normal(0, 0.1, len(sentence)).astype(np.float32)
    sounds = {
        "other words": np.roll(sentence, 2 * 16000),
        "far away": moved(sentence, 1500),
        "still": sentence,
        "noise": noise,
        "silence": 0 * noise,
    }
    movie = dub(tmp_path / "movie.mkv", still if what == "still" else talking, sounds[what])
    [told] = measured(movie)
    assert told["seconds"] is None and told["frames"] is None
    assert ("somebody speaks for 0.0 s" if what in ("noise", "silence") else "fit") in told["why"]
    assert cli.main(["sync", movie]) == 0
    assert capsys.readouterr().out == f"{movie}: cannot be told: {told['why']}\n"


def test_a_movie_too_short_to_tell_is_told_so(
    sentence: np.ndarray, make_clip: Callable[..., Path], tmp_path: Path, measured: Callable[..., list[dict]]
) -> None:
    movies = [dub(tmp_path / f"{n}.mkv", make_clip(n), sentence[: n * 640]) for n in (6, 60)]
    for told, seen in zip(measured(*movies), (0.0, 1.4), strict=True):
        assert told["seconds"] is None and told["seen"] == pytest.approx(seen, abs=0.05)
        assert f"compared for {seen:.1f} s only, and 2 s are needed" in told["why"]


def test_a_movie_that_cannot_be_used_does_not_stop_the_others(
    talking: Path,
    make_clip: Callable[..., Path],
    sentence: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    measured: Callable[..., list[dict]],
) -> None:
    silent = dub(tmp_path / "silent.mkv", talking, None)
    nobody = dub(tmp_path / "nobody.mkv", make_clip(10, faceless=range(10)), sentence)
    gone = str(tmp_path / "gone.mkv")
    bad = {silent: "no sound of its own", nobody: "no face", gone: "no file"}
    told = measured(*bad, str(talking), status=1)
    assert [one["video"] for one in told] == [*bad, str(talking)]
    assert [one["type"] for one in told] == ["failure"] * 3 + ["sync"] and told[-1]["seconds"] is not None
    for one, (movie, sentence_) in zip(told, bad.items(), strict=False):
        assert sentence_ in one["message"] and one["hint"]
        assert cli.main(["sync", movie]) == 2, "a single movie's mistake is one like any other command's"
        out, err = capsys.readouterr()
        assert not out and f"lipsync: error: {one['message']}\nhint: {one['hint']}\n" == err


@pytest.mark.parametrize(
    ("option", "value"), [("--face", "tallest"), ("--face", "track:"), ("--detector", "eyes"), ("--device", "abacus")]
)
def test_a_mistake_in_the_request_is_told_once_for_all_movies(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sync", "a.mp4", "b.mp4", option, value]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("lipsync: error: ") == err.count("hint: ") == 1


def test_no_pictures_are_kept(
    make_clip: Callable[..., Path], sentence: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    movie = dub(tmp_path / "movie.mkv", make_clip(60), sentence)
    most = most_living(monkeypatch)
    assert cli.main(["sync", movie]) == 0
    assert 0 < most() <= 3


@pytest.mark.parametrize("name", ["HDTF_WDA_EdMarkey0_a8de98.mp4", "SpkVid_range_side_2_9f1880.mp4"])
def test_real_footage_whose_sound_was_moved(
    footage: Path, name: str, tmp_path: Path, measured: Callable[..., list[dict]]
) -> None:
    clip = footage / name
    if not clip.is_file():
        pytest.skip(f"no {name} in the folder of clips")
    wave = audio.load(str(clip), media.probe(str(clip)).start)
    by = (0, -200, 120)
    told = measured(*(dub(tmp_path / f"{ms}.mkv", clip, moved(wave, ms)) for ms in by))
    for one, ms in zip(told, by, strict=True):
        assert one["seconds"] - told[0]["seconds"] == pytest.approx(ms / 1000, abs=0.02)


def test_another_persons_words_are_not_called_in_sync(
    footage: Path, tmp_path: Path, measured: Callable[..., list[dict]]
) -> None:
    names = ("HDTF_WDA_EdMarkey0_a8de98.mp4", "AOC_cdc45a.mp4")
    one, other = (footage / name for name in names)
    if not (one.is_file() and other.is_file()):
        pytest.skip(f"no {names[0]} or no {names[1]} in the folder of clips")
    sounds = [audio.load(str(clip), media.probe(str(clip)).start) for clip in (one, other)]
    told = measured(dub(tmp_path / "a.mkv", one, sounds[1]), dub(tmp_path / "b.mkv", other, sounds[0]))
    assert all(one["seconds"] is None and "fits" in one["why"] for one in told)
