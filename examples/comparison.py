# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage before and after side by side: films with the speech as sound, a contact sheet, the lips' opening."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from core import faces, media
from core.media.probe import movie_stream, open_movie
from training_cli.evaluate.show import grid


@dataclass(frozen=True)
class Look:
    """What a movie shows, for comparing it with another one of the same shot."""

    opening: np.ndarray
    """(n,) float32: inner-lip opening over face height in each frame; nan without a face."""
    middles: np.ndarray
    """(n, 2) float32: the face's middle in pixels; nan without a face."""
    size: float
    """The largest face's height in pixels."""
    stills: dict[int, np.ndarray]
    """The frames asked for, (H, W, 3) uint8."""


def look(movie: Path, stills: list[int]) -> Look:
    """Reads a movie once, as Blender counts its frames."""
    info = media.probe(str(movie))
    kept: dict[int, np.ndarray] = {}
    with faces.Tracker(float(info.rate)) as tracker:
        for index, picture in enumerate(media.read(info)):
            rgb = picture.rgb()
            tracker.add(rgb)
            if index in stills:
                kept[index] = rgb
        points = tracker.finish().points
    low, high = points.min(1), points.max(1)
    return Look(faces.lip_opening(points), (low + high) / 2, float(np.nanmax(high - low)), kept)


def add_speech(movie: Path, speech: Path, target: Path) -> Path:
    """A copy of a movie's pictures, not encoded again, with the speech as its only sound, cut to their length.

    Returns:
        The file written: `target`, or beside it an .mkv when MP4 cannot hold the movie's codec.
    """
    with open_movie(str(movie)) as pictures, av.open(f"file:{speech}", metadata_errors="ignore") as sound:
        source = movie_stream(pictures, str(movie))
        tick = source.time_base or Fraction(1)
        begin = (source.start_time or 0) * tick
        end = source.duration * tick if source.duration else Fraction(pictures.duration or 0, 1_000_000)
        if source.codec_context.codec.name not in av.open(io.BytesIO(), "w", format="mp4").supported_codecs:
            target = target.with_suffix(".mkv")
        with av.open(f"file:{target}", "w") as film:
            picture_stream = film.add_stream_from_template(source)
            voice = film.add_stream("aac", rate=48000, layout="mono")
            voice.bit_rate = 128_000
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=48000, frame_size=1024)
            for packet in pictures.demux(source):
                if packet.size:  # Matroska's first packets may have no dts; the muxer finds one
                    packet.stream = picture_stream
                    film.mux(packet)
            samples = 0
            for frame in sound.decode(audio=0):
                frame.pts = None
                for part in resampler.resample(frame):
                    if samples < end * 48000:
                        part.pts = samples + round(begin * 48000)
                        samples += part.samples
                        film.mux(voice.encode(part))
            film.mux(voice.encode())
    return target


def sheet(before: Look, after: Look, rate: Fraction) -> np.ndarray:
    """A contact sheet (h, w, 3) uint8: the face at real size, before above after, a column for each still."""
    side = round(1.3 * before.size)
    frames = sorted(before.stills.keys() & after.stills.keys())
    usual = np.nanmedian(before.middles, axis=0)
    middles = [usual if np.isnan(middle).any() else middle for middle in before.middles[frames]]
    rows = {
        name: [_cut(look.stills[frame], middle, side) for frame, middle in zip(frames, middles, strict=True)]
        for name, look in (("before", before), ("after", after))
    }
    return grid(rows, [f"{frame / float(rate):.2f} s" for frame in frames])


def _cut(picture: np.ndarray, middle: np.ndarray, side: int) -> np.ndarray:
    """A square of the picture, black where it leaves the frame."""
    x, y = (round(float(v) - side / 2) for v in middle)
    padded = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_CONSTANT)
    return padded[y + side : y + 2 * side, x + side : x + 2 * side]
