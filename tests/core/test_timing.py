# SPDX-License-Identifier: GPL-3.0-or-later
"""Lips that lead or lag their sound: the frame ↔ mel window rule, at every rate an editor meets."""

from fractions import Fraction
from itertools import pairwise

import pytest

from core.timing import (
    frame_middle,
    legacy_mel_window,
    mel_rate,
    mel_start,
    mel_window,
    mel_window_length,
    sync_window,
)

rates = [Fraction(24000, 1001), *map(Fraction, (24, 25)), Fraction(30000, 1001), *map(Fraction, (30, 50))]
rates += [Fraction(60000, 1001), Fraction(60)]
ten_minutes = 600


def window_middle(start: int) -> Fraction:
    """Time of the middle of a mel window: between the centres of its first and last column."""
    return Fraction(2 * start + mel_window_length - 1, 2 * mel_rate)


@pytest.mark.parametrize("rate", rates, ids=str)
def test_the_net_hears_what_is_said_in_the_middle_of_the_picture_to_the_end_of_a_long_shot(rate: Fraction) -> None:
    for frame in range(int(ten_minutes * rate)):
        off = window_middle(mel_window(frame, rate)) - frame_middle(frame, rate)
        assert abs(off) <= Fraction(1, 160), f"frame {frame} hears sound {float(off):.4f} s off"


@pytest.mark.parametrize("rate", rates, ids=str)
def test_no_sound_is_skipped_and_none_runs_backwards(rate: Fraction) -> None:
    starts = [mel_window(frame, rate) for frame in range(1000)]
    steps = {b - a for a, b in pairwise(starts)}
    step = mel_rate / rate
    assert steps <= {int(step), int(step) + 1}
    assert max(steps) <= mel_window_length, "speech between two windows would be lost"


@pytest.mark.parametrize("rate", rates, ids=str)
def test_speech_that_begins_later_is_heard_later_by_exactly_that(rate: Fraction) -> None:
    """Speech moved by whole frames gives the same lips, moved by as many frames: no drift, no rounding."""
    moved = Fraction(37) / rate
    for frame in range(200):
        assert mel_window(frame + 37, rate, moved) == mel_window(frame, rate)
        assert mel_window(frame, rate, -moved) == mel_window(frame + 37, rate)


def test_a_frame_before_the_speech_hears_what_lies_before_its_first_column() -> None:
    assert mel_window(0, Fraction(25)) == -6  # 0.02 s is column 1.6; the window reaches 7.5 columns to each side
    assert mel_window(0, Fraction(25), Fraction(10)) < -mel_window_length


@pytest.mark.parametrize("length", [16, 32, 64])
def test_a_longer_window_has_the_same_middle(length: int) -> None:
    for frame in range(100):
        longer, usual = mel_window(frame, Fraction(25), length=length), mel_window(frame, Fraction(25))
        assert longer + length // 2 == usual + mel_window_length // 2
        assert longer == mel_start(frame_middle(frame, Fraction(25)), length)


def test_wav2lips_own_windows_differ_by_its_known_frame() -> None:
    """A published checkpoint rendered by our rule instead of its own would lead the sound by 40 ms."""
    rate = Fraction(25)
    assert [legacy_mel_window(i, rate) for i in range(4)] == [0, 3, 6, 9]
    assert [legacy_mel_window(i, rate, training=True) for i in range(1, 5)] == [0, 3, 6, 9]
    assert [legacy_mel_window(i, rate, Fraction(1, 25)) for i in range(1, 5)] == [0, 3, 6, 9]


def test_the_sync_expert_hears_the_middle_of_its_five_pictures() -> None:
    rate = Fraction(25)
    for frame in range(500):
        off = window_middle(sync_window(frame, rate)) - frame_middle(frame + 2, rate)
        assert -Fraction(17, 1000) < off <= 0, "Wav2Lip's rule: early, but by less than half a picture"
