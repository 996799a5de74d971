# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train pretrain`: the generator's hearing and drawing, learned apart.

The picture half of the generator hears the sound only through AdaIN, which takes two numbers a channel from the audio
map: mean and standard deviation. So both halves can learn apart, each from what it needs:

1. `listen`: the audio encoder and a small head learn to tell mouth shapes (training_cli.lips) from sound. Cheap, and
   where overfitting threatens: augment the sound.
2. `paint`: the U-Net learns to draw the mouth for statistics that a small teacher makes of the *true* shape. Picture
   and shape agree exactly, so nothing blurs, and copying the reference's lips never pays.
3. `speak`: the audio encoder learns to give the statistics that the teacher would give for the shapes it hears,
   enlarged by `expressiveness`, since a prediction is always smaller than what it predicts.

Between the last two, constants move from the teacher into the layers after AdaIN (`fold_negative_means`). What comes
out is the paper's generator, without head or teacher.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from core.errors import JobError, ModelError
from core.nets.align import AlignBlock
from core.nets.blocks import ResidualBlock
from core.nets.checkpoint import save_net
from core.nets.generator import Generator, GeneratorConfig

from . import lips, shards
from .config import resolved, without_places
from .data import DataSettings, Index, Item, PictureWindows, SoundWindows, dev_seed
from .fit import FitResult, FitSettings, Task, fit
from .generator import LipHead, map_statistics, masked_pairs, mouth_part
from .losses import Lpips, mouth_weights

stages = ("listen", "paint", "speak")
frames_of_a_clip = 8
"""Frames that the audio encoder gets of every clip drawn: opening a clip costs more than a frame of it."""


@dataclass(frozen=True)
class PretrainSettings:
    """A run of the three stages."""

    output: str
    """Folder for the run. Given again, the run goes on from its last saved state."""
    data: DataSettings
    """What is trained on."""
    minutes: float = 0.0
    """Stop after so many minutes with everything saved; the same command goes on. 0: no limit."""
    model: GeneratorConfig = field(default_factory=GeneratorConfig)
    """The network. It needs alignment modules: a net without them takes no statistics."""
    mouth_weight: float = 6.0
    """Weight of the mouth in L1 over that of the cheeks."""
    upper_weight: float = 0.1
    """Weight of the upper half in L1, which the net only has to pass on."""
    beta: float = 0.07
    """Weight of LPIPS, on the mouth's part of the crop."""
    lpips_trunk: str = ""
    """As in `generator`: AlexNet's weights, empty for torchvision's download, or `untrained`."""
    expressiveness: float = 1.5
    """Factor on the mouth shapes that are heard."""
    listen: FitSettings = field(default_factory=FitSettings)
    """First stage; a sample is 8 frames of a clip."""
    paint: FitSettings = field(default_factory=FitSettings)
    """Second stage; a sample is one frame."""
    speak: FitSettings = field(default_factory=FitSettings)
    """Third stage."""


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
        if not config.align_blocks:
            raise JobError("A generator without alignment modules cannot be pretrained.", "Set model.align_blocks.")
        self.generator = Generator(config)
        self.head = LipHead(self.generator.audio_channels)
        self.teacher = LipTeacher(self.generator.audio_channels)
        self.learnable = frozenset(name for name, p in self.named_parameters() if p.requires_grad)

    def hear(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics (B, 2C) and the shapes (B, 8) heard in mel windows (B, 1, 80, T)."""
        statistics = map_statistics(self.generator.audio_encoder(mel.contiguous(memory_format=torch.channels_last)))
        return statistics, self.head(statistics)


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


class _Stage(Task):
    """A stage trains some parts of the nets and hands all of them on."""

    parts: tuple[str, ...] = ()

    def __init__(self, settings: PretrainSettings, nets: Nets) -> None:
        super().__init__()
        self.settings, self.nets = settings, nets
        for name, parameter in nets.named_parameters():
            parameter.requires_grad_(name in nets.learnable and name.startswith(self.parts))

    def averaged(self) -> nn.Module:
        return self.nets

    def save(self, path: Path, card: dict[str, Any]) -> None:
        state = {name: value.contiguous() for name, value in self.nets.state_dict().items()}
        temporary = path.with_suffix(".part")
        temporary.write_bytes(serialised(state))
        temporary.replace(path)


class Listen(_Stage):
    """Mouth shapes from sound."""

    name = "listen"
    parts = ("generator.audio_encoder", "head")

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        _, heard = self.nets.hear(batch["mel"].flatten(0, 1))
        return {"loss": F.smooth_l1_loss(heard.float(), batch["shapes"].flatten(0, 1))}

    def evaluate(self, batches: Iterable[Item], step: int) -> dict[str, float]:
        pairs = [(self.nets.hear(b["mel"].flatten(0, 1))[1].float(), b["shapes"].flatten(0, 1)) for b in batches]
        heard, true = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
        r = torch.corrcoef(torch.stack([heard[:, 0], true[:, 0]]))[0, 1]
        return {"loss": float(F.smooth_l1_loss(heard, true)), "opening_r": float(r)}


class Paint(_Stage):
    """Pictures from true mouth shapes."""

    name = "paint"
    parts = ("generator.encoder", "generator.align", "generator.decoder", "generator.output", "teacher")

    def __init__(self, settings: PretrainSettings, nets: Nets) -> None:
        super().__init__(settings, nets)
        self.lpips = Lpips(settings.lpips_trunk) if settings.beta else None
        self.frozen = ("lpips",) if self.lpips else ()

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        losses, _ = self._losses(batch)
        return losses

    def _losses(self, batch: Item) -> tuple[dict[str, Tensor], Tensor]:
        s = self.settings
        face, true = masked_pairs(batch)
        statistics = self.nets.teacher(batch["shapes"].flatten(0, 1))
        drawn = self.nets.generator.draw(face, map_of_statistics(statistics))
        weights = mouth_weights(batch["lips"].flatten(0, 1), s.model.image_size, s.mouth_weight, s.upper_weight)
        losses = {"l1": ((drawn - true).abs() * weights).mean()}
        loss = (1 - s.beta) * losses["l1"]
        if self.lpips:
            mouth = mouth_part(s.model.image_size)
            losses["lpips"] = self.lpips(drawn[mouth], true[mouth])
            loss = loss + s.beta * losses["lpips"]
        return {"loss": loss, **losses}, drawn

    def evaluate(self, batches: Iterable[Item], step: int) -> dict[str, float]:
        results = [(self._losses(batch)[0], len(batch["true"])) for batch in batches]
        total = sum(count for _, count in results)
        return {name: sum(float(r[name]) * n for r, n in results) / total for name in results[0][0]}

    @torch.no_grad()
    def sheet(self, batch: Item) -> Tensor:
        """Columns: up to 8 samples. Rows: reference, drawn, true."""
        few = {name: value[:8] for name, value in batch.items()}
        face, true = masked_pairs(few)
        rows = [torch.cat(list(row.float()), 2) for row in (face[:, 3:], self._losses(few)[1], true)]
        return (torch.cat(rows, 1) * 255).round().clamp(0, 255).byte().cpu()


class Speak(_Stage):
    """The statistics that `paint` learned to draw, from sound."""

    name = "speak"
    parts = ("generator.audio_encoder",)
    frozen = ("listener",)

    def __init__(self, settings: PretrainSettings, nets: Nets) -> None:
        super().__init__(settings, nets)
        self.listener = Nets(settings.model).requires_grad_(False)
        self.listener.load_state_dict(nets.state_dict())
        self.train()

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        mel = batch["mel"].flatten(0, 1)
        with torch.no_grad():
            wanted = self.wanted(mel)
            spread = wanted.std(0)
            spread = spread + spread.mean() / 2  # what hardly changes need not be hit to the last digit
        statistics, _ = self.nets.hear(mel)
        return {"loss": F.smooth_l1_loss(statistics / spread, wanted / spread)}

    def evaluate(self, batches: Iterable[Item], step: int) -> dict[str, float]:
        losses = [float(self(batch, step)["loss"]) for batch in batches]
        return {"loss": sum(losses) / len(losses)}

    def wanted(self, mel: Tensor) -> Tensor:
        """The statistics that the teacher gives for the enlarged shapes that `listen` hears."""
        _, heard = self.listener.hear(mel)
        return self.listener.teacher((heard.float() * self.settings.expressiveness).clamp(-4, 4))

    @torch.no_grad()
    def match_levels(self, mels: Iterable[Tensor]) -> None:
        """Brings the audio map's channels to the level and spread the teacher wants on average, by the last norm alone:
        gradient steps would take most of the stage for it. `mels`: batches (B, 1, 80, T)."""
        norm = cast(ResidualBlock, self.nets.generator.audio_encoder[-1]).norm
        for mel in mels:
            mean, deviation = self.nets.hear(mel)[0].mean(0).chunk(2)
            wanted_mean, wanted_deviation = self.wanted(mel).mean(0).chunk(2)
            norm.weight.mul_((wanted_deviation / deviation).clamp(0.5, 2))
            norm.bias.add_(wanted_mean - mean)


def pretrain(settings: PretrainSettings) -> FitResult:
    """Trains what is left of the run in settings.output; leaves generator.safetensors there.

    Raises:
        LipSyncError: the settings, the data or a file do not fit; see fit.fit.
    """
    begun = time.monotonic()
    folder, heard = Path(settings.output), settings.model.audio_frames
    torch.manual_seed(settings.listen.seed)
    nets = Nets(settings.model)
    plain = DataSettings(settings.data.folder)
    result = None
    for name in stages:
        loop: FitSettings = getattr(settings, name)
        if settings.minutes:
            loop = replace(loop, minutes=max(0.01, settings.minutes - (time.monotonic() - begun) / 60))
        if name == "paint":
            train: Dataset[Item] = PictureWindows(
                settings.data, "train", 1, settings.model.image_size, heard, loop.seed
            )
            dev: Dataset[Item] = PictureWindows(plain, "dev", 1, settings.model.image_size, heard, dev_seed)
            task: _Stage = Paint(settings, nets)
        else:
            train = SoundWindows(settings.data, "train", frames_of_a_clip, heard, loop.seed)
            dev = SoundWindows(plain, "dev", frames_of_a_clip, heard, dev_seed)
            task = Listen(settings, nets) if name == "listen" else Speak(settings, nets)
        if isinstance(task, Speak) and not (folder / name / "state.ckpt").exists():
            task.eval()
            batches = ([train[12 * i + k] for k in range(32)] for i in range(12))
            task.match_levels(default_collate(batch)["mel"].flatten(0, 1) for batch in batches)
            task.train()
        result = fit(task, train, dev, loop, folder / name, settings)
        if not result.finished:
            return result
        nets.load_state_dict(_read(result.model))
        if name == "paint":
            nets.eval()
            fold_negative_means(nets, (_all_shapes(train.index) * settings.expressiveness).clamp(-4, 4))
    assert result
    model = folder / "generator.safetensors"
    card = {"training": without_places(resolved(settings)), "evaluation": result.evaluation}
    save_net(model, nets.generator, card, torch.float32)
    return replace(result, model=model)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise ModelError(f"{path} cannot be read: {e}.", "Remove that stage's folder: it is trained again.") from None


def _all_shapes(index: Index, most: int = 2000) -> Tensor:
    """The mouth shapes (N, 8) of the training clips, of `most` of them in a large corpus."""
    paths = index.paths[:: max(1, len(index.paths) // most)]
    return torch.from_numpy(np.concatenate([lips.shapes(shards.ClipFile(path).landmarks) for path in paths]))
