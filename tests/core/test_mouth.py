# SPDX-License-Identifier: GPL-3.0-or-later
"""Mouth shapes: lips shall open as far as they are told, whoever's they are and whatever the reference shows."""

from __future__ import annotations

import numpy as np
import pytest
from portrait_clips import picture

from core import faces, mouth, response
from core.engine import Engine
from core.faces import Track, Tracker
from core.reference import References, lip_edges, lip_gap, lip_places

frame = picture(0, 640, 480)
size = 192


def followed(shown: np.ndarray) -> Track:
    with Tracker(25.0) as tracker:
        tracker.add(shown)
        return tracker.finish()


@pytest.fixture(scope="module")
def face() -> Track:
    return followed(frame)


def pasted(drawn: np.ndarray, to_crop: np.ndarray) -> np.ndarray:
    x, y, patch, inside = faces.uncrop(drawn, to_crop, frame.shape)
    result = frame.astype(np.float32)
    there = result[y : y + patch.shape[0], x : x + patch.shape[1]]
    there += inside[..., None] * (patch - there)
    return np.rint(result).astype(np.uint8)


def opening(shown: np.ndarray, face: Track) -> float:
    """Of the lips in a picture, crop units."""
    return float(lip_gap(followed(shown).points, face.to_crop)[0])


def test_lips_open_as_far_as_told_from_whatever_reference(face: Track) -> None:
    """With the bundled model. A shape counts from the person's median: open lips taken for the median's would open
    twice, and a smile never shut."""
    engine = Engine("", "cpu")
    crop = faces.crop(frame, face.to_crop[0], size)
    smile = float(lip_gap(face.points, face.to_crop)[0])

    def steps(to: float) -> np.ndarray:
        """The shape of lips that are so far open, against the portrait's."""
        return ((to - smile) / mouth.opening_step * mouth.along).astype(np.float32)

    def drawn(to: np.ndarray, reference: np.ndarray, shown: np.ndarray) -> np.ndarray:
        return engine.generate(crop[None], reference[None], to[None], shown[None])[0]

    def seen(drawn: np.ndarray) -> float:
        return opening(pasted(drawn, face.to_crop[0]), face)

    wide = drawn(steps(0.11), crop, steps(smile))
    shown = np.stack([steps(smile), steps(seen(wide))])
    lips = np.concatenate([lip_places(track) for track in (face, followed(pasted(wide, face.to_crop[0])))])
    known = References(np.stack([crop, wide]), np.zeros(2, int), np.zeros((1, 3)), shown, lips)
    answers = response.measured(engine, {0: known}, lambda: None)[0].answers
    assert answers is not None
    for reference, shape, answer in zip(known.crops, shown, answers, strict=True):
        found, outer = [], []
        for wanted in (0.0, 0.03, 0.06, 0.09):
            [asked] = response.to_ask(steps(wanted)[None], shape[None], answer[None])
            track = followed(pasted(drawn(asked, reference, shape), face.to_crop[0]))
            found.append(float(lip_gap(track.points, face.to_crop)[0]))
            outer.append(float(lip_gap(track.points, face.to_crop, *lip_edges)[0]))
        assert found[0] < 0.03 and found[0] < seen(drawn(steps(0.0), reference, shape))
        assert found[1:3] == pytest.approx([0.03, 0.06], abs=0.015)
        # the mesh takes some of the teeth that hang in an open smile for its upper lip, but knows the lips' outer edges
        assert found[3] > 0.07 and outer[3] - outer[2] == pytest.approx(0.03, abs=0.01)


def test_numbers_are_in_steps() -> None:
    points = np.random.default_rng(0).uniform(0.2, 0.8, (1, len(mouth.points), 2)).repeat(5, 0)
    apart = np.array([0.0, 0.012, 0.024, 0.048, 0.096])
    points[:, 1] = points[:, 0] + np.column_stack([np.zeros(5), apart])
    points[:, 10, 1] += apart
    numbers = mouth.numbers(points)
    shapes = numbers - np.median(numbers, 0)
    assert shapes.shape == (5, mouth.shape_size)
    assert shapes[:, 0] == pytest.approx([-1, -0.5, 0, 1, 3], abs=1e-4)
    assert shapes[:, 6] == pytest.approx((apart - apart[2]) / mouth.steps[6], abs=1e-4)
    assert np.abs(np.delete(shapes, (0, 6), axis=1)).max() < 1e-5
