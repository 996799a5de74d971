# SPDX-License-Identifier: GPL-3.0-or-later
"""Semantic alignment: FFC and AdaIN bring the sound's statistics into the picture's features (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import mean
from .ffc import FFC


def adain(x: Tensor, y: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Equation (2): x (B, C, …) with each channel's mean and standard deviation over its places taken from y (B, C, …).

    In float32 always: the sums of nine modules are too coarse in half precision.
    """
    with torch.autocast(x.device.type, enabled=False):
        centred, _, x_var = _centred(x.float())
        _, y_mean, y_var = _centred(y.float())
        aligned = centred * torch.sqrt((y_var + epsilon) / (x_var + epsilon)) + y_mean
    return aligned.to(x.dtype)


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x less its mean over all places, that mean, and the population variance; on a CPU twice as fast as var_mean."""
    places = tuple(range(2, x.dim()))
    average = mean(x, places)
    centred = x - average
    return centred, average, mean(centred.square(), places)


class AlignBlock(nn.Module):
    """x + AdaIN(FFC(x), audio): the two-layer FFC block of LaMa with its second layer replaced by AdaIN."""

    def __init__(self, channels: int, size: int, ratio: float) -> None:
        super().__init__()
        self.ffc = FFC(channels, size, ratio)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        return x + adain(self.ffc(x), audio)
