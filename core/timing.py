# SPDX-License-Identifier: GPL-3.0-or-later
"""Frame ↔ time ↔ mel window: the one rule that data, evaluation and rendering share.

Standard library only. Times are seconds as Fraction, so that no rate drifts.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor

mel_rate = 80
"""Mel frames per second: 16 kHz sound in hops of 200 samples."""
mel_window_length = 16
"""Mel frames the net hears for one picture: 200 ms."""
sync_window_length = 5
"""Pictures the sync expert sees together (Wav2Lip's syncnet_T)."""


def frame_middle(frame: int, rate: Fraction) -> Fraction:
    """Time of the middle of picture `frame`, which is shown during [frame / rate, (frame + 1) / rate)."""
    return (frame + Fraction(1, 2)) / rate


def mel_start(time: Fraction, length: int = mel_window_length) -> int:
    """First mel frame of the window of `length` (even) that belongs to a picture whose middle is at `time`.

    Mel frame k is centred at k / 80 s, so a window of 16 is centred at start + 7.5; flooring keeps that centre
    within 6.25 ms of `time`. May be negative or run past the end: the mel is padded there (core.audio.mel_windows).
    """
    return floor(mel_rate * time - (length - 2) // 2)


def mel_window(
    frame: int, rate: Fraction, speech_start: Fraction = Fraction(0), length: int = mel_window_length
) -> int:
    """First mel frame for picture `frame` at `rate` when the speech begins `speech_start` seconds after picture 0."""
    return mel_start(frame_middle(frame, rate) - speech_start, length)


def legacy_mel_window(
    frame: int, rate: Fraction, speech_start: Fraction = Fraction(0), *, training: bool = False
) -> int:
    """Wav2Lip's own rule, for its published checkpoints [inference.py; wav2lip_train.py].

    Its inference starts the window at the frame itself, its training one 25 Hz frame earlier: the one-frame error.
    """
    return floor(mel_rate * (Fraction(frame - (1 if training else 0)) / rate - speech_start))


def sync_window(frame: int, rate: Fraction) -> int:
    """First mel frame for the sync expert's five pictures frame … frame + 4 [Wav2Lip's syncnet_train.py].

    At 25 Hz its window's centre comes 6 ms before that of the pictures; flooring takes up to 12.5 ms more elsewhere.
    """
    return floor(mel_rate * Fraction(frame) / rate)
