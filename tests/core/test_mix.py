# SPDX-License-Identifier: GPL-3.0-or-later
"""What people hear of a re-dub: a studio's stereo mix must not come out as the dull mono that the net is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from clips import make_movie

from core import media, mix, redub
from core.errors import JobError, LipSyncError, SpeechError
from core.job import RedubJob

rate = 48000
length = Fraction(2)


def tone(hertz: float, loudness: float, seconds: float, at: int = rate) -> np.ndarray:
    return loudness * np.sin(np.arange(round(seconds * at)) * (2 * np.pi * hertz / at))


def level(samples: np.ndarray, hertz: float, at: int) -> float:
    """How loud a tone is in a channel."""
    turn = np.exp(-2j * np.pi * hertz / at * np.arange(len(samples)))
    return float(2 * abs((samples * turn).mean()))


def heard(path: Path) -> tuple[np.ndarray, int]:
    """(channels, n) and the samples a second of a movie's sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=stream.rate)
        parts = [part.to_ndarray() for frame in container.decode(stream) for part in resampler.resample(frame)]
        return np.concatenate(parts, axis=1), stream.rate


def written(folder: Path, *parts: tuple[Path, Fraction]) -> tuple[np.ndarray, int]:
    """The sound of a movie of two seconds with these files as its sound."""
    source, output = folder / "clip.mp4", folder / "new.mkv"
    if not source.exists():
        make_movie(source, 50)
    info = media.probe(str(source))
    sound = mix.of_files([(str(path), start) for path, start in parts])
    with media.write(info, str(output), sound="speech", count=50, speech=sound) as writer:
        for picture in media.read(info):
            writer.add(picture)
    return heard(output)


def test_a_mix_keeps_its_channels_its_rate_and_its_levels(tmp_path: Path) -> None:
    left, right = tone(440, 0.5, 2, 96000), tone(880, 0.1, 2, 96000)
    soundfile.write(tmp_path / "mix.wav", np.stack([left, right], 1), 96000, "PCM_24")
    samples, found = written(tmp_path, (tmp_path / "mix.wav", Fraction(0)))
    assert samples.shape == (2, 2 * 96000) and found == 96000
    levels = [[level(channel, hertz, found) for hertz in (440, 880)] for channel in samples]
    assert np.abs(np.array(levels) - [[0.5, 0], [0, 0.1]]).max() < 0.002


@pytest.mark.parametrize(
    ("ending", "subtype", "deep"),
    [(".wav", "PCM_16", False), (".wav", "PCM_24", True), (".wav", "FLOAT", True), (".mp3", None, False)],
)
def test_how_fine_the_speech_is_is_known_to_who_writes_it(
    tmp_path: Path, ending: str, subtype: str | None, deep: bool
) -> None:
    """Or a recording of 24 bits is heard with 16."""
    speech, other = tmp_path / f"speech{ending}", tmp_path / "other.wav"
    soundfile.write(speech, tone(440, 0.5, 1), rate, subtype)
    soundfile.write(other, tone(440, 0.5, 1), rate, "PCM_16")
    assert mix.of_files([(str(other), Fraction(0)), (str(speech), Fraction(0))]).deep is deep


def test_five_speakers_and_the_low_one_stay_apart(tmp_path: Path) -> None:
    channels = np.stack([tone(200 * (i + 1), 0.2, 2) for i in range(6)], 1)
    soundfile.write(tmp_path / "mix.wav", channels, rate, "PCM_24")
    samples, found = written(tmp_path, (tmp_path / "mix.wav", Fraction(0)))
    levels = [[level(channel, 200 * (i + 1), found) for i in range(6)] for channel in samples]
    assert np.abs(np.array(levels) - 0.2 * np.eye(6)).max() < 0.005


def test_what_is_narrow_becomes_what_editors_expect(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "phone.wav", tone(440, 0.3, 2, 8000), 8000)
    samples, found = written(tmp_path, (tmp_path / "phone.wav", Fraction(0)))
    assert found == 48000 and len(samples) == 1
    assert level(samples[0], 440, found) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("late", [Fraction(-1, 2), Fraction(1), Fraction(5, 2)])
def test_two_speeches_are_heard_together_each_in_its_time(tmp_path: Path, late: Fraction) -> None:
    """A mono speech beside a stereo one is no quieter for it; one that begins after the end is not heard."""
    soundfile.write(tmp_path / "anna.wav", tone(440, 0.3, 1.5), rate)
    soundfile.write(tmp_path / "ben.wav", np.stack([tone(880, 0.2, 1.0, 44100)] * 2, 1), 44100)
    samples, found = written(tmp_path, (tmp_path / "anna.wav", Fraction(0)), (tmp_path / "ben.wav", late))
    assert samples.shape == (2, 2 * found) and found == 48000
    for name, hertz, begin, end, loudness in (("anna", 440, 0, 1.5, 0.3), ("ben", 880, late, late + 1, 0.2)):
        for second in np.arange(0, 2, 0.25):
            part = samples[:, round((second + 0.05) * found) : round((second + 0.2) * found)]
            expected = loudness if begin <= second < end else 0.0
            assert level(part[0], hertz, found) == pytest.approx(expected, abs=0.02), (name, second)
            assert level(part[1], hertz, found) == pytest.approx(expected, abs=0.02), (name, second)


def test_two_loud_speeches_do_not_overflow(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", tone(440, 0.9, 2), rate)
    loud = (tmp_path / "loud.wav", Fraction(0))
    samples, _ = written(tmp_path, loud, loud)
    assert np.abs(samples).max() == pytest.approx(1, abs=1e-3)


def test_an_hour_of_silence_between_two_speeches_is_never_held(tmp_path: Path) -> None:
    """Both are read while they are written: what lies before and after the pictures costs nothing."""
    soundfile.write(tmp_path / "a.wav", tone(440, 0.3, 2), rate)
    samples, found = written(
        tmp_path, (tmp_path / "a.wav", Fraction(0)), (tmp_path / "a.wav", Fraction(3600 * 24 * 365))
    )
    assert level(samples[0], 440, found) == pytest.approx(0.3, abs=0.01)


def test_a_file_without_sound_is_told_before_anybody_waits(tmp_path: Path) -> None:
    movie = make_movie(tmp_path / "silent.mp4", 5)
    for path in (str(movie), str(tmp_path / "none.wav"), __file__):
        with pytest.raises(SpeechError):
            mix.of_files([(path, Fraction(0))])


def test_lips_follow_the_voice_and_people_hear_the_mix(
    make_clip: Callable[..., Path], make_speech: Callable[[float], Path], tiny_model: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "mix.wav", np.stack([tone(440, 0.5, 3), tone(880, 0.1, 3)], 1), rate)
    job = RedubJob(
        video=str(make_clip(frames=10)),
        speech=str(make_speech(1.2)),
        model=str(tiny_model),
        silence="off",
        mix=str(tmp_path / "mix.wav"),
        sound="speech",
        output=str(tmp_path / "new.mkv"),
    )
    result = redub.run(job)
    samples, found = heard(tmp_path / "new.mkv")
    assert level(samples[0], 440, found) == pytest.approx(0.5, abs=0.02)
    assert level(samples[1], 880, found) == pytest.approx(0.1, abs=0.02)
    plain = redub.run(replace(job, mix="", output=str(tmp_path / "plain.mkv")))
    both = [media.read(media.probe(str(tmp_path / name))) for name in ("new.mkv", "plain.mkv")]
    assert result.changed == plain.changed > 0
    assert all(np.array_equal(a.rgb(), b.rgb()) for a, b in zip(*both, strict=True)), "the mix moved the lips"


def test_a_mix_that_nobody_would_hear_is_refused(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    job = RedubJob(video=str(make_clip(frames=10)), speech="a.wav", output=str(tmp_path / "new.mkv"), sound="speech")
    with pytest.raises(JobError, match="mix"):
        replace(job, mix="b.wav", sound="source")
    with pytest.raises(LipSyncError, match=r"none\.wav"):
        redub.run(replace(job, mix=str(tmp_path / "none.wav")))
    assert not list(tmp_path.glob("new*"))
