# SPDX-License-Identifier: GPL-3.0-or-later
"""The sync expert: does this sound belong to these five pictures? Wav2Lip's SyncNet_color [Prajwal et al. 2020]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..timing import sync_window_length
from .blocks import ConvBlock, ResidualBlock, hearing, scaled

face_height, face_width = 48, 96
"""The lower half of a face, as the expert sees it."""


@dataclass(frozen=True)
class SyncNetConfig:
    """What the expert is built from. The default is Wav2Lip's network, so its weights fit."""

    width: float = 1.0
    """Factor on all channel counts, which are rounded to multiples of 8."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.width <= 4:
            raise ModelError(f"The expert's width {self.width} does not fit.", "Use 0.1 to 4; 1 is Wav2Lip's.")


class SoundEncoder(nn.Sequential):
    """Mel windows (B, 1, 80, 16) → codes (B, C, 1, 1): Wav2Lip's, in its expert as in its generator.

    Args:
        width: factor on the channels; C = 512 at 1.
        residual: residual blocks of 256 channels: 2 in the expert, 1 in the generator.
    """

    def __init__(self, width: float, residual: int) -> None:
        c32, c64, c128, c256, c512 = (scaled(channels, width) for channels in (32, 64, 128, 256, 512))
        super().__init__(
            *hearing(c32, c64, c128),
            ConvBlock(c128, c256, 3, (3, 2), 1),
            *(ResidualBlock(c256, False) for _ in range(residual)),
            ConvBlock(c256, c512, 3),
            ConvBlock(c512, c512, 1),
        )


class FaceEncoder(nn.Sequential):
    """Five lower halves (B, 15, 48, 96) → codes (B, C, 1, 1)."""

    def __init__(self, width: float) -> None:
        c32, c64, c128, c256, c512 = (scaled(channels, width) for channels in (32, 64, 128, 256, 512))
        super().__init__(
            ConvBlock(3 * sync_window_length, c32, 7, 1, 3),
            ConvBlock(c32, c64, 5, (1, 2), 1),
            ResidualBlock(c64, False),
            ResidualBlock(c64, False),
            ConvBlock(c64, c128, 3, 2, 1),
            ResidualBlock(c128, False),
            ResidualBlock(c128, False),
            ResidualBlock(c128, False),
            ConvBlock(c128, c256, 3, 2, 1),
            ResidualBlock(c256, False),
            ResidualBlock(c256, False),
            ConvBlock(c256, c512, 3, 2, 1),
            ResidualBlock(c512, False),
            ResidualBlock(c512, False),
            ConvBlock(c512, c512, 3, 2, 1),
            ConvBlock(c512, c512, 3),
            ConvBlock(c512, c512, 1),
        )


class SyncNet(nn.Module):
    """Compares five pictures with the sound of their 0.2 s.

    Both encoders end in a ReLU, so that the cosine of their codes lies in [0, 1] and can stand for a probability.

    forward(window, mel):
        window: (B, 15, 48, 96) in [0, 1], of `sync_window_faces`: five lower halves one after the other, RGB each.
        mel: (B, 1, 80, 16) log-mel in [-4, 4], from core.timing.sync_window of the first picture.
        Returns (B,) float32 cosines, under autocast too.
    """

    def __init__(self, config: SyncNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or SyncNetConfig()
        self.face_encoder = FaceEncoder(self.config.width)
        self.sound_encoder = SoundEncoder(self.config.width, residual=2)

    def embed_faces(self, window: Tensor) -> Tensor:
        """(B, 15, 48, 96) in [0, 1] → (B, 512) float32 of length 1, none negative; narrower with `config.width`."""
        return _unit_length(self.face_encoder(window))

    def embed_sound(self, mel: Tensor) -> Tensor:
        """(B, 1, 80, 16) in [-4, 4] → (B, 512) float32 of length 1, none negative; narrower with `config.width`."""
        return _unit_length(self.sound_encoder(mel))

    def forward(self, window: Tensor, mel: Tensor) -> Tensor:
        return (self.embed_faces(window) * self.embed_sound(mel)).sum(1).clamp(0, 1)  # rounding can pass 1


def _unit_length(code: Tensor) -> Tensor:
    """(B, C, 1, 1) → (B, C) float32 of length 1: in half precision a cosine near 1 has no digits left."""
    with torch.autocast(code.device.type, enabled=False):
        return F.normalize(code.float().flatten(1), dim=1)


def sync_window_faces(faces: Tensor) -> Tensor:
    """What the expert sees of five whole crops.

    Args:
        faces: (B, 5, 3, S, S) in [0, 1], RGB.

    Returns:
        (B, 15, 48, 96): their lower halves one after the other; of crops of another size than 96 px each pixel is the
        mean of the area it covers.
    """
    lower = faces[..., faces.shape[-2] // 2 :, :].flatten(0, 1)
    if lower.shape[-2:] != (face_height, face_width):
        lower = F.interpolate(lower, (face_height, face_width), mode="area")
    return lower.reshape(len(faces), -1, face_height, face_width)
