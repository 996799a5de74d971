# SPDX-License-Identifier: GPL-3.0-or-later
"""References by pose: a head that turns, drawn from one that does not, gets smeared lips and a second chin."""

from __future__ import annotations

import numpy as np
import pytest

from core import faces, reference
from core.faces import Track
from core.faces.mesh import forehead, lips_inner
from core.reference import left_cheek, nose_tip, right_cheek


def turning(turn: np.ndarray, opening: np.ndarray | None = None, shot: np.ndarray | None = None) -> Track:
    """A face whose nose lies so far beside the middle of its cheeks, in crops of 100 pixels; lips 0 to 1 open."""
    n = len(turn)
    points = np.zeros((n, 478, 2), np.float32) + 50
    points[:, [left_cheek, right_cheek], 0] = 80, 20
    points[:, forehead, 1] = 20
    points[:, nose_tip, 0] += 100 * turn
    points[:, lips_inner, 1] += (
        10
        * (np.zeros(n) if opening is None else opening)[:, None]
        * np.sin(np.arange(len(lips_inner)) * 2 * np.pi / len(lips_inner))
    )
    affine = np.array([[0.01, 0, 0], [0, 0.01, 0]])
    shots = np.zeros(n, np.int32) if shot is None else shot.astype(np.int32)
    return Track(np.ones(n, bool), shots, np.tile(affine, (n, 1, 1)), points)


def views(track: Track, fit: np.ndarray | None = None, used: np.ndarray | None = None) -> reference.Views:
    return reference.views(track, track.found if fit is None else fit, track.found if used is None else used)


def test_a_head_that_hardly_moves_has_one_reference() -> None:
    """And the time of one: no frame is drawn twice."""
    found = views(turning(0.03 * np.sin(np.arange(100) / 9)))
    assert len(found.candidates) == 1 and len(found.candidates[0]) == reference.candidate_count
    assert (found.first == 0).all() and not found.share.any()


def test_every_pose_is_drawn_from_a_reference_of_its_own() -> None:
    turn = np.repeat([-0.2, 0.0, 0.2], 40)
    track = turning(turn)
    found = views(track)
    assert 2 <= len(found.candidates) <= reference.most_poses
    for frame in (5, 20, 60, 100, 115):
        held = turn[list(found.candidates[found.first[frame]])]
        assert np.abs(held - turn[frame]).max() < 0.06, frame


def test_the_lips_of_each_reference_are_open() -> None:
    """Teeth that no reference shows cannot be moved into place."""
    random = np.random.default_rng(1)
    opening = random.uniform(0, 1, 200)
    track = turning(np.repeat([-0.15, 0.15], 100), opening)
    for candidates, half in zip(views(track).candidates, (slice(0, 100), slice(100, 200)), strict=True):
        usual = np.quantile(faces.lip_opening(track.points[half]), reference.usual_open)
        assert np.abs(faces.lip_opening(track.points[list(candidates)]) - usual).max() < 0.02


def test_one_who_sways_between_two_poses_does_not_change_to_and_fro() -> None:
    """Each change is four frames of two pictures laid over each other."""
    slow = np.concatenate([np.full(60, -0.12), np.linspace(-0.12, 0.12, 60), np.full(60, 0.12)])
    swaying = slow + 0.012 * np.sin(np.arange(180) * 0.9)
    changes = np.flatnonzero(np.diff(views(turning(swaying)).first))
    assert len(changes) == len(views(turning(swaying)).candidates) - 1


def test_a_change_of_reference_fades() -> None:
    found = views(turning(np.repeat([-0.15, 0.15], 50)))
    (change,) = np.flatnonzero(np.diff(found.first)) + 1
    fading = np.s_[change : change + reference.fade_frames]
    assert (np.diff(found.share[fading]) < 0).all() and found.share[fading].max() < 1
    assert (found.second[fading] == found.first[change - 1]).all()
    assert not found.share[:change].any() and not found.share[change + reference.fade_frames :].any()


def test_across_a_cut_nothing_fades_and_nobody_is_drawn_from_another_shot() -> None:
    turn, shot = np.repeat([-0.15, 0.15, -0.15], 30), np.repeat([0, 1, 2], 30)
    found = views(turning(turn, shot=shot))
    assert not found.share.any() and len(found.candidates) == 3
    for number, candidates in enumerate(found.candidates):
        assert (shot[list(candidates)] == number).all() and (found.first[shot == number] == number).all()


def test_what_is_hidden_is_no_reference_and_a_shot_that_is_not_drawn_has_none() -> None:
    n = 60
    fit = np.arange(n) % 3 > 0
    shot = np.repeat([0, 1], n // 2)
    found = views(turning(np.zeros(n), shot=shot), fit, used=shot == 1)
    (candidates,) = found.candidates
    assert all(fit[frame] and shot[frame] == 1 for frame in candidates)
    assert (found.first[shot == 0] == -1).all()


def test_a_pose_of_a_moment_gets_no_reference() -> None:
    """Of three frames there is no choice of lips: the frame itself would be its own reference."""
    turn = np.zeros(100)
    turn[50:53] = 0.3
    assert len(views(turning(turn)).candidates) == 1


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_shortest_shots_have_a_reference(count: int) -> None:
    found = views(turning(np.linspace(-0.3, 0.3, count)))
    assert len(found.candidates) == 1 and len(found.candidates[0]) == min(count, reference.candidate_count)


def test_frames_that_are_shown_again_keep_their_reference() -> None:
    found = views(turning(np.repeat([-0.15, 0.15], 50)))
    source = np.r_[0:100, 99:-1:-1]
    shown = found.shown(source)
    assert (shown.first == found.first[source]).all() and (shown.share == found.share[source]).all()


def test_hours_of_turning_need_no_more_references() -> None:
    long = views(turning(0.4 * np.sin(np.arange(5000) / 40)))
    assert len(long.candidates) == reference.most_poses
