# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound as other people, rooms, microphones and hurries would have made it."""

from __future__ import annotations

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
