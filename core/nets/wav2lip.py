# SPDX-License-Identifier: GPL-3.0-or-later
"""The generator of Wav2Lip [Prajwal et al. 2020], for its published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .blocks import ConvBlock, ResidualBlock, UpBlock
from .rules import InputRules, wav2lip_rules
from .syncnet import SoundEncoder


@dataclass(frozen=True)
class Wav2LipConfig:
    """The network as published: there is nothing to choose."""

    image_size: ClassVar[int] = 96
    audio_frames: ClassVar[int] = 16


def _residual(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels, False) for _ in range(count)]


class Wav2Lip(nn.Module):
    """Draws the lower half of a face to a sound: a U-Net down to 1 x 1, where the sound's code takes the face's place.

    forward(face, mel):
        face: (B, 6, 96, 96) in [0, 1]: the face with its lower half zero, then a reference of the same person, RGB
            each (the published weights want BGR; `lipsync-train import` turns them).
        mel: (B, 1, 80, 16) log-mel in [-4, 4].
        Returns (B, 3, 96, 96) in [0, 1].
    """

    rules: ClassVar[InputRules] = wav2lip_rules

    def __init__(self, config: Wav2LipConfig | None = None) -> None:
        super().__init__()
        self.config = config or Wav2LipConfig()
        self.encoder = nn.ModuleList(
            [
                nn.Sequential(ConvBlock(6, 16, 7, 1, 3)),
                nn.Sequential(ConvBlock(16, 32, 3, 2, 1), *_residual(32, 2)),
                nn.Sequential(ConvBlock(32, 64, 3, 2, 1), *_residual(64, 3)),
                nn.Sequential(ConvBlock(64, 128, 3, 2, 1), *_residual(128, 2)),
                nn.Sequential(ConvBlock(128, 256, 3, 2, 1), *_residual(256, 2)),
                nn.Sequential(ConvBlock(256, 512, 3, 2, 1), *_residual(512, 1)),
                nn.Sequential(ConvBlock(512, 512, 3), ConvBlock(512, 512, 1)),
            ]
        )
        self.sound_encoder = SoundEncoder(1.0, residual=1)
        from_one = nn.Sequential(nn.ConvTranspose2d(1024, 512, 3), nn.BatchNorm2d(512), nn.ReLU())  # 1 x 1 → 3 x 3
        self.decoder = nn.ModuleList(
            [
                nn.Sequential(ConvBlock(512, 512, 1)),
                nn.Sequential(from_one, *_residual(512, 1)),
                nn.Sequential(UpBlock(1024, 512), *_residual(512, 2)),
                nn.Sequential(UpBlock(768, 384), *_residual(384, 2)),
                nn.Sequential(UpBlock(512, 256), *_residual(256, 2)),
                nn.Sequential(UpBlock(320, 128), *_residual(128, 2)),
                nn.Sequential(UpBlock(160, 64), *_residual(64, 2)),
            ]
        )
        self.output = nn.Sequential(ConvBlock(80, 32, 3, 1, 1), nn.Conv2d(32, 3, 1))

    def forward(self, face: Tensor, mel: Tensor) -> Tensor:
        skips = []
        for level in self.encoder:
            face = level(face)
            skips.append(face)
        x = self.sound_encoder(mel)
        for level in self.decoder:
            x = torch.cat([level(x), skips.pop()], 1)
        return torch.sigmoid(self.output(x).float())
