# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bundled model hears in footage's own sound: how far a mouth would be open, and where somebody speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from . import audio, faces, voice
from .faces.tracks import FaceTrack, at_once
from .mouth import opening_step

if TYPE_CHECKING:  # torch takes seconds
    from .engine import Engine

rate = 50
"""Openings a second: as many as the ear tells."""
step = audio.sample_rate // rate
beyond = rate
"""Openings before and after the sound: a mouth at rest, and the ear's view of what a piece lies among."""
piece, context = 28 * audio.sample_rate, beyond * step
"""Samples that are heard together, and those at each end of a piece that only lend their context to the others."""


@dataclass(frozen=True)
class Heard:
    """A mouth for a sound of n samples at 16 kHz, 50 times a second from a second before it to a second after it."""

    opening: np.ndarray
    """(n / 320 + 100,) float32: how far the inner lips would be open, in crop units."""
    voiced: np.ndarray
    """The same moments, bool: somebody speaks."""
    seconds: float
    """How long the sound is."""

    def opening_at(self, seconds: np.ndarray) -> np.ndarray:
        """The opening at times of the sound."""
        return np.interp(seconds * rate + beyond, np.arange(len(self.opening)), self.opening)

    def voiced_at(self, seconds: np.ndarray) -> np.ndarray:
        """Whether somebody speaks at times of the sound."""
        return self.voiced[np.clip(np.rint(seconds * rate).astype(int) + beyond, 0, len(self.voiced) - 1)]


def hear(path: str, zero: Fraction, engine: Engine, done: Callable[[float], None] = lambda seconds: None) -> Heard:
    """Listens to the first sound stream of a file, in pieces: an hour of it is never held.

    Args:
        path, zero: as in audio.load.
        engine: with the bundled model, or another that has an ear.
        done: told how many seconds are heard, after every piece; may raise to end it.

    Raises:
        SpeechError: as audio.load.
    """
    openings, voices, heard = [], [], 0
    for wave, first, last in _pieces(path, zero):
        tokens = -(-len(wave) // step) + 2 * beyond
        shapes = engine.listen(wave, Fraction(rate), Fraction(beyond, rate) + Fraction(1, 2 * rate), tokens)
        assert isinstance(shapes, np.ndarray), "this model has no ear"
        opening = shapes[:, 0] * opening_step
        voiced = np.zeros(tokens, bool)
        for begin, end in voice.spans(wave):
            voiced[beyond + begin // step : beyond + end // step] = True
        own = slice(0 if first else 2 * beyond, None if last else -2 * beyond)
        openings.append(opening[own])
        voices.append(voiced[own])
        heard += len(wave) - (0 if first else 2 * context)
        done(heard / audio.sample_rate)
    return Heard(np.concatenate(openings), np.concatenate(voices), heard / audio.sample_rate)


def _pieces(path: str, zero: Fraction) -> Iterator[tuple[np.ndarray, bool, bool]]:
    """Parts of a sound, each sharing two contexts with the next one; and whether it is the first, and the last."""
    held: list[np.ndarray] = []
    first = True
    for block in _blocks(path, zero):
        held.append(block)
        while sum(map(len, held)) > piece:
            wave = np.concatenate(held)
            held = [wave[piece - 2 * context :]]
            yield wave[:piece], first, False
            first = False
    yield np.concatenate([np.zeros(0, np.float32), *held]), first, True


def _blocks(path: str, zero: Fraction) -> Iterator[np.ndarray]:
    """The sound from `zero` on in blocks (n,), with the silence before it."""
    at = 0
    for position, samples in audio.stream(path, zero):
        while at < position:
            silence = np.zeros(min(position - at, audio.sample_rate), np.float32)
            at += len(silence)
            yield silence
        block = samples[0, at - position :]
        at += len(block)
        yield block


def lip_openings(track: FaceTrack) -> np.ndarray:
    """(m,) faces.lip_opening wherever the face was seen; all meshes of a long track at once would be large."""
    parts = (track.points_at(np.s_[i : i + at_once]) for i in range(0, len(track.frames), at_once))
    return np.concatenate([np.zeros(0), *(faces.lip_opening(points) for points in parts)])


def fits(
    sound: Heard, opening: np.ndarray, seconds: np.ndarray, shifts: np.ndarray, part: np.ndarray | None = None
) -> np.ndarray:
    """(k,) how well lips fit a sound that is moved: Pearson's r of their openings, 0 where either stands still.

    Args:
        opening: (m,) of the lips.
        seconds: (m,) times of the sound at which they are seen.
        shifts: (k,) seconds by which the sound is taken to be late.
        part: (m,) to which part of the footage each belongs, from 0: each counts from its own mean, for another person
            or view opens the lips from another rest. None: all is one.
    """
    part = np.zeros(len(opening), int) if part is None else part
    seen = _centred(opening, part)
    heard = (_centred(sound.opening_at(seconds + shift), part) for shift in shifts)
    return np.array([_r(seen, one) for one in heard])


def _centred(values: np.ndarray, part: np.ndarray) -> np.ndarray:
    means = np.bincount(part, values) / np.maximum(np.bincount(part), 1)
    return values - means[part]


def _r(a: np.ndarray, b: np.ndarray) -> float:
    if not len(a) or min(a.std(), b.std()) < 1e-6:
        return 0.0
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
