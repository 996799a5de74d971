# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the new lips are shown: which frames stay as they were, and how the effect comes and goes beside them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from scipy.ndimage import gaussian_filter1d

from . import audio, compose, faces, occlusion, people, voice
from .timing import frame_middle

fade_frames = 4
"""Frames over which the effect comes or goes where a face is found or lost and where the speech begins or ends."""
turn_back = 8.0
"""Degrees below the limit to which a head that was turned away must come back."""


@dataclass(frozen=True)
class Plan:
    """What happens to each frame of the output."""

    strength: np.ndarray
    """(n,) float32: 0 leaves a frame alone, 1 gives it the new lips, between is a fade."""
    untouched: tuple[tuple[int, int, str], ...]
    """Ranges of strength 0, as in job.Result."""


def plan_effect(
    track: faces.Track,
    rate: Fraction,
    speech_start: Fraction,
    speech_length: Fraction,
    voiced: voice.Spans | None = None,
    *,
    beyond: bool = False,
    unfit: np.ndarray | None = None,
) -> Plan:
    """Frames without a face or without speech stay untouched; next to them the effect fades, but not across a cut.

    Args:
        voiced: where in the speech somebody speaks; frames elsewhere in it stay untouched. None: all frames count.
        beyond: the effect goes on before and after the speech.
        unfit: (n,) str, why a face cannot get new lips, or empty.
    """
    times = [frame_middle(i, rate) - speech_start for i in range(len(track.found))]
    why = np.array(["before the speech" if t < 0 else "after the speech" if t >= speech_length else "" for t in times])
    if voiced is not None:
        edges = np.array(voiced, np.int64).ravel()
        silent = np.searchsorted(edges, [floor(t * audio.sample_rate) for t in times], side="right") % 2 == 0
        why = np.where((why == "") & silent, "silence", why)
    if beyond:
        why = np.where((why == "before the speech") | (why == "after the speech"), "", why)
    if unfit is not None:
        why = np.where(why == "", unfit, why)
    why = np.where(track.found, why, "no face")
    strength = np.zeros(len(why), np.float32)
    untouched = []
    for first, last in compose.runs(why):
        if why[first]:
            untouched.append((first, last, str(why[first])))
            continue
        run = strength[first : last + 1]
        run[:] = 1
        rise = np.arange(1, len(run) + 1, dtype=np.float32) / (fade_frames + 1)
        if first and track.shot[first - 1] == track.shot[first]:
            np.minimum(run, rise, out=run)
        if last + 1 < len(why) and track.shot[last + 1] == track.shot[last]:
            np.minimum(run, rise[::-1], out=run)
    return Plan(strength, tuple(untouched))


def turned_away(track: faces.Track, rate: float, limit: float) -> np.ndarray:
    """(n,) bool: the head is turned further than a net can do; some degrees less end it, so that nothing flickers."""
    turn = np.zeros(len(track.found))
    for first, last in compose.runs(np.where(track.found, track.shot, -1)):
        if track.found[first] and limit < 90:
            run = np.s_[first : last + 1]
            turn[run] = gaussian_filter1d(np.abs(people.yaw(track.points[run])), max(0.5, 0.1 * rate), mode="nearest")
    return occlusion.hysteresis(turn, limit, limit - turn_back)
