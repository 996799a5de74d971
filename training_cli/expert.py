# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train expert`: trains the SyncNet expert, which tells whether a sound belongs to five pictures.

Its loss is the binary cross-entropy of the cosine of two codes [Wav2Lip, syncnet_train.py]. It begins at 0.69, which
is guessing, stays there for long, with LRS2 for 150 000 steps or more, and then falls; Wav2Lip's expert ends near 0.25.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from torchmetrics.functional.classification import binary_auroc, binary_roc
from tqdm import tqdm

from core import audio
from core.errors import JobError, MediaError, ModelError
from core.nets.checkpoint import load_expert, save_net
from core.nets.syncnet import SyncNet, SyncNetConfig, face_width, sync_window_faces
from core.timing import mel_rate, mel_window_length, sync_window, sync_window_length

from . import shards
from .augment import augment_mel
from .data import Index, Item, dev_seed, readable, resized
from .fit import FitResult, FitSettings, Task, fit
from .losses import match_loss
from .sync import measure_offset

guessing = 0.52
"""Accuracy below which an expert has learnt nothing yet."""
flat_after = 2000
"""Steps that an expert may guess before its user is told what can be done."""
learnt = 0.1
"""Loss at which one batch counts as learnt by heart."""
half_learnt = 0.35
"""Loss that shows that a batch is being learnt: who misses pictures or sound cannot get below 0.69."""
most_overfit_steps = 1000
most_overfit_batch = 16
offset_frames = 75
"""Frames of a dev clip whose offset is measured, at most."""


@dataclass(frozen=True)
class SyncDataSettings:
    """What is drawn, and how it is varied. The defaults are Wav2Lip's, which are the paper's."""

    folder: str
    """Folder that `lipsync-train prepare` made. Sound that lags or leads teaches the expert the lag: prepare LRS2-like
    data at 25 frames a second, and again with `--expert` once there is one, which corrects each clip."""
    balance: Literal["clips", "people"] = "clips"
    """`clips`: every clip is as likely as another. `people`: a person's share grows with the root of their minutes."""
    negative_gap: int = 5
    """Frames between the pictures and the sound that does not belong to them, at least. Never less than 5, nor than the
    0.2 seconds that a sound lasts, which are more frames above 25 a second: windows that overlap look right and are
    called wrong, which is what keeps an expert guessing."""
    other_clips: float = 0.0
    """Part of the sounds that do not belong which come from another clip. They are the easier ones, as voice and face
    tell them apart too; a few help an expert with little footage to begin."""
    augment_picture: bool = False
    """Shift by up to a twenty-fourth of the crop, mirror and recolour the five pictures alike. For little footage."""
    augment_sound: bool = False
    """Gain, slope, noise floor, masked bands and pitch shift of the sound. For little footage."""

    def __post_init__(self) -> None:
        if self.negative_gap < sync_window_length:
            raise JobError(f"data.negative_gap is {self.negative_gap}.", f"It has to be {sync_window_length} or more.")
        if not 0 <= self.other_clips <= 1:
            raise JobError(f"data.other_clips is {self.other_clips}, which is no part of 1.")


@dataclass(frozen=True)
class ExpertSettings:
    """Training of the sync expert."""

    output: str
    """Folder for the run. Given again, the run goes on from its last saved state."""
    data: SyncDataSettings
    """What is trained on."""
    start: str = ""
    """An expert .safetensors to start from instead of random weights: for another language or camera, or one that has
    learnt on a few people's clips, where the loss leaves 0.69 sooner."""
    model: SyncNetConfig = field(default_factory=SyncNetConfig)
    """The network. A start of another width is refused."""
    offset_clips: int = 16
    """Dev clips whose offset the expert measures at each evaluation, a second test beside its accuracy; 0: none."""
    overfit_one_batch: bool = False
    """Instead of training, see whether one batch can be learnt by heart, which takes a minute or two: when it cannot,
    data, net or loss are wired wrong, and no amount of steps will help. It takes 1000 steps at most, or fit.steps where
    those are fewer. Nothing is written."""
    fit: FitSettings = field(
        default_factory=lambda: FitSettings(
            steps=1_000_000, batch=64, evaluate_every=5000, dev_samples=512, save_every=2000, patience=40
        )
    )
    """The loop. A sample is five pictures with a sound that belongs to them and one that does not: a batch of 64 are
    128 comparisons, half of them right. The patience outlasts the flat start on LRS2; on a few hours of footage
    evaluate more often: --fit.evaluate_every 500 --fit.patience 10."""


class SyncWindows(Dataset[Item]):
    """Samples for the expert. Sample k depends on the seed and k alone.

    Keys of a sample:
        faces: (5, 96, 96, 3) uint8 RGB, consecutive.
        mel: (2, 1, 80, 16) float32: the sound of these frames, then one that belongs to others.
    """

    def __init__(self, settings: SyncDataSettings, split: str, seed: int) -> None:
        self.settings, self.seed = settings, seed
        folder = Path(settings.folder)
        verdicts = [v for v in shards.read_report(folder) if v.verdict == "ok" and v.split == split]
        needed = [self._needed(Fraction(v.rate)) for v in verdicts]
        self.index = Index(folder, split, settings.balance, min(needed, default=0))
        short = [v for v, frames in zip(verdicts, needed, strict=True) if v.frames < frames]
        self._short = {shards.clip_path(folder, v) for v in short}
        if self._short.issuperset(self.index.paths):
            raise MediaError(f"No clip of split {split} in {folder} is long enough.", "Prepare longer videos.")

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng([self.seed, number])
        return readable(lambda: self._sample(rng))

    def _sample(self, rng: np.random.Generator) -> Item:
        clip = self._draw(rng)
        start, other = self.starts(len(clip), clip.info.rate, rng)
        sounds = [_sound(clip, start), _sound(clip, other)]
        if rng.random() < self.settings.other_clips:
            stranger = self._draw(rng)
            if stranger.path != clip.path:
                sounds[1] = _sound(stranger, int(rng.integers(len(stranger) - sync_window_length + 1)))
        mel = torch.from_numpy(np.stack(sounds))
        if self.settings.augment_sound:
            mel = augment_mel(mel, torch.Generator().manual_seed(int(rng.integers(1 << 62))))
        faces = clip.crops(range(start, start + sync_window_length))
        x = y = margin = shards.margin(clip.info.size)
        if self.settings.augment_picture:
            x, y = rng.integers(margin // 2, margin + margin // 2 + 1, 2)
        faces = faces[:, y : y + clip.info.size, x : x + clip.info.size]
        if self.settings.augment_picture:
            faces = _recoloured(faces, rng)
        if clip.info.size != face_width:
            faces = resized(faces, face_width)
        return {"faces": torch.from_numpy(np.ascontiguousarray(faces)), "mel": mel[:, None]}

    def _gap(self, rate: Fraction) -> int:
        """Frames between two moments whose sounds share nothing."""
        return max(self.settings.negative_gap, ceil(mel_window_length * rate / mel_rate))

    def _needed(self, rate: Fraction) -> int:
        """Frames of a clip in which every start has another far enough away."""
        return sync_window_length + 2 * self._gap(rate) - 1

    def _draw(self, rng: np.random.Generator) -> shards.ClipFile:
        """A clip that is long enough for its rate."""
        clip = self.index.draw(rng)
        while clip.path in self._short:
            clip = self.index.draw(rng)
        return clip

    def starts(self, frames: int, rate: Fraction, rng: np.random.Generator) -> tuple[int, int]:
        """First frames of the pictures and of the sound that does not belong to them."""
        starts = np.arange(frames - sync_window_length + 1)
        start = int(rng.choice(starts))
        far = starts[np.abs(starts - start) >= self._gap(rate)]
        if not len(far):
            raise MediaError("A clip is shorter than the index says.", shards.again)
        return start, int(rng.choice(far))


def _sound(clip: shards.ClipFile, frame: int) -> np.ndarray:
    """(80, 16): what is heard during the five frames from `frame` on."""
    return audio.mel_windows(clip.mel, [sync_window(frame, clip.info.rate)])[0].astype(np.float32)


def _recoloured(faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pictures in another light, half of them mirrored."""
    gain, offset = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3), rng.uniform(-12, 12)
    faces = np.clip(faces * gain + offset + 0.5, 0, 255).astype(np.uint8)
    return faces[:, :, ::-1] if rng.random() < 0.5 else faces


class ExpertTask(Task):
    """The expert and its loss. Batches as of SyncWindows."""

    name = "expert"

    def __init__(self, settings: ExpertSettings, offset_clips: Sequence[Path] = ()) -> None:
        super().__init__()
        self.settings, self.offset_clips = settings, offset_clips
        self.expert = SyncNet(settings.model)
        if settings.start:
            start, _ = load_expert(Path(settings.start))
            if start.config != settings.model:
                hint = f"Give --model.width {start.config.width}, or no start."
                raise ModelError(f"{settings.start} is of another width than the settings ask for.", hint)
            self.expert.load_state_dict(start.state_dict())
        self._advised = False

    def averaged(self) -> nn.Module:
        return self.expert

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        cosine = self._cosines(batch)
        match = _matches(cosine)
        accuracy = ((cosine > 0.5) == match.bool()).float().mean()
        return {"loss": match_loss(cosine.flatten(), match.flatten()), "accuracy": accuracy}

    def _cosines(self, batch: Item) -> Tensor:
        """(B, 2): of the pictures with the sound that belongs to them, and with the other."""
        faces = batch["faces"].permute(0, 1, 4, 2, 3).float() / 255
        seen = self.expert.embed_faces(sync_window_faces(faces))
        heard = self.expert.embed_sound(batch["mel"].flatten(0, 1)).unflatten(0, (-1, 2))
        return (seen[:, None] * heard).sum(2)

    def evaluate(self, batches: Iterable[Item], step: int) -> dict[str, float]:
        cosine = torch.cat([self._cosines(batch) for batch in batches])
        match = _matches(cosine)
        cosine, match = cosine.flatten(), match.flatten()
        false_positives, true_positives, _ = binary_roc(cosine, match.int())
        values = {
            "loss": float(match_loss(cosine, match)),
            "accuracy": float(((cosine > 0.5) == match.bool()).float().mean()),
            "best_accuracy": float((true_positives + 1 - false_positives).max() / 2),
            "auc": float(binary_auroc(cosine, match.int())),
        }
        if self.offset_clips:
            values["offset_accuracy"] = float(np.mean([self._in_step(path) for path in self.offset_clips]))
        return values

    def _in_step(self, path: Path) -> bool:
        """Whether the expert finds a dev clip's sound where it is, within a frame."""
        try:
            return abs(measure_offset(self.expert, _beginning(path)).frames) <= 1
        except MediaError:  # it says no numbers, which may pass
            return False

    def save(self, path: Path, card: dict[str, Any]) -> None:
        about = _about(Path(self.settings.data.folder))
        save_net(path, self.expert, {**card, "data": about, "colours": "RGB"}, torch.float32)

    def advice(self, evaluation: dict[str, float], step: int) -> str:
        if self._advised or step < flat_after or evaluation["accuracy"] >= guessing:
            return ""
        self._advised = True
        return (
            f"The expert still guesses after {step} steps. With a corpus like LRS2 that is normal up to step 150000; "
            "`--overfit_one_batch true` tells in a minute whether data, net and loss are wired right. A few people's "
            "clips without augmentation get over it sooner, and `--start` goes on from there with all of them."
        )


def _matches(cosine: Tensor) -> Tensor:
    """(B, 2): 1 for the first of each row, 0 for the second."""
    return cosine.new_tensor([1.0, 0.0]).expand_as(cosine)


def _beginning(path: Path) -> shards.Clip:
    """The first three seconds or so of a prepared clip."""
    clip = shards.ClipFile(path)
    frames = min(len(clip), offset_frames)
    wave = clip.wave()[: int(frames / clip.info.rate * audio.sample_rate)]
    return shards.Clip(clip.info, clip.crops(range(frames)), clip.landmarks[:frames], wave)


def _spread(paths: list[Path], wanted: int) -> list[Path]:
    """Some of the clips, from all over the list; damaged ones are left out."""
    chosen = []
    for path in paths[:: max(1, len(paths) // max(1, wanted))][:wanted]:
        try:
            _beginning(path)
        except MediaError as e:
            warnings.warn(f"skipped: {e}", stacklevel=1)
        else:
            chosen.append(path)
    return chosen


def _about(folder: Path) -> dict[str, Any]:
    """What an expert was trained on, for its card."""
    clips = [v for v in shards.read_report(folder) if v.verdict == "ok" and v.split == "train"]
    return {
        "clips": len(clips),
        "people": len({v.identity for v in clips}),
        "frames": sum(v.frames for v in clips),
        "licences": sorted({v.licence for v in clips if v.licence}),
    }


def train_expert(settings: ExpertSettings) -> FitResult | str:
    """Trains, or goes on training, the run in settings.output; or checks that one batch can be learnt.

    Raises:
        LipSyncError: the settings, the data or a file do not fit; see fit.fit.
    """
    train = SyncWindows(settings.data, "train", settings.fit.seed)
    if settings.overfit_one_batch:
        return overfit_one_batch(settings, train)
    if settings.fit.batch < 2:
        hint = "Use 2 or more: the net's last layers see one value a sample, and batch norm needs several."
        raise JobError(f"fit.batch is {settings.fit.batch}.", hint)
    dev = SyncWindows(SyncDataSettings(settings.data.folder), "dev", dev_seed)
    torch.manual_seed(settings.fit.seed)  # of the weights the run begins with
    task = ExpertTask(settings, _spread(dev.index.paths, settings.offset_clips))
    return fit(task, train, dev, settings.fit, Path(settings.output), settings)


def overfit_one_batch(settings: ExpertSettings, train: SyncWindows) -> str:
    """Learns one batch by heart, and says in a sentence how that went.

    Raises:
        JobError: it cannot be learnt.
        MediaError: the clips' sound does not change.
    """
    fabric = Fabric(accelerator=settings.fit.accelerator, devices=1, precision=settings.fit.precision)
    torch.manual_seed(settings.fit.seed)
    raw = ExpertTask(settings)
    task, optimizer = fabric.setup(raw, torch.optim.Adam(raw.parameters(), settings.fit.rate))
    wanted = max(2, min(settings.fit.batch, most_overfit_batch))
    batch = fabric.to_device(_telling_batch(train, wanted))
    steps = min(settings.fit.steps, most_overfit_steps)
    bar = tqdm(range(1, steps + 1), unit="step")
    first = loss = float("nan")
    for step in bar:
        values = task(batch, step)
        loss = float(values["loss"].detach())
        first = loss if step == 1 else first
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{float(values['accuracy']):.2f}")
        if loss < learnt:
            bar.close()
            return (
                f"Wired right: {wanted} samples were learnt by heart in {step} steps, the loss fell from {first:.2f} "
                f"to {loss:.2f}. If training stays at 0.69, it lacks time or footage, or the sound is out of sync."
            )
        optimizer.zero_grad()
        fabric.backward(values["loss"])
        optimizer.step()
    if loss < half_learnt:
        return (
            f"Wired right: {wanted} samples are not quite learnt by heart after {steps} steps, but the loss fell from "
            f"{first:.2f} to {loss:.2f}, and an expert that missed pictures or sound would stay at 0.69."
        )
    raise JobError(
        f"{wanted} samples were not learnt by heart in {steps} steps: the loss went from {first:.2f} to {loss:.2f}.",
        _what_else(settings.fit, steps),
    )


def _what_else(fit: FitSettings, steps: int) -> str:
    """What can be tried, of what the settings do not have already."""
    tries = [f"--fit.steps {most_overfit_steps}"] * (steps < most_overfit_steps)
    tries += ["--fit.rate 1e-4"] * (fit.rate != 1e-4) + ["--fit.precision 32-true"] * (fit.precision != "32-true")
    look = "ook at the crops that prepare made, and listen to whether their sound is in sync."
    return f"Try {' and '.join(tries)}, and l{look}" if tries else f"L{look}"


def _telling_batch(train: SyncWindows, wanted: int) -> Item:
    """Samples whose sounds differ, each of them right once and wrong once: who misses one side cannot learn these."""
    samples: list[Item] = []
    for number in range(50 * wanted):
        sample = train[number]
        if all(float((sample["mel"][0] - other["mel"][0]).abs().mean()) > 0.2 for other in samples):
            samples.append(sample)
        if len(samples) == wanted:
            batch = default_collate(samples)
            right = batch["mel"][:, 0]
            return {**batch, "mel": torch.stack([right, right.roll(1, 0)], 1)}
    hint = "Listen to the videos: they may be silent, or their sound stream empty."
    raise MediaError(f"In {train.settings.folder} hardly any sound changes from one moment to another.", hint)
