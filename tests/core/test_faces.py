# SPDX-License-Identifier: GPL-3.0-or-later
"""Faces found, followed and cropped: a crop that shakes or sits beside the face ruins every frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from core.faces import Tracker, align, crop, expand, fit, lip_opening, smooth, uncrop
from core.faces.mesh import rigid, rigid_in_crop


def portrait(x: float = 0, y: float = 0, scale: float = 1, degrees: float = 0, size: tuple[int, int] = (640, 480)):
    """The public-domain portrait, its face (about 110 pixels wide) moved off the frame's middle by x, y."""
    affine = cv2.getRotationMatrix2D((222, 115), degrees, scale)
    affine[:, 2] += (size[0] / 2 - 222 + x, size[1] / 2 - 115 + y)
    return cv2.warpAffine(skimage.data.astronaut(), affine, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)


def track(frames):
    with Tracker(25) as tracker:
        for frame in frames:
            tracker.add(frame)
        return tracker.finish()


def test_a_moving_face_keeps_its_place_in_the_crop():
    frames = [portrait(x=6 * i - 60, y=2 * i, scale=1 + 0.02 * i, degrees=i) for i in range(20)]
    faces = track(frames)
    assert faces.found.all() and (faces.shot == 0).all()
    ones = np.ones((20, len(rigid), 1))
    points = np.concatenate([faces.points[:, rigid], ones], 2)
    placed = np.einsum("nij,npj->npi", faces.to_crop, points)
    assert np.abs(placed - rigid_in_crop).mean() < 0.03
    crops = np.stack([crop(f, m, 96) for f, m in zip(frames, faces.to_crop, strict=True)]).astype(float)
    still = np.abs(crops[3:-3] - crops[10]).mean()
    raw = np.abs(np.stack(frames).astype(float)[3:-3] - frames[10]).mean()
    assert still < 0.35 * raw


def test_frames_without_a_face_are_said_to_have_none_and_the_face_is_found_again():
    empty = np.full((480, 640, 3), 90, np.uint8)
    faces = track([portrait()] * 3 + [empty] * 4 + [portrait(x=90)] * 3)
    assert faces.found.tolist() == [True] * 3 + [False] * 4 + [True] * 3
    assert np.isnan(faces.to_crop[3:7]).all() and np.isfinite(faces.to_crop[7:]).all()
    assert faces.shot[0] != faces.shot[-1]


def test_a_cut_to_another_place_does_not_drag_the_crop_along():
    here, there = portrait(x=-150, scale=0.9), portrait(x=150, scale=1.2)
    faces = track([here] * 5 + [there] * 5)
    alone = track([there] * 5)
    assert faces.found.all() and faces.shot.tolist() == [0] * 5 + [1] * 5
    assert np.abs(faces.to_crop[5:] - alone.to_crop).max() < 0.03


def test_a_small_face_in_a_large_frame_is_found():
    assert track([portrait(scale=0.55, size=(1920, 1080), x=-500, y=200)] * 2).found.all()


def test_smoothing_takes_out_jitter_without_lag():
    rng = np.random.default_rng(0)
    points = np.tile(np.full((478, 2), 100.0), (60, 1, 1))
    points[:, rigid, :] = rigid_in_crop * 200 + 50
    points += np.linspace(0, 80, 60)[:, None, None]
    clean = fit(points)
    shaken = fit(points + rng.normal(0, 1.5, (60, 1, 2)))
    calm = smooth(shaken, 25)

    def speed_changes(path):
        return np.abs(np.diff(path[:, 0, 2], 2)).mean()

    assert speed_changes(calm) < 0.35 * speed_changes(shaken)
    assert np.abs(smooth(clean, 25)[5:-5] - clean[5:-5]).max() < 1e-6


@pytest.mark.parametrize("degrees", [0, 17])
def test_a_crop_put_back_lies_where_it_came_from(degrees):
    frame = portrait(degrees=degrees)
    to_crop = track([frame]).to_crop[0]
    x, y, picture, inside = uncrop(crop(frame, to_crop, 400), to_crop, frame.shape)
    height, width = inside.shape
    difference = np.abs(picture - frame[y : y + height, x : x + width])[inside == 1]
    assert difference.mean() < 3
    shifted = np.abs(picture - np.roll(frame, 1, 1)[y : y + height, x : x + width])[inside == 1]
    assert difference.mean() < 0.7 * shifted.mean()


def test_a_crop_partly_or_wholly_outside_the_frame_is_put_back_without_harm():
    to_crop = np.array([[0.01, 0, 0.5], [0, 0.01, 0.5]])
    patch = np.full((96, 96, 3), 200, np.uint8)
    x, y, picture, inside = uncrop(patch, to_crop, (80, 60, 3))
    assert (x, y) == (0, 0) and picture.shape == (50, 50, 3) and inside.max() == 1
    far = to_crop + np.array([0, 0, 9])
    assert uncrop(patch, far, (80, 60, 3))[2].size == 0


@pytest.mark.parametrize("seed", range(12))
def test_a_crop_reads_only_the_face_and_is_the_same_as_from_the_whole_frame(seed, monkeypatch):
    """Reading a few pixels too few would smear a face's edge; at the frame's edges they are repeated."""
    random = np.random.default_rng(seed)
    frame = random.integers(0, 256, (270, 480, 3)).astype(np.uint8)

    class Read:
        shape, most = frame.shape, 0

        def __getitem__(self, part):
            self.most = max(self.most, frame[part].size)
            return frame[part]

    for _ in range(10):
        side, turn = np.exp(random.uniform(np.log(20), np.log(500))), random.uniform(-0.6, 0.6)
        linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / side
        middle = random.uniform((-90, -90), (570, 360))
        to_crop = np.column_stack([linear, 0.5 - linear @ middle])
        size = int(random.choice([8, 96, 192]))
        read = Read()
        seen = crop(read, to_crop, size)
        assert read.most <= 3 * (1.42 * side + 8) ** 2
        with monkeypatch.context() as everywhere:
            everywhere.setattr(align, "around", 1000)
            assert np.array_equal(seen, crop(frame, to_crop, size))


def test_a_wider_crop_shows_the_same_face_smaller():
    frame = portrait()
    to_crop = track([frame]).to_crop[0]
    wide, near = crop(frame, expand(to_crop, 8 / 96), 112), crop(frame, to_crop, 96)
    assert np.abs(wide[8:-8, 8:-8].astype(float) - near).mean() < 3


def test_lip_opening_grows_with_the_mouth_and_not_with_the_picture():
    points = np.zeros((2, 478, 2))
    points[:, 10], points[:, 2] = (0, 0), (0, 60)
    points[:, 13], points[0, 14], points[1, 14] = (0, 80), (0, 80), (0, 92)
    assert lip_opening(points).tolist() == [0, 0.1]
    assert np.allclose(lip_opening(points * 3), lip_opening(points))
