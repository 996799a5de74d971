# SPDX-License-Identifier: GPL-3.0-or-later
"""How widely the lips move: without it everybody speaks like the ear's usual person, some as if they shouted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import faces, manner, media, redub
from core.faces import Track, Tracker
from core.faces.mesh import lower_lip, upper_lip
from core.job import RedubJob

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
    quiet, usual, loud = (liveliness(seen(syllables(8, w))) for w in (0.03, 0.065, 0.1))
    assert 0.6 <= quiet < 0.75 < 0.95 < usual <= loud == 1


def test_a_moment_tells_little() -> None:
    """In half a second somebody may say one narrow vowel: the dub of a short shot would hardly move."""
    short, long = (liveliness(seen(syllables(t, 0.03))) for t in (0.5, 10))
    assert long < short - 0.1
    assert short > 0.8


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
    assert liveliness(fast, 50.0) == pytest.approx(liveliness(slow), abs=0.03)


def test_only_what_is_open_opens_more() -> None:
    """A p needs shut lips, however quietly or loudly it is said; and the jaw goes along with the lips."""
    opening, median = np.linspace(-0.05, 0.08, 60), 0.03
    shapes = np.outer(opening, [40, 40, 40, -10, -10, 30, 20, 0]).astype(np.float32)
    for factor in (0.5, 1.5):
        result = manner.moved(shapes, opening, median, factor)
        shut, hardly = opening + median <= 0, opening + median <= 0.006
        assert (result[shut] == shapes[shut]).all()
        assert np.allclose(result[hardly], shapes[hardly], atol=0.03)
        now_open = result / np.array([40, 40, 40, -10, -10, 30, 20, 1]) + median
        wide = opening + median > 0.08
        assert np.allclose(now_open[wide, :7], factor * (opening[wide, None] + median), atol=0.01)
        assert (np.diff(result[:, 0]) > 0).all(), "who opens more is more open"
    assert (manner.moved(shapes, opening, median, 1.0) == shapes).all()
    still = manner.moved(np.zeros((5, 8), np.float32), np.zeros(5), median, 1.5)
    assert (still == 0).all(), "digital silence alone tells nothing of how the jaw goes along"


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
