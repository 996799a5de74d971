# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage that is damaged, or has more or less sound than usual: a shot all the same, or one sentence."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from portrait_clips import write_images, write_movie

from core import audio, media, redub
from core.errors import LipSyncError
from core.job import Progress, RedubJob, Result

Run = Callable[..., Result]


@pytest.fixture
def run(make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> Run:
    def go(output: str, report: Callable[[Progress], None] = lambda progress: None, **fields: Any) -> Result:
        given = {"speech": str(make_speech(1.2)), "silence": "off", "device": "cpu", **fields}
        return redub.run(RedubJob(model=str(tiny_model), output=str(tmp_path / output), **given), report)

    return go


def with_sounds(source: Path, output: Path, layouts: list[str], codec: str = "pcm_s16le") -> Path:
    """The source's pictures with one sound stream of each layout, a tone of its own in each channel."""
    with av.open(str(source)) as old, av.open(str(output), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        streams = [new.add_stream(codec, rate=48000, layout=layout) for layout in layouts]
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                new.mux(packet)
        for stream in streams:
            assert isinstance(stream, av.AudioStream)
            channels = stream.codec_context.layout.nb_channels
            times = np.arange(16000) / 48000
            tones = np.stack([3000 * np.sin(2 * np.pi * 30 * (n + 1) * times) for n in range(channels)], axis=1)
            samples = tones.astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=stream.codec_context.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            new.mux([*stream.encode(frame), *stream.encode(None)])
    return output


def sounds(path: str) -> list[np.ndarray]:
    """(channels, n) of each sound stream."""
    found = []
    with av.open(path) as container:
        for number in range(len(container.streams.audio)):
            container.seek(0)
            resampler = av.AudioResampler(format="flt")  # PyAV miscounts eight planes
            frames = [part for frame in container.decode(audio=number) for part in resampler.resample(frame)]
            found.append(np.concatenate([frame.to_ndarray().reshape(frame.samples, -1) for frame in frames]).T)
    return found


@pytest.mark.parametrize(("codec", "suffix"), [("pcm_s16le", ".mov"), ("pcm_s16le", ".mkv"), ("flac", ".mov")])
def test_eight_channels_and_further_streams_stay_each_in_its_place(
    run: Run, tmp_path: Path, suffix: str, codec: str
) -> None:
    """A mixer who gets the centre on the left, or the second language first, has to begin again."""
    layouts = ["7.1", "mono", "stereo"]
    source = with_sounds(write_movie(tmp_path / "plain.mp4"), tmp_path / "in.mkv", layouts, codec)
    result = run(f"new{suffix}", video=str(source))
    before, after = sounds(str(source)), sounds(result.output)
    assert [len(one) for one in after] == [len(one) for one in before] == [8, 1, 2]
    for old, new in zip(before, after, strict=True):
        for one, other in zip(old, new, strict=True):
            loudest = [int(np.abs(np.fft.rfft(wave[2000:10000])).argmax()) for wave in (one, other)]
            assert loudest[0] == loudest[1]


def test_eight_channels_of_speech_are_heard(tmp_path: Path) -> None:
    source = with_sounds(write_movie(tmp_path / "plain.mp4"), tmp_path / "in.mov", ["7.1"])
    wave = audio.load(str(source))
    assert len(wave) == pytest.approx(16000 / 3, abs=2) and np.abs(wave).max() > 0.01


@pytest.mark.parametrize("sound", ["source", "speech", "none"])
def test_a_movie_without_sound_needs_none(run: Run, tmp_path: Path, sound: str) -> None:
    result = run("new.mp4", video=str(write_movie(tmp_path / "mute.mp4")), sound=sound)
    assert (result.frames, result.changed) == (8, 8)
    assert media.probe(result.output).has_sound == (sound == "speech")


@pytest.mark.parametrize("name", ["card full.mkv", "lost signal.ts"])
def test_a_file_that_breaks_off_gives_its_whole_length_and_the_last_picture_stays(
    run: Run, tmp_path: Path, name: str
) -> None:
    """A card that was full, a transfer that stopped: what is there can be used. (Sound may last a frame longer.)"""
    codec = "mpeg2video" if name.endswith(".ts") else "libx264"
    source = write_movie(tmp_path / name, 20, codec=codec, tone=True, options={"g": "4"})
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    info = media.probe(str(source))
    result = run("new.mkv", video=str(source))
    assert result.frames == info.frames == media.probe(result.output).frames
    assert 8 < info.frames <= 21 and result.changed > 8
    if name.endswith(".mkv"):
        (told,) = [warning for warning in result.warnings if "no pictures of frames" in warning]
        assert name in told and f"to {info.frames - 1} (" in told and "its last one stands" in told


def test_lost_pictures_are_told_by_their_places_in_the_output(run: Run, tmp_path: Path) -> None:
    """A night run over a bad copy: each output is there in the morning, and says what to look at."""
    source = write_movie(tmp_path / "bad copy.mp4", 30, options={"g": "5"})
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 6] = bytes(len(data) // 6)
    source.write_bytes(data)
    lost = [k for k, picture in enumerate(media.read(media.probe(str(source)))) if picture.damage == "lost"]
    assert 2 < len(lost) < 20 and lost == list(range(lost[0], lost[-1] + 1))
    once = run("once.mp4", video=str(source))
    back = run("back.mp4", video=str(source), sync_mode="bounce", sound="none", speech_start=Fraction(1), cache=False)
    for result, length in ((once, 30), (back, 55)):
        (told,) = [warning for warning in result.warnings if "bad copy.mp4 is damaged" in warning and "read" in warning]
        assert f"frames {lost[0]} to {lost[-1]} (" in told
        assert (f"and frames {58 - lost[-1]} to {58 - lost[0]} (" in told) == (length == 55)
        assert result.frames == length and result.changed > 0
    whole = run("whole.mp4", video=str(write_movie(tmp_path / "good copy.mp4", 30, options={"g": "5"})))
    assert not [warning for warning in whole.warnings if "good copy" in warning]


def test_an_image_of_another_kind_is_told_before_anything_is_waited_for(run: Run, tmp_path: Path) -> None:
    """A JPEG that somebody named .png among a thousand frames, found after an hour of following faces."""
    paths = write_images(tmp_path / "in", "png", "rgb24", "png", 3)
    (jpeg,) = write_images(tmp_path / "other", "mjpeg", "yuvj420p", "jpg", 1)
    Path(paths[2]).write_bytes(Path(jpeg).read_bytes())
    seen: list[Progress] = []
    with pytest.raises(LipSyncError, match=r"shot_0002\.png is JPEG inside, the first image PNG") as caught:
        run("out", seen.append, images=tuple(paths), rate=Fraction(25))
    assert caught.value.hint and not seen


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("movie without its index", "is not a movie or sound file that can be read"),
        ("movie of 20 bytes", "is not a movie or sound file that can be read"),
        ("image that breaks off", "is damaged"),
        ("image of no bytes", "is no image of a known kind"),
    ],
)
def test_what_is_too_damaged_is_one_sentence_and_leaves_nothing(run: Run, tmp_path: Path, kind: str, says: str) -> None:
    footage: dict[str, Any]
    if kind.startswith("movie"):
        source = write_movie(tmp_path / "clip.mp4")
        source.write_bytes(source.read_bytes()[: 20 if "20" in kind else -900])
        footage = {"video": str(source)}
    else:
        paths = write_images(tmp_path / "in", "png", "rgb24", "png", 3)
        data = Path(paths[1]).read_bytes()
        Path(paths[1]).write_bytes(data[: 40 if "off" in kind else 0])
        footage = {"images": tuple(paths), "rate": Fraction(25)}
    there = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(LipSyncError, match=says) as caught:
        run("new.mp4" if kind.startswith("movie") else "out", **footage)
    assert caught.value.hint or kind.startswith("movie")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == there


def test_one_frame_and_one_image_are_shots_too(run: Run, tmp_path: Path) -> None:
    movie = run("new.mp4", video=str(write_movie(tmp_path / "one.mp4", 1)))
    (path,) = write_images(tmp_path / "in", "png", "rgb24", "png", 1)
    images = run("out", images=(path,), rate=Fraction(25))
    assert (movie.frames, movie.changed, images.frames, images.changed) == (1, 1, 1, 1)
    assert images.images == (Path(path).name,)


def test_a_picture_too_small_for_any_face_is_one_sentence(run: Run, tmp_path: Path) -> None:
    source = write_movie(tmp_path / "tiny.mp4", 3, size=(16, 16))
    with pytest.raises(LipSyncError, match="no face"):
        run("new.mp4", video=str(source))
