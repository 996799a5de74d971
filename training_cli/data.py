# SPDX-License-Identifier: GPL-3.0-or-later
"""What training draws from prepared clips. Sample k of a run depends on its seed and k alone: not on the worker that
makes it, nor on how often the run was stopped, nor on how many processes share it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from core import audio
from core.errors import JobError, MediaError
from core.faces.mesh import lips as lip_points
from core.timing import frame_middle, mel_start, sync_window

from . import lips, shards
from .augment import augment_mel, mask_frames, random_turn, stretch_mel, stretch_room, turned

dev_seed = 20_000
"""Seed of the fixed dev set: every run of every config is measured on the same samples."""
most_damaged = 8
"""Clips in a row that may be unreadable before training stops instead of drawing another."""
Item = dict[str, Tensor]


@dataclass(frozen=True)
class DataSettings:
    """What is drawn, and how it is varied. The defaults are the paper's, which are Wav2Lip's."""

    folder: str
    """Folder that `lipsync-train prepare` made."""
    balance: Literal["clips", "people"] = "clips"
    """`clips`: every clip is as likely as any other. `people`: a person's share grows with the root of their minutes,
    so that one who talks for seven minutes does not drown a hundred who talk for seconds."""
    reference_gap: int = 5
    """Frames between a target frame and the reference frame of the same place in its window, at least."""
    dissimilar_mouth: float = 0.0
    """Part of the samples that take, of four references, the one whose mouth differs most from the target's:
    copying it cannot pay."""
    one_reference: bool = False
    """One reference frame for all frames of a window, as at render time, instead of a window of consecutive ones."""
    erase_mouth: float = 0.0
    """Part of the samples whose references have their mouths blurred away."""
    augment_picture: bool = False
    """Shift by up to a twenty-fourth of the crop, mirror and recolour target and reference alike."""
    augment_turn: float = 0.0
    """Part of the samples whose faces are narrowed, sheared and rotated as if the head turned: most heads in most
    footage face the camera. The reference's is never quite the same."""
    augment_sound: bool = False
    """Gain, slope, noise floor, masked bands and pitch shift of what the generator hears."""
    augment_time: bool = False
    """Of sound that is heard without pictures also tempo, and masked moments off the middle."""
    level_speakers: float = 0.0
    """Part of the way by which the mouth shapes of a clip, where they are learnt from sound alone, are brought to the
    usual spread: how far one opens the mouth is not heard, and lively speakers would drown the others."""
    silence: float = 0.0
    """Part of the samples with silence for sound and a frame of the clip's most closed mouths as target."""

    def __post_init__(self) -> None:
        for name in ("dissimilar_mouth", "erase_mouth", "silence", "level_speakers", "augment_turn"):
            if not 0 <= getattr(self, name) <= 1:
                raise JobError(f"data.{name} is {getattr(self, name)}.", "It is a part of the samples: 0 to 1.")
        if self.reference_gap < 1:
            hint = "It has to be 1 or more, or the target would be its own reference."
            raise JobError(f"data.reference_gap is {self.reference_gap}.", hint)


class Index:
    """The clips of a split, with the chance of each.

    Raises:
        MediaError: the folder holds none.
    """

    def __init__(self, folder: Path, split: str, balance: str, frames: int) -> None:
        verdicts = [v for v in shards.read_report(folder) if v.verdict == "ok" and v.split == split]
        long = [v for v in verdicts if v.frames >= frames]
        self.paths = [shards.clip_path(folder, v) for v in long]
        if not long:
            if verdicts:
                raise MediaError(f"No clip of split {split} in {folder} has {frames} frames.", "Prepare longer videos.")
            hint = "Run `lipsync-train prepare` on videos first, and name its output folder."
            raise MediaError(f"There is no prepared clip of split {split} in {folder}.", hint)
        self.size = min(v.size for v in long)
        """Height and width of the smallest crops."""
        missing = [path for path in self.paths if not path.is_file()]
        if missing:
            raise MediaError(f"{len(missing)} prepared clips are missing, the first is {missing[0]}.", shards.again)
        lengths = np.array([v.frames for v in long], float)
        weights = np.ones(len(long))
        if balance == "people":
            _, person = np.unique([v.identity for v in long], return_inverse=True)
            weights = lengths / np.sqrt(np.bincount(person, lengths))[person]
        self._cumulative = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, rng: np.random.Generator) -> shards.ClipFile:
        """A clip, opened.

        Raises:
            MediaError: it is damaged.
        """
        chosen = min(int(np.searchsorted(self._cumulative, rng.random(), "right")), len(self.paths) - 1)
        return shards.ClipFile(self.paths[chosen])


def readable(draw: Callable[[], Item]) -> Item:
    """The first sample that can be read: a clip that has become damaged shall not end a run of days.

    Raises:
        MediaError: several in a row cannot.
    """
    for _ in range(most_damaged - 1):
        try:
            return draw()
        except MediaError as e:
            warnings.warn(f"skipped: {e}", stacklevel=1)
    return draw()


class Steps(Sampler[int]):
    """The numbers of the samples that one process draws, from a step of the run on, for ever."""

    def __init__(self, step: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self._first, self._world = step * batch * world + rank, world

    def __iter__(self) -> Iterator[int]:
        number = self._first
        while True:
            yield number
            number += self._world


class PictureWindows(Dataset[Item]):
    """Samples for the generator: T consecutive frames, T references, what is heard at each, and what the expert hears.

    Keys of a sample; S is the net's size:
        true: (T, S, S, 3) uint8 RGB.
        reference: (T, S, S, 3) uint8.
        mel: (T, 1, 80, audio_frames) float32, by core.timing.mel_start.
        sync_mel: (1, 80, 16) float32 of the five frames from the first on, by core.timing.sync_window; not augmented.
        landmarks: (T, 85, 2) float32, the true `shards.points` in units of the crop, those of the lips first.
        reference_landmarks: (T, 85, 2) float32, those of the references.
        shapes: (T, 8) float32 in [-4, 4], the true mouth shapes (core.mouth).
        reference_shapes: (T, 8) float32 in [-4, 4], those of the references.

    Args:
        length: T.
        size: S; clips prepared larger are reduced, smaller ones refused.
        seed: of the run.
    """

    def __init__(
        self, settings: DataSettings, split: str, length: int, size: int, audio_frames: int, seed: int
    ) -> None:
        self.settings, self.length, self.size, self.audio_frames, self.seed = settings, length, size, audio_frames, seed
        needed = length + 2 * settings.reference_gap - 1  # then every start has another far enough away
        self.index = Index(Path(settings.folder), split, settings.balance, needed)
        stored = self.index.size
        if stored < size:
            hint = f"Run `lipsync-train prepare` with --size {size}, or train at {stored}."
            raise MediaError(f"The clips in {settings.folder} are {stored} pixels wide, the net {size}.", hint)

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng([self.seed, number])
        return readable(lambda: self._sample(rng))

    def _sample(self, rng: np.random.Generator) -> Item:
        s, n = self.settings, self.length
        clip = self.index.draw(rng)
        shapes = lips.shapes(clip.landmarks).clip(-4, 4)
        silent = rng.random() < s.silence
        start = _most_closed(shapes, n, rng) if silent else int(rng.integers(len(clip) - n + 1))
        other = self._reference(start, shapes, rng)
        frames = range(start, start + n)
        references = [other] * n if s.one_reference else list(range(other, other + n))
        true, reference = clip.crops(frames), clip.crops(references)
        points, other_points = clip.landmarks[frames], clip.landmarks[references]
        shape, other_shape = shapes[frames], shapes[references]
        margin = shards.margin(clip.info.size)
        if rng.random() < s.erase_mouth:
            mouths = other_points[:, : len(lip_points)] * clip.info.size + margin
            reference = np.stack([_without_mouth(c, m) for c, m in zip(reference, mouths, strict=True)])
        if s.augment_turn and rng.random() < s.augment_turn:
            turn, wobble = random_turn(rng, 1.0), random_turn(rng, 0.15)
            true, points = turned(true, points, turn, margin)
            reference, other_points = turned(reference, other_points, wobble @ turn, margin)
        x = y = margin
        if s.augment_picture:
            x, y = rng.integers(margin // 2, margin + margin // 2 + 1, 2)
            moved = (np.array([x, y]) - margin) / clip.info.size
            points, other_points = points - moved, other_points - moved
        view = np.s_[:, y : y + clip.info.size, x : x + clip.info.size]
        true, reference = true[view], reference[view]
        if s.augment_picture:
            true, reference = np.split(_recoloured(np.concatenate([true, reference]), rng), 2)
            if rng.random() < 0.5:
                true, reference = true[:, :, ::-1], reference[:, :, ::-1]
                points, other_points = (p * (-1, 1) + (1, 0) for p in (points, other_points))
                shape, other_shape = (s[:, [0, 2, 1, 3, 4, 5, 6, 7]] for s in (shape, other_shape))
        if clip.info.size != self.size:
            true, reference = (resized(pictures, self.size) for pictures in (true, reference))
        mel, sync_mel = self._sound(clip, start, silent, rng)
        return {
            "true": torch.from_numpy(np.ascontiguousarray(true)),
            "reference": torch.from_numpy(np.ascontiguousarray(reference)),
            "mel": mel[:, None],
            "sync_mel": sync_mel[None],
            "landmarks": torch.from_numpy(np.ascontiguousarray(points, np.float32)),
            "reference_landmarks": torch.from_numpy(np.ascontiguousarray(other_points, np.float32)),
            "shapes": torch.from_numpy(np.ascontiguousarray(shape, np.float32)),
            "reference_shapes": torch.from_numpy(np.ascontiguousarray(other_shape, np.float32)),
        }

    def _reference(self, start: int, shapes: np.ndarray, rng: np.random.Generator) -> int:
        """First frame of the reference window."""
        n, gap = self.length, self.settings.reference_gap
        starts = np.arange(len(shapes) - n + 1)
        far = starts[np.abs(starts - start) >= gap]
        if not len(far):
            raise MediaError("A clip is shorter than the index says.", shards.again)
        candidates = rng.choice(far, 4 if rng.random() < self.settings.dissimilar_mouth else 1)
        distance = [np.abs(shapes[c : c + n] - shapes[start : start + n]).sum() for c in candidates]
        return int(candidates[int(np.argmax(distance))])

    def _sound(
        self, clip: shards.ClipFile, start: int, silent: bool, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        rate, wide = clip.info.rate, self.audio_frames
        mel = clip.mel.astype(np.float32)
        if silent:
            mel = np.full_like(mel, audio.mel_floor)
        starts = mel_starts(range(start, start + self.length), rate, wide)
        sync_mel = torch.from_numpy(audio.mel_windows(mel, [sync_window(start, rate)])[0])
        first = starts[0]
        span = audio.mel_windows(mel, [first], starts[-1] + wide - first)
        if self.settings.augment_sound:
            heard = augment_mel(torch.from_numpy(span), torch.Generator().manual_seed(int(rng.integers(1 << 62))))
            span = heard.numpy()
        windows = np.stack([span[0, :, begin - first : begin - first + wide] for begin in starts])
        return torch.from_numpy(windows), sync_mel


class SoundWindows(Dataset[Item]):
    """Samples for the audio encoder alone: frames of one clip, what is heard at each and the mouth's shape.

    Keys of a sample: `mel` (n, 1, 80, audio_frames) float32, each augmented apart if the settings say so, and `shapes`
    (n, 8) float32 in [-4, 4].
    """

    def __init__(self, settings: DataSettings, split: str, count: int, audio_frames: int, seed: int) -> None:
        self.settings, self.count, self.audio_frames, self.seed = settings, count, audio_frames, seed
        self.index = Index(Path(settings.folder), split, settings.balance, 1)

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng([self.seed, number])
        return readable(lambda: self._sample(rng))

    def _sample(self, rng: np.random.Generator) -> Item:
        s = self.settings
        clip = self.index.draw(rng)
        shapes = lips.shapes(clip.landmarks).clip(-4, 4)
        silent = rng.random() < s.silence
        if silent:
            frames = np.array([_most_closed(shapes, 1, rng) for _ in range(self.count)])
        else:
            frames = rng.integers(len(clip), size=self.count)
        room = stretch_room if s.augment_time else 0
        wide = self.audio_frames + 2 * room
        starts = mel_starts(frames, clip.info.rate, self.audio_frames)
        heard = audio.mel_windows(clip.mel.astype(np.float32), [start - room for start in starts], wide)
        mel = torch.from_numpy(np.full_like(heard, audio.mel_floor) if silent else heard)
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        if s.augment_time:
            mel = stretch_mel(mel, generator)
        if s.augment_sound:
            mel = augment_mel(mel, generator)
        if s.augment_time:
            mel = mask_frames(mel, generator)
        levelled = shapes[frames] / lips.liveliness(shapes, s.level_speakers)
        return {"mel": mel[:, None], "shapes": torch.from_numpy(levelled.clip(-4, 4))}


def mel_starts(frames: range | np.ndarray, rate: Fraction, audio_frames: int) -> list[int]:
    """First mel column heard at each frame, by the rule that rendering follows too."""
    return [mel_start(frame_middle(int(frame), rate), audio_frames) for frame in frames]


def _most_closed(shapes: np.ndarray, length: int, rng: np.random.Generator) -> int:
    """First frame of one of the tenth of all windows with the least opening."""
    opening = np.convolve(shapes[:, 0], np.ones(length), "valid")
    closed = np.argsort(opening, kind="stable")[: max(1, len(opening) // 10)]
    return int(rng.choice(closed))


def _recoloured(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures (n, s, s, 3) uint8 in another light, all in the same."""
    gain, offset = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3), rng.uniform(-12, 12)
    table = np.clip(np.arange(256)[:, None] * gain + offset + 0.5, 0, 255).astype(np.uint8)
    return np.stack([cv2.LUT(picture, table[:, None, :].transpose(1, 0, 2)) for picture in pictures])


def resized(pictures: np.ndarray, size: int) -> np.ndarray:
    """Pictures (n, s, s, 3) as (n, size, size, 3), each pixel the mean of the area it covers."""
    return np.stack([cv2.resize(p, (size, size), interpolation=cv2.INTER_AREA) for p in pictures])


def _without_mouth(crop: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """A stored crop (s, s, 3) uint8 with the surroundings of its lips (40, 2), in pixels, blurred to mere colour."""
    unit = crop.shape[0] / 112
    low, high = mouth.min(0), mouth.max(0)
    (x, y), (rx, ry) = (low + high) / 2, (high - low) / 2 + (7 * unit, 9 * unit)
    rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]] + 0.5
    inside = np.clip(2 * (1.3 - ((columns - x) / rx) ** 2 - ((rows - y) / ry) ** 2), 0, 1)[..., None]
    blurred = cv2.GaussianBlur(crop, (0, 0), 9 * unit).astype(np.float32)
    return (crop + (blurred - crop) * inside.astype(np.float32) + 0.5).astype(np.uint8)
