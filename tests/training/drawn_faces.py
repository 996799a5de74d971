# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepared clips of a drawn face whose mouth truly follows its sound: a net can learn it in seconds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from core.faces.mesh import chin, rigid, rigid_in_crop
from core.faces.mesh import lips as lip_points
from training_cli import shards


def store(folder: Path, *clips: shards.Clip, quality: int = 0) -> Path:
    """A prepared folder of these clips."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        name, info = f"{number}.safetensors", clip.info
        shards.save(folder / "clips" / name, clip, quality)
        row = shards.Verdict(info.source, "ok", name, info.identity, info.split, len(clip.crops), str(info.rate))
        shards.append(folder, [row])
    return folder


def talking_clip(seed: int, frames: int = 40, split: str = "train", late: int = 0) -> shards.Clip:
    """A drawn face at 25 Hz: the louder its sound is, the wider its mouth. `late`: frames by which the sound lags."""
    rng = np.random.default_rng(seed)
    opening = np.interp(np.arange(frames), np.arange(0, frames + 3, 3), rng.random(len(range(0, frames + 3, 3))))
    heard = np.roll(opening, late)
    samples = np.arange(frames * 640)
    tone = np.sin(2 * np.pi * rng.uniform(200, 400) * samples / 16000) + 0.3 * rng.standard_normal(len(samples))
    wave = 12000 * np.interp(samples / 640 - 0.5, np.arange(frames), heard) ** 2 * tone / 1.5
    skin = rng.uniform(120, 220, 3)
    crops = np.stack([_face(skin, value) for value in opening])
    landmarks = np.stack([_landmarks(value) for value in opening])
    info = shards.ClipInfo(f"{seed}.mp4", f"person {seed}", split, Fraction(25))
    return shards.Clip(info, crops, landmarks, np.clip(wave, -32767, 32767).astype(np.int16))


def _face(skin: np.ndarray, opening: float) -> np.ndarray:
    picture = np.full((112, 112, 3), 60, np.uint8)
    colour = tuple(float(c) for c in skin)
    cv2.ellipse(picture, (56, 56), (42, 52), 0, 0, 360, colour, -1, cv2.LINE_AA)
    for x in (40, 72):
        cv2.circle(picture, (x, 44), 5, (30, 30, 30), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (56, 80), (14, 3 + round(9 * opening)), 0, 0, 360, (150, 60, 60), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (56, 80), (10, round(9 * opening)), 0, 0, 360, (40, 10, 10), -1, cv2.LINE_AA)
    return picture


def _landmarks(opening: float) -> np.ndarray:
    """(85, 2) in crop units; the points that training_cli.lips measures lie where the picture shows them."""
    at = {point: i for i, point in enumerate(shards.points)}
    points = np.full((len(shards.points), 2), 0.5, np.float32)
    x, y, gap = 0.5, 0.75, 9 * opening / 96
    for i, angle in enumerate(np.linspace(0, 2 * np.pi, len(lip_points), endpoint=False)):
        points[i] = x + 14 / 96 * np.cos(angle), y + (3 / 96 + gap) * np.sin(angle)
    for upper, lower, aside in ((13, 14, 0), (82, 87, -0.04), (312, 317, 0.04)):
        points[at[upper]], points[at[lower]] = (x + aside, y - gap), (x + aside, y + gap)
    points[at[61]], points[at[291]] = (x - 14 / 96, y), (x + 14 / 96, y)
    points[at[0]], points[at[17]] = (x, y - 3 / 96 - gap), (x, y + 3 / 96 + gap)
    for point, place in zip(rigid, rigid_in_crop, strict=True):
        points[at[point]] = place
    points[at[chin]] = (0.5, 1.0 + gap / 2)
    return points
