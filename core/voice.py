# SPDX-License-Identifier: GPL-3.0-or-later
"""Where somebody speaks: a gate over the speech, by Silero VAD, whose model is in its package [snakers4/silero-vad].

It opens when the model is sure of a voice and closes when it is sure of none (hysteresis); music, noise and breath
without a voice count as silence.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from .audio import sample_rate

opens_above, closes_below = 0.5, 0.35
"""Probability of a voice, in blocks of 32 ms."""
shortest_voice, shortest_pause = 0.1, 0.3
"""Seconds: a shorter voice does not open the gate, a shorter pause does not close it."""
lead, tail = 0.1, 0.15
"""Seconds the gate opens before the voice, as lips do, and closes after it."""
ramp = 0.05
"""Seconds in which the sound comes and goes at the gate's edges, inside them: a click would move the lips."""
heard_level = 0.05
"""Root mean square of the loudest block as the model hears it: whispered or shouted, the same speech gives the same
gate; much louder, it takes breath for voice."""

Spans = tuple[tuple[int, int], ...]
"""First sample and the one after the last, rising, without overlap."""


def spans(wave: np.ndarray) -> Spans:
    """The samples of speech, (n,) float32 at 16 kHz, during which the gate is open."""
    if not len(wave):
        return ()
    silero_vad, detector = _silero_vad()
    voices = silero_vad.get_speech_timestamps_sequence(
        _levelled(wave),
        detector,
        threshold=opens_above,
        neg_threshold=closes_below,
        min_speech_duration_ms=round(1000 * shortest_voice),
        min_silence_duration_ms=round(1000 * shortest_pause),
        speech_pad_ms=0,
    )
    before, after = round(lead * sample_rate), round(tail * sample_rate)
    return tuple((max(0, v["start"] - before), min(len(wave), v["end"] + after)) for v in voices)


def mute(wave: np.ndarray, spans: Spans) -> None:
    """Makes the wave, (n,), silent outside the spans; in place, for an hour of it is large."""
    rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(round(ramp * sample_rate)) / (ramp * sample_rate))).astype(wave.dtype)
    done = 0
    for first, end in spans:
        wave[done:first] = 0
        length = min(len(rise), end - first)
        if first > 0:
            wave[first : first + length] *= rise[:length]
        if end < len(wave):
            wave[end - length : end] *= rise[:length][::-1]
        done = end
    wave[done:] = 0


def _levelled(wave: np.ndarray) -> np.ndarray:
    block = 512
    loudest = float(np.add.reduceat(wave * wave, np.arange(0, len(wave), block)).max() / block) ** 0.5
    return wave * np.float32(heard_level / loudest) if loudest > 0 else wave


@cache
def _silero_vad() -> tuple[ModuleType, Any]:
    """The package and its model, in ONNX: numbers, no code."""
    import torch

    threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(threads)  # the package takes all but one from torch, for everybody
    return silero_vad, silero_vad.load_silero_vad(sequence=True)
