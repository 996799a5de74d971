# SPDX-License-Identifier: GPL-3.0-or-later
"""The sound told through a mouth's shape: what AdaIN takes from it then depends on eight numbers alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..mouth import most, shape_size

hidden = 128


class LipCode(nn.Module):
    """Audio map (B, C, H, W) → mouth shape (B, 8) → a map (B, C, 2, 1) with the statistics that draw this shape.

    AdaIN (equation 2) takes two numbers a channel from the audio map, so a map of two places can say all of it. The
    halves can be trained apart, each from what it needs: `head` from sound, `voice` from pictures. Where another net
    tells the shapes from the sound (core.nets.ear), the code has no head.

    A shape counts from the person's median, which no picture tells. So what is drawn is told by its difference from the
    reference's mouth, which the net sees: how far the lips must go from there.
    """

    def __init__(self, channels: int, head: bool = True) -> None:
        super().__init__()
        self.head = LipHead(channels) if head else None
        self.voice = nn.Sequential(nn.Linear(shape_size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * channels))
        self.register_buffer("gain", torch.ones(shape_size))
        self.register_buffer("bounds", torch.tensor([[-most], [most]]).repeat(1, shape_size))

    gain: Tensor
    """(8,) factors on the shape that is heard: a prediction is smaller than what it predicts, as much as it is unsure.
    """
    bounds: Tensor
    """(2, 8) least and most of each number that mouths show: none is more shut than shut, whatever the gain."""

    def forward(self, audio_map: Tensor, shown: Tensor | None = None) -> Tensor:
        assert self.head  # else the shapes are there: see `speak`
        return self.speak(self.drawn(self.head(map_statistics(audio_map))), shown)

    def drawn(self, heard: Tensor) -> Tensor:
        """The shapes (B, 8) to draw for those that were heard: with the code's gain, within its bounds."""
        return (heard * self.gain).clamp(*self.bounds)

    def speak(self, shapes: Tensor, shown: Tensor | None = None) -> Tensor:
        """The map for given shapes (B, 8) in [-4, 4].

        Args:
            shown: (B, 8) in [-4, 4], that of the reference's mouth; None: it is the person's median.
        """
        mean, deviation = self.voice(shapes if shown is None else shapes - shown).chunk(2, 1)
        deviation = F.softplus(deviation)
        return torch.stack([mean + deviation, mean - deviation], 2)[..., None]


class LipHead(nn.Module):
    """Statistics of an audio map (B, 2C) → the mouth shape (B, 8) that was heard."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(2 * channels, hidden), nn.ReLU(), nn.Linear(hidden, shape_size)
        )

    def forward(self, statistics: Tensor) -> Tensor:
        return self.layers(statistics)


def map_statistics(audio_map: Tensor) -> Tensor:
    """What AdaIN takes from an audio map (B, C, H, W): (B, 2C), means and population deviations."""
    variance, mean = torch.var_mean(audio_map.float().flatten(2), 2, correction=0)
    return torch.cat([mean, torch.sqrt(variance + 1e-5)], 1)
