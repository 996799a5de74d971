# SPDX-License-Identifier: GPL-3.0-or-later
"""Skin that pulses with every syllable is seen at once, even where each still is good."""

from __future__ import annotations

import numpy as np
import pytest

from core.deflicker import Deflicker

size = 96
skin = np.zeros((size, size), bool)
skin[50:90, 20:76] = True


def plain(levels: np.ndarray | float) -> np.ndarray:
    return np.ones((size, size, 3), np.float32) * np.asarray(levels, np.float32)


def shown(drawn: np.ndarray, source: np.ndarray) -> np.ndarray:
    """(n, 3) colours after the deflicker of n frames with these colours of the skin."""
    deflicker = Deflicker()
    frames = [deflicker.match(plain(d), plain(s).astype(np.uint8), skin) for d, s in zip(drawn, source, strict=True)]
    return np.array([frame[skin].mean(0) for frame in frames])


def wavering(levels: np.ndarray) -> float:
    return float(np.abs(np.diff(levels, n=2, axis=0)).mean())


def test_skin_that_pulses_on_steady_footage_pulses_half_as_much() -> None:
    pulse = 120 + 6 * np.random.default_rng(1).standard_normal((60, 1)) * [1, 0.8, 0.5]
    before, after = wavering(pulse[5:]), wavering(shown(pulse, np.full((60, 3), 120.0))[5:])
    assert 0.4 * before < after < 0.65 * before


def test_a_flash_and_a_passing_shadow_stay_in_step_with_the_footage() -> None:
    light = np.full(60, 100.0)
    light[20:23] += 60
    light[40:] -= np.minimum(np.arange(20) * 4, 40)
    source = light[:, None] * np.ones(3)
    assert np.abs(shown(source + 7, source) - source - 7).max() < 0.6


def test_two_wavers_that_have_nothing_to_do_with_each_other_become_less_than_either() -> None:
    random = np.random.default_rng(2)
    drawn, source = (130 + 5 * random.standard_normal((200, 1)) * np.ones(3) for _ in range(2))
    result = wavering(shown(drawn, np.rint(source))[5:])
    assert result < 0.85 * min(wavering(drawn[5:]), wavering(source[5:]))


def test_a_lasting_difference_is_not_its_business() -> None:
    """Else skin under another light would be pulled about by the mouth that it replaces."""
    assert np.abs(shown(np.full((60, 3), 140.0), np.full((60, 3), 100.0)) - 140).max() < 1e-3


def test_after_a_cut_the_shot_before_is_forgotten() -> None:
    deflicker = Deflicker()
    for _ in range(10):
        deflicker.match(plain(180), plain(100).astype(np.uint8), skin)
    deflicker.restart()
    assert deflicker.match(plain(90), plain(100).astype(np.uint8), skin)[60, 40] == pytest.approx(90)


def test_a_face_without_bare_skin_is_left_as_it_was_drawn() -> None:
    drawn = plain(123)
    assert Deflicker().match(drawn, plain(99).astype(np.uint8), np.zeros_like(skin)) is drawn
