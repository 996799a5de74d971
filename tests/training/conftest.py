# SPDX-License-Identifier: GPL-3.0-or-later
"""A corpus of nobody: the swaying portrait, with and without sound and face."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def corpus(make_clip) -> dict[str, Path]:
    """Videos by the name they have in the corpus."""
    return {
        "a/talk.mkv": make_clip(),
        "b/talk.mkv": make_clip(frames=24),
        "a/silent.mkv": make_clip(tone=False),
        "a/faceless.mkv": make_clip(faceless=range(30)),
    }
