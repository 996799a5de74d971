# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech in: a wrong mel or a shifted sound gives lips that do not fit."""

from __future__ import annotations

from fractions import Fraction

import librosa
import numpy as np
import pytest
import soundfile

from core import audio
from core.errors import SpeechError


def tone(seconds: float, rate: int = 16000) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    sweep = np.sin(2 * np.pi * (200 * t + 900 * t * t)) * (0.3 + 0.2 * np.sin(7 * t))
    return (sweep + 0.01 * np.random.default_rng(5).standard_normal(len(t))).astype(np.float32)


def test_mel_is_the_one_the_nets_were_trained_on():
    wave = tone(1.7)
    emphasised = np.append(wave[0], wave[1:] - 0.97 * wave[:-1])
    magnitude = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, pad_mode="reflect"))
    mel = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600) @ magnitude
    expected = np.clip(8 * (20 * np.log10(np.maximum(1e-5, mel)) - 20 + 100) / 100 - 4, -4, 4)
    assert np.abs(audio.log_mel(wave) - expected).max() < 1e-3


def test_mel_of_silence_and_of_almost_nothing_is_the_floor():
    assert (audio.log_mel(np.zeros(16000, np.float32)) == audio.mel_floor).all()
    assert audio.log_mel(np.zeros(1, np.float32)).shape == (80, 1)


def test_windows_beyond_the_speech_are_silent_not_wrapped_around():
    mel = np.arange(80 * 20, dtype=np.float32).reshape(80, 20)
    windows = audio.mel_windows(mel, [-3, 4, 12])
    assert windows.shape == (3, 80, 16)
    assert (windows[0, :, :3] == audio.mel_floor).all() and (windows[0, :, 3:] == mel[:, :13]).all()
    assert (windows[1] == mel[:, 4:]).all()
    assert (windows[2, :, :8] == mel[:, 12:]).all() and (windows[2, :, 8:] == audio.mel_floor).all()


@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2), (48000, 6)])
def test_any_rate_and_channels_become_16_khz_mono_of_the_same_length(tmp_path, rate, channels):
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.repeat(tone(1.5, rate)[:, None], channels, 1), rate)
    wave = audio.load(str(path))
    assert wave.dtype == np.float32 and abs(len(wave) - 24000) < 40
    assert np.corrcoef(wave[400:23000], tone(1.5)[400:23000])[0, 1] > 0.98


def test_sound_is_placed_on_the_pictures_clock(tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, tone(1), 16000, subtype="FLOAT")
    late, early = audio.load(str(path), Fraction(-1, 10)), audio.load(str(path), Fraction(1, 10))
    assert (late[:1600] == 0).all() and np.allclose(late[1600:], tone(1), atol=1e-4)
    assert np.allclose(early, tone(1)[1600:], atol=1e-4)


def test_files_without_speech_are_refused_with_a_hint(tmp_path):
    text = tmp_path / "notes.wav"
    text.write_text("no sound here")
    for path in (text, tmp_path / "missing.wav", tmp_path):
        with pytest.raises(SpeechError) as caught:
            audio.load(str(path))
        assert str(path) in str(caught.value) and caught.value.hint
