# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train generator`: trains core's generator on prepared clips, in three stages that fit two CPU cores.

The picture half of the generator hears the sound only through AdaIN, which takes two numbers a channel from the audio
map: mean and standard deviation. So both halves can learn apart, each from what it needs:

1. `listen`: the audio encoder and a small head learn to tell mouth shapes (training_cli.lips) from sound. Cheap, and
   where overfitting threatens: strong augmentation.
2. `paint`: the U-Net learns to draw the mouth for statistics that a small teacher makes of the *true* shape. Picture
   and shape agree exactly, so nothing blurs, and copying the reference's lips never pays.
3. `speak`: the audio encoder learns to give the statistics that the teacher would give for the shapes it hears,
   enlarged by `expressiveness`, since a prediction is always smaller than what it predicts.

Between the last two, constants move from the teacher into the layers after AdaIN (`fold_negative_means`). What comes
out is the paper's generator, without head or teacher.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.allocator import keep_freed_memory
from core.errors import JobError, ModelError
from core.nets.align import AlignBlock
from core.nets.blocks import ResidualBlock
from core.nets.checkpoint import save_generator
from core.nets.generator import Generator, GeneratorConfig

from . import lips, shards
from .data import Sampler, Sounding, augment_mel, load_soundings, read_pairs
from .losses import Lpips, mouth_weights

stages = ("listen", "paint", "speak")
unreadable = (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError)
"""What torch.load raises for a file that it cannot or will not read."""


@dataclass(frozen=True)
class Settings:
    """A training run. Minutes are of training, not of evaluation; a run that is stopped goes on where it was."""

    data: str
    """Folder of `lipsync-train prepare`."""
    output: str
    """Folder for the run: state.pt, log.jsonl, generator.safetensors."""
    width: float = 0.375
    align_blocks: int = 3
    image_size: int = 96
    listen_minutes: float = 8.0
    paint_minutes: float = 60.0
    speak_minutes: float = 4.0
    listen_batch: int = 256
    paint_batch: int = 16
    listen_rate: float = 1e-3
    """Learning rate at the start; it falls to nothing over the stage as a cosine, as do the others."""
    paint_rate: float = 1e-3
    speak_rate: float = 1e-3
    mouth_weight: float = 6.0
    upper_weight: float = 0.1
    lpips_weight: float = 0.07
    """Beta of equation (4)."""
    lpips_trunk: str = ""
    """See training_cli.losses.Lpips; `none`: no LPIPS."""
    erase: float = 0.3
    """Part of the samples whose reference has its mouth blurred away."""
    expressiveness: float = 1.5
    seed: int = 0
    threads: int = 0
    """CPU threads; 0: torch's choice."""


def load_settings(folder: Path) -> Settings:
    """The settings of a run.

    Raises:
        JobError: there is no run in this folder.
    """
    try:
        return Settings(**torch.load(folder / "state.pt", map_location="cpu", weights_only=True)["settings"])
    except (*unreadable, KeyError, TypeError):
        hint = "Name the output folder of `lipsync-train generator`."
        raise JobError(f"There is no training run in {folder}.", hint) from None


class LipHead(nn.Module):
    """Statistics of an audio map (B, 2C) → the mouth shape (B, 8) that was heard."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(2 * channels, 128), nn.ReLU(), nn.Linear(128, lips.shape_size)
        )

    def forward(self, statistics: Tensor) -> Tensor:
        return self.layers(statistics)


class LipTeacher(nn.Module):
    """Mouth shapes (B, 8) → statistics (B, 2C) as an audio map would have them: means, then deviations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(lips.shape_size, 128), nn.ReLU(), nn.Linear(128, 2 * channels))

    def forward(self, shapes: Tensor) -> Tensor:
        mean, deviation = self.layers(shapes).chunk(2, 1)
        return torch.cat([mean, F.softplus(deviation)], 1)


class Nets(nn.Module):
    """All that is trained."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.generator = Generator(config)
        self.head = LipHead(self.generator.audio_channels)
        self.teacher = LipTeacher(self.generator.audio_channels)

    def hear(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics (B, 2C) and the shapes (B, 8) heard in mel windows (B, 1, 80, 16)."""
        statistics = map_statistics(self.generator.audio_encoder(mel.contiguous(memory_format=torch.channels_last)))
        return statistics, self.head(statistics)


def map_statistics(audio_map: Tensor) -> Tensor:
    """What AdaIN takes from an audio map (B, C, H, W): (B, 2C), means and population deviations."""
    variance, mean = torch.var_mean(audio_map.float().flatten(2), 2, correction=0)
    return torch.cat([mean, torch.sqrt(variance + 1e-5)], 1)


def map_of_statistics(statistics: Tensor) -> Tensor:
    """A map (B, C, 2, 1) that has just these statistics: mean ± deviation."""
    mean, deviation = statistics.chunk(2, 1)
    return torch.stack([mean + deviation, mean - deviation], 2)[..., None]


@torch.no_grad()
def fold_negative_means(nets: Nets, shapes: Tensor) -> None:
    """Gives the teacher only statistics that an audio map can have with ease: means no smaller than deviations.

    The map comes out of a ReLU: no mean is below zero, and 36 values of a small mean cannot deviate much. What a
    channel lacks for the given shapes (N, 8) is added to the teacher's mean and taken off again where the aligned
    features go next; nothing that is drawn in eval mode changes.
    """
    generator = nets.generator
    channels = generator.audio_channels
    mean, deviation = nets.teacher(shapes).chunk(2, 1)
    added = (deviation - mean).amax(0).clamp(min=0)
    cast(nn.Linear, nets.teacher.layers[-1]).bias[:channels].add_(added)
    offset = torch.zeros_like(added)
    for block in generator.align:
        ffc = cast(AlignBlock, block).ffc
        near, far = offset.split([ffc.n_local, ffc.n_global])
        to_near = _constant_through(ffc.local_to_local, near) + _constant_through(ffc.global_to_local, far)
        cast(Tensor, ffc.norm.running_mean).add_(torch.cat([to_near, _constant_through(ffc.local_to_global, near)]))
        narrow, norm = ffc.global_to_global.narrow[0], ffc.global_to_global.narrow[1]
        cast(Tensor, norm.running_mean).add_(_constant_through(cast(nn.Conv2d, narrow), far))
        offset = offset + added
    conv = cast(nn.Conv2d, cast(nn.Sequential, generator.decoder[0])[0])
    cast(Tensor, conv.bias).sub_(_constant_through(conv, offset))


def _constant_through(conv: nn.Conv2d, constant: Tensor) -> Tensor:
    """What a convolution makes of a map that is constant in each channel; reflected edges keep it constant."""
    return conv.weight.sum((2, 3)) @ constant


class Trainer:
    """One run. `train()` goes through the stages from wherever the run's state is.

    Raises:
        ModelError: the folder holds a run of another network, or a damaged one; or no trunk for LPIPS.
        MediaError: no data.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = Path(settings.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        keep_freed_memory()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config = GeneratorConfig(settings.image_size, settings.width, settings.align_blocks)
        if config.image_size != shards.crop_size:
            raise JobError(f"The data are {shards.crop_size} pixels wide, the net {config.image_size}.")
        self.nets = Nets(config).to(self.device)
        self.nets.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = copy.deepcopy(self.nets).requires_grad_(False)
        self.listener: Nets | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.stage, self.step, self.seconds = stages[0], 0, 0.0
        self.rng = np.random.default_rng(settings.seed)
        self.augmentation = torch.Generator().manual_seed(settings.seed)
        self._resume()

    def train(self) -> Path:
        """Trains what is left; returns the generator's file."""
        clips = load_soundings(Path(self.settings.data), "train", 16)
        sampler = Sampler(clips, self.rng)
        while self.stage != "done":
            name = self.stage
            nets = ["generator.audio_encoder", "head"]
            if name == "paint":
                nets = ["generator.encoder", "generator.align", "generator.decoder", "generator.output", "teacher"]
                self.lpips = None
                if self.settings.lpips_trunk != "none":
                    self.lpips = Lpips(self.settings.lpips_trunk).to(self.device)
            loss = {"listen": self.listen_loss, "paint": self.paint_loss, "speak": self.speak_loss}[name]
            self._run_stage(name, [self.nets.get_submodule(n) for n in nets], loss, sampler)
            if name == "paint":
                shapes = torch.from_numpy(np.concatenate([clip.shapes for clip in clips])).to(self.device)
                fold_negative_means(self.average, (shapes * self.settings.expressiveness).clamp(-4, 4))
            self._end_stage(name)
        return self.save_model()

    def listen_loss(self, batch: list[tuple[Sounding, int]]) -> dict[str, Tensor]:
        mel, shapes = self._sound(batch)
        with self._half():
            _, heard = self.nets.hear(mel)
        return {"shape": F.smooth_l1_loss(heard.float(), shapes)}

    def paint_loss(self, batch: list[tuple[Sounding, int]]) -> dict[str, Tensor]:
        s = self.settings
        pairs = read_pairs(batch, self.rng, s.erase)
        face, true = pairs.face.to(self.device), pairs.true.to(self.device)
        statistics = self.nets.teacher(pairs.shapes.to(self.device))
        with self._half():
            drawn = self.nets.generator.draw(face, map_of_statistics(statistics))
        weights = mouth_weights(pairs.lips.to(self.device), s.image_size, s.mouth_weight, s.upper_weight)
        losses = {"l1": ((drawn - true).abs() * weights).mean() * (1 - s.lpips_weight)}
        if self.lpips:
            mouth = np.s_[:, :, s.image_size // 2 :, s.image_size // 6 : -s.image_size // 6]
            losses["lpips"] = s.lpips_weight * self.lpips(drawn[mouth], true[mouth])
        return losses

    def speak_loss(self, batch: list[tuple[Sounding, int]]) -> dict[str, Tensor]:
        mel, _ = self._sound(batch)
        with torch.no_grad():
            wanted = self._wanted(mel)
            spread = wanted.std(0)
            spread = spread + spread.mean() / 2  # what hardly changes need not be hit to the last digit
        with self._half():
            statistics, _ = self.nets.hear(mel)
        return {"statistics": F.smooth_l1_loss(statistics / spread, wanted / spread)}

    def _wanted(self, mel: Tensor) -> Tensor:
        """The statistics that the teacher gives for the enlarged shapes that `listen` hears."""
        assert self.listener
        _, heard = self.listener.hear(mel)
        return self.listener.teacher((heard * self.settings.expressiveness).clamp(-4, 4))

    @torch.no_grad()
    def _match_levels(self, sampler: Sampler) -> None:
        """Brings the audio map's channels to the level and spread the teacher wants on average, by the last norm alone:
        gradient steps would take most of the stage for it."""
        norm = cast(ResidualBlock, self.nets.generator.audio_encoder[-1]).norm
        for _ in range(12):
            mel, _ = self._sound(sampler.draw(self.settings.listen_batch))
            mean, deviation = self.nets.hear(mel)[0].mean(0).chunk(2)
            wanted_mean, wanted_deviation = self._wanted(mel).mean(0).chunk(2)
            norm.weight.mul_((wanted_deviation / deviation).clamp(0.5, 2))
            norm.bias.add_(wanted_mean - mean)

    def save_model(self, path: Path | None = None, card: dict[str, Any] | None = None) -> Path:
        """Writes the averaged generator with its card; by default into the run's folder."""
        path = path or self.folder / "generator.safetensors"
        training = {**asdict(self.settings), "stage": self.stage, "step": self.step}
        save_generator(path, copy.deepcopy(self.average.generator).cpu(), {**(card or {}), "training": training})
        return path

    def _sound(self, batch: list[tuple[Sounding, int]]) -> tuple[Tensor, Tensor]:
        mel = torch.from_numpy(np.stack([clip.windows[i] for clip, i in batch]).astype(np.float32))
        shapes = torch.from_numpy(np.stack([clip.shapes[i] for clip, i in batch])).clamp(-4, 4)
        return augment_mel(mel, self.augmentation)[:, None].to(self.device), shapes.to(self.device)

    def _half(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def _run_stage(
        self,
        name: str,
        nets: list[nn.Module],
        loss: Callable[[list[tuple[Sounding, int]]], dict[str, Tensor]],
        sampler: Sampler,
    ) -> None:
        s = self.settings
        seconds = 60 * getattr(s, f"{name}_minutes")
        rate = getattr(s, f"{name}_rate")
        batch = s.paint_batch if name == "paint" else s.listen_batch
        parameters = [p for net in nets for p in net.parameters()]
        if name == "speak" and self.listener is None:
            # what `listen` and `paint` learnt is fixed as the target
            self.listener = copy.deepcopy(self.average).eval()
            self._match_levels(sampler)
        optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.01)
        if self.resumed_optimizer:
            optimizer.load_state_dict(self.resumed_optimizer)
            self.resumed_optimizer = None
        for net in nets:
            net.train()
        begun, saved, logged = time.monotonic(), time.monotonic(), time.monotonic()
        sums: dict[str, float] = {}
        count = 0
        while self.seconds < seconds:
            part = self.seconds / seconds
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (self.step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * part))
            losses = loss(sampler.draw(batch))
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            total.backward()
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            if torch.isfinite(norm):
                optimizer.step()
            self.step += 1
            self._average(min(0.998, self.step / (self.step + 20)))
            now = time.monotonic()
            self.seconds += now - begun
            begun = now
            count += 1
            for key, value in losses.items():
                sums[key] = sums.get(key, 0) + value.item()
            if now - logged > 30:
                self._log(name, batch * count / (now - logged), {k: v / count for k, v in sums.items()})
                sums, count, logged = {}, 0, now
            if now - saved > 120:
                self._save(optimizer)
                saved = begun = time.monotonic()
        self._save(optimizer)

    def _end_stage(self, name: str) -> None:
        """The averaged weights go on into the next stage."""
        self.nets.load_state_dict(self.average.state_dict())
        self.nets.eval()
        self.stage = stages[stages.index(name) + 1] if name != stages[-1] else "done"
        self.step, self.seconds = 0, 0.0
        self._save(None)

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        """Moves the exponential moving average, batch norm's running statistics too."""
        for mean, value in zip(self.average.state_dict().values(), self.nets.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)

    def _log(self, stage: str, speed: float, losses: dict[str, float]) -> None:
        row = {"stage": stage, "step": self.step, "minutes": round(self.seconds / 60, 2)}
        row |= {"samples_per_second": round(speed, 1)} | {k: round(v, 5) for k, v in losses.items()}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        state: dict[str, Any] = {
            "settings": asdict(self.settings),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
            "nets": self.nets.state_dict(),
            "average": self.average.state_dict(),
            "listener": self.listener.state_dict() if self.listener else None,
            "optimizer": optimizer.state_dict() if optimizer else None,
            "rng": json.dumps(self.rng.bit_generator.state),
            "augmentation": self.augmentation.get_state(),
            "torch": torch.get_rng_state(),
        }
        temporary = self.folder / "state.part"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def _resume(self) -> None:
        self.resumed_optimizer: dict[str, Any] | None = None
        path = self.folder / "state.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.nets.load_state_dict(state["nets"])
            self.average.load_state_dict(state["average"])
        except (*unreadable, KeyError) as e:
            raise ModelError(
                f"The run in {self.folder} does not fit these settings: {str(e).splitlines()[0]}",
                "Use its own settings, or another output folder.",
            ) from None
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        self.resumed_optimizer = state["optimizer"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.augmentation.set_state(state["augmentation"])
        torch.set_rng_state(state["torch"])
        if state["listener"]:
            self.listener = copy.deepcopy(self.average).eval()
            self.listener.load_state_dict(state["listener"])
