# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop: killed runs go on bit for bit, a NaN costs minutes and not the run, processes share the work."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fitted_line
import pytest
import torch
from fitted_line import Line, Points, run, settings
from safetensors.torch import load_file
from torch import Tensor

from core.errors import JobError, ModelError
from core.nets.checkpoint import load_generator
from training_cli import fit as loop

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
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
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
    rows = [json.loads(line) for line in (killed / "log.jsonl").read_text(encoding="utf-8").splitlines()]
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


def in_processes(folder: Path, devices: int, batch: int, norm: bool, patience: int) -> dict[str, Tensor]:
    numbers = [str(devices), str(batch), str(int(norm)), str(patience)]
    words = [sys.executable, str(Path(fitted_line.__file__)), str(folder), *numbers]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    subprocess.run(words, check=True, timeout=200, env=environment)
    return load_file(folder / "line.safetensors")


def test_two_processes_by_gloo_train_what_one_trains_on_both_of_their_batches(tmp_path):
    """Else more GPUs would train more nets, or one net on half of the data."""
    one, two = in_processes(tmp_path / "1", 1, 4, False, 0), in_processes(tmp_path / "2", 2, 2, False, 0)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(one["0.weight"], in_processes(tmp_path / "3", 1, 2, False, 0)["0.weight"], atol=1e-5)


def test_processes_with_batch_norms_of_their_own_decide_together_when_to_stop(tmp_path):
    """Each sees other data, so each measures another loss: one that goes on alone would wait for ever."""
    in_processes(tmp_path, 2, 2, True, 1)
    assert loop.load_state(tmp_path)["run"]["step"] >= 10


def test_two_processes_train_the_generator(talkers, tmp_path):
    words = command(talkers, tmp_path, "--fit.steps", "3", "--fit.workers", "0", "--fit.save_every", "3")
    words += ["--fit.devices", "2", "--fit.strategy", "ddp"]
    subprocess.run(words, cwd=repository, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert max(losses(tmp_path)) == 3
    load_generator(tmp_path / "generator.safetensors")


def test_one_nan_is_left_out_and_several_take_the_run_back_to_its_last_state(tmp_path):
    """Wav2Lip's users lost days to a loss that had become NaN unnoticed."""
    task = Line()
    task.poisoned = {7, *range(23, 26)}
    result = run(task, tmp_path)
    assert result.finished and result.step == 60
    assert loop.load_state(tmp_path)["run"]["rollbacks"] == 1
    assert all(torch.isfinite(p).all() for p in task.parameters())
    assert result.evaluation["loss"] < 0.5


def test_what_is_not_finite_does_not_stay_in_the_batch_norms(tmp_path):
    """The step is left out, but the picture has been through the net: its running statistics would be NaN for ever."""
    task = Line(norm=True)
    result = run(task, tmp_path, Points(poisoned={33}))
    assert result.evaluation["loss"] < 5
    assert all(torch.isfinite(value).all() for value in load_file(result.model).values())
    assert all(torch.isfinite(value).all() for value in loop.load_state(tmp_path)["task"].values())


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


def test_a_run_has_a_model_to_look_at_before_it_ends(tmp_path):
    assert not run(Line(), tmp_path, minutes=1e-6).finished
    assert load_file(tmp_path / "line.safetensors")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 0) for name in ("steps", "batch", "log_every", "save_every", "evaluate_every", "dev_samples", "devices")]
    + [("rate", -1), ("workers", -1), ("seed", -1), ("patience", -1), ("average", 1.0)],
)
def test_a_number_that_cannot_be_is_refused_in_a_sentence(name, value):
    with pytest.raises(JobError, match=f"fit.{name}") as caught:
        replace(settings, **{name: value})
    assert caught.value.hint


def test_patience_ends_a_run_that_no_longer_improves_and_keeps_its_best(tmp_path):
    class Worsening(Line):
        def evaluate(self, batches, step: int) -> dict[str, float]:
            return {"loss": abs(step - 20.0)}

    task = Worsening()
    result = run(task, tmp_path, patience=2, steps=400, average=0.0, evaluate_every=10)
    assert result.finished and result.step == 40
    kept = load_file(result.model)["0.weight"]
    other = run(Line(), tmp_path / "other", steps=20, average=0.0)
    assert torch.equal(kept, load_file(other.model)["0.weight"])


def test_what_is_saved_is_the_average_and_the_average_follows(tmp_path):
    task = Line()
    result = run(task, tmp_path)
    saved, last = load_file(result.model)["0.weight"].item(), next(task.net.parameters()).item()
    assert saved != last and abs(saved - 2) < 0.5 and abs(last - 2) < 0.5


def test_a_device_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(JobError, match="cannot train like that") as caught:
        run(Line(), tmp_path, accelerator="cuda" if not torch.cuda.is_available() else "tpu")
    assert caught.value.hint
