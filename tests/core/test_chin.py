# SPDX-License-Identifier: GPL-3.0-or-later
"""Shut lips over an open mouth: the new chin ends where the old one did, so that nobody has two."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from portrait_clips import portrait

from core.chin import ChinMatch
from core.faces import Track, Tracker, crop

size = 192
count = 12


@pytest.fixture(scope="module")
def track() -> Track:
    """A portrait's own mesh, in a shot of two runs."""
    picture = portrait()
    with Tracker(25.0) as tracker:
        for _ in range(count):
            tracker.add(picture)
        found = tracker.finish()
    assert found.found.all()
    return found


def source(track: Track) -> np.ndarray:
    return crop(portrait(), track.to_crop[0], size)


def chin(track: Track) -> tuple[float, float]:
    """Where the mesh has the chin's tip, in pixels of the crop."""
    u, v = track.to_crop[0, :, :2] @ track.points[0, 152] + track.to_crop[0, :, 2]
    return u * size, v * size


def raised(picture: np.ndarray, chin_y: float, pixels: float) -> np.ndarray:
    """The picture (s, s, 3) with a jaw that is drawn `pixels` higher, and lips that stay."""
    y, x = np.mgrid[: len(picture), : len(picture)].astype(np.float32)
    lips_end = chin_y - 0.15 * len(picture)
    share = np.clip((y - lips_end) / (chin_y - pixels - lips_end), 0, 1)
    return cv2.remap(picture, x, y + pixels * share, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def around_chin(picture: np.ndarray, at: tuple[float, float]) -> np.ndarray:
    x, y = (round(each) for each in at)
    return picture[y - 16 : y + 10, x - 20 : x + 20].astype(float)


def apart(one: np.ndarray, other: np.ndarray, at: tuple[float, float]) -> float:
    """Mean difference around the chin in levels."""
    return float(np.abs(around_chin(one, at) - around_chin(other, at)).mean())


@pytest.mark.parametrize("pixels", [3, 6, 10])
def test_a_chin_that_is_drawn_too_high_comes_down_to_the_source_s(track: Track, pixels: int) -> None:
    old, at = source(track), chin(track)
    new = raised(old, at[1], pixels)
    drawn = ChinMatch(track).match(new, old, 0)
    assert apart(drawn, old, at) < 0.45 * apart(new, old, at)
    lips_end = int(at[1] - 0.15 * size)
    assert np.array_equal(drawn[:lips_end], new[:lips_end]), "the lips are the net's own"


def test_a_chin_of_other_light_and_softness_comes_down_as_well(track: Track) -> None:
    """A net's skin has never quite the source's light."""
    old, at = source(track), chin(track)
    darker = np.clip(cv2.GaussianBlur(old, (0, 0), 1.5) * 0.85 + 8, 0, 255).astype(np.uint8)
    drawn = ChinMatch(track).match(raised(darker, at[1], 6), old, 0)
    assert apart(drawn, darker, at) < 0.45 * apart(raised(darker, at[1], 6), darker, at)


def test_a_chin_in_its_place_stays_to_the_bit(track: Track) -> None:
    old = source(track)
    assert np.array_equal(ChinMatch(track).match(old.copy(), old, 0), old)


def test_what_has_no_chin_like_the_source_s_is_left_alone(track: Track) -> None:
    """A beard, a scarf or a microphone there: a guess would tear the skin."""
    old = source(track)
    flat = np.full_like(old, 120)
    noise = np.random.default_rng(4).integers(0, 256, old.shape, np.uint8)
    for new, before in ((flat, old), (noise, old), (old, flat), (raised(old, chin(track)[1], 6), flat)):
        assert np.array_equal(ChinMatch(track).match(new, before, 0), new)


def test_the_chin_does_not_jump_with_a_single_frame(track: Track) -> None:
    """It follows within a few frames, and a gap or a cut begins anew."""
    old, at = source(track), chin(track)
    new = raised(old, at[1], 6)
    match = ChinMatch(track)
    assert np.array_equal(match.match(old, old, 0), old)
    left = [apart(match.match(new, old, i), old, at) for i in range(1, count)]
    assert left[0] > 1.5 * left[-1] and left[-1] < 0.45 * apart(new, old, at)
    match.restart()
    assert np.array_equal(match.match(old, old, 0), old)
