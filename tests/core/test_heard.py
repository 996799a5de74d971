# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage's own sound, heard in pieces: no seam, late stream or long film may move what the lips are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from core import audio, heard
from core.engine import Engine

speech = Path(__file__).resolve().parents[2] / "examples" / "speech.flac"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("", "cpu")


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    return audio.load(str(speech))


def write(path: Path, wave: np.ndarray) -> str:
    soundfile.write(path, wave, audio.sample_rate, subtype="FLOAT")
    return str(path)


def test_a_long_sound_is_heard_as_in_one_piece(engine: Engine, sentence: np.ndarray, tmp_path: Path) -> None:
    wave = np.tile(sentence, 9)
    told: list[float] = []
    sound = heard.hear(write(tmp_path / "long.wav", wave), Fraction(0), engine, told.append)
    assert sound.seconds == pytest.approx(len(wave) / 16000) and told[-1] == sound.seconds and len(told) == 3
    assert len(sound.opening) == len(sound.voiced) == -(-len(wave) // 320) + 100
    every = len(sentence) / 16000
    times = np.arange(0.3, every - 0.3, 0.02)
    once = sound.opening_at(times)
    for again in range(9):
        moved = [sound.opening_at(times + again * every + 0.02 * token) for token in range(-9, 10)]
        fit = [np.corrcoef(once, opening)[0, 1] for opening in moved]
        assert max(fit) > 0.7 and abs(int(np.argmax(fit)) - 9) <= (every * 50 % 1 > 0), "a piece is out of place"
    assert np.abs(np.diff(sound.opening)).max() < 1.5 * np.abs(np.diff(once)).max(), "a jump at a seam"


def test_time_counts_from_the_picture_wherever_the_sound_begins(
    engine: Engine, sentence: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / "sound.wav", sentence)
    times = np.arange(1.5, 5, 0.02)
    plain = heard.hear(path, Fraction(0), engine)
    for zero in (Fraction(-3, 2), Fraction(7, 10)):  # the sound begins later than the pictures, or sooner
        moved = heard.hear(path, zero, engine)
        assert moved.seconds == pytest.approx(plain.seconds - float(zero), abs=1e-3)
        assert np.corrcoef(plain.opening_at(times), moved.opening_at(times - float(zero)))[0, 1] > 0.9
    assert heard.hear(path, Fraction(60), engine).seconds == 0, "all of it was before the first picture"


def test_a_voice_is_told_from_silence(engine: Engine, sentence: np.ndarray, tmp_path: Path) -> None:
    sound = heard.hear(write(tmp_path / "s.wav", np.append(np.zeros(48000), sentence)), Fraction(0), engine)
    spoken = sound.voiced_at(np.arange(0, sound.seconds, 0.02))
    assert not spoken[:135].any() and spoken[160:].mean() > 0.7
    assert not sound.voiced_at(np.array([-9.0, sound.seconds + 9])).any()


def test_an_hour_of_sound_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten deliveries of an hour must not need the memory of an hour."""

    def stream(path: str, zero: Fraction) -> Iterator[tuple[int, np.ndarray]]:
        for position in range(16000 * 100, 16000 * 3600, 16000):
            yield position, np.ones((1, 16000), np.float32)

    monkeypatch.setattr(audio, "stream", stream)
    pieces = list(heard._pieces("", Fraction(0)))
    assert max(len(wave) for wave, _, _ in pieces) == heard.piece
    assert [first for _, first, _ in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [last for _, _, last in pieces] == [False] * (len(pieces) - 1) + [True]
    new = [wave if first else wave[2 * heard.context :] for wave, first, _ in pieces]
    assert sum(map(len, new)) == 3600 * 16000 and sum(float(wave.sum()) for wave in new) == 3500 * 16000


def test_each_person_counts_from_their_own_rest() -> None:
    """After a cut to somebody whose lips never quite close, or are turned away, the sound is still the same."""
    rng = np.random.default_rng(0)
    opening = np.convolve(rng.normal(size=1200), np.ones(8) / 8, "same").astype(np.float32)
    sound = heard.Heard(opening, np.ones(1200, bool), 22.0)
    seconds = np.arange(1, 20, 0.04)
    part = (seconds > 10).astype(int)
    lips = sound.opening_at(seconds - 0.1) + 3 * part
    shifts = np.arange(-30, 31) / 100
    together, apart = (heard.fits(sound, lips, seconds, shifts, given) for given in (None, part))
    assert apart.max() == pytest.approx(1) and shifts[apart.argmax()] == pytest.approx(-0.1)
    assert together.max() < 0.5
    assert (heard.fits(sound, np.ones(len(seconds)), seconds, shifts) == 0).all()
    assert (heard.fits(sound, lips[:0], seconds[:0], shifts, part[:0]) == 0).all()
