# SPDX-License-Identifier: GPL-3.0-or-later
"""Spans of speech: sound and shape of one moment at one place, or the ear learns to be early or late."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_faces import store, talking_clip

from core.engine import Engine
from core.errors import JobError
from core.nets.generator import GeneratorConfig
from training_cli import lips, shards
from training_cli.augment import augment_wave
from training_cli.data import DataSettings
from training_cli.fit import FitSettings
from training_cli.generator import GeneratorSettings, GeneratorTask, LossSettings
from training_cli.pretrain import PretrainSettings, pretrain
from training_cli.speech_spans import SpeechSpans

config = GeneratorConfig(width=0.1, align_blocks=1, lip_code=True, speech_encoder="whisper-base")


def clicks(folder: Path, rate: Fraction) -> tuple[Path, shards.Clip]:
    """A clip of 40 frames that opens its mouth in frame 20, with a click in the middle of that frame."""
    clip = talking_clip(1)
    wave = np.zeros(int(40 / rate * 16000), np.int16)
    wave[int((20 + Fraction(1, 2)) / rate * 16000)] = 20000
    landmarks = np.repeat(clip.landmarks[:1], 40, 0)
    lower = [shards.points.index(point) for point in (14, 87, 317)]
    landmarks[20, lower, 1] += 0.1
    clip = replace(clip, wave=wave, landmarks=landmarks, info=replace(clip.info, rate=rate))
    return store(folder, clip), clip


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(50)])
@pytest.mark.parametrize("tempo", [False, True])
def test_a_mouth_opens_at_the_token_of_its_sound(tmp_path, rate, tempo):
    spans = SpeechSpans(DataSettings(str(clicks(tmp_path, rate)[0]), augment_time=tempo), "train", seed=1)
    seen = 0
    for number in range(12):
        item = spans[number]
        if item["wave"].abs().max() < 0.05:
            continue  # the click lies outside this span
        heard = int(item["wave"].abs().argmax()) / 320
        shown = item["shapes"][:, 0] * item["known"]
        middle = float((torch.arange(100) * shown).sum() / shown.sum())
        if shown.max() > 1 and 3 < heard < 97:
            assert abs(heard - middle) < 0.6, "more than 12 ms apart"
            seen += 1
    assert seen >= 6


def test_only_shapes_that_were_seen_are_learnt_from(tmp_path):
    folder, clip = clicks(tmp_path, Fraction(25))
    plain, silent = (SpeechSpans(DataSettings(str(folder), silence=part), "train", seed=2) for part in (0.0, 1.0))
    assert all(40 <= plain[n]["known"].sum() <= 80 for n in range(8))  # 1.6 s are 80 tokens
    item = silent[0]
    assert item["known"].all() and not item["wave"].any()
    closed = np.sort(lips.shapes(clip.landmarks)[:, 0])[0]
    assert torch.allclose(item["shapes"][:, 0], torch.tensor(closed), atol=1e-3)


def test_another_room_says_the_same_at_the_same_time():
    rng = np.random.default_rng(0)
    wave = np.zeros(32000)
    wave[8000:16000] = np.sin(np.arange(8000) * 0.2) * 0.3
    rooms = [augment_wave(wave, rng) for _ in range(12)]
    for room in rooms:
        assert room.shape == wave.shape and np.abs(room).max() <= 1
        talking, resting = np.sqrt(np.mean(room[8000:16000] ** 2)), np.sqrt(np.mean(room[20000:] ** 2))
        assert talking > 1.5 * resting
    assert len({round(float(np.abs(room).max()), 3) for room in rooms}) > 6


def test_an_ear_and_a_hand_become_a_model_that_hears_sentences(talkers, tmp_path):
    loop = FitSettings(
        steps=12, batch=4, rate=3e-3, evaluate_every=12, save_every=6, workers=0, dev_samples=8, precision="32-true"
    )
    settings = PretrainSettings(
        str(tmp_path / "run"),
        DataSettings(str(talkers), augment_sound=True, silence=0.1),
        model=config,
        beta=0.0,
        listen=loop,
        paint=replace(loop, steps=4),
    )
    result = pretrain(settings)
    assert result.finished
    engine = Engine(str(result.model), "cpu")
    sound = np.sin(np.arange(16000) * 0.3).astype(np.float32) * 0.3
    heard = engine.listen(sound, Fraction(25), Fraction(0), 25)[0:25]
    assert heard.shape == (25, 8) and np.isfinite(heard).all()
    faces = np.zeros((25, 96, 96, 3), np.uint8)
    assert engine.generate(faces, faces[:1], heard).shape == faces.shape
    assert (tmp_path / "run" / "listen" / "listen.safetensors").stat().st_size < 2e6, "the encoder is stored again"
    with pytest.raises(JobError, match="speech encoder"):
        loss = LossSettings(alpha=0.0, beta=0.0)
        GeneratorTask(GeneratorSettings(str(tmp_path), settings.data, model=config, loss=loss))
