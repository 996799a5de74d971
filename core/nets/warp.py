# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture that is the reference moved into place where it can be, and painted where it cannot."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .teeth import Tear, torn_teeth

channels = 6
"""What a net gives for each pixel: a flow of two numbers, the logit of how far to trust it, and a colour's three."""
furthest = 0.25
"""Of the crop's side: the longest way along each axis. A jaw drops about half as far."""
coarse = 2
"""Pixels of the net to one place of the flow: what moves is skin, and skin moves smoothly."""
sharper, firmer = 3.0, 1.0
"""Factor on a finished picture's logits of trust, and what is added to them: a net that is unsure by how much the
reference moves halves its trust, which is least wrong on average and soft in every picture."""
gum, torn = 1.6, 12.0
"""Times that lips and skin stretch upright, and what a finished picture's logit of trust loses for each time more: a
reference with shut teeth has none of the dark between open ones, and teeth that are drawn long instead look like gum.
"""
beside = 3
"""Places of the flow, side by side, that are torn alike: teeth part along a line, not tooth by tooth."""
cell, around = 4, 3
"""Painted places are brought to the colour that the moved reference has where the net would have painted alike: in
cells of so many of its pixels, and in squares of so many cells (three times over) around. A net paints everybody's lips
like the lips it has seen most.
"""
kinds, reddest = 5, 0.35
"""Steps from grey to the reddest paint, as the part that red is ahead of green: teeth, skin and lips stand apart."""
enough, most = 0.005, 3.0
"""Light of the trusted reference, weighted, at which half of its factor is taken; and the largest factor."""
at_once = 4
"""Pictures larger than the net's that are warped together: sixteen need 200 MB more, and no less time."""


def flow(answer: Tensor) -> Tensor:
    """(B, 2, S / coarse, S / coarse): how far away in the reference lies what is shown at each place, x and y in crop
    units, of a net's answer (B, 6, S, S)."""
    # pooling and interpolation of channels_last take twice as long on a CPU
    return furthest * torch.tanh(F.avg_pool2d(answer[:, :2].float().contiguous(), coarse))


def warp(answer: Tensor, reference: Tensor, *, finished: bool = False) -> Tensor:
    """The picture that a net's answer (B, 6, S, S) makes of a reference (B, 3, F, F) in [0, 1]; its size is F.

    F may be larger than S: then what is only moved keeps the reference's detail, which a net that paints its S x S
    pixels cannot have.

    Args:
        finished: as it is shown; else as it is learnt, where half a trust must cost what it is.
    """
    if reference.shape[-1] == answer.shape[-1]:
        return _warped(answer, reference, finished)
    parts = zip(answer.split(at_once), reference.split(at_once), strict=True)
    return torch.cat([_warped(*part, finished) for part in parts])


def _warped(answer: Tensor, reference: Tensor, finished: bool) -> Tensor:
    size, own_size = reference.shape[-1], answer.shape[-1]
    flowing, whole = flow(answer), reference.float().contiguous()
    away = F.interpolate(flowing, size=(size, size), mode="bilinear", align_corners=False)
    trust, colour = answer[:, 2:].float().contiguous().split([1, 3], 1)
    colour = torch.sigmoid(colour)
    if not finished:
        return _shown(torch.sigmoid(trust), colour, _moved(whole, away))
    stretch = _stretch(flowing)
    tear = torn_teeth(flowing, stretch, whole, own_size)
    if tear:
        away, colour = tear.hold(away), tear.squeeze(colour)
    moved = _moved(whole, away)
    beyond = F.interpolate((stretch - gum).clamp(min=0.0), size=(own_size, own_size), mode="bilinear")
    trust = torch.sigmoid(sharper * trust + firmer - torn * beyond)
    is_gap = beyond.clamp(max=1.0)
    seen = trust
    if tear:
        seen, is_gap = tear.show(trust), torch.maximum(is_gap, tear.part)
    tuned = _in_tune(colour, _small(moved, own_size), seen.square())
    colour = tuned.lerp(torch.minimum(tuned, colour), is_gap)  # the teeth's light is not the gap's
    return _shown(trust, colour, moved, tear)


def _moved(reference: Tensor, away: Tensor) -> Tensor:
    """A reference (B, 3, F, F) as a flow (B, 2, F, F) in crop units moves it."""
    at = (torch.arange(away.shape[-1], device=away.device) + 0.5) * (2 / away.shape[-1]) - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), 2) + 2 * away.permute(0, 2, 3, 1)
    return F.grid_sample(reference, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _shown(trust: Tensor, colour: Tensor, moved: Tensor, tear: Tear | None = None) -> Tensor:
    """`moved` (B, 3, F, F) as far as it is trusted, else the colour, both of S x S pixels."""
    size, own_size = moved.shape[-1], trust.shape[-1]
    shown = torch.cat([trust, colour], 1)
    if size != own_size:
        shown = _along_both(shown, _bicubic(own_size, size, shown.device)).clamp_(0, 1)
    trust, colour = shown[:, :1], shown[:, 1:]
    if tear:
        trust = tear.show(trust)
    return colour + trust * (moved - colour)


def _small(pictures: Tensor, size: int) -> Tensor:
    return pictures if pictures.shape[-1] == size else F.interpolate(pictures, size=(size, size), mode="area")


def _stretch(flowing: Tensor) -> Tensor:
    """(B, 1, h, w): how many times as tall, 0.5 to 5, each place of a flow (B, 2, h, w) and those beside it show what
    they take."""
    down = F.pad(flowing[:, 1:], (0, 0, 1, 1), mode="replicate")
    taken = 1 + (down[:, :, 2:] - down[:, :, :-2]) * (flowing.shape[2] / 2)
    return F.avg_pool2d(1 / taken.clamp(0.2, 2.0), (1, beside), 1, (0, beside // 2), count_include_pad=False)


def _in_tune(colour: Tensor, moved: Tensor, weight: Tensor) -> Tensor:
    """`colour` (B, 3, S, S) times what `moved` is of it at places around that are as red, as far as it has `weight`.

    A bilateral grid. What must be covered, as teeth by lips, is painted as what covers it, and is there not trusted.
    A factor, not a difference: the dark of an open mouth is as red as lips, and must not get the light that they lack.
    """
    red, green = F.avg_pool2d(colour[:, :2], 3, 1, 1, count_include_pad=False).split(1, 1)
    kind = ((red - green) / (red + green + 0.1) * (kinds / reddest)).clamp(0, kinds)
    numbers = torch.arange(kinds + 1, device=colour.device)[:, None, None]
    member = (1 - (kind - numbers).abs()).clamp(min=0)  # (B, kinds + 1, S, S), in all 1 at each place
    both = torch.cat([moved, colour], 1)
    grid = ((member * weight)[:, :, None] * both[:, None]).flatten(1, 2)
    grid = _along_both(F.avg_pool2d(grid, cell), _spread(colour.shape[-1], colour.device)).unflatten(1, (-1, 6))
    theirs, own = ((member[:, :, None] * part).sum(1) + enough for part in (grid[:, :, :3], grid[:, :, 3:]))
    return (colour * (theirs / own).clamp(1 / most, most)).clamp(0, 1)


def _along_both(pictures: Tensor, matrix: Tensor) -> Tensor:
    """Pictures (…, S, S) times a matrix (S, T) along both axes: (…, T, T). On a CPU faster than what it stands for."""
    with torch.autocast(pictures.device.type, enabled=False):
        return matrix.T @ (pictures @ matrix)


def _bicubic(size: int, larger: int, device: torch.device) -> Tensor:
    """(size, larger), bicubic interpolation."""
    rows = torch.eye(size, device=device)[None, None]
    return F.interpolate(rows, size=(size, larger), mode="bicubic", align_corners=False)[0, 0]


def _spread(size: int, device: torch.device) -> Tensor:
    """(size / cell, size): the mean of the cells around, three times over, then what lies between them."""
    rows = torch.eye(size // cell, device=device)[None]
    for _ in range(3):
        rows = F.avg_pool1d(rows, around, 1, around // 2, count_include_pad=False)
    return F.interpolate(rows, size=size, mode="linear", align_corners=False)[0]
