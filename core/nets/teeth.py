# SPDX-License-Identifier: GPL-3.0-or-later
"""Upper teeth stay as tall as they are when the lips before them open.

A flow is smooth: of a reference with shut teeth it makes an open mouth by drawing what lies between the lips tall. But
upper teeth belong to the skull, and the jaw comes away from them. So each column is torn there: above the tear the
reference is moved as the upper lip is, below it as before, and between the two is room for paint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

between, lowest = 1.2, 1.4
"""Times as tall from which a place is taken for one between the lips, and which the lowest of them has at least."""
hardly_tall, tall = 1.35, 1.7
"""Times as tall that the tallest place of a column is, up to which it is whole, and from which it is torn."""
hardly_open, opened = 0.004, 0.014
"""Crop units by which the jaw goes away, likewise: lips that shut are drawn tall too, and tear nothing."""
highest, deepest, chin = 0.5, 0.68, 0.8
"""Rows of the crop, as parts of its height: a mouth's tallest place lies between the first two, all of it above the
third. Chins are drawn tall too.
"""
jaw = 1 / 16
"""Crop units below what is drawn tall at which the jaw is moved as a whole."""
gums = 1 / 24
"""Crop units above what is drawn tall that are shown as they are moved: near to teeth a net trusts no flow."""
lips = 1 / 20
"""Crop units above and below that are lips."""
as_red, less_red = 0.7, 0.55
"""Parts of the lips' redness: up to the second it is teeth, or the dark behind them; from the first on it is lips."""
grey = 0.01
"""Redness that even teeth and lips in a picture without colours may be apart."""
bright, dark = 0.8, 0.6
"""Parts of the lightest place's light: of a row that is darker the teeth above are the upper ones, those below not."""
alike, beside = 0.09, 0.05
"""Crop units of columns whose tears are one line, twice over, and over which a tear begins and ends at its sides."""
black = 0.01
"""Light of the lightest place that a picture must have to tell teeth from the dark."""
edge = 1.5
"""Of the teeth, how sharp it is: they fade to the gap in 4 pixels by as much."""
smallest, full = 0.2, 0.8
"""Parts of torn columns around a place at which it begins to be torn, and is wholly."""
narrow, broad = 0.11, 0.14
"""Parts of the crop's width, up to which a tear is a gap in a tooth, and left out, and from which on it is one."""


@dataclass(frozen=True)
class Tear:
    """Where pictures of S x S places are torn."""

    part: Tensor
    """(B, 1, S, S) how far a place belongs to the teeth or the gap below them, 0 to 1."""
    held: Tensor
    """(B, 1, S, S) how far it is moved as the teeth are, 0 to 1."""
    away: Tensor
    """(B, 1, 1, S) how far below it lies in the reference what a place of the teeth shows, crop units."""
    above: Tensor
    """(B, 1, S, S) crop units of teeth that follow below a place; less than 0 in the gap."""
    below: Tensor
    """(B, 1, S, S) crop units from the teeth's edge in the reference to what a place shows without the tear; what is
    less than 0 there is upper teeth drawn tall."""
    row: Tensor
    """(B, 1, S, S) of the paint that a place of the gap has: all that is painted for the open mouth is there."""

    def hold(self, away: Tensor) -> Tensor:
        """A flow (B, 2, F, F) that moves the teeth as one with the upper lip."""
        size = away.shape[-1]
        teeth = F.interpolate(self.away, size=(1, size), mode="bilinear", align_corners=False)
        aside, down = away.split(1, 1)
        return torch.cat([aside, down.lerp(teeth.expand_as(down), _sized(self.held, size))], 1)

    def squeeze(self, paint: Tensor) -> Tensor:
        """Paint (B, 3, S, S) whose dark is not behind the teeth, but in the gap."""
        size = paint.shape[-1]
        columns = (torch.arange(size, device=paint.device) + 0.5).expand_as(self.row)
        there = torch.cat([columns, self.row + 0.5], 1).permute(0, 2, 3, 1) * (2 / size) - 1
        squeezed = F.grid_sample(paint, there, mode="bilinear", padding_mode="border", align_corners=False)
        return paint.lerp(squeezed, self.part * (self.above < 0))

    def show(self, trust: Tensor) -> Tensor:
        """Trust (B, 1, F, F) in what is moved: all there is in the teeth, none where they are drawn tall."""
        size = trust.shape[-1]
        held, lower = (torch.sigmoid(edge * size * _sized(way, size)) for way in (self.above, self.below))
        return trust.lerp(torch.maximum(held, lower * trust), _sized(self.part, size))


def torn_teeth(flowing: Tensor, stretch: Tensor, reference: Tensor, size: int) -> Tear | None:
    """Where upper teeth must be torn from the jaw; None: nowhere.

    Args:
        flowing: (B, 2, h, w), see core.nets.warp.flow.
        stretch: (B, 1, h, w) times as tall as the reference that it shows each place.
        reference: (B, 3, F, F) in [0, 1].
        size: S.
    """
    aside, down = _sized(flowing, size).split(1, 1)
    tallness = _sized(stretch, size)
    rows = torch.arange(size, device=down.device)[:, None].expand_as(down)
    is_between = (tallness > between) & (rows >= highest * size)
    tallest, at = torch.where(is_between & (rows < deepest * size), tallness, 0.0).max(2, keepdim=True)
    first = torch.where(is_between | (rows > at), 0, rows).amax(2, keepdim=True)  # the last row before, and after
    last = torch.where(is_between | (rows < at), size - 1, rows).amin(2, keepdim=True)
    upper = torch.minimum(down.gather(2, first), down[:, :, round(highest * size), None])
    opening = upper - down.gather(2, (last + round(jaw * size)).clamp(max=size - 1))
    torn = _ramp(opening, hardly_open, opened) * _ramp(tallest, hardly_tall, tall) * (last < chin * size)
    if not torch.compiler.is_exporting() and not torn.any():
        return None
    still_tall = (tallness > lowest) & (rows >= first) & (rows <= last)
    first = _one_line(first.float(), torn)
    last = _one_line(torch.maximum(torch.where(still_tall, rows, 0).amax(2, keepdim=True), at).float(), torn)
    away = _one_line(_at(down, first), torn)
    bite = last + size * (_one_line(_at(down, last), torn) - away)  # what the lower lip takes is not there to be shown

    columns = (torch.arange(size, device=down.device) + 0.5) / size
    there = torch.cat([columns + aside, columns[:, None] + away.expand_as(down)], 1)
    small = F.interpolate(reference, size=(size, size), mode="area")
    held = F.grid_sample(small, 2 * there.permute(0, 2, 3, 1) - 1, padding_mode="border", align_corners=False)
    bite = torch.maximum(_one_line(_upper(held, rows, first, bite), torn), first)
    torn = torn * _one_line(_ramp(_teeth(held, rows, first, bite), 0.5, 1.0), torn)
    torn = _ramp(_mean(torn, beside), smallest, full)
    torn = torn * _ramp(torn.mean(3, keepdim=True), narrow, broad)
    part = torn * (rows - first + round(gums * size) + 1).clamp(0, 1) * (last - rows + 1).clamp(0, 1)
    above = bite - rows
    held_part = part * (rows - first).clamp(0, 1) * _ramp(above, -2.0, -1.0)  # a little further than they are seen
    squeezed = first + 0.5 + (rows - bite) * (last - first - 0.5).clamp(min=0) / (last - bite).clamp(min=1)
    return Tear(part, held_part, away, above / size, down - away - above / size, squeezed)


def _upper(held: Tensor, rows: Tensor, first: Tensor, bite: Tensor) -> Tensor:
    """(B, 1, 1, S) the row at which the upper teeth end that are seen from row `first` to `bite`."""
    is_inside = (rows >= first) & (rows <= bite)
    light = held.amax(1, keepdim=True)
    darkest, at = torch.where(is_inside, light, 1.0).min(2, keepdim=True)
    lightest = torch.where(is_inside, light, 0.0).amax(2, keepdim=True)
    return bite + _ramp(-darkest, -bright * lightest, black - dark * lightest) * (at - bite)


def _teeth(held: Tensor, rows: Tensor, first: Tensor, bite: Tensor) -> Tensor:
    """(B, 1, 1, S) how many rows from `first` to `bite` are less red than the lips above and below."""
    red, green = held[:, :1], held[:, 1:2]
    redness = (red - green) / (red + green + 0.1)
    height = round(lips * held.shape[2])
    upper = torch.where((rows >= first - height) & (rows < first), redness, 0.0).amax(2, keepdim=True)
    lower = torch.where((rows > bite) & (rows <= bite + height), redness, 0.0).amax(2, keepdim=True)
    lip = torch.minimum(upper, lower)
    is_teeth = _ramp(-redness, -as_red * lip, grey - less_red * lip)
    return torch.where((rows >= first) & (rows <= bite), is_teeth, 0.0).sum(2, keepdim=True)


def _sized(pictures: Tensor, size: int) -> Tensor:
    return F.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)


def _ramp(value: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 up to `low`, 1 from `high` on."""
    return ((value - low) / (high - low)).clamp(0, 1)


def _at(values: Tensor, row: Tensor) -> Tensor:
    """(B, 1, 1, S) of `values` (B, 1, S, S) the nearest to a row of each column."""
    return values.gather(2, row.round().long().clamp(0, values.shape[2] - 1))


def _one_line(values: Tensor, weight: Tensor) -> Tensor:
    """(B, 1, 1, S) means of the columns around, by their weight."""
    total, weights = _mean(_mean(torch.cat([values * weight, weight], 1), alike), alike).split(1, 1)
    return total / weights.clamp(min=1e-6)


def _mean(values: Tensor, width: float) -> Tensor:
    """Means of so many crop units of columns around; beyond the sides is 0."""
    half = round(width * values.shape[-1] / 2)
    return F.avg_pool2d(values, (1, 2 * half + 1), 1, (0, half))
