# SPDX-License-Identifier: GPL-3.0-or-later
"""Small real clips, made with PyAV: every frame carries its number as a bar code that survives lossy codecs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

bits = 8


def barcode(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """(height, width, 3) uint8: a soft colourful texture whose top half shows `number` in eight dark or bright bars."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.stack(
        [120 + 70 * np.sin(x / 7 + number / 3), 120 + 70 * np.cos(y / 9 - number / 4), 90 + x * 80 / width], axis=-1
    )
    for bit in range(bits):
        bar = slice(bit * width // bits, (bit + 1) * width // bits)
        picture[: height // 2, bar] = 210 if number >> bit & 1 else 40
    return picture.astype(np.uint8)


def number_of(rgb: np.ndarray) -> int:
    """The number a bar code picture shows."""
    height, width = rgb.shape[:2]
    bars = (rgb[: height // 2, (2 * bit + 1) * width // (2 * bits)].mean() > 125 for bit in range(bits))
    return sum(bright << bit for bit, bright in enumerate(bars))


steady = {"x264-params": "mbtree=0"}
"""Without this x264 writes other samples now and then (core.media.encodings); other encoders overlook it."""


def make_movie(
    path: Path,
    count: int = 12,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (96, 64),
    rate: Fraction = Fraction(25),
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    tags: tuple[int, int, int, int] = (0, 2, 2, 2),
    aspect: Fraction | None = None,
    rotation: int = 0,
    sound: str = "",
    sound_rate: int = 48000,
    clicks: Sequence[Fraction] = (),
    sound_length: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a movie of bar codes 0, 1, 2, …

    Args:
        times: presentation time of each frame in units of `time_base`; None: a constant rate.
        tags: colour range, matrix, primaries, transfer as FFmpeg numbers them.
        sound: audio codec, or empty for a silent movie.
        clicks: seconds at which the sound has a click of 10 ms.
    """
    width, height = size
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(codec, rate=rate, width=width, height=height, options=options or steady)
        assert isinstance(video, av.VideoStream)
        context = video.codec_context
        context.pix_fmt, context.time_base = pixel_format, time_base or 1 / rate
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream(sound, rate=sound_rate, layout="mono", bit_rate=128_000) if sound else None
        if audio is not None:
            assert isinstance(audio, av.AudioStream)
            length = sound_length if sound_length is not None else count / rate
            for packet in audio.encode(_click_frame(clicks, sound_rate, round(length * sound_rate))):
                container.mux(packet)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(barcode(number, width, height), format="rgb24")
            frame = frame.reformat(
                format=pixel_format, dst_colorspace=_matrix(tags[1]), dst_color_range=tags[0] or None
            )
            frame.pts = times[number] if times is not None else number
            frame.time_base = time_base or 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if isinstance(audio, av.AudioStream):
            container.mux(audio.encode(None))
    return path


def sound_of(path: Path) -> tuple[np.ndarray, int, Fraction]:
    """The first sound stream: (n,) float32 mono, sample rate, time of its first sample by the container's clock."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        rate = stream.codec_context.sample_rate
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        parts = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
        return np.concatenate(parts), rate, (frames[0].pts or 0) * (frames[0].time_base or Fraction(1))


def click_times(path: Path) -> list[float]:
    """Seconds, after the movie's first picture, at which the sound's clicks begin."""
    samples, rate, begin = sound_of(path)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        begin -= (video.start_time or 0) * (video.time_base or Fraction(1))
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    firsts = [loud[i] for i in range(len(loud)) if i == 0 or loud[i] - loud[i - 1] > rate // 20]
    return [float(begin) + first / rate for first in firsts]


def click_wave(clicks: Sequence[Fraction], rate: int, length: int) -> np.ndarray:
    """(length,) float32 silence with clicks of 10 ms."""
    wave = np.zeros(length, np.float32)
    for click in clicks:
        first = round(click * rate)
        wave[first : first + rate // 100] = 0.7 * np.sin(np.arange(rate // 100) * (2 * np.pi * 1000 / rate))
    return wave


def _click_frame(clicks: Sequence[Fraction], rate: int, length: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(click_wave(clicks, rate, length)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return frame


def _matrix(colorspace: int) -> int | None:
    return None if colorspace == 2 else {1: 1, 4: 4, 7: 7, 9: 9}.get(colorspace, 5)
