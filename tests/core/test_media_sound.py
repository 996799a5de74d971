# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound of a new movie: a click must stay with its picture, or the redub is out of sync from the start."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import click_times, click_wave, make_movie, sound_of

from core.media import Sound, probe, read, write

clicks = (Fraction(1, 2), Fraction(5, 4), Fraction(5, 2), Fraction(7, 2))
tolerance = 0.003
"""Seconds; a frame at 25 a second lasts 0.04."""


def copy(source: Path, output: Path, start: int = 0, count: int | None = None, **options) -> None:
    info = probe(str(source))
    count = info.frames - start if count is None else count
    with write(info, str(output), start=start, count=count, **options) as writer:
        for picture in read(info, start, count):
            writer.add(picture)


def spoken(wave: np.ndarray, rate: int, begin: Fraction) -> Sound:
    """Mono sound that begins so many seconds after the first picture, in blocks."""
    starts = range(0, len(wave), 3000)
    return Sound([((round(begin * rate) + i, wave[None, i : i + 3000]) for i in starts)], rate, "mono")


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def codec_of(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.streams.audio[0].codec_context.name


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("aac.mp4", "aac", 48000),
        ("aac.mkv", "aac", 16000),
        ("mp3.mp4", "libmp3lame", 44100),
        ("pcm.mov", "pcm_s16le", 44100),
        ("mp2.mpg", "mp2", 44100),
        ("aac.ts", "aac", 48000),
        ("opus.mkv", "libopus", 48000),
        ("wma.asf", "wmav2", 44100),
    ],
)
def test_the_sources_sound_stays_with_its_pictures(
    tmp_path: Path, suffix: str, name: str, codec: str, rate: int
) -> None:
    video = {".mpg": "mpeg2video", ".ts": "mpeg2video", ".asf": "wmv2"}.get(Path(name).suffix, "libx264")
    source = make_movie(tmp_path / name, 100, codec=video, sound=codec, sound_rate=rate, clicks=clicks)
    before = click_times(source)
    assert len(before) == 4
    output = tmp_path / f"new{suffix}"
    copy(source, output)
    assert click_times(output) == pytest.approx(before, abs=tolerance)
    assert probe(str(output)).frames == probe(str(source)).frames


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_packets_are_copied_not_encoded_again(tmp_path: Path, suffix: str) -> None:
    source = make_movie(tmp_path / "clip.mp4", 50, sound="aac", clicks=clicks[:2])
    output = tmp_path / f"new{suffix}"
    copy(source, output)
    old, new = packets_of(source), packets_of(output)
    assert len(new) >= len(old) - 2
    assert any(old[skip : skip + len(new)] == new for skip in range(3))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("name", "codec"), [("long.mp4", "aac"), ("long.mkv", "aac"), ("long.mov", "pcm_s16le")])
def test_a_cut_takes_the_sound_of_its_own_pictures(tmp_path: Path, suffix: str, name: str, codec: str) -> None:
    late = (*clicks, Fraction(13, 2), Fraction(15, 2))
    source = make_movie(tmp_path / name, 200, sound=codec, clicks=late)
    output = tmp_path / f"part{suffix}"
    copy(source, output, start=151, count=40)  # 6.04 s to 7.64 s
    assert click_times(output) == pytest.approx([6.5 - 6.04, 7.5 - 6.04], abs=tolerance)
    samples, rate, _ = sound_of(output)
    assert len(samples) / rate < 1.6 + 0.1
    assert probe(str(output)).frames == 40


def test_sound_much_longer_than_the_pictures_adds_no_frames(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "clip.mp4", 25, sound="aac", sound_length=Fraction(3))
    for suffix in (".mp4", ".mkv"):
        output = tmp_path / f"new{suffix}"
        copy(source, output)
        assert probe(str(output)).frames == 25


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mov", "aac"), (".mkv", "flac")])
def test_speech_is_in_a_codec_that_every_blender_reads(tmp_path: Path, suffix: str, codec: str) -> None:
    source = make_movie(tmp_path / "clip.mp4", 10)
    output = tmp_path / f"new{suffix}"
    copy(source, output, sound="speech", speech=spoken(np.zeros(8000, np.float32), 16000, Fraction(0)))
    assert codec_of(output) == codec


@pytest.mark.parametrize(
    ("made", "suffix", "quality", "codec"),
    [
        ({"codec": "prores_ks", "pixel_format": "yuv422p10le"}, ".mov", "high", "pcm_s24le"),
        ({}, ".mov", "mezzanine", "pcm_s24le"),
        ({}, ".mov", "lossless", "pcm_s24le"),
        ({}, ".mp4", "lossless", "flac"),
        ({}, ".mkv", "high", "flac"),
    ],
)
def test_speech_of_24_bits_keeps_them_where_the_pictures_keep_theirs(
    tmp_path: Path, made: dict[str, Any], suffix: str, quality: str, codec: str
) -> None:
    """AAC is for listening: a mixer who gets it beside ProRes has lost the recording."""
    source = make_movie(tmp_path / "clip.mov", 10, **made)
    wave = np.random.default_rng(0).integers(-(2**22), 2**22, 19200).astype(np.float32) / np.float32(2**23)
    output = tmp_path / f"new{suffix}"
    speech = replace(spoken(wave, 48000, Fraction(0)), deep=True)
    copy(source, output, sound="speech", speech=speech, quality=quality)
    assert codec_of(output) == codec
    assert np.array_equal(sound_of(output)[0], wave)
    assert probe(str(output)).frames == 10


def test_sound_that_is_not_deep_takes_no_more_room_than_it_needs(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "clip.mp4", 10)
    copy(source, tmp_path / "new.mkv", sound="speech", speech=spoken(np.zeros(8000, np.float32), 16000, Fraction(0)))
    with av.open(str(tmp_path / "new.mkv")) as container:
        assert container.streams.audio[0].codec_context.format.name == "s16"


def test_the_sources_own_sound_stays_whole_beside_prores(tmp_path: Path) -> None:
    """Opus does not go into .mov; encoded again, it must not lose a second time."""
    made: dict[str, Any] = {"codec": "prores_ks", "pixel_format": "yuv422p10le", "sound": "libopus"}
    copy(make_movie(tmp_path / "clip.mkv", 10, **made), tmp_path / "new.mov")
    assert codec_of(tmp_path / "new.mov") == "pcm_s24le"


def test_a_codec_the_container_cannot_take_becomes_aac(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "clip.mkv", 50, sound="libopus", clicks=clicks[:2])
    output = tmp_path / "new.mov"
    copy(source, output)
    assert codec_of(output) == "aac"


def test_every_language_comes_along(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "one.mp4", 25, sound="aac")
    both = tmp_path / "both.mkv"
    with av.open(str(source)) as old, av.open(str(both), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        sounds = [new.add_stream_from_template(old.streams.audio[0]) for _ in range(2)]
        for stream, language in zip(sounds, ("eng", "ger"), strict=True):
            stream.metadata["language"] = language
        for packet in old.demux():
            if packet.dts is None:
                continue
            for stream in [video] if packet.stream.type == "video" else sounds:
                packet.stream = stream
                new.mux(packet)
    output = tmp_path / "new.mp4"
    copy(both, output)
    with av.open(str(output)) as container:
        assert [stream.metadata["language"] for stream in container.streams.audio] == ["eng", "ger"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("begin", "rate"), [(Fraction(1, 4), 16000), (Fraction(-1, 4), 48000), (Fraction(0), 37800)])
def test_speech_begins_where_it_should_and_ends_with_the_pictures(
    tmp_path: Path, suffix: str, begin: Fraction, rate: int
) -> None:
    source = make_movie(tmp_path / "clip.mp4", 50, sound="aac", clicks=(Fraction(1),))
    speech = click_wave((Fraction(1, 2), Fraction(3, 2)), rate, 5 * rate)
    output = tmp_path / f"new{suffix}"
    copy(source, output, sound="speech", speech=spoken(speech, rate, begin))
    assert click_times(output) == pytest.approx([float(0.5 + begin), float(1.5 + begin)], abs=tolerance)
    samples, sound_rate, _ = sound_of(output)
    assert abs(len(samples) / sound_rate - 2) < 0.1
    assert probe(str(output)).frames == 50


def test_short_speech_is_followed_by_silence(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "clip.mp4", 50)
    output = tmp_path / "new.mp4"
    tone = 0.5 * np.sin(np.arange(8000) * (2 * np.pi * 440 / 16000)).astype(np.float32)
    copy(source, output, sound="speech", speech=spoken(tone, 16000, Fraction(1, 2)))
    samples, rate, _ = sound_of(output)
    loud = [np.abs(samples[round(a * rate) : round(b * rate)]).max() for a, b in ((0, 0.4), (0.6, 0.9), (1.1, 1.9))]
    assert loud[0] < 0.01 < 0.3 < loud[1]
    assert loud[2] < 0.01
    assert abs(len(samples) / rate - 2) < 0.1


def test_no_sound_when_none_is_wanted(tmp_path: Path) -> None:
    source = make_movie(tmp_path / "clip.mp4", 10, sound="aac")
    output = tmp_path / "new.mp4"
    copy(source, output, sound="none")
    assert not probe(str(output)).has_sound


def test_real_footage_keeps_its_sound_to_the_sample(footage: Path, tmp_path: Path) -> None:
    source = footage / "GRID_id2_c853a1.mp4"
    output = tmp_path / "new.mp4"
    copy(source, output)
    old, old_rate, old_begin = sound_of(source)
    new, new_rate, new_begin = sound_of(output)
    assert (new_rate, new_begin) == (old_rate, old_begin)
    assert np.array_equal(new[: len(old)], old[: len(new)])
    assert abs(len(new) - len(old)) <= 1024
