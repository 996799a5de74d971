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
from core.mouth import opening_step, shape_size
from core.reference import References

rate = 25.0


def made_track(
    yaw: np.ndarray,
    opening: np.ndarray,
    size: float | np.ndarray = 100.0,
    thick: float | np.ndarray = 0.1,
    broad: float | np.ndarray = 0.3,
) -> Track:
    """Faces in one place whose nose lies `yaw` crop units beside the cheeks' middle, the lips open by `opening`."""
    n = len(yaw)
    inside = np.full((n, 478, 2), 0.5)
    inside[:, reference.left_cheek], inside[:, reference.right_cheek] = (0.9, 0.4), (0.1, 0.4)
    inside[:, reference.nose_tip, 0] = 0.5 + yaw
    inside[:, 10], inside[:, 2] = (0.5, 0.0), (0.5, 0.5)  # the face's height is 1
    inside[:, 13], inside[:, 14, 1] = (0.5, 0.7), 0.7 + opening
    inside[:, 0, 1], inside[:, 17, 1] = 0.7 - thick / 2, 0.7 + opening + thick / 2
    inside[:, 61, 0], inside[:, 291, 0] = 0.5 - broad / 2, 0.5 + broad / 2
    side = np.broadcast_to(size, n)[:, None, None]
    to_crop = np.concatenate([np.eye(2) / side, np.zeros((n, 2, 1))], 2)
    return Track(np.ones(n, bool), np.zeros(n, np.int32), to_crop, (inside * side).astype(np.float32))


def opened(track: Track) -> list[list[int]]:
    """Candidates with the usual opening, of each pose."""
    return [kinds[0] for kinds in reference.candidates(track, 0)]


def talking(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 0.1, n)


def known(*yaws: float) -> dict[int, References]:
    poses, k = np.array([made_pose(yaw) for yaw in yaws]), len(yaws)
    shapes = np.zeros((k, shape_size), np.float32)
    return {0: References(np.zeros((k, 8, 8, 3), np.uint8), np.arange(k), poses, shapes, np.zeros((k, 2, 2)))}


def made_pose(yaw: float) -> np.ndarray:
    track = made_track(np.array([yaw]), np.zeros(1))
    return reference.pose(track.points, track.to_crop)[0]


def test_a_head_that_only_sways_has_one_reference() -> None:
    """More would cost decoding and drawing, and change the picture of footage that one serves."""
    sway = 0.05 * np.sin(np.arange(300) / 9)
    track = made_track(sway, talking(300))
    [frames] = opened(track)
    assert len(frames) == reference.candidate_count
    shares = reference.weights(track, known(0), rate)
    assert (shares[:, 0] == 1).all() and not shares[:, 1:].any()


def test_each_pose_that_lasts_has_a_reference_with_open_lips_of_that_very_pose() -> None:
    yaw = np.repeat([0.0, 0.3, -0.25, 0.0], [120, 60, 50, 70])
    opening = talking(300)
    found = opened(made_track(yaw, opening))
    assert sorted(float(np.round(yaw[frames].mean(), 2)) for frames in found) == [-0.25, 0.0, 0.3]
    assert yaw[found[0]].tolist() == [0.0] * 5, "the usual pose comes first"
    for frames in found:
        assert frames == sorted(set(frames))
        assert opening[frames].min() > np.quantile(opening, 0.5)


def test_a_face_that_comes_near_has_a_reference_from_near() -> None:
    """A far one enlarged would make a soft mouth."""
    size = np.repeat([80.0, 240.0], [100, 60])
    found = opened(made_track(np.zeros(160), talking(160), size))
    assert [float(size[frames].mean()) for frames in found] == [80.0, 240.0]


def test_a_pose_of_a_moment_has_no_reference_of_its_own() -> None:
    """All its frames would be close neighbours of the reference: it would show the lips that are to be replaced."""
    yaw = np.repeat([0.0, 0.22, 0.0], [100, reference.fewest - 1, 100])
    assert len(opened(made_track(yaw, talking(len(yaw))))) == 1


def test_a_pose_with_closed_lips_has_no_reference_of_its_own() -> None:
    """It has no teeth to show: the net would have to invent them."""
    yaw = np.repeat([0.0, 0.22], [150, 60])
    opening = talking(210)
    opening[150:] = 0
    assert len(opened(made_track(yaw, opening))) == 1


@pytest.mark.parametrize("lips", ["talking", "shut"])
def test_a_head_that_turns_far_away_for_a_moment_has_a_reference_of_that_moment(lips: str) -> None:
    """A profile bent into a face that looks at us is a smear in the colours of what was behind the profile."""
    yaw = np.repeat([0.0, 0.4, 0.0, -0.4, 0.0], [100, 10, 100, reference.fewest_lonely - 1, 100])
    opening = talking(len(yaw))
    if lips == "shut":
        opening[100:110] = 0
    found = opened(made_track(yaw, opening))
    assert [{float(yaw[frame]) for frame in frames} for frames in found] == [{0.0}, {0.4}]


def test_steps_on_the_way_of_a_turn_are_no_poses() -> None:
    """Each would be a neighbour of its own frames."""
    yaw = np.concatenate([np.zeros(110), np.linspace(0, 0.5, 40), np.full(60, 0.5)])
    assert len(opened(made_track(yaw, talking(len(yaw))))) == 2


def test_between_two_poses_nobody_looks_for_a_third() -> None:
    yaw = np.tile(np.repeat([-0.3, 0.3], 50), 4)
    found = opened(made_track(yaw, talking(400)))
    assert sorted({float(yaw[frame]) for frame in frames}.pop() for frames in found) == [-0.3, 0.3]


def test_an_hour_of_turning_has_no_more_references_than_a_minute() -> None:
    yaw = 0.6 * np.sin(np.arange(20000) / 40)
    size = 100 * 2 ** np.sin(np.arange(20000) / 333)
    assert len(opened(made_track(yaw, talking(20000), size))) == reference.most_poses


def words(n: int) -> np.ndarray:
    """Openings of somebody who shuts the lips every 20 frames."""
    return 0.05 * np.abs(np.sin(np.arange(n) * np.pi / 20))


def test_shut_mouths_have_a_reference_of_their_own() -> None:
    """Lips that are shut over another frame's teeth have no seam."""
    opening = words(300)
    [[usual, shut]] = reference.candidates(made_track(np.zeros(300), opening), 0)
    assert opening[usual].min() > 0.04
    assert opening[shut].max() <= reference.touching


@pytest.mark.parametrize("which", ["thick", "broad"])
def test_pressed_lips_are_no_reference(which: str) -> None:
    """Every m would be said with that face."""
    opening = words(300)
    size = np.ones(300)
    odd = np.flatnonzero(opening <= reference.touching)[::2]
    size[odd] = {"thick": 0.7, "broad": 1.3}[which]
    lips: dict[str, Any] = {"thick": 0.1 * size} if which == "thick" else {"broad": 0.3 * size}
    [[_, shut]] = reference.candidates(made_track(np.zeros(300), opening, **lips), 0)
    assert len(shut) == reference.candidate_count
    assert not set(odd) & set(shut)


def test_lips_shut_in_another_pose_are_no_reference() -> None:
    """Shut lips that are bent into place lose their seam and their colour."""
    opening = np.maximum(words(300), 0.03)
    yaw = np.zeros(300)
    yaw[40:50], opening[40:50] = 0.13, 0.0  # too short for a pose of its own
    assert len(reference.candidates(made_track(yaw, opening), 0)[0]) == 1
    opening[200:203] = 0.0
    [[_, shut]] = reference.candidates(made_track(yaw, opening), 0)
    assert shut == [200, 201, 202]


def test_somebody_who_never_shuts_the_mouth_or_hardly_opens_it_has_one_reference() -> None:
    for opening in (0.02 + talking(200), talking(200) / 5):
        assert len(reference.candidates(made_track(np.zeros(200), opening), 0)[0]) == 1


def two_openings() -> dict[int, References]:
    """Of one pose, as the pipeline has them: the usual opening first."""
    crops, shapes = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, shape_size), np.float32)
    shapes[:, 0] = np.array([0.01, -0.04]) / opening_step
    return {0: References(crops, np.zeros(2, int), made_pose(0)[None], shapes, np.zeros((2, 2, 2)))}


def test_each_opening_is_drawn_from_the_reference_that_suits_it() -> None:
    wanted = np.repeat([-0.04, 0.01, -0.05, 0.08], 20)
    track = made_track(np.zeros(80), np.zeros(80))
    shares = reference.weights(track, two_openings(), rate, wanted)
    assert shares.sum(1) == pytest.approx(np.ones(80))
    settled = np.arange(80) % 20 // 2 % 9 > 0
    assert (shares.max(1) == 1)[settled].all()
    assert (shares.argmax(1) == np.repeat([1, 0, 1, 0], 20))[settled].all()
    mixed = (shares > 0).sum(1) > 1
    assert mixed.sum() == 6 and shares[mixed].max() < 0.7, "each change is spread over two frames"
    assert (reference.weights(track, two_openings(), rate)[:, 0] == 1).all(), "unknown: the usual opening"


def test_lips_that_tremble_between_two_openings_stay_with_one_reference() -> None:
    """Else teeth come and go with the sound's noise."""
    limit = -0.04 + 0.05 * (reference.opened + reference.shut) / 2
    wanted = limit + 0.002 * np.sin(np.arange(200) / 2)
    shares = reference.weights(made_track(np.zeros(200), np.zeros(200)), two_openings(), rate, wanted)
    assert (shares.max(1) == 1).all() and len(np.unique(shares.argmax(1))) == 1


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

    def watched(self: Engine, crops: np.ndarray, references: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        calls.append((crops, references))
        return generate(self, crops, references, *rest)

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
