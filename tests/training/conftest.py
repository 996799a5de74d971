# SPDX-License-Identifier: GPL-3.0-or-later
"""Corpora of nobody: the swaying portrait as video, with and without sound and face, and drawn faces that talk."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_faces import store, talking_clip


@pytest.fixture(scope="session")
def corpus(make_clip) -> dict[str, Path]:
    """Videos by the name they have in the corpus."""
    return {
        "a/talk.mkv": make_clip(),
        "b/talk.mkv": make_clip(frames=24),
        "a/silent.mkv": make_clip(tone=False),
        "a/faceless.mkv": make_clip(faceless=range(30)),
    }


@pytest.fixture(scope="session")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder: six people to train on, two for the dev set."""
    clips = [talking_clip(seed, split="dev" if seed > 5 else "train") for seed in range(8)]
    return store(tmp_path_factory.mktemp("talkers"), *clips)
