# SPDX-License-Identifier: GPL-3.0-or-later
"""Spans of speech with the mouth's shape at every 20 ms, for an ear that listens to whole sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from core.nets.ear import samples_per_token, token_rate

from . import lips
from .augment import augment_wave
from .data import DataSettings, Index, Item, readable

tokens = 100
"""Of a span: 2 s."""
rest_after = 10
"""Tokens beyond a clip's end from which its mouth is taken to rest, where the data have silence."""
most_tempo = 0.12


class SpeechSpans(Dataset[Item]):
    """Samples for core.nets.ear: a span of one clip's sound, silence where it reaches beyond the clip.

    Keys of a sample: `wave` (32000,) float32; `shapes` (100, 8) float32 in [-4, 4], of the moments 20 ms apart; `known`
    (100,) float32: 1 where the shape is known, else 0.
    """

    def __init__(self, settings: DataSettings, split: str, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.index = Index(Path(settings.folder), split, settings.balance, 2)

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng([self.seed, number])
        return readable(lambda: self._sample(rng))

    def _sample(self, rng: np.random.Generator) -> Item:
        s = self.settings
        clip = self.index.draw(rng)
        shapes = lips.shapes(clip.landmarks).clip(-4, 4)
        levelled = (shapes / lips.liveliness(shapes, s.level_speakers)).clip(-4, 4)
        opening = np.argsort(shapes[:, 0], kind="stable")
        closed = levelled[opening[: max(1, len(opening) // 10)]].mean(0)
        tempo = np.exp(rng.uniform(-most_tempo, most_tempo)) if s.augment_time else 1.0
        length = len(shapes) * token_rate / float(clip.info.rate) / tempo
        room = 0.1 * tokens
        first = rng.uniform(min(-room, length + room - tokens), max(-room, length + room - tokens))
        # moments of the span in the clip's own time, counted in tokens
        moments = (first + np.arange(tokens)) * tempo
        middles = (np.arange(len(shapes)) + 0.5) * token_rate / float(clip.info.rate)
        target = np.stack([np.interp(moments, middles, numbers) for numbers in levelled.T], 1)
        known = (moments >= middles[0] - 0.6) & (moments <= middles[-1] + 0.6)
        samples = (first + np.arange(tokens * samples_per_token) / samples_per_token) * tempo * samples_per_token
        sound = clip.wave() / np.float32(32768)
        wave = np.interp(samples, np.arange(len(sound)), sound, left=0.0, right=0.0)
        if s.silence:
            far = (moments < -rest_after) | (moments > length * tempo + rest_after)
            if rng.random() < s.silence:
                wave, far = np.zeros_like(wave), np.ones_like(far)
            target[far], known = closed, known | far
        if s.augment_sound:
            wave = augment_wave(wave, rng)
        return {
            "wave": torch.from_numpy(wave.astype(np.float32)),
            "shapes": torch.from_numpy(target.astype(np.float32)),
            "known": torch.from_numpy(known.astype(np.float32)),
        }
