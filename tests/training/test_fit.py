# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop: killed runs go on bit for bit, a NaN costs minutes and not the run, processes share the work."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.errors import JobError, ModelError
from core.nets.checkpoint import load_generator
from training_cli import fit as loop
from training_cli.fit import FitSettings, Task, fit

repository = Path(__file__).resolve().parents[2]
small = """
--loss.alpha 0 --loss.beta 0 --loss.shape_weight 0.1 --model.width 0.125 --model.align_blocks 1 --fit.batch 2
--fit.dev_samples 2 --fit.log_every 1 --fit.evaluate_every 10 --fit.threads 1 --fit.accelerator cpu
--data.augment_picture true --data.augment_sound true
"""


def command(data: Path, output: Path, *arguments: str) -> list[str]:
    words = ["generator", "--config", "paper", *small.split(), "--data.folder", str(data), "--output", str(output)]
    return [sys.executable, "-m", "training_cli.cli", *words, *arguments]


def losses(run: Path) -> dict[int, float]:
    """The last word of the log on each step."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_a_run_killed_in_the_middle_goes_on_bit_for_bit(talkers, tmp_path):
    """A researcher whose machine dies must not wonder whether the resumed run is another experiment."""
    arguments = ("--fit.steps", "34", "--fit.save_every", "6", "--fit.average", "0.9")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(talkers, whole, *arguments, "--fit.workers", "0"), cwd=repository, check=True)
    process = subprocess.Popen(command(talkers, killed, *arguments, "--fit.workers", "0"), cwd=repository)
    deadline = time.monotonic() + 120
    while not (killed / "log.jsonl").exists() or len(losses(killed)) < 9:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    reached = max(losses(killed))
    assert reached < 34
    subprocess.run(command(talkers, killed, *arguments, "--fit.workers", "2"), cwd=repository, check=True)
    rows = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    again = [row["step"] for row in rows if "loss" in row]
    resumed_at = again[again.index(reached) + 1]
    assert 6 <= resumed_at - 1 <= reached and (resumed_at - 1) % 6 == 0
    assert losses(killed) == losses(whole) and len(losses(whole)) == 34
    expected, found = (load_file(run / "generator.safetensors") for run in (whole, killed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_when_there_is_room(talkers, tmp_path):
    """Stands in for a full disk: a limit on the size of files, at which a write fails in the middle as there."""
    run = tmp_path / "run"
    arguments = ("--fit.steps", "6", "--fit.save_every", "3", "--fit.workers", "0")
    subprocess.run(command(talkers, run, "--fit.steps", "3", *arguments[2:]), cwd=repository, check=True)
    before = (run / "state.ckpt").read_bytes()
    limited = f"ulimit -f 100; exec {shlex.join(command(talkers, run, *arguments))}"
    failed = subprocess.run(["bash", "-c", limited], cwd=repository, capture_output=True, text=True)
    assert failed.returncode == 2 and "could not be saved" in failed.stderr and "hint: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (run / "state.ckpt").read_bytes() == before and not list(run.glob("*.part"))
    subprocess.run(command(talkers, run, *arguments), cwd=repository, check=True)
    assert max(losses(run)) == 6
    load_generator(run / "generator.safetensors")


def test_two_processes_train_one_net_by_gloo(talkers, tmp_path):
    two = command(talkers, tmp_path, "--fit.steps", "4", "--fit.workers", "0", "--fit.save_every", "2")
    two += ["--fit.devices", "2", "--fit.strategy", "ddp"]
    subprocess.run(two, cwd=repository, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert max(losses(tmp_path)) == 4
    assert not (tmp_path / "generator.safetensors.part").exists()
    load_generator(tmp_path / "generator.safetensors")
    load_state = loop.load_state(tmp_path)
    assert load_state["run"]["step"] == 4


# A task that is understood by heart: a line through points, without batch norm.


class Points(Dataset[dict[str, Tensor]]):
    def __getitem__(self, number: int) -> dict[str, Tensor]:
        x = torch.tensor([float(number % 7) - 3])
        return {"x": x, "y": 2 * x + 1}


class Line(Task):
    name = "line"

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        self.poisoned: set[int] = set()

    def averaged(self) -> nn.Module:
        return self.net

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        return {"loss": loss * float("nan") if step in self.poisoned else loss}

    def evaluate(self, batches, step: int) -> dict[str, float]:
        return {"loss": float(torch.stack([self(batch, -1)["loss"] for batch in batches]).mean())}

    def save(self, path: Path, card: dict[str, Any]) -> None:
        save_file(self.net.state_dict(), path)


@dataclass(frozen=True)
class Config:
    """Settings of the line."""

    output: str = ""
    """Folder."""
    fit: FitSettings = field(default_factory=FitSettings)
    """The loop."""


settings = FitSettings(
    steps=60, batch=4, rate=0.1, workers=0, log_every=5, evaluate_every=20, save_every=10, dev_samples=8,
    accelerator="cpu", average=0.9,
)  # fmt: skip


def run(task: Line, folder: Path, **changes: Any) -> loop.FitResult:
    asked = replace(settings, **changes)
    return fit(task, Points(), Points(), asked, folder, Config(str(folder), asked))


def test_one_nan_is_left_out_and_several_take_the_run_back_to_its_last_state(tmp_path):
    """Wav2Lip's users lost days to a loss that had become NaN unnoticed."""
    task = Line()
    task.poisoned = {7, *range(23, 26)}
    result = run(task, tmp_path)
    assert result.finished and result.step == 60
    assert loop.load_state(tmp_path)["run"]["rollbacks"] == 1
    assert all(torch.isfinite(p).all() for p in task.parameters())
    assert result.evaluation["loss"] < 0.5


def test_a_loss_that_stays_nan_ends_with_a_sentence_and_the_last_good_state(tmp_path):
    task = Line()
    task.poisoned = set(range(25, 60))
    with pytest.raises(JobError, match="not finite") as caught:
        run(task, tmp_path)
    assert "rate" in caught.value.hint
    kept = loop.load_state(tmp_path)
    assert all(torch.isfinite(value).all() for value in kept["task"].values())


def test_minutes_stop_a_run_and_the_same_command_ends_it(tmp_path):
    first = run(Line(), tmp_path, minutes=1e-6)
    assert first.step == 1 and not first.finished
    assert run(Line(), tmp_path).finished


def test_more_steps_are_no_other_run_but_another_rate_is(tmp_path):
    run(Line(), tmp_path)
    longer = run(Line(), tmp_path, steps=80)
    assert longer.step == 80
    with pytest.raises(JobError, match=r"fit.rate was 0.1, now 0.2") as caught:
        run(Line(), tmp_path, rate=0.2)
    assert caught.value.hint
    assert loop.load_state(tmp_path)["run"]["step"] == 80


def test_a_damaged_state_is_a_sentence_not_code_that_runs(tmp_path):
    run(Line(), tmp_path)

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    for content in (b"damaged", None):
        path = tmp_path / "state.ckpt"
        if content:
            path.write_bytes(content)
        else:
            torch.save({"task": Evil()}, path)
        with pytest.raises(ModelError, match="cannot be read"):
            run(Line(), tmp_path, steps=80)
    assert not (tmp_path / "owned").exists()


def test_patience_ends_a_run_that_no_longer_improves_and_keeps_its_best(tmp_path):
    class Worsening(Line):
        def evaluate(self, batches, step: int) -> dict[str, float]:
            return {"loss": abs(step - 20.0)}

    task = Worsening()
    result = run(task, tmp_path, patience=2, steps=400, average=0.0, evaluate_every=10)
    assert result.finished and result.step == 40
    kept = load_file(result.model)["weight"]
    other = run(Line(), tmp_path / "other", steps=20, average=0.0)
    assert torch.equal(kept, load_file(other.model)["weight"])


def test_what_is_saved_is_the_average_and_the_average_follows(tmp_path):
    task = Line()
    result = run(task, tmp_path)
    saved, last = load_file(result.model)["weight"].item(), task.net.weight.item()
    assert saved != last and abs(saved - 2) < 0.5 and abs(last - 2) < 0.5


def test_a_device_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(JobError, match="cannot train like that") as caught:
        run(Line(), tmp_path, accelerator="cuda" if not torch.cuda.is_available() else "tpu")
    assert caught.value.hint
