# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech: any file PyAV reads → 16 kHz mono, and the 80-band log-mel the nets hear.

The mel is Wav2Lip's [audio.py, hparams.py], so its checkpoints fit, with librosa's `reflect` padding of that time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av
import numpy as np
from av.error import FFmpegError

from .errors import MediaError, SpeechError
from .media.probe import open_movie
from .media.sound import audible
from .timing import mel_window_length

sample_rate = 16000
n_fft = 800
"""Samples in a spectrum: 50 ms, a Hann window of the same length."""
hop_length = 200
mel_bands = 80
lowest_frequency, highest_frequency = 55.0, 7600.0
preemphasis = 0.97
most_gap = 600
"""Seconds: a file that says of itself that nothing sounds for longer has a wrong time stamp."""
mel_floor = -4.0
"""The mel of silence: every value lies in [-4, 4]."""


def load(path: str, zero: Fraction | None = None, rate: int = sample_rate) -> np.ndarray:
    """The first sound stream of a file as mono float32 in [-1, 1]; silence where its time stamps leave a gap.

    Args:
        path: sound or movie file.
        zero: container time in seconds that becomes sample 0 (silence is added or sound cut); None: the stream's start.
        rate: samples a second of the result; the nets' by default.

    Raises:
        SpeechError: no such file, no sound stream, or nothing in it can be decoded.
    """
    late, held = 0, bytearray()  # grows in place: an hour in parts and then joined would be in memory twice
    for position, samples in stream(path, zero, rate):
        if not held:
            late = min(0, position)
        held.extend(bytes(4 * (position - late) - len(held)))
        held.extend(np.ascontiguousarray(samples[0]).data)
    wave = np.frombuffer(held, np.float32)
    return wave[-late:]


def stream(
    path: str, zero: Fraction | None = None, rate: int = sample_rate, layout: str = "mono"
) -> Iterator[tuple[int, np.ndarray]]:
    """What `load` gives, in blocks, for sound too long to hold.

    Args:
        path, zero, rate: as in `load`.
        layout: FFmpeg's name of the speakers.

    Returns:
        The position of a block's first sample, and its samples (channels, n) float32. The first position says when the
        sound begins: above 0 it begins after `zero`, below 0 before it. Between two blocks there can be a gap.

    Raises:
        SpeechError: as `load`, once the first block is asked for.
    """
    first: Fraction | None = None
    begin = origin = heard = 0
    try:
        with open_movie(path) as container:
            if not container.streams.audio:
                raise SpeechError(f"There is no sound in {path}.")
            resampler: av.AudioResampler | None = None
            try:
                for frame in container.decode(container.streams.audio[0]):
                    resampler = resampler or _resampler(frame, rate, layout)
                    time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
                    if first is None and time is not None:
                        first = time
                        origin = begin = 0 if zero is None or heard else round((first - zero) * rate)
                    elif first is not None and time is not None:
                        told = origin + round((time - first) * rate)
                        # time stamps in milliseconds jitter by a few samples; only a real gap moves the sound
                        if rate // 50 < told - (begin + heard) < most_gap * rate:
                            for samples in _resampled(resampler, None, layout):
                                yield begin + heard, samples
                                heard += samples.shape[1]
                            begin = told - heard
                            resampler = _resampler(frame, rate, layout)
                    for samples in _resampled(resampler, frame, layout):
                        yield begin + heard, samples
                        heard += samples.shape[1]
            except FFmpegError:
                pass  # a damaged tail: what was decoded before it is still speech
            for samples in _resampled(resampler, None, layout) if resampler and heard else ():
                yield begin + heard, samples
                heard += samples.shape[1]
    except MediaError as e:
        raise SpeechError(str(e), e.hint) from None
    except (FFmpegError, OSError, ValueError) as e:
        raise SpeechError(f"The sound of {path} cannot be read: {getattr(e, 'strerror', None) or e}.") from None
    if not heard:
        raise SpeechError(f"The sound stream of {path} holds no sound that can be decoded.")


def _resampler(frame: av.AudioFrame, rate: int, layout: str) -> av.AudioResampler:
    """Channels that say nothing of themselves stay apart where one is wanted: FFmpeg would take the third of three for
    a subwoofer's, and leave it out."""
    apart = layout == "mono" and frame.layout.name.endswith("channels")
    return av.AudioResampler(format="flt", layout=frame.layout if apart else layout, rate=rate)


def _resampled(resampler: av.AudioResampler, frame: av.AudioFrame | None, layout: str) -> Iterator[np.ndarray]:
    """(channels, n) float32, as far as they are ready."""
    for part in resampler.resample(frame):
        samples = audible(part.to_ndarray().reshape(part.samples, -1).T)  # PyAV miscounts eight planes
        yield samples.mean(axis=0, keepdims=True) if layout == "mono" and len(samples) > 1 else samples


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram, (80, 1 + len(wave) // 200) float32 in [-4, 4]; column k is centred at sample 200 k.

    Pre-emphasis 0.97, magnitude spectrum, Slaney mel, 20 log10(max(1e-5, ·)) - 20 dB, the range -100…0 dB → -4…4.
    """
    if len(wave) < 2:
        wave = np.pad(wave, (0, 2 - len(wave)))
    emphasised = np.append(wave[:1], wave[1:] - np.float32(preemphasis) * wave[:-1])
    padded = np.pad(emphasised, n_fft // 2, mode="reflect" if len(emphasised) > n_fft // 2 else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    filters = mel_filters(n_fft, lowest_frequency, highest_frequency)
    mel = np.empty((mel_bands, len(windows)), np.float32)
    for start in range(0, len(windows), 4096):  # bounds the memory of an hour of speech
        part = slice(start, start + 4096)
        mel[:, part] = filters @ np.abs(np.fft.rfft(windows[part] * hann)).T.astype(np.float32)
    decibels = 20 * np.log10(np.maximum(1e-5, mel)) - 20
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).astype(np.float32)


def mel_windows(mel: np.ndarray, starts: np.ndarray | list[int], length: int = mel_window_length) -> np.ndarray:
    """The windows (n, 80, length) of a mel (80, T) that begin at `starts`; outside the mel there is silence."""
    starts = np.asarray(starts, np.int64)
    columns = starts[:, None] + np.arange(length)
    inside = (columns >= 0) & (columns < mel.shape[1])
    windows = mel[:, np.where(inside, columns, 0)].transpose(1, 0, 2)
    return np.where(inside[:, None, :], windows, np.float32(mel_floor))


@dataclass(frozen=True)
class MelWindows:
    """The windows of a speech that a net hears at its pictures; [first:last] makes those of some pictures."""

    mel: np.ndarray
    """(80, T) of the whole speech."""
    starts: Sequence[int]
    """First column heard at each picture."""
    length: int
    """Columns in a window."""

    def __getitem__(self, pictures: slice) -> np.ndarray:
        """(n, 80, length) float32."""
        return mel_windows(self.mel, list(self.starts[pictures]), self.length)


@cache
def mel_filters(size: int, lowest: float, highest: float) -> np.ndarray:
    """(80, size // 2 + 1) triangles on Slaney's mel scale (linear to 1 kHz, then logarithmic), of unit area per hertz.

    Args:
        size: samples in a spectrum.
        lowest, highest: frequencies in Hz where the first triangle begins and the last one ends.
    """

    def to_mel(hz: np.ndarray) -> np.ndarray:
        return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    low, high = to_mel(np.array([lowest, highest]))
    edges = to_hz(np.linspace(low, high, mel_bands + 2))
    bins = np.linspace(0, sample_rate / 2, size // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return (np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
