# SPDX-License-Identifier: GPL-3.0-or-later
"""What lips that open show of the teeth behind them, where the reference has them shut: a photo, a smile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.nets.warp import furthest, warp

skin, lip = torch.tensor([0.85, 0.65, 0.55]), torch.tensor([0.75, 0.4, 0.4])
tooth, dark = torch.tensor([0.9, 0.85, 0.8]), torch.tensor([0.15, 0.05, 0.05])
upper_lip, lower_lip = (50, 56), (64, 72)
"""Rows of the reference, and between them what is between the lips."""
middle = np.s_[:, :, 40:56]
"""Columns in the middle of the mouth."""


def smile(*between: tuple[torch.Tensor, int]) -> torch.Tensor:
    """(1, 3, 96, 96): a mouth with so many rows of these colours between its lips."""
    rows = skin.repeat(96, 1)
    rows[upper_lip[0] : lower_lip[1]] = lip
    inside = torch.cat([colour.repeat(count, 1) for colour, count in between])
    rows[upper_lip[1] : upper_lip[1] + len(inside)] = inside
    picture = skin.repeat(96, 96, 1)
    picture[:, 26:70] = rows[:, None]
    return picture.permute(2, 0, 1)[None]


def opened(by: int, columns: slice = slice(24, 72)) -> torch.Tensor:
    """(1, 6, 96, 96) answer: in these columns jaw and lower lip so many rows further down; what was between the lips
    drawn tall."""
    raw = torch.zeros(1, 6, 96, 96)
    shown = torch.arange(96) + 0.5
    top, bottom = upper_lip[1], lower_lip[0]
    taken = torch.where(shown > bottom + by, shown - by, top + (shown - top) * (bottom - top) / (bottom - top + by))
    away = torch.where(shown < top, 0.0, taken - shown) / 96
    width = torch.zeros(96)
    width[columns] = 1.0
    raw[:, 1] = torch.atanh(away / furthest)[:, None] * width
    raw[:, 2] = 2.0
    raw[:, 2, top : bottom + by] = 0.0  # a net is not sure of what it has drawn tall
    raw[:, 3:] = torch.logit(dark)[:, None, None]
    return raw


def draw(reference: torch.Tensor, by: int) -> np.ndarray:
    """(96, 3): the middle columns' mean of what is shown."""
    return warp(opened(by), reference, finished=True)[0][middle].mean(2).T.numpy()


def rows_like(column: np.ndarray, colour: torch.Tensor) -> np.ndarray:
    """The rows of `column` (96, 3) that have a colour."""
    return np.flatnonzero(np.abs(column - colour.numpy()).max(axis=1) < 0.12)


def test_upper_teeth_stay_as_tall_as_they_are_and_the_gap_is_below_them() -> None:
    """Else a smiling photo speaks with teeth as tall as its mouth, or with stumps and fangs."""
    column = draw(smile((tooth, 8)), by=10)
    teeth, gap = rows_like(column, tooth), rows_like(column, dark)
    assert 6 <= len(teeth) <= 9 and abs(teeth[0] - upper_lip[1]) <= 1 and np.ptp(teeth) == len(teeth) - 1
    assert len(gap) >= 5 and gap[0] > teeth[-1]
    assert set(range(lower_lip[0] + 11, lower_lip[1] + 9)) <= set(rows_like(column, lip))  # the lower lip goes down


def test_shut_lips_that_open_show_no_piece_of_lip_in_the_gap() -> None:
    """There are no teeth to be held, and what is held instead would be specks of lip in the open mouth."""
    gap = rows_like(draw(smile((lip, 8)), by=10), dark)
    assert len(gap) >= 8 and gap[0] <= upper_lip[1] + 3 and np.ptp(gap) == len(gap) - 1


def test_lower_teeth_go_down_with_the_jaw() -> None:
    """Below the dark of a mouth that is open they hang on nothing."""
    column = draw(smile((dark, 5), (tooth, 3)), by=8)
    teeth = rows_like(column, tooth)
    assert not len(teeth) or teeth[0] > upper_lip[1] + 5


def test_lower_teeth_are_seen_beside_upper_ones() -> None:
    """The jaw has its own, which the paint of the gap must not cover."""
    reference = smile((tooth, 3), (dark, 2), (tooth, 3))
    raw = opened(6)
    lower_ones = slice(lower_lip[0] + 6 - 4, lower_lip[0] + 6)
    raw[:, 2, lower_ones] = 4.0
    column = warp(raw, reference, finished=True)[0][middle].mean(2).T.numpy()
    teeth = rows_like(column, tooth)
    assert len(teeth[teeth < lower_lip[0]]) >= 2 and len(teeth[teeth >= lower_lip[0]]) >= 2
    gap = rows_like(column, dark)
    assert len(gap) >= 4 and teeth[0] < gap[0] and gap[-1] < teeth[-1]


def test_black_and_white_teeth_are_not_taken_for_lips_nor_lips_for_teeth() -> None:
    """Without colours nobody can tell, and the mouth is painted as it would be."""
    grey = smile((tooth, 8)).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    column = draw(grey, by=10)
    assert column[upper_lip[1] + 6 : lower_lip[0] + 4].max() < 0.45


def test_lips_that_close_over_teeth_show_none_of_them() -> None:
    """The upper lip is drawn tall then, down to the lower one, and what is left of the teeth is painted over."""
    raw = opened(10)
    shown = torch.arange(96) + 0.5
    taken = 50 + (shown - 50) * 8 / 14
    away = torch.where((shown > 50) & (shown < lower_lip[0]), taken - shown, 0.0) / 96
    raw[:, 1] = torch.atanh(away / furthest)[:, None]
    raw[:, 2] = 8.0
    raw[:, 2, 60:66] = -8.0
    raw[:, 3:] = torch.logit(lip)[:, None, None]
    column = warp(raw, smile((tooth, 4)), finished=True)[0][middle].mean(2).T.numpy()
    assert set(range(51, lower_lip[1] - 1)) <= set(rows_like(column, lip))


def test_a_chin_that_is_drawn_tall_is_not_torn() -> None:
    """A pale chin is less red than what is around it, as teeth are; a tear would be a dark mark on it."""
    raw = torch.zeros(1, 6, 96, 96)
    shown = torch.arange(96) + 0.5
    taken = torch.where(shown > 82, shown - 8, 64 + (shown - 64) * 10 / 18)
    raw[:, 1] = torch.atanh(torch.where(shown > 64, taken - shown, 0.0) / 96 / furthest)[:, None]
    raw[:, 2] = 8.0
    raw[:, 3:] = torch.logit(dark)[:, None, None]
    reference = skin.repeat(96, 96, 1).permute(2, 0, 1)[None].clone()
    reference[:, :, 66:72] = tooth[:, None, None]
    column = warp(raw, reference, finished=True)[0][middle].mean(2).T.numpy()
    assert not len(rows_like(column, dark))


def test_a_few_columns_alone_are_not_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a gap in a tooth."""
    narrow, wide = opened(10, slice(44, 50)), opened(10)
    drawn, torn = (warp(raw, smile((tooth, 8)), finished=True) for raw in (narrow, wide))
    monkeypatch.setattr("core.nets.warp.torn_teeth", lambda *_: None)
    assert torch.equal(drawn, warp(narrow, smile((tooth, 8)), finished=True))
    assert not torch.equal(torn, warp(wide, smile((tooth, 8)), finished=True))


def test_a_picture_is_the_same_beside_one_with_torn_teeth() -> None:
    """Pictures are drawn in batches of whatever comes."""
    torch.manual_seed(0)
    answers = torch.cat([torch.randn(1, 6, 96, 96) * 0.1, opened(10)])
    references = torch.cat([torch.rand(1, 3, 96, 96), smile((tooth, 8))])
    together = warp(answers, references, finished=True)
    assert torch.equal(together[:1], warp(answers[:1], references[:1], finished=True))
    assert torch.equal(together[1:], warp(answers[1:], references[1:], finished=True))


def test_black_pictures_and_larger_nets_have_a_picture() -> None:
    """A night shot, and a net trained at another size."""
    for reference in (torch.zeros(1, 3, 96, 96), smile((tooth, 8)) * 0.02):
        assert warp(opened(10), reference, finished=True).isfinite().all()
    large = torch.nn.functional.interpolate(opened(10), scale_factor=2, mode="nearest")
    reference = torch.nn.functional.interpolate(smile((tooth, 8)), scale_factor=2, mode="nearest")
    column = warp(large, reference, finished=True)[0, :, :, 80:112].mean(2).T.numpy()
    assert 12 <= len(rows_like(column, tooth)) <= 18 and len(rows_like(column, dark)) >= 10
