# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution blocks: Wav2Lip's conv + batch norm + ReLU, and CBAM [Woo et al. 2018; Jongchan/attention-module]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = int | tuple[int, int]


class ConvBlock(nn.Sequential):
    """ReLU(BN(conv(x))), with bias as in Wav2Lip."""

    def __init__(self, c_in: int, c_out: int, kernel: Size, stride: Size = 1, padding: Size = 0) -> None:
        super().__init__(nn.Conv2d(c_in, c_out, kernel, stride, padding), nn.BatchNorm2d(c_out), nn.ReLU())


class UpBlock(nn.Sequential):
    """ReLU(BN(transposed conv 3 x 3, stride 2)): doubles height and width."""

    def __init__(self, c_in: int, c_out: int) -> None:
        conv = nn.ConvTranspose2d(c_in, c_out, 3, 2, 1, output_padding=1)
        super().__init__(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class ResidualBlock(nn.Module):
    """R(c) = ReLU(x + CBAM(BN(conv3x3(x)))); without CBAM Wav2Lip's residual block."""

    def __init__(self, channels: int, cbam: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.attention = CBAM(channels) if cbam else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.attention(self.norm(self.conv(x))))


class CBAM(nn.Module):
    """Convolutional Block Attention Module: weighs channels, then places. (B, C, H, W) → the same.

    Args:
        channels: C. The shared MLP of the channel gate narrows it 16 times, but not below 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        x = x * gate[:, :, None, None]
        places = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(places))
