# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train generator`: trains the generator on equation (4), as the paper does, with options beyond it.

L = (1 - alpha - beta) L1 + alpha L_sync + beta L_LPIPS. Alpha stays 0 until the generator's own sync loss on the dev
set is low enough, or a step is reached: before, the expert's gradient only harms [Wav2Lip, wav2lip_train.py].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import JobError, ModelError
from core.nets.checkpoint import load_expert, load_generator, save_net
from core.nets.generator import Generator, GeneratorConfig
from core.nets.lipcode import LipHead, map_statistics
from core.nets.syncnet import SyncNet
from core.timing import sync_window_length

from .data import DataSettings, Item, PictureWindows, dev_seed
from .fit import FitResult, FitSettings, Task, fit
from .losses import mouth_weights, perceptual_loss, sync_loss


@dataclass(frozen=True)
class LossSettings:
    """Equation (4) and what can be added to it."""

    alpha: float = 0.03
    """Weight of the sync loss, once its gate is open; above 0 it needs `expert`."""
    alpha_gate: float = 0.75
    """The gate opens when the sync loss on the dev set falls below this."""
    alpha_from_step: int = 0
    """The gate opens at this step in any case; 0: only by the dev set."""
    alpha_ramp: int = 0
    """Steps over which alpha rises after the gate has opened; 0: at once, as in Wav2Lip."""
    beta: float = 0.07
    """Weight of LPIPS."""
    lpips_trunk: str = ""
    """AlexNet's weights for LPIPS: torchvision's alexnet-owt-7be5be79.pth. Empty: torchvision's own download.
    `efficientnet-lite0`: another trunk, trained too, for machines that cannot have AlexNet's (perceptual.py).
    `untrained`: random weights. The model's card says which."""
    lpips_crop: Literal["face", "mouth"] = "face"
    """`mouth`: the lower half, without its sides."""
    mouth_weight: float = 1.0
    """Weight of the mouth in L1 over that of the cheeks. Beyond the paper, as is all below."""
    upper_weight: float = 1.0
    """Weight of the upper half in L1, which the net only has to pass on."""
    shape_weight: float = 0.0
    """Weight of a small head that tells the mouth's shape from the audio code: a cheap teacher for little footage."""

    def __post_init__(self) -> None:
        if self.alpha + self.beta >= 1 or min(self.alpha, self.beta) < 0:
            hint = "The paper's are 0.03 and 0.07; what they leave is the weight of L1."
            raise JobError("loss.alpha and loss.beta must be 0 or more and less than 1 together.", hint)
        for name in ("alpha_gate", "alpha_from_step", "alpha_ramp", "mouth_weight", "upper_weight", "shape_weight"):
            if getattr(self, name) < 0:
                raise JobError(f"loss.{name} is {getattr(self, name)}.", "It has to be 0 or more.")


@dataclass(frozen=True)
class GeneratorSettings:
    """Training of the generator."""

    output: str
    """Folder for the run. Given again, the run goes on from its last saved state."""
    data: DataSettings
    """What is trained on."""
    expert: str = ""
    """The sync expert: the .safetensors of `lipsync-train expert` or `import`."""
    start: str = ""
    """A generator .safetensors to start from instead of random weights."""
    model: GeneratorConfig = field(default_factory=GeneratorConfig)
    """The network. A start of another network is refused."""
    loss: LossSettings = field(default_factory=LossSettings)
    """Equation (4)."""
    fit: FitSettings = field(default_factory=FitSettings)
    """The loop."""


class GeneratorTask(Task):
    """The generator and its losses. Batches as of data.PictureWindows."""

    name = "generator"

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        loss = settings.loss
        self.settings, self.loss_settings = settings, loss
        if settings.model.speech_encoder:
            hint = "Train its halves with `lipsync-train pretrain`, or leave model.speech_encoder empty."
            raise JobError("A net with a speech encoder hears whole sentences, not the windows drawn here.", hint)
        self.generator = Generator(settings.model)
        if settings.start:
            start, _ = load_generator(Path(settings.start))
            if not isinstance(start, Generator) or start.config != settings.model:
                raise ModelError(
                    f"{settings.start} is another network than the settings ask for.",
                    "Give the same model settings, or no start.",
                )
            self.generator.load_state_dict(start.state_dict())
        self.expert: SyncNet | None = None
        if settings.expert:
            self.expert = load_expert(Path(settings.expert))[0].requires_grad_(False)
        elif loss.alpha > 0:
            hint = "Name one with --expert (lipsync-train expert makes it), or train without: --loss.alpha 0."
            raise JobError(f"The sync loss (loss.alpha {loss.alpha}) needs an expert.", hint)
        self.lpips = perceptual_loss(loss.lpips_trunk) if loss.beta > 0 else None
        self.frozen = tuple(n for n in ("expert", "lpips") if getattr(self, n) is not None)
        self.head = None
        if loss.shape_weight:
            code = self.generator.lip_code
            self.head = code.head if code else LipHead(self.generator.audio_channels)
        self.register_buffer("opened", torch.tensor(-1))
        self.train()

    opened: Tensor
    """Step at which the gate of alpha opened; -1: it is closed."""

    def averaged(self) -> nn.Module:
        return self.generator

    def alpha(self, step: int) -> float:
        """The sync loss's weight at a step."""
        loss, opened = self.loss_settings, int(self.opened)
        if opened < 0 and 0 < loss.alpha_from_step <= step:
            opened = step
            self.opened.fill_(step)
        if opened < 0 or not loss.alpha:
            return 0.0
        return loss.alpha * min(1.0, (step - opened + 1) / loss.alpha_ramp if loss.alpha_ramp else 1.0)

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        alpha = self.alpha(step)
        losses, drawn = self._losses(batch, alpha)
        total = (1 - alpha - self.loss_settings.beta) * losses["l1"]
        if self.lpips:
            total = total + self.loss_settings.beta * losses["lpips"]
        if alpha:
            total = total + alpha * losses["sync"]
        if self.head:
            total = total + self.loss_settings.shape_weight * losses["shape"]
        return {"loss": total, **losses, "alpha": drawn.new_tensor(alpha)}

    def _losses(self, batch: Item, alpha: float) -> tuple[dict[str, Tensor], Tensor]:
        """The unweighted losses, and what was drawn (B T, 3, S, S)."""
        s, size = self.loss_settings, self.settings.model.image_size
        face, true = masked_pairs(batch)
        assert self.generator.audio_encoder  # no speech encoder, see above
        audio = self.generator.audio_encoder(batch["mel"].flatten(0, 1).contiguous(memory_format=torch.channels_last))
        code = self.generator.lip_code
        drawn = self.generator.draw(face, code(audio, batch["reference_shapes"].flatten(0, 1)) if code else audio)
        difference = (drawn - true).abs()
        if s.mouth_weight != 1 or s.upper_weight != 1:
            difference = difference * mouth_weights(
                batch["landmarks"].flatten(0, 1), size, s.mouth_weight, s.upper_weight
            )
        losses = {"l1": difference.mean()}
        if self.lpips:
            part = mouth_part(size) if s.lpips_crop == "mouth" else ...
            losses["lpips"] = self.lpips(drawn[part], true[part])
        if alpha and self.expert:
            losses["sync"] = sync_loss(self.expert, drawn.unflatten(0, batch["true"].shape[:2]), batch["sync_mel"])
        if self.head:
            losses["shape"] = F.smooth_l1_loss(self.head(map_statistics(audio)), batch["shapes"].flatten(0, 1))
        return losses, drawn

    def evaluate(self, batches: Iterable[Item], step: int) -> dict[str, float]:
        sums: dict[str, float] = {}
        count = 0
        for batch in batches:
            losses, drawn = self._losses(batch, alpha=1.0)
            _, true = masked_pairs(batch)
            reference = to_picture(batch["reference"])
            mouth = mouth_part(drawn.shape[-1])
            to_reference, to_true = ((drawn[mouth] - other[mouth]).abs().mean() for other in (reference, true))
            # 0.5: as near to the reference's mouth as to the true one; 1: the reference's mouth
            losses["copies_reference"] = to_true / (to_true + to_reference)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch["true"])
            count += len(batch["true"])
        means = {name: total / count for name, total in sums.items()}
        # with all of alpha whatever the gate says, or no model would ever be better than the last before it opened
        alpha, beta = self.loss_settings.alpha if "sync" in means else 0.0, self.loss_settings.beta
        loss = (1 - alpha - beta) * means["l1"] + beta * means.get("lpips", 0.0) + alpha * means.get("sync", 0.0)
        return {"loss": loss, **means, "alpha": self.alpha(step)}

    def advice(self, evaluation: dict[str, float], step: int) -> str:
        """Opens the gate of alpha, and says so."""
        gate = self.loss_settings.alpha_gate
        if int(self.opened) >= 0 or not self.loss_settings.alpha or evaluation["sync"] >= gate:
            return ""
        self.opened.fill_(step)
        return f"Step {step}: the dev set's sync loss {evaluation['sync']:.3f} is below {gate}; it counts from now on."

    @torch.no_grad()
    def sheet(self, batch: Item) -> Tensor:
        """Columns: up to 8 samples' first frames. Rows: masked face, reference, drawn, true."""
        few = {name: value[:8, :1] for name, value in batch.items()}
        face, true = masked_pairs(few)
        drawn = self.generator(face, few["mel"].flatten(0, 1), few["reference_shapes"].flatten(0, 1))
        rows = [torch.cat(list(row), 2) for row in (face[:, :3], face[:, 3:], drawn, true)]
        return (torch.cat(rows, 1) * 255).round().clamp(0, 255).byte().cpu()

    def save(self, path: Path, card: dict[str, Any]) -> None:
        save_net(path, self.generator, card, torch.float32)


def to_picture(crops: Tensor) -> Tensor:
    """Crops (B, T, S, S, 3) uint8 as pictures (B T, 3, S, S) float32 in [0, 1]."""
    return crops.flatten(0, 1).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last) / 255


def masked_pairs(batch: Item) -> tuple[Tensor, Tensor]:
    """What the generator sees, (B T, 6, S, S), and what it shall draw, (B T, 3, S, S)."""
    true = to_picture(batch["true"])
    upper = true.clone()
    upper[:, :, upper.shape[2] // 2 :] = 0
    return torch.cat([upper, to_picture(batch["reference"])], 1), true


def mouth_part(size: int) -> tuple[slice, ...]:
    """Index of the lower half without its sides in pictures (B, 3, size, size)."""
    side = size // 6
    return slice(None), slice(None), slice(size // 2, None), slice(side, -side)


def train_generator(settings: GeneratorSettings) -> FitResult:
    """Trains, or goes on training, the run in settings.output.

    Raises:
        LipSyncError: the settings, the data or a file do not fit; see fit.fit.
    """
    torch.manual_seed(settings.fit.seed)
    task = GeneratorTask(settings)
    size, heard, length = settings.model.image_size, settings.model.audio_frames, sync_window_length
    train = PictureWindows(settings.data, "train", length, size, heard, settings.fit.seed)
    dev = PictureWindows(DataSettings(settings.data.folder), "dev", length, size, heard, dev_seed)
    return fit(task, train, dev, settings.fit, Path(settings.output), settings)
