# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech in: a wrong mel or a shifted sound gives lips that do not fit."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
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


@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2), (48000, 6), (48000, 8)])
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


@pytest.mark.parametrize("channels, voice", [(3, 2), (6, 3), (8, 7), (12, 11)])
def test_each_microphone_of_a_recorder_is_heard(tmp_path: Path, channels: int, voice: int) -> None:
    """A location recorder's file does not say which channel is whose; a subwoofer's would be left out."""
    path = tmp_path / "take.wav"
    tracks = np.zeros((24000, channels), np.float32)
    tracks[:, voice] = tone(1.5)
    soundfile.write(path, tracks, 16000)
    with av.open(str(path)) as file:
        assert file.streams.audio[0].codec_context.layout.name == f"{channels} channels"
    assert np.corrcoef(audio.load(str(path)), tone(1.5))[0, 1] > 0.99


def test_silence_where_a_recording_has_a_gap(tmp_path: Path) -> None:
    """Telephony leaves out what is silent and says so in its time stamps: all that follows would come too early."""
    path = tmp_path / "call.mkv"
    words = (32767 * tone(1.5, 48000)).astype(np.int16)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=48000, layout="mono")
        for first, begin in ((0, 0), (24000, 24000), (48000, 144000)):
            frame = av.AudioFrame.from_ndarray(words[None, first : first + 24000], format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    wave = audio.load(str(path))
    assert len(wave) == pytest.approx(56000, abs=200)
    assert np.abs(wave[16500:47500]).max() == 0
    assert np.corrcoef(wave[48400:55600], tone(1.5)[16400:23600])[0, 1] > 0.98
    blocks = list(audio.stream(str(path), None, 48000))
    assert sum(samples.shape[1] for _, samples in blocks) == 72000 and blocks[-1][0] >= 140000


def test_a_tag_that_is_not_utf_8_does_not_make_the_speech_unusable(tmp_path: Path) -> None:
    """Recorders and editors on Windows write the artist's name in the local code page."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, tone(1), 16000)
    artist = b"M\xfcller\0\0"
    info = b"INFOIART" + struct.pack("<I", len(artist)) + artist
    content = path.read_bytes() + b"LIST" + struct.pack("<I", len(info)) + info
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert len(audio.load(str(path))) == 16000


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file names with a colon")
def test_a_colon_in_a_relative_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open("take:1.wav", "wb") as file:
        soundfile.write(file, tone(1), 16000, format="WAV")
    assert len(audio.load("take:1.wav")) == 16000


def test_a_playlist_is_no_speech_even_when_it_is_named_so(tmp_path: Path) -> None:
    """A file from elsewhere must not lead to the user's other files."""
    soundfile.write(tmp_path / "private.wav", tone(1), 16000)
    playlist = tmp_path / "speech.wav"
    playlist.write_text("ffconcat version 1.0\nfile private.wav\n")
    with pytest.raises(SpeechError, match="concat") as caught:
        audio.load(str(playlist))
    assert caught.value.hint


def test_files_without_speech_are_refused_with_a_hint(tmp_path):
    text = tmp_path / "notes.wav"
    text.write_text("no sound here")
    for path in (text, tmp_path / "missing.wav", tmp_path):
        with pytest.raises(SpeechError) as caught:
            audio.load(str(path))
        assert str(path) in str(caught.value) and caught.value.hint
