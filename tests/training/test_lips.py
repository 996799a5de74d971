# SPDX-License-Identifier: GPL-3.0-or-later
"""Mouth shapes and the lip measure: numbers a researcher reports have to mean what they say."""

from __future__ import annotations

import math

import numpy as np

from training_cli import lips, shards
from training_cli.evaluate import lips as evaluate


def landmarks(opening: np.ndarray) -> np.ndarray:
    """Landmarks (T, 85, 2) of a still face whose mouth opens by `opening` crop units."""
    face = np.random.default_rng(0).uniform(0.2, 0.8, (shards.points.__len__(), 2))
    frames = np.tile(face, (len(opening), 1, 1))
    at = {point: i for i, point in enumerate(shards.points)}
    frames[:, at[13]] = (0.5, 0.7)
    frames[:, at[14], 0] = 0.5
    frames[:, at[14], 1] = 0.7 + opening
    return frames.astype(np.float32)


def test_a_shape_says_how_far_the_mouth_is_open_whoever_it_is():
    opening = np.array([0.0, 0.01, 0.02, 0.05, 0.01])
    shapes = lips.shapes(landmarks(opening))
    assert shapes.shape == (5, lips.shape_size)
    assert np.allclose(shapes[:, 0] * lips.scale[0], opening - 0.01, atol=1e-5)
    assert np.allclose(shapes[:, 3:], 0, atol=1e-5)
    moved = landmarks(opening) + np.float32(0.03)
    assert np.allclose(lips.shapes(moved), shapes, atol=1e-4)


def test_the_best_lag_is_the_one_that_was_put_in():
    truth = np.random.default_rng(1).normal(size=200).cumsum()
    seen = np.ones(200, bool)
    for lag in (-3, 0, 2):
        found = {k: evaluate._lagged(np.roll(truth, lag), truth, seen, k) for k in range(-8, 9)}
        assert max(found, key=lambda k: found[k]) == lag


def test_lips_that_do_not_move_follow_nothing():
    assert evaluate._correlation(np.zeros(9), np.arange(9.0)) == 0
    assert math.isclose(evaluate._correlation(np.arange(9.0), 2 * np.arange(9.0) + 1), 1)


def test_the_table_has_a_row_a_clip_and_their_mean():
    rows = [evaluate.LipScore(name, 100, r, 1, 0.0, 0.1, 0.5, 1.2, 0.9) for name, r in (("a.mp4", 0.2), ("b.mp4", 0.4))]
    lines = evaluate.lip_table(rows).splitlines()
    assert len(lines) == 5 and lines[2].startswith("| a.mp4 | 100 | 0.200 |") and "| 0.300 |" in lines[4]
