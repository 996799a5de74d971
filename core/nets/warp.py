# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture that is the reference moved into place where it can be, and painted where it cannot."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

channels = 6
"""What a net gives for each pixel: a flow of two numbers, the logit of how far to trust it, and a colour's three."""
furthest = 0.25
"""Of the crop's side: the longest way along each axis. A jaw drops about half as far."""
coarse = 2
"""Pixels of the net to one place of the flow: what moves is skin, and skin moves smoothly."""
at_once = 4
"""Pictures larger than the net's that are warped together: sixteen need 200 MB more, and no less time."""


def warp(answer: Tensor, reference: Tensor) -> Tensor:
    """The picture that a net's answer (B, 6, S, S) makes of a reference (B, 3, F, F) in [0, 1]; its size is F.

    F may be larger than S: then what is only moved keeps the reference's detail, which a net that paints its S x S
    pixels cannot have.
    """
    if reference.shape[-1] == answer.shape[-1]:
        return _warped(answer, reference)
    parts = zip(answer.split(at_once), reference.split(at_once), strict=True)
    return torch.cat([_warped(*part) for part in parts])


def _warped(answer: Tensor, reference: Tensor) -> Tensor:
    flow, trust, colour = answer.float().split([2, 1, 3], 1)
    size = reference.shape[-1]
    flow = furthest * torch.tanh(F.avg_pool2d(flow, coarse))
    shown = torch.cat([torch.sigmoid(trust), torch.sigmoid(colour)], 1)
    flow, shown = flow.contiguous(), shown.contiguous()  # interpolation of channels_last takes twice as long on a CPU
    flow = F.interpolate(flow, size=(size, size), mode="bilinear", align_corners=False)
    if size != answer.shape[-1]:
        shown = F.interpolate(shown, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    at = (torch.arange(size, device=answer.device) + 0.5) * (2 / size) - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), 2) + 2 * flow.permute(0, 2, 3, 1)
    whole = reference.float().contiguous()
    moved = F.grid_sample(whole, grid, mode="bilinear", padding_mode="border", align_corners=False)
    trust, colour = shown[:, :1], shown[:, 1:]
    return colour + trust * (moved - colour)
