# SPDX-License-Identifier: GPL-3.0-or-later
"""Real footage with the bundled model: what an editor would see and lose. Skipped where the footage is not at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core import cli, compose, media
from core.faces import Tracker
from core.nets.checkpoint import default_model, load_generator
from training_cli.evaluate.lips import lip_score

folder = Path(__file__).resolve().parents[3] / "shared" / "clips"
clips = sorted(folder.glob("*.*")) if folder.is_dir() else []
frames = 16

needs_footage = pytest.mark.skipif(not clips, reason="no folder ../shared/clips beside the project")


def test_the_bundled_model_says_what_it_is_and_where_it_may_be_used():
    generator, card = load_generator(default_model)
    assert generator.config.image_size == 96
    assert card["licence"] and card["data"] and card["training"]["model"]["warp"]
    assert default_model.stat().st_size < 40_000_000


@needs_footage
@pytest.mark.parametrize("number", range(len(clips) or 1))
def test_real_footage_keeps_its_frames_size_rate_and_everything_outside_the_mask(number, tmp_path):
    clip, speech = clips[number], clips[(number + 7) % len(clips)]
    source = media.probe(str(clip))
    output = tmp_path / "redubbed.mkv"
    given = ["redub", str(clip), str(speech), "-o", str(output), "--count", str(frames), "--sound", "none"]
    assert cli.main(given) == 0
    made = media.probe(str(output))
    assert (made.frames, made.width, made.height, made.rate) == (frames, source.width, source.height, source.rate)

    before = [picture.rgb() for picture in media.read(source, 0, frames)]
    after = [picture.rgb() for picture in media.read(made)]
    with Tracker(float(source.rate)) as tracker:
        for rgb in before:
            tracker.add(rgb)
        track = tracker.finish()
    assert track.found.all()
    outline = compose.outline(track)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        alpha = compose.mask(outline.face[i], track.to_crop[i], 0, 0, source.width, source.height)
        difference = np.abs(new.astype(np.float32) - old)
        assert difference[alpha == 0].mean() <= 0.5
    assert np.abs(after[8].astype(np.float32) - before[8])[alpha > 0.9].mean() > 1


@needs_footage
def test_the_lips_follow_the_speech_and_not_the_lips_they_replace():
    score = lip_score(next(clip for clip in clips if clip.name.startswith("Vox2")))
    assert score.r > max(0.2, score.r_untouched + 0.1) and abs(score.lag) <= 2
    assert score.r > score.r_replaced
