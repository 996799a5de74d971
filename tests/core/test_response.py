# SPDX-License-Identifier: GPL-3.0-or-later
"""Lips that are asked for more, or less, where a net answers a reference with another opening than it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core import mouth, response

own = -0.5
"""The reference's opening, in steps from the median."""
shown = (own * mouth.along).astype(np.float32)


def drawn(openings: np.ndarray, answer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What opens, in steps, of lips meant to open by `openings`, of a reference that makes `answer` of what is asked,
    both in steps from its own."""
    shapes = np.zeros((len(openings), mouth.shape_size), np.float32)
    shapes[:, 0] = openings
    answers = answer(response.asked)
    asked = response.to_ask(shapes, np.stack([shown] * len(openings)), np.stack([answers] * len(openings)))
    assert (asked - shapes)[:, 1:] == pytest.approx((asked - shapes)[:, :1] * mouth.along[1:], abs=1e-4)
    return own + np.interp(asked[:, 0] - own, response.asked, answers)


def half(asked: np.ndarray) -> np.ndarray:
    """As of a wide smile: half of the way."""
    return 0.5 * asked


def half_more(asked: np.ndarray) -> np.ndarray:
    return 1.5 * asked


def soon_shut(asked: np.ndarray) -> np.ndarray:
    """Of lips that are pressed together by what they cannot shut further."""
    return np.where(asked < -0.5, -0.5 + 0.05 * (asked + 0.5), asked)


@pytest.mark.parametrize("answer", [half, half_more, soon_shut])
def test_lips_open_as_far_as_meant_whatever_the_reference_makes_of_it(answer: Callable[..., np.ndarray]) -> None:
    """A p said by somebody who smiles would have open lips; somebody else would shout every word."""
    openings = np.array([-0.9, -0.3, 0.0, 0.8, 1.6])
    assert drawn(openings, answer) == pytest.approx(openings, abs=0.01)


def test_a_net_that_answers_as_asked_is_asked_for_what_is_meant() -> None:
    shapes = np.random.default_rng(0).uniform(-2, 3, (5, mouth.shape_size)).astype(np.float32)
    assert response.to_ask(shapes, shapes[::-1], np.stack([response.asked] * 5)) == pytest.approx(shapes, abs=1e-5)


def test_never_much_more_is_asked_than_is_meant() -> None:
    """Of a net that hardly answers, or answers nonsense, mouths must not be torn open."""
    shapes = np.zeros((2, mouth.shape_size), np.float32)
    shapes[:, 0] = (-2, 4)
    for answer in (0.1 * response.asked, -response.asked, np.zeros(len(response.asked))):
        asked = response.to_ask(shapes, np.zeros_like(shapes), np.stack([answer] * 2))
        assert np.abs(asked - shapes)[:, 0].max() <= response.furthest


@pytest.mark.parametrize("place", [(0.5, 0.65), (0.42, 0.7), (0.999, 0.5)])
def test_a_place_is_found_where_a_flow_shows_it(place: tuple[float, float]) -> None:
    """Against a flow whose inverse is known: everything is a tenth smaller, towards (0.5, 0.4), and further left."""
    at = (np.arange(48) + 0.5) / 48
    x, y = np.meshgrid(at, at)
    flow = np.stack([(x - 0.5) / 0.9 + 0.52 - x, (y - 0.4) / 0.9 + 0.4 - y]).astype(np.float32)
    expected = (np.array(place) - (0.52, 0.4)) * 0.9 + (0.5, 0.4)
    assert response.shown_at(flow, np.array(place)) == pytest.approx(expected, abs=2e-3)
