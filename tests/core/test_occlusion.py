# SPDX-License-Identifier: GPL-3.0-or-later
"""What is before a mouth stays before it, and what turns away is left alone: else a hand gets lips painted on it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from portrait_clips import picture

from core import compose, media, occlusion, redub
from core.chin import lower_jaw
from core.faces import Track, Tracker
from core.faces.mesh import lips_outer
from core.job import RedubJob, Result
from core.plan import plan_effect, turned_away

count = 50


def microphone(index: int, highest: int) -> np.ndarray:
    """(240, 320) float32: a microphone that rises before the face from frame 18 to 22 and falls from 34 to 38."""
    rise = np.clip(min(index - 18, 38 - index) / 4, 0, 1)
    area = np.zeros((240, 320), np.uint8)
    if rise > 0:
        middle = (round((158 + 0.4 * (index - 25)) * 16), round((240 - rise * (240 - highest)) * 16))
        cv2.ellipse(area, middle, (30 * 16, 34 * 16), 0, 0, 360, (255,), -1, cv2.LINE_AA, 4)
    return area.astype(np.float32) / 255


def laid_over(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return np.clip(below * (1 - cover) + above * cover, 0, 255).astype(np.uint8)


def frame(index: int, highest: int) -> np.ndarray:
    cover = microphone(index, highest)[..., None]
    mesh = 45 + 12 * np.random.default_rng(5).standard_normal((240, 320, 1)).astype(np.float32)
    return laid_over(picture(index), mesh, cover)


@pytest.fixture
def redubbed(
    make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> Callable[..., tuple[Result, list[np.ndarray]]]:
    """The footage with a microphone up to a row, and what becomes of it."""

    def run(highest: int, **changes: object) -> tuple[Result, list[np.ndarray]]:
        names = []
        for i in range(count):
            names.append(str(tmp_path / f"shot_{i:04d}.png"))
            cv2.imwrite(names[-1], frame(i, highest)[..., ::-1])
        job = RedubJob(
            images=tuple(names),
            rate=Fraction(25),
            speech=str(make_speech(count / 25)),
            output=str(tmp_path / "out"),
            model=str(tiny_model),
            silence="off",
            **changes,  # type: ignore[arg-type]
        )
        result = redub.run(job)
        after = media.read(
            media.probe_images([str(tmp_path / "out" / n) for n in result.images], Fraction(25)), 0, count
        )
        return result, [p.rgb() for p in after]

    return run


def test_a_microphone_before_the_mouth_stays_in_front_and_the_hidden_mouth_is_left_alone(redubbed) -> None:
    result, after = redubbed(150)
    assert len(result.untouched) == 1
    first, last, why = result.untouched[0]
    assert why == "mouth hidden" and 18 <= first <= 24 and 32 <= last <= 39
    changes = [np.abs(new.astype(float) - frame(i, 150)) for i, new in enumerate(after)]
    for i in range(count):
        solid = cv2.erode(microphone(i, 150), np.ones((9, 9))) > 0.99
        if solid.any():
            assert changes[i][solid].mean() < 6, f"lips were painted over the microphone in frame {i}"
    amounts = np.array([change.sum() for change in changes])
    assert amounts[first : last + 1].max() == 0
    assert amounts[:14].min() > 0 and amounts[44:].min() > 0
    assert amounts[first - 1] < 0.5 * amounts[first - 8], "the new lips end at once"


def test_without_the_look_nothing_is_kept(redubbed) -> None:
    result, after = redubbed(150, in_front="ignore")
    assert not any(why == "mouth hidden" for _, _, why in result.untouched)
    solid = cv2.erode(microphone(28, 150), np.ones((9, 9))) > 0.99
    assert np.abs(after[28].astype(float) - frame(28, 150))[solid].mean() > 6


def watched(
    pictures: list[np.ndarray], rate: float = 25.0, turned: dict[int, float] | None = None
) -> tuple[occlusion.Hidden, Track]:
    """What is before the face in pictures; `turned`: degrees that the head is said to be turned further."""
    with Tracker(rate) as tracker:
        for rgb in pictures:
            tracker.add(rgb)
        track = tracker.finish()
    for i, degrees in (turned or {}).items():
        width = track.points[i, 454, 0] - track.points[i, 234, 0]
        track.points[i, 1, 0] += 1.3 * np.tan(np.radians(degrees)) * width / 2
    with occlusion.Watch(track, rate) as watch:
        for i, rgb in enumerate(pictures):
            if track.found[i]:
                watch.add(i, rgb)
        return watch.finish(), track


def test_what_covers_the_chin_only_stays_in_front_while_the_mouth_speaks_on() -> None:
    hidden, track = watched([frame(i, 188) for i in range(count)])
    assert not hidden.mouth.any()
    assert hidden.fronts and min(hidden.fronts) >= 16 and max(hidden.fronts) <= 40
    middle = hidden.fronts[28]
    lips = compose.outline(track).lips[28].mean(0)
    column, row = (lips * occlusion.cells).astype(int)
    assert middle[row - 1, column] < 0.3 < 0.7 < middle[min(row + 5, occlusion.cells - 1), column]


def test_what_is_there_for_most_of_a_shot_does_not_make_the_bare_face_look_hidden() -> None:
    """A speaker who lowers the microphone for a moment would else keep the old lips just then."""
    hidden, _ = watched([frame(28, 150) if i < 20 or i > 38 else picture(28) for i in range(count)])
    assert not hidden.mouth[20:39].any()


def bearded(rgb: np.ndarray) -> np.ndarray:
    """The same man with a grey beard around his mouth."""
    with Tracker(25.0) as tracker:
        tracker.add(rgb)
        points = tracker.finish().points[0]
    area, lips = np.zeros((2, *rgb.shape[:2]), np.uint8)
    cv2.fillConvexPoly(area, cv2.convexHull(points[list((*lower_jaw, 57, 287))].astype(np.int32)), (255,))
    cv2.fillConvexPoly(lips, cv2.convexHull(points[list(lips_outer)].astype(np.int32)), (255,))
    cover = cv2.GaussianBlur(cv2.subtract(area, lips), (0, 0), 2)[..., None] / np.float32(255)
    return laid_over(rgb, 0.35 * rgb + (38, 36, 34), cover)


@pytest.mark.parametrize(("colour", "turned"), [((66, 48, 42), 0.0), ((48, 50, 46), 24.0)])
def test_a_microphone_before_a_beard_through_most_of_a_shot_is_no_part_of_the_face(
    colour: tuple[int, int, int], turned: float
) -> None:
    """A podcast: it is there longer than not, as brown as the beard, or whenever the head is turned to it.

    Lips were painted on it. A portrait cannot turn: its nose is moved in the mesh, which tells the turn.
    """
    bare = bearded(picture(28))
    cover = microphone(28, 165)[..., None]
    held = laid_over(bare, np.full_like(bare, colour), cover)
    hidden, _ = watched(
        [bare if 20 <= i < 36 else held for i in range(60)], turned={i: turned for i in range(60) if not 20 <= i < 36}
    )
    assert {*range(1, 18), *range(38, 59)} <= set(hidden.fronts)
    assert not {*range(23, 33)} & set(hidden.fronts)
    front = hidden.fronts[10]
    assert front[14:18, 9:15].min() > 0.9, "the microphone's middle"


clips = ("AOC_cdc", "GRID_id2_c8", "HDTF_WDA_EdM", "MultiVSR", "SpkVid_range_side_2_9", "SpkVid_range_side_2_bc")


@pytest.mark.parametrize("name", clips)
def test_a_bare_face_is_never_taken_for_a_hidden_one(name: str, footage: Path) -> None:
    info = media.probe(str(next(footage.glob(f"{name}*"))))
    hidden, _ = watched([p.rgb() for p in media.read(info, 0, 60)], float(info.rate))
    assert not hidden.mouth.any() and not hidden.fronts


def test_a_hand_before_the_mouth_stays_in_front(footage: Path) -> None:
    """A real hand, cut from real footage by its landmarks and laid before the mouth of the same person."""
    from mediapipe.python.solutions.hands import Hands

    info = media.probe(str(next(footage.glob("SpkVid_range_full_body_2*"))))
    pictures = [p.rgb() for p in media.read(info, 0, 60)]
    with Hands(static_image_mode=True, max_num_hands=1) as net:
        found = getattr(net.process(pictures[0]), "multi_hand_landmarks")  # noqa: B009 - not in its type
    assert found, "the footage no longer shows a hand"
    height, width = pictures[0].shape[:2]
    hand = np.array([(p.x * width, p.y * height) for p in found[0].landmark])
    area = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(area, cv2.convexHull(hand.astype(np.int32)), (1,))
    area = cv2.dilate(area, np.ones((13, 13)))
    with Tracker(25) as tracker:
        points = tracker.add(pictures[20])
    assert points is not None
    mouth = points[[13, 14]].mean(0)
    move = np.eye(2, 3) * 0.8
    move[:, 2] = mouth - 0.8 * hand.mean(0)
    cover = cv2.warpAffine(area, move, (width, height))[..., None]
    laid = cv2.warpAffine(pictures[0], move, (width, height))
    shown = [laid_over(p, laid, cover) if 24 <= i < 40 else p for i, p in enumerate(pictures)]
    hidden, track = watched(shown)
    seen = [i for i in range(26, 38) if track.found[i]]
    assert all(hidden.mouth[i] or i in hidden.fronts for i in seen)
    assert not hidden.mouth[:20].any() and not hidden.mouth[44:].any()


def turning(degrees: np.ndarray) -> Track:
    """A face whose landmarks show the given turn."""
    n = len(degrees)
    points = np.zeros((n, 478, 2), np.float32)
    points[:, 234], points[:, 454] = (0, 50), (100, 50)
    points[:, 1] = np.column_stack([50 + 50 * 1.3 * np.tan(np.radians(degrees)), np.full(n, 50)])
    to_crop = np.tile(np.eye(2, 3), (n, 1, 1))
    return Track(np.ones(n, bool), np.zeros(n, np.int32), to_crop, points)


def test_a_head_that_turns_away_is_left_alone_without_flicker_at_the_limit() -> None:
    degrees = np.concatenate([np.linspace(0, 70, 20), 59 + 3 * np.sin(np.arange(40)), np.linspace(60, 0, 20)])
    away = turned_away(turning(degrees), 25.0, 60)
    assert len(compose.runs(away)) == 3 and away[30:55].all() and not away[:12].any() and not away[72:].any()
    assert not turned_away(turning(degrees), 25.0, 90).any()
    unfit = np.where(away, "turned away", "")
    plan = plan_effect(turning(degrees), Fraction(25), Fraction(0), Fraction(10), unfit=unfit)
    assert [why for _, _, why in plan.untouched] == ["turned away"]
    assert np.abs(np.diff(plan.strength)).max() < 0.25


def test_a_jump_of_a_measure_at_its_threshold_does_not_switch_the_effect() -> None:
    values = np.array([0, 0.3, 0.41, 0.38, 0.41, 0.3, 0.2, 0.3, 0.3, 0.1])
    assert occlusion.hysteresis(values, 0.4, 0.25).tolist() == [False] + [True] * 5 + [False] * 4
