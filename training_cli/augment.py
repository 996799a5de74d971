# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound as other people, rooms, microphones and hurries would have made it; faces as a turn of the head would."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core import audio

stretch_room = 8
"""Mel frames that stretch_mel needs on either side of what it returns."""


def augment_mel(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Other voices, rooms and microphones for mels (B, 80, T) in [-4, 4], each of the B another.

    Gain ±9 dB, a slope over the bands (±6 dB at their ends), pitch ±3 bands, a noise floor, a masked run of bands.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, 1, 1, generator=generator) * (high - low) + low

    batch, bands, _ = mel.shape
    decibel = 0.08  # the mel's 100 dB lie in 8 units
    shift = torch.randint(-3, 4, (batch, 1), generator=generator)
    index = (torch.arange(bands) + shift).clamp(0, bands - 1)
    mel = mel.gather(1, index[:, :, None].expand_as(mel))
    mel = mel + decibel * (uniform(-9, 9) + uniform(-6, 6) * torch.linspace(-1, 1, bands)[:, None])
    floor = uniform(-4.5, -1.5) + 0.15 * torch.randn(mel.shape, generator=generator)
    mel = torch.maximum(mel, floor + uniform(-0.5, 0.5) * torch.linspace(-1, 1, bands)[:, None])
    start, run = uniform(0, bands), uniform(0, 16)
    band = torch.arange(bands)[None, :, None]
    mel = torch.where((band >= start) & (band < start + run), torch.full_like(mel, audio.mel_floor), mel)
    return mel.clamp(-4, 4)


def stretch_mel(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Mels (B, 80, T + 2 stretch_room) → (B, 80, T) around the same middle, each up to 15 % faster or slower."""
    batch, bands, wide = mel.shape
    frames = wide - 2 * stretch_room
    tempo = torch.exp((torch.rand(batch, 1, generator=generator) * 2 - 1) * 0.14)
    at = (torch.arange(frames) - (frames - 1) / 2) * tempo / ((wide - 1) / 2)  # -1 to 1 over all columns
    rows = torch.linspace(-1, 1, bands)
    grid = torch.stack([at[:, None].expand(-1, bands, -1), rows[None, :, None].expand(batch, -1, frames)], 3)
    return F.grid_sample(mel[:, None], grid, padding_mode="border", align_corners=True)[:, 0]


def mask_frames(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Mels (B, 80, T), each with up to a fifth of its frames made silent, but never the eight in the middle."""
    batch, _, frames = mel.shape
    start = torch.randint(0, frames, (batch, 1), generator=generator)
    length = torch.randint(0, max(2, frames // 5), (batch, 1), generator=generator)
    at = torch.arange(frames)
    masked = (at >= start) & (at < start + length) & ((at - (frames - 1) / 2).abs() > 4)
    return mel.masked_fill(masked[:, None], audio.mel_floor)


def augment_wave(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another room and microphone for a sound (N,) at 16 kHz in [-1, 1]; loudness is not touched.

    A slope over the frequencies (±6 dB at their ends), hills and valleys (±4 dB), coloured noise 5 to 45 dB below the
    sound in two thirds of the samples, a telephone's band in a tenth.
    """
    frequency = np.fft.rfftfreq(len(wave), 1 / audio.sample_rate)
    place = np.log2(np.maximum(frequency, 50) / 50) / np.log2(8000 / 50)  # 0 to 1 over the audible octaves
    decibels = rng.uniform(-6, 6) * (2 * place - 1)
    for waves in (1.5, 3.0):
        decibels += rng.uniform(-4, 4) * np.sin(2 * np.pi * (waves * place + rng.random()))
    gain = 10 ** (decibels / 20)
    if rng.random() < 0.1:
        gain = gain * ((frequency > 300) & (frequency < 3400))
    heard = np.fft.irfft(np.fft.rfft(wave) * gain, len(wave))
    if rng.random() < 2 / 3:
        colour = 10 ** (rng.uniform(-15, 3) * place / 20)
        noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(wave))) * colour, len(wave))
        loudness = max(float(np.sqrt(np.mean(heard**2))), 1e-3)
        heard = heard + noise * (loudness * 10 ** (rng.uniform(-45, -5) / 20) / max(float(noise.std()), 1e-9))
    return heard.clip(-1, 1)


def random_turn(rng: np.random.Generator, strength: float) -> np.ndarray:
    """A change (3, 3) of places in crop units about the crop's middle, like a turn of the head seen from afar.

    At strength 1: up to a quarter narrower, sheared by up to a tenth, rotated by up to 8°, moved by up to a fortieth.
    """
    narrow, shear, angle, *move = rng.uniform(-1, 1, 5) * (0.25, 0.1, np.radians(8), 0.025, 0.025) * strength
    cosine, sine = np.cos(angle), np.sin(angle)
    change = np.array([[cosine, -sine], [sine, cosine]]) @ [[1 - abs(narrow), shear], [0, 1]]
    middle = np.array([0.5, 0.5])
    return np.vstack([np.column_stack([change, middle - change @ middle + move]), [0, 0, 1]])


def turned(pictures: np.ndarray, points: np.ndarray, turn: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, s, s, 3) uint8 and their points (n, P, 2) in crop units after a turn (3, 3) of places in them.

    Args:
        margin: pixels on every side of the pictures beyond the crop.
    """
    size = pictures.shape[1] - 2 * margin
    to_crop = np.array([[1, 0, 0.5 - margin], [0, 1, 0.5 - margin], [0, 0, size]]) / size
    matrix = (np.linalg.inv(to_crop) @ turn @ to_crop)[:2]
    wide, tall = pictures.shape[2], pictures.shape[1]
    seen = [
        cv2.warpAffine(p, matrix, (wide, tall), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        for p in pictures
    ]
    return np.stack(seen), points @ turn[:2, :2].T + turn[:2, 2]
