# SPDX-License-Identifier: GPL-3.0-or-later
"""How widely the lips move: without it everybody speaks like the ear's usual person, some as if they shouted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import faces, manner, media, mouth, redub
from core.faces import Track, Tracker
from core.faces.mesh import lower_lip, upper_lip
from core.job import RedubJob
from core.mouth import opening_step

rate = 25.0


def seen(opening: np.ndarray) -> Track:
    """A face of 100 pixels whose lips are open by `opening` (n,) crop units."""
    points = np.full((len(opening), 478, 2), 50.0, np.float32)
    points[:, lower_lip, 1] = points[:, upper_lip, 1] + 100 * opening
    to_crop = np.tile(np.array([[0.01, 0, 0], [0, 0.01, 0]]), (len(opening), 1, 1))
    return Track(np.ones(len(opening), bool), np.zeros(len(opening), np.int32), to_crop, points)


def syllables(seconds: float, widest: float) -> np.ndarray:
    """Four syllables a second, each open up to `widest` crop units."""
    times = np.arange(round(seconds * rate)) / rate
    return widest * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * times))


def liveliness(track: Track, rate: float = 25.0) -> float:
    return manner.of_footage(track, rate).liveliness


def test_lips_move_as_widely_as_the_persons_own() -> None:
    quiet, usual, loud = (liveliness(seen(syllables(8, w))) for w in (0.03, 0.075, 0.1))
    assert 0.4 <= quiet < 0.75 < 0.95 < usual <= loud == 1


def test_a_moment_tells_little() -> None:
    """In half a second somebody may say one narrow vowel: the dub of a short shot would hardly move."""
    short, long = (liveliness(seen(syllables(t, 0.03))) for t in (0.5, 10))
    assert long < short - 0.1
    assert short > 0.7


def test_who_only_listens_is_not_taken_for_a_quiet_speaker() -> None:
    trembling = 0.004 + 0.001 * np.random.default_rng(0).standard_normal(200)
    assert liveliness(seen(trembling)) == 1.0
    nowhere = seen(trembling)
    nowhere.found[:] = False
    assert liveliness(nowhere) == 1.0


def test_who_listens_most_of_the_time_is_judged_while_speaking() -> None:
    opening = np.concatenate([np.full(300, 0.004), syllables(8, 0.065)])
    assert liveliness(seen(opening)) > 0.9


def test_a_cut_is_no_movement_of_the_lips() -> None:
    """The other view of an interview shows the lips elsewhere, and may open them more at rest."""
    track = seen(np.concatenate([syllables(4, 0.02), 0.08 + syllables(4, 0.02)]))
    cut = replace(track, shot=np.repeat(np.array([0, 1], np.int32), 100))
    assert liveliness(cut) < 0.75


def test_a_rate_of_other_footage_tells_the_same() -> None:
    slow = seen(syllables(8, 0.03))
    fast = seen(np.interp(np.arange(400) / 50, np.arange(200) / 25, syllables(8, 0.03)))
    assert liveliness(fast, 50.0) == pytest.approx(liveliness(slow), abs=0.04)


def median(track: Track) -> float:
    return manner.of_footage(track, rate).median


def test_lips_are_as_far_open_as_the_person_usually_has_them() -> None:
    """Some speak with their teeth bared, others hardly part their lips: a stranger's median looks like a grimace."""
    tight, bared = (median(seen(start + syllables(8, 0.04))) for start in (0.0, 0.06))
    assert tight == pytest.approx(0.02, abs=0.002) and bared == pytest.approx(0.08, abs=0.004)


def test_a_still_or_a_listener_speaks_with_the_lips_of_other_people() -> None:
    """The person's median is that of shut lips, and a mouth that counts from there hardly opens."""
    listening = np.full(200, 0.004)
    assert median(seen(listening)) == median(seen(listening[:1])) == manner.usual_opening
    assert 0.025 < median(seen(np.concatenate([np.full(300, 0.004), syllables(8, 0.065)]))) < 0.04, "now and then"
    assert 0.025 < median(seen(syllables(0.2, 0.02))) < manner.usual_opening, "a moment tells little"


def heard() -> np.ndarray:
    """Shapes (9, 8) from shut to wide open, as the ear tells them for anybody; the fourth is the median."""
    shapes = np.zeros((9, 8), np.float32)
    shapes[:, 0] = np.linspace(-0.03, 0.05, 9) / opening_step
    return shapes


def drawn(own: manner.Manner, factor: float = 1.0, shot: int = 0) -> np.ndarray:
    """(9,) the openings that are drawn for them, crop units."""
    shots = np.full(9, shot, np.int32)
    return manner.moved(heard(), shots, own, factor)[:, 0] * opening_step + own.seen[shot]


@pytest.mark.parametrize("own_median", [0.01, 0.03, 0.06])
def test_shut_is_shut_and_the_median_the_persons(own_median: float) -> None:
    """A p needs shut lips, however quietly or loudly it is said, by whoever; and who opens more is more open."""
    own = manner.Manner(1.0, own_median, {0: own_median, 1: 0.02}, np.zeros(8, np.float32))
    openings = drawn(own)
    assert openings[0] == pytest.approx(0, abs=1e-6) and openings[3] == pytest.approx(own_median, abs=1e-6)
    assert (np.diff(openings) > 0).all()
    assert np.diff(openings[3:]) == pytest.approx(np.full(5, 0.01), abs=1e-6)
    assert drawn(own, shot=1) == pytest.approx(openings, abs=1e-6), "counted from where each shot counts"
    assert drawn(own, 0.5) == pytest.approx(0.5 * openings, abs=1e-6)
    assert drawn(replace(own, liveliness=0.5), 2.0) == pytest.approx(openings, abs=1e-6)


def test_nobody_speaks_through_a_smile_that_was_photographed() -> None:
    """Of a portrait the width of its smile would be taken for the mouth's usual, and every word said through it."""
    still, speaker = seen(np.full(1, 0.06)), seen(syllables(8, 0.065))
    for track in (still, speaker):
        track.points[:, [61, 291], 0] = (10, 50)
    wide = 0.4 / mouth.steps[3] - manner.usual[3]
    of_still, of_speaker = (manner.of_footage(track, rate).neutral for track in (still, speaker))
    assert of_still[3] == pytest.approx(-0.38 * wide, rel=1e-3)
    assert abs(of_speaker[3]) < 0.1 * wide, "somebody's mouth is just wide"
    assert (of_still[: mouth.openings] == 0).all()
    own = manner.of_footage(still, rate)
    told = manner.moved(heard(), np.zeros(9, np.int32), own) - manner.moved(
        heard(), np.zeros(9, np.int32), replace(own, neutral=np.zeros(8, np.float32))
    )
    assert told[:, 3] == pytest.approx(np.full(9, own.neutral[3]), abs=1e-5)
    grin = replace(own, neutral=np.array([0, 0, 0, -4, 0, 0, 0, 4], np.float32))
    asked = manner.moved(heard(), np.zeros(9, np.int32), grin)
    assert np.abs(asked[:, 3:]).max() == manner.furthest, "no net has learnt to make an o of it"


def test_the_jaw_goes_along_with_the_lips() -> None:
    own = manner.Manner(1.0, 0.03, {0: 0.03}, np.zeros(8, np.float32))
    change = manner.moved(heard(), np.zeros(9, np.int32), own, 1.5) - manner.moved(heard(), np.zeros(9, np.int32), own)
    assert change[1:, 0].min() > 0
    assert change[1:] / change[1:, :1] == pytest.approx(np.tile(mouth.along, (8, 1)), abs=1e-3)


def test_a_model_that_cannot_be_livelier_says_so(
    make_clip: Callable[..., Path], make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    job = RedubJob(
        video=str(make_clip(8)),
        speech=str(make_speech(0.5)),
        output=str(tmp_path / "out.mkv"),
        model=str(tiny_model),
        silence="off",
    )
    assert not redub.run(job).warnings
    livelier = redub.run(replace(job, output=str(tmp_path / "livelier.mkv"), liveliness=1.5))
    assert any("liveliness" in warning for warning in livelier.warnings)


def test_the_editor_can_have_it_livelier_or_calmer(footage: Path, tmp_path: Path) -> None:
    """With the bundled model, as lips are seen in the output."""
    clip, speech = (next(footage.glob(f"{name}*")) for name in ("MultiVSR", "German"))

    def openings(liveliness: float) -> np.ndarray:
        output = str(tmp_path / f"{liveliness}.mkv")
        redub.run(RedubJob(video=str(clip), speech=str(speech), output=output, frame_count=50, liveliness=liveliness))
        with Tracker(25.0) as tracker:
            for picture in media.read(media.probe(output), 0, 50):
                tracker.add(picture.rgb())
            return faces.lip_opening(tracker.finish().points)

    calm, lively = (np.quantile(openings(x), (0.05, 0.5, 0.95)) for x in (0.5, 1.5))
    assert (calm[1:] < 0.8 * lively[1:]).all()
    assert lively[0] < 0.01, "shut is shut"
