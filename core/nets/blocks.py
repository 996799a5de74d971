# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution blocks: Wav2Lip's conv + batch norm + ReLU, and CBAM [Woo et al. 2018; Jongchan/attention-module]."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = int | tuple[int, int]
Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)

many_channels = 64
"""From which a place's own channels, one after another, are enough for a CPU's vectors."""


def scaled(channels: int, width: float) -> int:
    """A channel count times a net's width, as a multiple of 8."""
    return max(8, 8 * round(channels * width / 8))


class ConvBlock(nn.Sequential):
    """ReLU(BN(conv(x))), with bias as in Wav2Lip."""

    def __init__(self, c_in: int, c_out: int, kernel: Size, stride: Size = 1, padding: Size = 0) -> None:
        conv = _still_bias(nn.Conv2d(c_in, c_out, kernel, stride, padding))
        super().__init__(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class UpBlock(nn.Sequential):
    """ReLU(BN(transposed conv 3 x 3, stride 2)): doubles height and width."""

    def __init__(self, c_in: int, c_out: int) -> None:
        conv = _still_bias(nn.ConvTranspose2d(c_in, c_out, 3, 2, 1, output_padding=1))
        super().__init__(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class ResidualBlock(nn.Module):
    """R(c) = ReLU(x + CBAM(BN(conv3x3(x)))); without CBAM Wav2Lip's residual block."""

    def __init__(self, channels: int, cbam: bool) -> None:
        super().__init__()
        self.conv = _still_bias(nn.Conv2d(channels, channels, 3, 1, 1))
        self.norm = nn.BatchNorm2d(channels)
        self.attention = CBAM(channels) if cbam else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.attention(self.norm(self.conv(x))))


def hearing(c32: int, c64: int, c128: int) -> list[nn.Module]:
    """The first three levels of Wav2Lip's audio encoder: mel windows (B, 1, 80, T) → (B, c128, 9, T / 3)."""
    return [
        ConvBlock(1, c32, 3, 1, 1),
        ResidualBlock(c32, False),
        ResidualBlock(c32, False),
        ConvBlock(c32, c64, 3, (3, 1), 1),
        ResidualBlock(c64, False),
        ResidualBlock(c64, False),
        ConvBlock(c64, c128, 3, 3, 1),
        ResidualBlock(c128, False),
        ResidualBlock(c128, False),
    ]


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
        gate = torch.sigmoid(self.mlp(mean(x, (2, 3)).flatten(1)) + self.mlp(_Peak.apply(x, (2, 3)).flatten(1)))
        x = x * gate[:, :, None, None]
        places = torch.cat([_Peak.apply(x, (1,)), mean(x, (1,))], 1)
        return x * torch.sigmoid(self.spatial(places))


def mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x.mean(dims, keepdim=True), whose own gradient has another memory format than x, so that all after it is slow."""
    wide = torch.float32 if x.dtype == torch.float16 else None  # in which a sum over a large picture overflows
    total = x.sum(dims, keepdim=True, dtype=wide)
    return (total * (1 / math.prod(x.shape[dim] for dim in dims))).to(x.dtype)


class _Peak(torch.autograd.Function):
    """x.amax(dims, keepdim=True), with amax's gradient (shared among equals) in fewer passes and x's memory format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        peak = _peak(x, dims)
        ctx.save_for_backward(x, peak)
        ctx.dims = dims
        return peak

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, peak = ctx.saved_tensors
        at = torch.eq(x, peak, out=torch.empty_like(x))  # 1 and 0 in x's own type: six times as fast as booleans
        return at.mul_(gradient / at.sum(ctx.dims, keepdim=True)), None


def _peak(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x.amax(dims, keepdim=True), which takes up to ten times as long where x is channels_last on a CPU."""
    if x.device.type != "cpu" or x.is_contiguous():
        return x.amax(dims, keepdim=True)
    if dims == (2, 3):
        return F.adaptive_max_pool2d(x, 1)
    return (x.contiguous() if x.shape[1] < many_channels else x).amax(dims, keepdim=True)


def _still_bias(conv: Conv) -> Conv:
    """A convolution before batch norm, which takes any bias away again: its gradient is zero, and costly to compute."""
    assert conv.bias is not None
    conv.bias.requires_grad_(False)
    return conv
