# SPDX-License-Identifier: GPL-3.0-or-later
"""An ear that is late, deaf at a seam or talks in silence moves lips that say something else."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from core import audio
from core.engine import Engine
from core.errors import ModelError
from core.nets import ear
from core.nets.checkpoint import load_net, save_net
from core.nets.ear import Ear, SpeechEncoder
from core.nets.generator import Generator, GeneratorConfig
from core.nets.lipcode import LipCode

config = GeneratorConfig(width=0.25, align_blocks=1, lip_code=True, speech_encoder="whisper-base")
sentence = Path(__file__).resolve().parents[2] / "examples" / "speech.flac"


@pytest.fixture(scope="module")
def bundled() -> Ear:
    found = Engine("", "cpu").generator
    assert isinstance(found, Generator) and found.ear
    return found.ear


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.load(str(sentence))


def test_the_encoder_is_whisper(speech):
    """Read in a wrong order its weights would still give numbers, and lips that mean nothing."""
    encoder = SpeechEncoder()
    positions = encoder.get_buffer("positions").numpy()
    times = np.arange(1500)[:, None] * 10000.0 ** (-np.arange(256) / 255)
    assert np.abs(positions - np.concatenate([np.sin(times), np.cos(times)], 1)).max() < 2e-3  # its sinusoids
    # what one word sounds like does not depend on what the sound began with
    wave = torch.from_numpy(speech[: 320 * 150])
    with torch.inference_mode():
        early, late = encoder(wave[None])[0], encoder(torch.nn.functional.pad(wave, (320 * 50, 0))[None])[0, :, 50:]
        other = encoder(wave[None].flip(1))[0]

    def alike(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = (x - early.mean(1, keepdim=True) for x in (a, b))
        return float(torch.nn.functional.cosine_similarity(a[:, 10:-10], b[:, 10:-10], dim=0).mean())

    assert alike(early, late) > 0.6 > 0.4 > alike(early, other)


def test_a_long_speech_is_heard_without_seams(bundled, speech):
    """An hour is heard in pieces of 28 s: where two meet, no jump and nothing lost."""
    once = len(speech)
    long = np.tile(speech, -(-70 * audio.sample_rate // once))
    heard = bundled.listen(torch.from_numpy(long)).numpy()
    assert heard.shape[1] == -(-len(long) // ear.samples_per_token) + 2 * ear.overlap
    seam = ear.longest - ear.overlap
    first = (seam - 200) * ear.samples_per_token
    middle = bundled.listen(torch.from_numpy(long[first - ear.overlap * 320 : first + 600 * 320])).numpy()
    whole, part = heard[0, seam - 150 : seam + 150], middle[0, 100:400]
    assert np.corrcoef(whole, part)[0, 1] > 0.9, "the same words, told otherwise beside a seam"
    steps = np.abs(np.diff(heard[0]))
    assert steps[seam - 3 : seam + 2].max() < np.quantile(steps, 0.999)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(60)])
def test_what_is_heard_belongs_to_the_moment_it_is_shown(bundled, speech, rate):
    """Rates no token fits, and a speech that begins anywhere: the mouth opens with the sound, not a frame off."""
    engine = Engine("", "cpu")
    count = int(len(speech) / audio.sample_rate * rate)
    heard = engine.listen(speech, rate, Fraction(0), count)
    late = engine.listen(speech, rate, 7 / rate, count + 7)
    assert isinstance(heard, np.ndarray) and isinstance(late, np.ndarray)
    assert heard.shape == (count, 8) and np.abs(late[7:] - heard).max() < 1e-4
    code = engine.generator.lip_code
    assert isinstance(code, LipCode)
    shapes = code.drawn(bundled.listen(torch.from_numpy(speech)).T).numpy()[:, 0]
    for frame in (0, count // 3, count - 1):
        token = float((frame + Fraction(1, 2)) / rate) * 50 + 50
        low = int(token)
        assert min(shapes[low : low + 2]) - 1e-4 <= heard[frame, 0] <= max(shapes[low : low + 2]) + 1e-4


def test_the_mouth_rests_where_nothing_is_said(bundled, speech):
    silence = np.zeros(2 * audio.sample_rate, np.float32)
    heard = bundled.listen(torch.from_numpy(np.concatenate([speech, silence, speech]))).numpy()[0]
    words = len(speech) // 320
    talking = np.concatenate([heard[50 : 50 + words], heard[-50 - words : -50]])
    resting = heard[50 + words + 15 : 50 + words + 85]
    assert resting.max() < np.quantile(talking, 0.5)
    assert np.ptp(resting) < 1e-4, "lips that quiver in silence"
    assert np.abs(heard[:40] - resting[0]).max() < 1e-4, "a mouth that is open before the first word"
    steps = np.abs(np.diff(heard))
    first, last = np.flatnonzero(speech)[[0, -1]] // 320 + 50
    again = words + len(silence) // 320
    edges = [steps[at - 12 : at + 12].max() for at in (first, last, first + again, last + again)]
    assert max(edges) < steps.max() / 2, "a jump where the sound begins or ends"


def test_models_are_small_because_the_encoder_lies_beside_them(tmp_path):
    torch.manual_seed(1)
    net = Generator(config).eval()
    save_net(tmp_path / "net.safetensors", net, {}, torch.float32)
    assert not any("encoder" in name and name.startswith("ear.") for name in net.state_dict())
    again, _ = load_net(tmp_path / "net.safetensors")
    assert isinstance(again, Generator) and again.ear and net.ear
    wave = torch.rand(1, 6400) - 0.5
    assert torch.equal(again.ear(wave), net.ear(wave))


@pytest.mark.parametrize("change", [{"speech_encoder": "hubert"}, {"lip_code": False}])
def test_a_net_that_cannot_hear_is_refused_in_a_sentence(change):
    with pytest.raises(ModelError) as e:
        replace(config, **change)
    assert e.value.hint
