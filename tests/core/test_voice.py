# SPDX-License-Identifier: GPL-3.0-or-later
"""No mouth moves where nobody speaks, and every mouth moves where somebody does: the real Silero VAD on real speech."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core import audio, voice

examples = Path(__file__).resolve().parents[2] / "examples"
second = audio.sample_rate


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A machine speaking English; a pause of 0.4 s after its first word, at 0.5 s."""
    return audio.load(str(examples / "speech.flac"))


def pause(speech: np.ndarray, at: float, filling: np.ndarray) -> np.ndarray:
    """The speech from its second sentence on, with something else put in."""
    told = speech[round(0.85 * second) :]
    place = round(at * second)
    return np.concatenate([told[:place], filling.astype(np.float32), told[place:]])


def music(seconds: float) -> np.ndarray:
    """A chord that swells, with beats of noise."""
    times = np.arange(round(seconds * second)) / second
    chord = sum(np.sin(2 * np.pi * f * times) for f in (220.0, 277.2, 329.6)) * (0.6 + 0.4 * np.sin(5 * times))
    beats = np.random.default_rng(3).normal(0, 1, len(times)) * np.exp(-(times % 0.5) * 30)
    return (0.08 * chord + 0.1 * beats).astype(np.float32)


def is_open(spans: voice.Spans, at: float) -> bool:
    return any(first <= at * second < end for first, end in spans)


@pytest.mark.parametrize(("filling", "late"), [(np.zeros(2 * second), 0.1), (music(2.0), 0.6)], ids=["zeros", "music"])
def test_the_gate_is_closed_through_two_seconds_without_a_voice(
    speech: np.ndarray, filling: np.ndarray, late: float
) -> None:
    """Digital silence within three of the model's blocks; music right after a voice passes for one a little longer."""
    spans = voice.spans(pause(speech, 1.6, filling))
    closed = np.arange(1.6 + voice.tail + late, 3.6 - voice.lead - 0.1, 0.01)
    assert not any(is_open(spans, at) for at in closed), "the mouth would move in the silence"
    spoken = [*np.arange(0.05, 1.6, 0.01), *np.arange(3.6, 3.6 + 4, 0.01)]
    assert all(is_open(spans, at) for at in spoken), "the mouth would rest while it speaks"


def test_a_short_pause_inside_speech_does_not_close_the_mouth(speech: np.ndarray) -> None:
    """A mouth that shuts between two words of a sentence twitches."""
    short = voice.spans(pause(speech, 1.2, np.zeros(second // 5)))
    assert all(is_open(short, at) for at in np.arange(1.0, 1.6, 0.01))
    assert not is_open(voice.spans(pause(speech, 1.2, np.zeros(second // 2))), 1.2 + voice.tail + 0.15)


@pytest.mark.parametrize("kind", ["nothing", "music", "noise", "a tone", "one sample"])
def test_what_is_no_voice_never_opens_the_gate(kind: str) -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, 3 * second).astype(np.float32)
    tone = np.sin(np.arange(3 * second) * 0.2).astype(np.float32)
    wave = {
        "nothing": np.zeros(3 * second, np.float32),
        "music": music(3),
        "noise": noise,
        "a tone": tone,
        "one sample": tone[1:2],
    }[kind]
    assert voice.spans(wave) == ()


def test_a_quiet_recording_gives_the_same_gate_as_a_loud_one(speech: np.ndarray) -> None:
    spans = voice.spans(speech)
    assert spans
    for gain in (0.004, 3.0):
        assert voice.spans(speech * np.float32(gain)) == spans


def test_outside_the_gate_there_is_digital_silence_and_no_click_at_its_edges() -> None:
    wave = np.ones(second, np.float32)
    heard = wave.copy()
    voice.mute(heard, ((0, 3000), (5000, 9000)))
    assert not heard[3000:5000].any()
    assert not heard[9000:].any()
    ramp = round(voice.ramp * second)
    assert (heard[: 3000 - ramp] == 1).all(), "the begin of the sound needs no ramp"
    assert (heard[5000 + ramp : 9000 - ramp] == 1).all()
    assert np.abs(np.diff(heard)).max() < 0.01
    voice.mute(heard, ())
    assert not heard.any()


def test_the_detector_takes_no_threads_from_the_net() -> None:
    """Its package sets torch to a single one when it is imported, which would make every job crawl."""
    program = (
        "import numpy, torch\ntorch.set_num_threads(3)\nfrom core import voice\n"
        "voice.spans(numpy.zeros(1600, numpy.float32))\nassert torch.get_num_threads() == 3"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=examples.parent
    )
    assert ended.returncode == 0, ended.stderr


def test_real_speech_is_gated_at_its_breaths_and_nowhere_else(footage: Path) -> None:
    """A German speaker draws breath twice in 20 s of talk, audibly."""
    spans = voice.spans(audio.load(str(footage / "German_speaker_852ef4.mp4")))
    assert not is_open(spans, 8.25)
    assert not is_open(spans, 15.95)
    assert sum(end - first for first, end in spans) > 18.8 * second
    grid = voice.spans(audio.load(str(footage / "GRID_id2_c853a1.mp4")))
    assert len(grid) == 1
    assert not is_open(grid, 0.2)
    assert not is_open(grid, 2.7)
    assert is_open(grid, 1.3)
