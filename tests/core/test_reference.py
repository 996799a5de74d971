# SPDX-License-Identifier: GPL-3.0-or-later
"""References by pose: with one for a head that turns, lips smear; with a sudden change of them, the mouth jumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import faces, media, redub, reference
from core.engine import Engine
from core.faces import Track
from core.job import RedubJob
from core.reference import References

rate = 25.0


def made_track(yaw: np.ndarray, opening: np.ndarray, size: float | np.ndarray = 100.0) -> Track:
    """Faces in one place whose nose lies `yaw` crop units beside the cheeks' middle, the lips open by `opening`."""
    n = len(yaw)
    inside = np.full((n, 478, 2), 0.5)
    inside[:, reference.left_cheek], inside[:, reference.right_cheek] = (0.9, 0.4), (0.1, 0.4)
    inside[:, reference.nose_tip, 0] = 0.5 + yaw
    inside[:, 10], inside[:, 2] = (0.5, 0.0), (0.5, 0.5)  # the face's height is 1
    inside[:, 13], inside[:, 14, 1] = (0.5, 0.7), 0.7 + opening
    side = np.broadcast_to(size, n)[:, None, None]
    to_crop = np.concatenate([np.eye(2) / side, np.zeros((n, 2, 1))], 2)
    return Track(np.ones(n, bool), np.zeros(n, np.int32), to_crop, (inside * side).astype(np.float32))


def talking(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 0.1, n)


def known(*yaws: float) -> dict[int, References]:
    poses = np.array([made_pose(yaw) for yaw in yaws])
    return {0: References(np.zeros((len(yaws), 8, 8, 3), np.uint8), poses)}


def made_pose(yaw: float) -> np.ndarray:
    track = made_track(np.array([yaw]), np.zeros(1))
    return reference.pose(track.points, track.to_crop)[0]


def test_a_head_that_only_sways_has_one_reference() -> None:
    """More would cost decoding and drawing, and change the picture of footage that one serves."""
    sway = 0.05 * np.sin(np.arange(300) / 9)
    track = made_track(sway, talking(300))
    [frames] = reference.candidates(track, 0)
    assert len(frames) == reference.candidate_count
    shares = reference.weights(track, known(0), rate)
    assert (shares[:, 0] == 1).all() and not shares[:, 1:].any()


def test_each_pose_that_lasts_has_a_reference_with_open_lips_of_that_very_pose() -> None:
    yaw = np.repeat([0.0, 0.3, -0.25, 0.0], [120, 60, 50, 70])
    opening = talking(300)
    found = reference.candidates(made_track(yaw, opening), 0)
    assert sorted(float(np.round(yaw[frames].mean(), 2)) for frames in found) == [-0.25, 0.0, 0.3]
    assert yaw[found[0]].tolist() == [0.0] * 5, "the usual pose comes first"
    for frames in found:
        assert frames == sorted(set(frames))
        assert opening[frames].min() > np.quantile(opening, 0.5)


def test_a_face_that_comes_near_has_a_reference_from_near() -> None:
    """A far one enlarged would make a soft mouth."""
    size = np.repeat([80.0, 240.0], [100, 60])
    found = reference.candidates(made_track(np.zeros(160), talking(160), size), 0)
    assert [float(size[frames].mean()) for frames in found] == [80.0, 240.0]


def test_a_pose_of_a_moment_has_no_reference_of_its_own() -> None:
    """All its frames would be close neighbours of the reference: it would show the lips that are to be replaced."""
    yaw = np.repeat([0.0, 0.3, 0.0], [100, reference.fewest - 1, 100])
    assert len(reference.candidates(made_track(yaw, talking(len(yaw))), 0)) == 1


def test_a_pose_with_closed_lips_has_no_reference_of_its_own() -> None:
    """It has no teeth to show: the net would have to invent them."""
    yaw = np.repeat([0.0, 0.3], [150, 60])
    opening = talking(210)
    opening[150:] = 0
    assert len(reference.candidates(made_track(yaw, opening), 0)) == 1


def test_between_two_poses_nobody_looks_for_a_third() -> None:
    yaw = np.tile(np.repeat([-0.3, 0.3], 50), 4)
    found = reference.candidates(made_track(yaw, talking(400)), 0)
    assert sorted({float(yaw[frame]) for frame in frames}.pop() for frames in found) == [-0.3, 0.3]


def test_an_hour_of_turning_has_no_more_references_than_a_minute() -> None:
    yaw = 0.6 * np.sin(np.arange(20000) / 40)
    size = 100 * 2 ** np.sin(np.arange(20000) / 333)
    assert len(reference.candidates(made_track(yaw, talking(20000), size), 0)) == reference.most


def test_a_change_of_reference_is_mixed_and_never_jumps() -> None:
    yaw = np.repeat([0.0, 0.3], [40, 40])
    shares = reference.weights(made_track(yaw, np.zeros(80)), known(0, 0.3), rate)
    assert shares.sum(1) == pytest.approx(np.ones(80))
    assert (shares[:30, 0] == 1).all() and (shares[50:, 1] == 1).all()
    assert np.abs(np.diff(shares, axis=0)).max() < 0.15
    mixed = (shares > 0).sum(1) > 1
    assert 5 <= mixed.sum() <= 12, "every mixed frame is drawn twice"


def test_a_head_that_trembles_between_two_poses_stays_with_one_reference() -> None:
    yaw = 0.15 + 0.02 * np.sin(np.arange(200) / 3)
    shares = reference.weights(made_track(yaw, np.zeros(200)), known(0, 0.3), rate)
    assert (shares.max(1) == 1).all() and len(np.unique(shares.argmax(1))) == 1


def test_a_cut_and_a_lost_face_end_a_mix() -> None:
    """Else the first frames after a cut would show the person of the shot before."""
    yaw = np.repeat([0.0, 0.3], [40, 40])
    track = replace(
        made_track(yaw, np.zeros(80)), shot=np.repeat([0, 1], 40).astype(np.int32), found=np.arange(80) != 20
    )
    shares = reference.weights(track, {0: known(0, 0.3)[0], 1: known(0.3)[0]}, rate)
    assert not shares[20].any()
    assert (shares[[*range(20), *range(21, 40)], 0] == 1).all()
    assert (shares[40:, 0] == 1).all()


@pytest.fixture
def two_poses(
    make_clip: Callable[..., Path],
    make_speech: Callable[..., Path],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RedubJob:
    """A job on a portrait of 80 frames that is followed as ever, but counts as turned at the end."""
    follow = redub._follow_faces

    def turned(*arguments: Any) -> list[Track]:
        [track] = follow(*arguments)
        points = track.points.copy()
        points[50:, reference.nose_tip, 0] += 0.3 / np.linalg.norm(track.to_crop[50:, 0, :2], axis=1)
        points[::3, 14, 1] += 6  # somebody who talks
        return [replace(track, points=points)]

    monkeypatch.setattr(redub, "_follow_faces", turned)
    return RedubJob(
        video=str(make_clip(80)),
        speech=str(make_speech(3.2)),
        output=str(tmp_path / "out.mkv"),
        model=str(tiny_model),
        device="cpu",
        quality="lossless",
        silence="off",
        sound="none",
        turn_limit=90.0,
    )


def test_the_pipeline_draws_each_frame_from_the_reference_of_its_pose(
    two_poses: RedubJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[np.ndarray, np.ndarray]] = []
    generate = Engine.generate

    def watched(self: Engine, crops: np.ndarray, references: np.ndarray, heard: np.ndarray) -> np.ndarray:
        calls.append((crops, references))
        return generate(self, crops, references, heard)

    monkeypatch.setattr(Engine, "generate", watched)
    reads: list[int] = []
    read = media.read

    def counted(*arguments: Any) -> Any:
        reads.append(1)
        return read(*arguments)

    monkeypatch.setattr(media, "read", counted)
    assert redub.run(two_poses).changed == 80
    assert len(reads) == 4, "more references are no more passes"
    used = np.concatenate([references for _, references in calls])
    distinct = np.unique(used.reshape(len(used), -1), axis=0)
    assert len(distinct) == 2
    assert len(used) - 80 in range(4, 14), "only the mixed frames are drawn twice"
    assert max(len(crops) for crops, _ in calls) <= two_poses.batch_size

    shot = redub._open(two_poses)
    pictures = [picture.rgb() for picture in shot.pictures()]
    speeches = [redub._hear(two_poses, two_poses.face, two_poses.speech, two_poses.speech_start)]
    engine = redub._engine(two_poses.model, two_poses.device)
    [track] = redub._follow_faces(two_poses, shot, speeches, engine, lambda frame: None)
    crops = np.stack([faces.crop(rgb, to, 96) for rgb, to in zip(pictures, track.to_crop, strict=True)])
    came_from = {int((crops == r).all(axis=(1, 2, 3)).argmax()) for r in used}
    assert {frame < 50 for frame in came_from} == {True, False}
    for shown, references in calls:
        for face, seen in zip(shown, references, strict=True):
            frame = int((crops == face).all(axis=(1, 2, 3)).argmax())
            source = int((crops == seen).all(axis=(1, 2, 3)).argmax())
            if not 40 <= frame < 60:
                assert (frame < 50) == (source < 50)


def test_footage_shown_forth_and_back_keeps_the_references_of_its_shot(
    two_poses: RedubJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back would be painted from no reference, or from the wrong one."""
    shares: list[np.ndarray] = []
    weigh = reference.weights

    def watched(*arguments: Any) -> np.ndarray:
        shares.append(weigh(*arguments))
        return shares[-1]

    monkeypatch.setattr(reference, "weights", watched)
    result = redub.run(replace(two_poses, sync_mode="bounce", speech_start=Fraction(1)))
    assert result.frames == len(shares[0]) == 105
    turned = 79 - np.abs(np.arange(105) - 79) >= 50
    settled = (shares[0].max(1) == 1) & (np.arange(105) != 79)
    assert (shares[0].argmax(1) == turned)[settled].all() and settled.sum() > 80
