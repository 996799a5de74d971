# SPDX-License-Identifier: GPL-3.0-or-later
"""Lips that are asked for more, or less, where a net answers a reference with another opening than it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core import mouth, response

median = 0.03


def drawn(openings: np.ndarray, answer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What opens, crop units, of lips meant to open by `openings`, where a reference makes `answer` of the asked."""
    shapes = np.zeros((len(openings), mouth.shape_size), np.float32)
    shapes[:, 0] = (openings - median) / mouth.opening_step
    offset, slope = response.fitted(answer(response.asked))
    line = [((offset + (slope - 1) * median) / mouth.opening_step, slope)]
    asked = response.to_ask(shapes, np.array(line * len(openings)))
    assert (asked - shapes)[:, 1:] == pytest.approx((asked - shapes)[:, :1] * mouth.along[1:], abs=1e-4)
    return answer(asked[:, 0] * mouth.opening_step + median)


def half(asked: np.ndarray) -> np.ndarray:
    """As of a wide smile: half of the way."""
    return np.maximum(0.06 + 0.5 * (asked - 0.06), 0.0)


def half_more(asked: np.ndarray) -> np.ndarray:
    return np.maximum(1.5 * asked, 0.0)


def as_asked(asked: np.ndarray) -> np.ndarray:
    return np.maximum(asked, 0.0)


@pytest.mark.parametrize("answer", [half, half_more, as_asked])
def test_lips_open_as_far_as_meant_whatever_the_reference_makes_of_it(answer: Callable[..., np.ndarray]) -> None:
    """A p said by somebody who smiles would have open lips; somebody else would shout every word."""
    openings = np.array([0.0, 0.015, 0.03, 0.05, 0.08])
    assert np.abs(drawn(openings, answer) - openings).max() < 0.003


def test_lips_that_touch_are_not_pressed_further() -> None:
    shapes = np.full((1, mouth.shape_size), -median / mouth.opening_step, np.float32)
    offset, slope = response.fitted(as_asked(response.asked))
    assert (offset, slope) == pytest.approx((0, 1), abs=1e-9)
    assert response.to_ask(shapes, np.array([[offset, slope]])) == pytest.approx(shapes)


def test_a_measure_that_makes_no_line_changes_nothing() -> None:
    """Of a small face the mesh jumps: what is asked must not jump with it."""
    assert response.fitted(np.array([0.011, 0.015, 0.015, 0.049, 0.112, 0.112, 0.112])) == (0, 1)


def test_never_much_more_is_asked_than_is_meant() -> None:
    shapes = np.zeros((2, mouth.shape_size), np.float32)
    shapes[:, 0] = (-2, 4)
    asked = response.to_ask(shapes, np.array([[2.0, 0.4], [-2.0, 0.4]]))
    assert np.abs(asked - shapes)[:, 0].max() <= response.furthest
