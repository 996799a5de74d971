# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train pretrain`: hearing and drawing of a generator with a lip code, learned apart.

Between sound and picture such a net has only a mouth's shape in eight numbers (core.nets.lipcode), and those are known
of every frame. So both halves can learn at once, each from what it needs:

- `listen`: the audio encoder and the code's head learn to tell mouth shapes (training_cli.lips) from sound. Cheap, and
  where overfitting threatens: augment the sound. With a speech encoder (core.nets.ear) only the ear's head learns.
- `paint`: the U-Net and the code's voice learn to draw the mouth for its *true* shape. Picture and shape agree exactly,
  so nothing blurs for want of knowing the shape, and copying the reference's lips never pays.

Then the code's gain brings what is heard of the dev set to the spread of its true shapes (what a net is unsure of it
tells smaller than it is, and lips that move half as far mumble), within the bounds that mouths show. From there on
`generator --start` can train the whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from core.errors import JobError, ModelError
from core.nets.checkpoint import load_generator, save_net
from core.nets.generator import Generator, GeneratorConfig
from core.nets.lipcode import LipCode, map_statistics
from core.nets.warp import flow

from .config import resolved, without_places
from .data import DataSettings, Item, PictureWindows, SoundWindows, dev_seed
from .fit import FitResult, FitSettings, Task, fit
from .generator import masked_pairs, mouth_part
from .log import for_json
from .losses import bend_loss, course_loss, flow_loss, mouth_weights, perceptual_loss
from .speech_spans import SpeechSpans
from .state import state_name

Stage = Literal["listen", "paint"]
stages: tuple[Stage, ...] = ("listen", "paint")
frames_of_a_clip = 8
"""Frames that the audio encoder gets of every clip drawn: opening a clip costs more than a frame of it."""
gain_samples = 256
"""Samples from which the code's gain is measured, and its bounds."""
most_gain = 3.0


@dataclass(frozen=True)
class PretrainSettings:
    """A run of both stages."""

    output: str
    """Folder for the run. Given again, the run goes on from its last saved state."""
    data: DataSettings
    """What is trained on."""
    only: Literal["", "listen", "paint"] = ""
    """Train this stage alone, as on two machines at once. A call without it does what is left and joins the two."""
    start: str = ""
    """A generator .safetensors to start from instead of random weights."""
    minutes: float = 0.0
    """Stop after so many minutes with everything saved; the same command goes on. 0: no limit."""
    model: GeneratorConfig = field(default_factory=lambda: GeneratorConfig(lip_code=True))
    """The network. It needs a lip code (model.lip_code)."""
    mouth_weight: float = 6.0
    """Weight of the mouth in L1 over that of the cheeks."""
    upper_weight: float = 0.1
    """Weight of the upper half in L1, which the net only has to pass on."""
    beta: float = 0.07
    """Weight of LPIPS, on the mouth's part of the crop."""
    flow_weight: float = 0.0
    """Weight of the flow's error at the landmarks of lips, face and teeth, for a net with `warp`."""
    bend_weight: float = 0.0
    """Weight of the flow's bends away from the mouth, for a net with `warp`."""
    lpips_trunk: str = ""
    """As in `generator`: AlexNet's weights, empty for torchvision's download, `efficientnet-lite0` or `untrained`."""
    course_weight: float = 0.0
    """Weight of 1 - r in time between heard and true shapes, beside their difference, where an ear listens to spans."""
    liveliness: float = 1.0
    """Factor on the code's measured gain, 0.5 to 2: a drawing half that is unsure answers smaller than it is told."""
    listen: FitSettings = field(default_factory=FitSettings)
    """First stage; a sample is 8 frames of a clip, for a speech encoder 2 s of it."""
    paint: FitSettings = field(default_factory=FitSettings)
    """Second stage; a sample is one frame."""


class _Stage(Task):
    """A stage trains some parts of the generator and hands those on."""

    can_start = False
    parts: tuple[str, ...] = ()

    def __init__(self, settings: PretrainSettings, generator: Generator) -> None:
        super().__init__()
        self.settings, self.generator = settings, generator
        with torch.device("meta"):
            whole = dict(Generator(generator.config).named_parameters())
        for name, parameter in generator.named_parameters():
            # whole: a bias before batch norm never learns, and the other stage froze this one's parts
            parameter.requires_grad_(whole[name].requires_grad and name.startswith(self.parts))

    @property
    def code(self) -> LipCode:
        assert self.generator.lip_code  # `pretrain` sees to it
        return self.generator.lip_code

    def averaged(self) -> nn.Module:
        return self.generator

    def save(self, path: Path, card: dict[str, Any]) -> None:
        state = self.generator.state_dict()
        own = {name: value.contiguous() for name, value in state.items() if name.startswith(self.parts)}
        temporary = path.with_suffix(".part")
        temporary.write_bytes(serialised(own))
        temporary.replace(path)


class Listen(_Stage):
    """Mouth shapes from windows of sound."""

    name = "listen"
    parts = ("audio_encoder.", "lip_code.head.")

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        return self.losses(batch, self.heard(batch))

    def losses(self, batch: Item, heard: Tensor) -> dict[str, Tensor]:
        known = self.known(batch)
        error = F.smooth_l1_loss(heard, batch["shapes"], reduction="none").mean(2) * known
        return {"loss": error.sum() / known.sum().clamp(min=1)}

    def heard(self, batch: Item) -> Tensor:
        """Shapes (B, n, 8) without the code's gain."""
        assert self.code.head and self.generator.audio_encoder  # else the stage is ListenToSentences
        mel = batch["mel"].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        heard = self.code.head(map_statistics(self.generator.audio_encoder(mel)))
        return heard.float().unflatten(0, batch["mel"].shape[:2])

    def known(self, batch: Item) -> Tensor:
        """(B, n): 1 where the true shape is known, else 0."""
        return torch.ones(batch["shapes"].shape[:2], device=batch["shapes"].device)

    def evaluate(self, batches: Iterable[Item], step: int) -> dict[str, float]:
        losses, openings = [], []
        for batch in batches:
            known, heard = self.known(batch) > 0, self.heard(batch)
            losses += [float(self.losses(batch, heard)["loss"])] * len(heard)
            openings.append(torch.stack([heard[known][:, 0], batch["shapes"][known][:, 0]]))
        r = torch.corrcoef(torch.cat(openings, 1))[0, 1]
        return {"loss": sum(losses) / len(losses), "opening_r": float(r)}


class ListenToSentences(Listen):
    """Mouth shapes from spans of sound, behind a frozen speech encoder."""

    parts = ("ear.head.",)
    frozen = ("generator.ear.encoder",)

    def losses(self, batch: Item, heard: Tensor) -> dict[str, Tensor]:
        difference = super().losses(batch, heard)["loss"]
        course = course_loss(heard, batch["shapes"], self.known(batch))
        loss = difference + self.settings.course_weight * course
        return {"loss": loss, "difference": difference, "course": course}

    def heard(self, batch: Item) -> Tensor:
        assert self.generator.ear
        return self.generator.ear(batch["wave"]).float().transpose(1, 2)

    def known(self, batch: Item) -> Tensor:
        return batch["known"]


class Paint(_Stage):
    """Pictures from true mouth shapes."""

    name = "paint"
    parts = ("encoder.", "align.", "decoder.", "output.", "lip_code.voice.")

    def __init__(self, settings: PretrainSettings, generator: Generator) -> None:
        super().__init__(settings, generator)
        self.lpips = perceptual_loss(settings.lpips_trunk) if settings.beta else None
        self.frozen = ("lpips",) if self.lpips else ()

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        losses, _ = self._losses(batch)
        return losses

    def _losses(self, batch: Item) -> tuple[dict[str, Tensor], Tensor]:
        s = self.settings
        face, true = masked_pairs(batch)
        shapes, landmarks = batch["shapes"].flatten(0, 1), batch["landmarks"].flatten(0, 1)
        shown, reference_landmarks = (batch[f"reference_{name}"].flatten(0, 1) for name in ("shapes", "landmarks"))
        answer = self.generator.answer(face, self.code.speak(shapes, shown))
        drawn = self.generator.finish(answer, face[:, 3:])
        weights = mouth_weights(landmarks, s.model.image_size, s.mouth_weight, s.upper_weight)
        losses = {"l1": ((drawn - true).abs() * weights).mean()}
        loss = (1 - s.beta) * losses["l1"]
        if self.lpips:
            mouth = mouth_part(s.model.image_size)
            losses["lpips"] = self.lpips(drawn[mouth], true[mouth])
            loss = loss + s.beta * losses["lpips"]
        if s.flow_weight or s.bend_weight:
            away = flow(answer)
            losses["flow"], losses["bend"] = flow_loss(away, landmarks, reference_landmarks), bend_loss(away, landmarks)
            loss = loss + s.flow_weight * losses["flow"] + s.bend_weight * losses["bend"]
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


def pretrain(settings: PretrainSettings) -> FitResult:
    """Trains what is left of the run in settings.output; leaves generator.safetensors there.

    Raises:
        LipSyncError: the settings, the data or a file do not fit; see fit.fit.
    """
    begun = time.monotonic()
    folder, model = Path(settings.output), Path(settings.output) / "generator.safetensors"
    _refuse_to_overwrite(model)
    generator = _generator(settings)
    result = None
    for name in [settings.only] if settings.only else stages:
        loop: FitSettings = getattr(settings, name)
        if settings.minutes:
            loop = replace(loop, minutes=max(0.01, settings.minutes - (time.monotonic() - begun) / 60))
        stage = _task(settings, name, generator)
        train, dev = _samples(settings, name, "train"), _samples(settings, name, "dev")
        result = fit(stage, train, dev, loop, folder / name, _of_stage(settings, name))
        if not result.finished:
            return result
    assert result
    if settings.only:
        return result
    for name in stages:
        _take(generator, folder / name / f"{name}.safetensors", _task(settings, name, generator).parts)
    listen = _task(settings, "listen", generator)
    assert isinstance(listen, Listen)
    measure_gain(listen, _as_spoken(settings, "dev"))
    measure_bounds(listen, _as_spoken(settings, "train"))
    listen.code.gain.mul_(settings.liveliness)
    card = {"training": without_places(resolved(settings)), "evaluation": for_json(result.evaluation)}
    save_net(model, generator, card, torch.float32)
    return replace(result, model=model)


def _refuse_to_overwrite(model: Path) -> None:
    """A generator in a folder without this command's stages is another run's, or all that was kept of one."""
    if model.exists() and not any((model.parent / name / state_name).exists() for name in stages):
        raise JobError(
            f"{model} is a trained net, and the states of its run are not there any more.",
            f"Nothing is overwritten: name another output folder, with --start {model} to begin from that net.",
        )


def _task(settings: PretrainSettings, stage: str, generator: Generator) -> _Stage:
    if stage == "paint":
        return Paint(settings, generator)
    return (ListenToSentences if generator.ear else Listen)(settings, generator)


def _generator(settings: PretrainSettings) -> Generator:
    if not settings.model.lip_code:
        raise JobError("Only a generator with a lip code can be pretrained.", "Set model.lip_code.")
    if min(settings.flow_weight, settings.bend_weight, settings.course_weight) < 0:
        raise JobError("flow_weight, bend_weight and course_weight must be 0 or more.", "0 leaves that loss out.")
    if (settings.flow_weight or settings.bend_weight) and not settings.model.warp:
        hint = "Set model.warp, or neither flow_weight nor bend_weight."
        raise JobError("Only a generator that moves its reference has a flow to learn.", hint)
    if not 0.5 <= settings.liveliness <= 2:
        raise JobError(f"The liveliness {settings.liveliness} is out of range.", "Use 0.5 to 2; 1 is as measured.")
    torch.manual_seed(settings.listen.seed)
    if not settings.start:
        return Generator(settings.model)
    start, _ = load_generator(Path(settings.start))
    if not isinstance(start, Generator) or start.config != settings.model:
        hint = "Give the same model settings, or no start."
        raise ModelError(f"{settings.start} is another network than the settings ask for.", hint)
    return start.train()


def _of_stage(settings: PretrainSettings, name: str) -> PretrainSettings:
    """What a stage's run is made of: the other stage may change without it."""
    other = {stage: FitSettings() for stage in stages if stage != name}
    return replace(settings, only="", minutes=0.0, **other)  # pyright: ignore[reportArgumentType]


def _samples(settings: PretrainSettings, stage: str, split: str) -> Dataset[Item]:
    data = settings.data if split == "train" else DataSettings(settings.data.folder)
    seed = getattr(settings, stage).seed if split == "train" else dev_seed
    if stage == "listen":
        return _sounds(settings, data, split, seed)
    return PictureWindows(data, split, 1, settings.model.image_size, settings.model.audio_frames, seed)


def _sounds(settings: PretrainSettings, data: DataSettings, split: str, seed: int) -> Dataset[Item]:
    if settings.model.speech_encoder:
        return SpeechSpans(data, split, seed)
    return SoundWindows(data, split, frames_of_a_clip, settings.model.audio_frames, seed)


def _as_spoken(settings: PretrainSettings, split: str) -> Dataset[Item]:
    """Sound and shapes as they are; one who is in a hundred clips shall not say for all how far mouths open."""
    return _sounds(settings, DataSettings(settings.data.folder, "people"), split, dev_seed)


@torch.no_grad()
def measure_gain(listen: Listen, dev: Dataset[Item]) -> None:
    """Sets the code's gain, true spread over heard spread of each number, from 1 to `most_gain`."""
    listen.eval()
    batches = _measured(dev)
    true, known = torch.cat([b["shapes"] for b in batches]), torch.cat([listen.known(b) for b in batches])
    heard = torch.cat([listen.heard(batch) for batch in batches])

    def spread(shapes: Tensor) -> Tensor:
        """Within a sample."""
        weights = known[..., None]
        mean = (shapes * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        return ((shapes - mean).square() * weights).sum((0, 1)).sqrt()

    listen.code.gain.copy_((spread(true) / spread(heard).clamp(min=1e-6)).clamp(1, most_gain))


@torch.no_grad()
def measure_bounds(listen: Listen, train: Dataset[Item]) -> None:
    """Sets the code's bounds, beyond which one in a hundred shapes lies on either side: of the training data, as no
    prediction is in it and the dev set has few people."""
    shown = torch.cat([batch["shapes"][listen.known(batch) > 0] for batch in _measured(train)])
    listen.code.bounds.copy_(torch.quantile(shown, torch.tensor([0.01, 0.99]), dim=0))


def _measured(samples: Dataset[Item]) -> list[Item]:
    numbers = [range(first, first + 64) for first in range(0, gain_samples, 64)]
    return [default_collate([samples[n] for n in some]) for some in numbers]


def _take(generator: Generator, path: Path, parts: tuple[str, ...]) -> None:
    """A finished stage's part of the generator."""
    wanted = {name for name in generator.state_dict() if name.startswith(parts)}
    try:
        state = load_file(path)
        if set(state) != wanted:
            raise RuntimeError("it holds other parts")
        generator.load_state_dict(state, strict=False)
    except (SafetensorError, OSError, RuntimeError) as e:
        raise ModelError(f"{path} cannot be used: {e}.", "Remove that stage's folder: it is trained again.") from None
