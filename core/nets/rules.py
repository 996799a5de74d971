# SPDX-License-Identifier: GPL-3.0-or-later
"""What a generator was trained to be given: how its crop lies, which sound it hears, which reference it sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from .. import faces
from ..timing import legacy_mel_window, mel_window


@dataclass(frozen=True)
class InputRules:
    """The rules of one kind of generator."""

    place: faces.Place
    mel_window: Callable[[int, Fraction, Fraction, int], int]
    """Frame, rate, begin of the speech in seconds, window length → the window's first mel frame."""
    own_reference: bool
    """The reference is the very frame that is painted; otherwise one frame of the shot is chosen."""


our_rules = InputRules(faces.place_aligned, mel_window, own_reference=False)


def _wav2lip_window(frame: int, rate: Fraction, speech_start: Fraction, length: int) -> int:
    return legacy_mel_window(frame, rate, speech_start)


wav2lip_rules = InputRules(faces.place_box, _wav2lip_window, own_reference=True)
"""As its inference.py: a box, a window that begins with the frame, and the frame itself beside its masked copy."""
