# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepared clips, drawn so that no person drowns the others, and the augmentation of sound and picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from core import audio
from core.errors import MediaError
from core.faces.mesh import lips as lip_points
from core.timing import mel_window

from . import lips, shards


@dataclass(frozen=True)
class Sounding:
    """A clip without its pictures: small enough to keep by the thousand."""

    path: Path
    identity: str
    windows: np.ndarray
    """(T, 80, length) float16: the mel window of each frame, by core.timing."""
    shapes: np.ndarray
    """(T, 8) float32: the mouth's shape (training_cli.lips)."""


def load_soundings(folder: Path, split: str, length: int) -> list[Sounding]:
    """All clips of a split. `length`: mel frames in a window; beyond 16 it grows to both sides alike.

    Raises:
        MediaError: the folder holds none.
    """
    clips: list[Sounding] = []
    for path in sorted(folder.glob("*.safetensors")):
        clip = shards.load(path)
        if clip.info.split != split:
            continue
        mel = audio.log_mel(clip.wave.astype(np.float32) / 32768)
        starts = [mel_window(i, clip.info.rate) - (length - 16) // 2 for i in range(len(clip.landmarks))]
        windows = audio.mel_windows(mel, starts, length).astype(np.float16)
        clips.append(Sounding(path, clip.info.identity, windows, lips.shapes(clip.landmarks)))
    if not clips:
        raise MediaError(f"There is no prepared clip of split {split} in {folder}.", "Run `lipsync-train prepare`.")
    return clips


class Sampler:
    """Draws (clip, frame) so that an identity's share grows with the root of its minutes: neither one person's seven
    minutes nor a hundred people's seconds drown the rest."""

    def __init__(self, clips: list[Sounding], rng: np.random.Generator) -> None:
        self.clips, self.rng = clips, rng
        frames = np.array([len(c.shapes) for c in clips], float)
        names, which = np.unique([c.identity for c in clips], return_inverse=True)
        total = np.bincount(which, frames, len(names))
        weights = frames / np.sqrt(total)[which]
        self.weights = weights / weights.sum()

    def draw(self, count: int) -> list[tuple[Sounding, int]]:
        chosen = self.rng.choice(len(self.clips), count, p=self.weights)
        return [(self.clips[i], int(self.rng.integers(len(self.clips[i].shapes)))) for i in chosen]


def augment_mel(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Other voices, rooms and microphones for mel windows (B, 80, T) in [-4, 4].

    Gain ±9 dB, a slope over the bands (±6 dB at their ends), pitch ±3 bands, a noise floor, a masked run of bands.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, 1, 1, generator=generator) * (high - low) + low

    batch, bands, _ = mel.shape
    decibel = 0.08  # the mel's 100 dB lie in 8 units
    shift = torch.randint(-3, 4, (batch, 1), generator=generator)
    index = (torch.arange(bands) + shift).clamp(0, bands - 1)
    mel = mel.gather(1, index[:, :, None].expand_as(mel))
    mel = mel + decibel * (uniform(-9, 9) + uniform(-6, 6) * torch.linspace(-1, 1, bands)[:, None])
    floor = uniform(-4.5, -1.5) + 0.15 * torch.randn(mel.shape, generator=generator)
    mel = torch.maximum(mel, floor + uniform(-0.5, 0.5) * torch.linspace(-1, 1, bands)[:, None])
    start, run = uniform(0, bands), uniform(0, 16)
    band = torch.arange(bands)[None, :, None]
    mel = torch.where((band >= start) & (band < start + run), torch.full_like(mel, -4.0), mel)
    return mel.clamp(-4, 4)


@dataclass(frozen=True)
class Pairs:
    """What the generator trains on."""

    face: Tensor
    """(B, 6, 96, 96) float32 in [0, 1]: the face without its lower half, and the reference."""
    true: Tensor
    """(B, 3, 96, 96) float32: the whole face."""
    shapes: Tensor
    """(B, 8) float32: its mouth shape."""
    lips: Tensor
    """(B, 40, 2) float32: its lips in units of the crop."""


def read_pairs(batch: list[tuple[Sounding, int]], rng: np.random.Generator, erase: float) -> Pairs:
    """Pictures for some frames, each with another frame of its clip as reference, 5 frames or more away.

    Both are shifted by up to 4 pixels, brightened and mirrored together.

    Args:
        erase: part of the references whose mouth is blurred away, so that copying it cannot pay.
    """
    faces, trues, shapes, mouths = [], [], [], []
    for clip, frame in batch:
        other = _reference(clip, frame, rng)
        with safe_open(clip.path, "numpy") as file:
            crops, landmarks = file.get_slice("crops"), file.get_slice("landmarks")
            true, reference = crops[frame].astype(np.float32), crops[other].astype(np.float32)
            lips_true, lips_reference = landmarks[frame][: len(lip_points)], landmarks[other][: len(lip_points)]
        if rng.random() < erase:
            reference = _without_mouth(reference, lips_reference)
        x, y = rng.integers(-4, 5, 2) + shards.margin
        window = np.s_[y : y + shards.crop_size, x : x + shards.crop_size]
        true, reference = true[window], reference[window]
        mouth = lips_true - (np.array([x, y]) - shards.margin) / shards.crop_size
        shape = clip.shapes[frame]
        if rng.random() < 0.5:
            true, reference = true[:, ::-1], reference[:, ::-1]
            mouth = mouth * (-1, 1) + (1, 0)
            shape = shape[[0, 2, 1, 3, 4, 5, 6, 7]]
        gain, offset = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3), rng.uniform(-12, 12)
        true, reference = (np.clip(p * gain + offset, 0, 255) / 255 for p in (true, reference))
        upper = true.copy()
        upper[shards.crop_size // 2 :] = 0
        faces.append(np.concatenate([upper, reference], 2))
        trues.append(true)
        shapes.append(shape)
        mouths.append(mouth)

    def pictures(arrays: list[np.ndarray]) -> Tensor:
        stacked = torch.from_numpy(np.stack(arrays).astype(np.float32)).permute(0, 3, 1, 2)
        return stacked.contiguous(memory_format=torch.channels_last)

    return Pairs(
        pictures(faces),
        pictures(trues),
        torch.from_numpy(np.stack(shapes)).clamp(-4, 4),
        torch.from_numpy(np.stack(mouths).astype(np.float32)),
    )


def _reference(clip: Sounding, frame: int, rng: np.random.Generator) -> int:
    """Another frame; half of the time the one of four whose mouth differs most."""
    n = len(clip.shapes)
    far = np.flatnonzero(np.abs(np.arange(n) - frame) >= 5)
    if not len(far):
        return 0 if frame > n // 2 else n - 1
    candidates = rng.choice(far, 4 if rng.random() < 0.5 else 1)
    return int(max(candidates, key=lambda i: np.abs(clip.shapes[i] - clip.shapes[frame]).sum()))


def _without_mouth(crop: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """A stored crop (112, 112, 3) float32 with the surroundings of its lips blurred to nothing but colour."""
    pixels = mouth * shards.crop_size + shards.margin
    low, high = pixels.min(0), pixels.max(0)
    (x, y), (rx, ry) = (low + high) / 2, (high - low) / 2 + (7, 9)
    rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]] + 0.5
    inside = np.clip(2 * (1.3 - ((columns - x) / rx) ** 2 - ((rows - y) / ry) ** 2), 0, 1)[..., None]
    return crop + (cv2.GaussianBlur(crop, (0, 0), 9) - crop) * inside.astype(np.float32)
