# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop, on Lightning Fabric: devices, processes, precision, logging and checkpoints are its own.

A run can be killed at any step. What a step draws and every random number in it follow from the seed and the step, so
that the state is weights, optimiser, average and step, and a resumed run goes on as if it had never been stopped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from core.allocator import keep_freed_memory
from core.errors import JobError, LipSyncError, MediaError, ModelError, OutputError

from . import named_files
from .config import differences, dump, resolved, without_places
from .data import Item, Steps
from .lock import locked
from .log import Log, for_json
from .shards import again
from .state import RunState, first_line, load_state, state_name, unreadable

patience_with_nan = 3
"""Steps in a row whose gradient is not finite before the run goes back to its last saved state."""
most_rollbacks = 5
longest_wait = 300
"""Seconds without data after which a run ends instead of seeming frozen."""


@dataclass(frozen=True)
class FitSettings:
    """How long, how fast, on what."""

    steps: int = 300_000
    """Steps of the whole run; one that is resumed with more goes on."""
    minutes: float = 0.0
    """Stop after so many minutes with everything saved; the same command goes on. 0: no limit."""
    batch: int = 16
    """Samples a step and process."""
    rate: float = 1e-4
    """Adam's learning rate."""
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine`: the rate falls to nothing over the steps."""
    warmup: int = 0
    """Steps over which the rate rises from nothing."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: whatever it is."""
    average: float = 0.999
    """Decay of the weights' moving average, which is what is evaluated and saved for use; 0: no average."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """`bf16-mixed` is faster where the hardware knows it: recent GPUs, and CPUs with AVX512-BF16 or AMX."""
    accelerator: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    devices: int = 1
    """GPUs or processes of this machine; with several, start the command by torchrun or let Fabric start them."""
    nodes: int = 1
    """Machines. Start the command on each by torchrun."""
    strategy: str = "auto"
    """Fabric's strategy, such as `ddp`."""
    threads: int = 0
    """CPU threads of a process; 0: torch's choice."""
    workers: int = 2
    """Processes that read the data; 0: none apart."""
    evaluate_every: int = 2000
    """Steps between evaluations on the fixed dev set."""
    dev_samples: int = 256
    """Samples of the dev set."""
    save_every: int = 1000
    """Steps between saved states, which is the most that a kill can cost."""
    log_every: int = 20
    """Steps that a line of log.jsonl averages."""
    patience: int = 0
    """Evaluations without a better loss on the dev set before the run ends early, keeping its best; 0: never."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "devices": 1, "nodes": 1, "evaluate_every": 1, "save_every": 1}
        least |= {"log_every": 1, "dev_samples": 1, "minutes": 0, "rate": 0, "warmup": 0, "clip": 0, "workers": 0}
        least |= {"threads": 0, "patience": 0, "seed": 0, "average": 0, "beta1": 0, "beta2": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise JobError(f"fit.{name} is {getattr(self, name)}.", f"It has to be {value} or more.")
        for name in ("average", "beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise JobError(f"fit.{name} is {getattr(self, name)}.", "It has to be less than 1.")


class Task(nn.Module):
    """What is trained. `forward` gives the losses of a batch, already weighted; `loss` is what is minimised."""

    name = "model"
    """Of the file that a run leaves for use."""
    can_start = True
    """That file is a net from which another run can `--start`."""
    frozen: tuple[str, ...] = ()
    """Submodules that are never trained: always in eval mode, and no part of a run's state."""

    def train(self, mode: bool = True) -> Task:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().state_dict(*args, **kwargs)
        return {k: v for k, v in state.items() if not k.startswith(tuple(f"{name}." for name in self.frozen))}

    def forward(self, batch: Item, step: int) -> dict[str, Tensor]:
        """`loss` and whatever else shall be logged, scalars."""
        raise NotImplementedError

    def trained(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for p in self.parameters() if p.requires_grad]

    def averaged(self) -> nn.Module:
        """The part of which a moving average is kept."""
        raise NotImplementedError

    def evaluate(self, batches: Iterable[Item], step: int) -> dict[str, float]:
        """`loss` and other numbers on the dev set, in eval mode with the averaged weights."""
        raise NotImplementedError

    def sheet(self, batch: Item) -> Tensor | None:
        """A picture (3, H, W) uint8 of what the net makes of a dev batch."""
        return None

    def save(self, path: Path, card: dict[str, Any]) -> None:
        """Writes the product's file."""
        raise NotImplementedError

    def advice(self, evaluation: dict[str, float], step: int) -> str:
        """A sentence for the user about an evaluation, or nothing. The place to change course by it: every process is
        given the same numbers."""
        return ""


@dataclass(frozen=True)
class FitResult:
    """How a call of `fit` ended."""

    model: Path
    """The product's file."""
    step: int
    finished: bool
    """False: the minutes were over first."""
    evaluation: dict[str, float]
    """The last one."""

    def __str__(self) -> str:
        how = "" if self.finished else ", to be gone on with by the same command"
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.evaluation.items())
        return f"{self.model}: step {self.step}{how}; on the dev set {numbers or 'not measured yet'}"


def fit(
    task: Task, train: Dataset[Item], dev: Dataset[Item], settings: FitSettings, folder: Path, config: Any
) -> FitResult:
    """Trains until the steps, the minutes or the patience are over; goes on where the folder's run stopped.

    Args:
        config: the dataclass of all that makes the run what it is: kept in its state; a run of another config is not
            resumed.
        folder: gets state.ckpt, <task.name>.safetensors, config.toml, log.jsonl and TensorBoard's files.

    Raises:
        JobError: the folder holds a run of another config, or a net without its run; another process trains there; or
            the loss will not stay finite.
        ModelError: its state is damaged.
        OutputError: the disk is full; the last saved state is whole.
    """
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    fabric = _fabric(settings, folder)
    with _alone(fabric, folder):
        run = _Run(fabric, task, settings, folder, config)
        return run.go(train, dev)


def _fabric(settings: FitSettings, folder: Path) -> Fabric:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        logger = TensorBoardLogger(folder, name="tensorboard", version="")
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
            precision=settings.precision,
            loggers=logger,
        )
    except (ValueError, TypeError, RuntimeError, ModuleNotFoundError, MisconfigurationException) as e:
        hint = "Look at accelerator, devices, strategy and precision; `auto`, 1, `auto` and `32-true` always work."
        raise JobError(f"This machine cannot train like that: {first_line(e)}", hint) from None
    fabric.launch()
    return fabric


@contextmanager
def _alone(fabric: Fabric, folder: Path) -> Iterator[None]:
    """Keeps other commands out of the folder. Of a run's processes the first locks, and all hear how that went."""
    with ExitStack() as stack:
        with _disk():
            ours = stack.enter_context(locked(folder)) if fabric.global_rank == 0 else True
        if not fabric.broadcast(ours):
            hint = "Wait until it has ended, or name another output folder."
            raise JobError(f"Another command is training the run in {folder}.", hint)
        yield


class _Run:
    def __init__(self, fabric: Fabric, task: Task, settings: FitSettings, folder: Path, config: Any) -> None:
        self.fabric, self.settings, self.folder, self.config = fabric, settings, folder, resolved(config)
        self.state = RunState()
        self.raw = task
        task.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        task.to(fabric.device)
        self.average = None
        if settings.average:
            move = _move_average(settings.average)
            self.average = AveragedModel(task.averaged(), multi_avg_fn=move, use_buffers=True)
        # foreach and fused steps give other last digits on other devices; a run stays on one
        adam = torch.optim.Adam(task.trained(), settings.rate, (settings.beta1, settings.beta2), fused=True)
        self.raw_optimizer = adam
        held = tuple(f"{name}." for name in task.frozen)
        self._running = [b for name, b in task.named_buffers() if b.is_floating_point() and not name.startswith(held)]
        """Batch norms' running statistics."""
        self._kept = [value.clone() for value in self._running]
        self._files = named_files.hashes(self.config)
        self._has_state = (folder / state_name).exists()
        self._resume()
        if fabric.global_rank == 0:
            dump(config, folder / "config.toml")
        self.task, self.optimizer = fabric.setup(task, adam)

    def go(self, train: Dataset[Item], dev: Dataset[Item]) -> FitResult:
        s, state, fabric = self.settings, self.state, self.fabric
        begun = time.monotonic()
        model = self._product
        if state.step >= s.steps:
            if not fabric.broadcast(model.exists()):
                self._save_model()
            return FitResult(model, state.step, True, state.evaluation)
        dev_batches = _dev_batches(dev, s)
        loader = DataLoader(
            train,
            s.batch,
            sampler=Steps(state.step, s.batch, fabric.global_rank, fabric.world_size),
            num_workers=s.workers,
            timeout=longest_wait if s.workers else 0,
            pin_memory=fabric.device.type == "cuda",
            worker_init_fn=_quiet_worker,
            multiprocessing_context="spawn" if s.workers else None,
        )
        batches = iter(fabric.setup_dataloaders(loader, use_distributed_sampler=False))
        log = Log(fabric, self.folder, s.batch * fabric.world_size)
        in_a_row = 0
        self.task.train()
        with tqdm(total=s.steps, initial=state.step, unit="step", disable=fabric.global_rank > 0) as bar:
            while state.step < s.steps and not state.done:
                waiting = time.perf_counter()
                batch = self._next(batches)
                waited = time.perf_counter() - waiting
                values, finite = self._step(batch)
                state.step += 1
                in_a_row = 0 if finite else in_a_row + 1
                if in_a_row == patience_with_nan:
                    self._roll_back()
                    in_a_row = 0
                log.add(values, waited, time.perf_counter() - waiting)
                bar.update()
                if state.step % s.log_every == 0:
                    bar.set_postfix(log.write(state.step))
                if state.step % s.evaluate_every == 0 or state.step == s.steps:
                    self._evaluate(dev_batches, log, bar)
                over = s.minutes > 0 and time.monotonic() - begun > 60 * s.minutes
                if s.minutes and fabric.world_size > 1:
                    over = bool(fabric.broadcast(over))
                if state.step % s.save_every == 0 or state.step == s.steps or state.done or over:
                    if not s.patience or state.best == float("inf"):
                        self._save_model()
                    self._save_state()
                if over:
                    break
        return FitResult(model, state.step, state.done or state.step >= s.steps, self.state.evaluation)

    @property
    def _product(self) -> Path:
        return self.folder / f"{self.raw.name}.safetensors"

    def _next(self, batches: Iterator[Any]) -> Item:
        try:
            return next(batches)
        except MediaError as e:
            # from a reading process it comes with that process's traceback for a message and without its hint
            said = str(e).strip().splitlines()[-1]
            raise MediaError(said.removeprefix("core.errors.MediaError: "), again) from None
        except RuntimeError as e:
            if "DataLoader" not in str(e):
                raise
            hint = "Look at the disk and at the memory, try fewer fit.workers; the same command goes on."
            raise MediaError(f"The reading processes give no data: {first_line(e)}", hint) from None

    def _step(self, batch: Item) -> tuple[dict[str, Tensor], bool]:
        """One step of the optimiser, unless the gradient is not finite."""
        s, step = self.settings, self.state.step
        torch.manual_seed((s.seed << 32) + (step << 8) + self.fabric.global_rank)
        for group in self.raw_optimizer.param_groups:
            group["lr"] = s.rate * _rate_factor(s, step)
        for kept, value in zip(self._kept, self._running, strict=True):
            kept.copy_(value)
        values = self.task(batch, step)
        self.optimizer.zero_grad()
        self.fabric.backward(values["loss"])
        limit = s.clip or float("inf")
        norm = self.fabric.clip_gradients(self.task, self.optimizer, max_norm=limit, error_if_nonfinite=False)
        finite = bool(torch.isfinite(cast(Tensor, norm)))
        if finite:
            self.optimizer.step()
            if self.average:
                self.average.update_parameters(self.raw.averaged())
        else:  # forward has put what is not finite into the batch norms
            for kept, value in zip(self._kept, self._running, strict=True):
                value.copy_(kept)
        return {**{k: v.detach() for k, v in values.items()}, "gradient_norm": cast(Tensor, norm)}, finite

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The task with its averaged weights, in eval mode."""
        net = self.raw.averaged()
        own = {k: v.clone() for k, v in net.state_dict().items()}
        if self.average:
            net.load_state_dict(self.average.module.state_dict())
        self.raw.eval()
        try:
            yield
        finally:
            net.load_state_dict(own)
            self.raw.train()

    def _evaluate(self, batches: list[Item], log: Log, bar: tqdm) -> None:
        """On the dev set. Each process has batch norms of its own data: the first one's numbers decide for all."""
        state = self.state
        moved = [{k: v.to(self.fabric.device) for k, v in batch.items()} for batch in batches]
        with self._averaged_weights(), torch.no_grad(), self.fabric.autocast():
            state.evaluation = self.fabric.broadcast(self.raw.evaluate(moved, state.step))
            sheet = self.raw.sheet(moved[0])
        log.evaluation(state.step, self.state.evaluation, sheet)
        advice = self.raw.advice(self.state.evaluation, state.step)
        if advice and self.fabric.global_rank == 0:
            bar.write(advice, file=sys.stderr)
        if not self.settings.patience:
            return
        better = self.state.evaluation["loss"] < state.best
        state.unimproved = 0 if better else state.unimproved + 1
        if better:
            self._save_model()  # first: a state that knew of a better model than there is would never save it
            state.best = self.state.evaluation["loss"]
        state.done = state.unimproved >= self.settings.patience

    def _save_model(self) -> None:
        if not self._has_state:  # killed between the two, a model alone would pass for another run's
            self._save_state()
        if self.fabric.global_rank == 0:
            state, training = self.state, without_places(self.config)
            card = {"training": training, "step": state.step, "evaluation": for_json(state.evaluation)}
            with self._averaged_weights(), _disk():
                self.raw.save(self._product, card)
        self.fabric.barrier()

    def _save_state(self) -> None:
        """Complete or not at all: a kill or a power cut while it is written leaves the one before."""
        state = {
            "task": self.raw.state_dict(),
            "optimizer": self.raw_optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "config": json.dumps(self.config),
            "files": self._files,
            "run": dict(vars(self.state)),
        }
        temporary = self.folder / "state.part"
        with _disk():
            try:
                self.fabric.save(temporary, state)
                if self.fabric.global_rank == 0:
                    with open(temporary, "rb+") as file:
                        os.fsync(file.fileno())
                    temporary.replace(self.folder / state_name)
            finally:
                if self.fabric.global_rank == 0:
                    temporary.unlink(missing_ok=True)
        self._has_state = True
        self.fabric.barrier()

    def _resume(self) -> None:
        if not self._has_state:
            self._refuse_to_overwrite()
            return
        kept = load_state(self.folder)
        before = json.loads(kept["config"])
        others, starts = named_files.differences(before, self.config, kept.get("files", {}), self._files)
        if difference := differences(before, self.config) + others:
            raise JobError(
                f"{self.folder} holds a run with other settings: {', '.join(difference)}.",
                "Give it the settings and files it was begun with, or name another output folder.",
            )
        for start in starts:
            if self.fabric.global_rank == 0:
                print(f"{start} has changed since; the run goes on from where it is.", file=sys.stderr)
        self._restore(kept)
        self.state = RunState(**kept["run"])
        self.state.done = False  # asked for again, perhaps with more patience

    def _refuse_to_overwrite(self) -> None:
        """A net whose state was deleted may be the result of days, and this run would begin from nothing."""
        if self._product.exists():
            start = f", with --start {self._product} to begin from that net" if self.raw.can_start else ""
            raise JobError(
                f"{self._product} is a trained net, and the state of its run ({state_name}) is not there any more.",
                f"Nothing is overwritten: name another output folder{start}.",
            )

    def _restore(self, kept: dict[str, Any]) -> None:
        try:
            left_out = self.raw.load_state_dict(kept["task"], strict=False)
            if left_out.unexpected_keys or set(left_out.missing_keys) & self.raw.state_dict().keys():
                raise KeyError(f"its weights are another net's: {left_out}")
            self.raw_optimizer.load_state_dict(kept["optimizer"])
            if self.average:
                self.average.load_state_dict(kept["average"])
        except unreadable as e:
            raise ModelError(
                f"The state in {self.folder} does not fit its settings: {first_line(e)}",
                "Name another output folder.",
            ) from None

    def _roll_back(self) -> None:
        """Back to the last saved state, but on with the data: what broke it does not come again."""
        self.state.rollbacks += 1
        if self.state.rollbacks > most_rollbacks or not self._has_state:
            raise JobError(
                f"The gradient is not finite at step {self.state.step}, again and again.",
                "Lower the rate (fit.rate), or train in 32-true; log.jsonl shows which loss grew.",
            )
        self._restore(load_state(self.folder))


def _dev_batches(dev: Dataset[Item], settings: FitSettings) -> list[Item]:
    """The dev set, read once: the same samples in every run."""
    size = max(1, settings.batch)
    numbers = range(settings.dev_samples)
    return [default_collate([dev[k] for k in numbers[i : i + size]]) for i in range(0, len(numbers), size)]


def _rate_factor(settings: FitSettings, step: int) -> float:
    factor = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "cosine":
        factor *= 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * step / settings.steps)))
    return factor


def _move_average(decay: float) -> Any:
    """A moving average that follows quickly at first; counters are taken over as they are."""

    @torch.no_grad()
    def move(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        if averages[0].is_floating_point():
            follow = 1 - min(decay, (1 + float(count)) / (20 + float(count)))
            for average, value in zip(averages, values, strict=True):
                average.lerp_(value, follow)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)

    return move


@contextmanager
def _disk() -> Iterator[None]:
    """A full disk or a lost folder becomes a sentence."""
    try:
        yield
    except LipSyncError:
        raise
    except (OSError, RuntimeError) as e:
        # torch and safetensors put what the system said into a RuntimeError's text
        reason = e.strerror if isinstance(e, OSError) else first_line(e)
        hint = "Make room or repair the folder, then give the same command: the run goes on from its last saved state."
        raise OutputError(f"The run could not be saved: {reason}.", hint) from None


def _quiet_worker(_: int) -> None:
    """A reader needs no threads of its own beside its siblings."""
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(0)
