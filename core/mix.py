# SPDX-License-Identifier: GPL-3.0-or-later
"""What people hear of a new movie: files of speech, with all that the nets' 16 kHz leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from . import audio, media
from .errors import MediaError, SpeechError
from .media.probe import open_movie
from .media.sound import Blocks, is_deep, usual_speakers

least_rate, usual_rate = 44100, 48000
"""Samples a second that a movie's sound has at least, and that it gets where a file has fewer."""


@dataclass(frozen=True)
class _File:
    """The first sound stream of a file."""

    path: str
    start: Fraction
    rate: int
    layout: str
    deep: bool


def of_files(parts: Sequence[tuple[str, Fraction]]) -> media.Sound:
    """One file's sound with all its channels, or that of several together. It is read while it is written.

    Args:
        parts: each a file and when its sound begins, in seconds after the first picture.

    Raises:
        SpeechError: a file is not there or has no sound.
    """
    files = [_opened(*part) for part in parts]
    rate = max(file.rate for file in files)
    rate = rate if rate >= least_rate else usual_rate
    layouts = {file.layout for file in files}
    layout = layouts.pop() if len(layouts) == 1 else "stereo"
    deep = any(file.deep for file in files)
    return media.Sound([_blocks(file, rate, layout) for file in files], rate, layout, deep)


def _opened(path: str, start: Fraction) -> _File:
    try:
        with open_movie(path) as container:
            context = container.streams.audio[0].codec_context if container.streams.audio else None
            if context is None:
                raise SpeechError(f"There is no sound in {path}.")
            layout = usual_speakers.get(context.layout.nb_channels, "stereo")
            return _File(path, start, context.sample_rate, layout, is_deep(context))
    except MediaError as e:
        raise SpeechError(str(e), e.hint) from None


def _blocks(file: _File, rate: int, layout: str) -> Blocks:
    offset = round(file.start * rate)
    double = file.layout == "mono" and layout == "stereo"  # FFmpeg would make it 3 dB quieter
    for position, samples in audio.stream(file.path, None, rate, "mono" if double else layout):
        yield offset + position, np.repeat(samples, 2, axis=0) if double else samples
