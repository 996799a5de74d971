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

import fitted_line
import pytest
import torch
from fitted_line import Line, Points, run, settings
from safetensors.torch import load_file
from torch import Tensor

from core.errors import JobError, ModelError
from core.nets.checkpoint import load_generator
from training_cli import fit as loop
from training_cli.fit import FitResult, FitSettings
from training_cli.lock import locked

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


@pytest.mark.parametrize("content", [b"", torch.zeros(3), [1], {"weight": torch.zeros(3)}, {"run": {}, "config": "7"}])
def test_a_state_that_is_empty_or_anothers_file_is_a_sentence(tmp_path, content):
    """A power cut leaves an empty file, a careless copy a foreign one: neither is an error that nobody foresaw."""
    path = tmp_path / "state.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(ModelError, match="state of a run") as caught:
        run(Line(), tmp_path)
    assert caught.value.hint and path.read_bytes() == before


def test_a_state_is_on_the_disk_before_it_replaces_the_one_before(tmp_path, monkeypatch):
    """Else a power cut can leave an empty file under the final name, and neither state."""
    written = []

    def sync(descriptor: int) -> None:
        written.append((os.fstat(descriptor).st_ino, (tmp_path / "state.part").stat().st_ino))

    monkeypatch.setattr(loop.os, "fsync", sync)
    run(Line(), tmp_path, steps=10)
    assert written[-1] == ((tmp_path / "state.ckpt").stat().st_ino,) * 2


def test_a_net_whose_state_is_gone_is_not_overwritten(tmp_path):
    """Deleted to save disk: the net was days of training, and one step of a new run would take its place."""
    model = run(Line(), tmp_path, steps=20).model
    before, written = model.read_bytes(), model.stat().st_mtime_ns
    assert run(Line(), tmp_path, steps=20).finished and model.stat().st_mtime_ns == written
    (tmp_path / "state.ckpt").unlink()
    with pytest.raises(JobError, match="trained net") as caught:
        run(Line(), tmp_path, steps=20)
    assert f"--start {model}" in caught.value.hint and model.read_bytes() == before
    assert not (tmp_path / "state.ckpt").exists()


@pytest.mark.parametrize("patience", [0, 4])
@pytest.mark.parametrize("saved", [False, True])
def test_killed_while_its_first_model_is_saved_a_run_still_goes_on(tmp_path, patience, saved):
    """Just before or just after: a run's own model must not pass for another's, nor be lost."""

    class Killed(Line):
        def save(self, path: Path, card) -> None:
            if saved:
                super().save(path, card)
            raise KeyboardInterrupt

    changes = {"steps": 10, "patience": patience, "evaluate_every": 5, "save_every": 10}
    with pytest.raises(KeyboardInterrupt):
        run(Killed(), tmp_path, **changes)
    result = run(Line(), tmp_path, **changes)
    whole = run(Line(), tmp_path / "whole", **changes)
    expected, found = load_file(whole.model), load_file(result.model)
    assert result.finished and all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_second_command_in_a_runs_folder_is_sent_away_and_a_killed_one_locks_nobody_out(tmp_path):
    """Two at once wrote over each other's state, and each row of the log twice."""
    code = "import sys, time; from pathlib import Path; from training_cli.lock import locked\n"
    code += "with locked(Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(600)"
    words = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout and other.stdout.readline() == "True\n"
        with pytest.raises(JobError, match="Another command is training") as caught:
            run(Line(), tmp_path)
        assert caught.value.hint and not (tmp_path / "log.jsonl").exists()
    finally:
        other.kill()
        other.wait()
    assert run(Line(), tmp_path).finished
    with locked(tmp_path) as ours:
        assert ours  # and a run that has ended lets the next one in


@dataclass(frozen=True)
class Taught:
    """Settings that name files."""

    expert: str
    start: str = ""
    fit: FitSettings = field(default_factory=FitSettings)


def taught(folder: Path, expert: str | Path, start: str | Path = "", steps: int = 10) -> FitResult:
    asked = replace(settings, steps=steps)
    return loop.fit(Line(), Points(), Points(), asked, folder, Taught(str(expert), str(start), asked))


def test_a_run_goes_on_with_the_same_expert_wherever_it_lies_by_now(tmp_path, monkeypatch):
    """Days of training were refused because a path was written in another way, or the folder had been moved."""
    monkeypatch.chdir(tmp_path)
    Path("expert").write_bytes(b"an expert")
    taught(tmp_path / "run", "expert")
    for steps, path in ((20, "./expert"), (30, tmp_path / "expert")):
        assert taught(tmp_path / "run", path, steps=steps).step == steps
    (tmp_path / "run").rename(tmp_path / "moved")
    Path("expert").rename("elsewhere")
    assert taught(tmp_path / "moved", "elsewhere", steps=40).step == 40
    Path("other").write_bytes(b"another")
    with pytest.raises(JobError, match="expert was 'elsewhere', now 'other'"):
        taught(tmp_path / "moved", "other", steps=50)


def test_an_expert_that_was_trained_further_is_noticed_and_a_start_is_only_told(tmp_path, capsys):
    """Half of a run with one judge and half with another is a result that nobody can explain."""
    expert, start = tmp_path / "expert", tmp_path / "start"
    for path in (expert, start):
        path.write_bytes(b"first")
    taught(tmp_path, expert, start)
    expert.write_bytes(b"later")
    with pytest.raises(JobError, match="another content now") as caught:
        taught(tmp_path, expert, start, steps=20)
    assert str(expert) in str(caught.value) and caught.value.hint
    expert.write_bytes(b"first")
    start.write_bytes(b"later")  # the run has weights of its own by now, and would be lost without need
    capsys.readouterr()
    assert taught(tmp_path, expert, start, steps=20).step == 20
    assert f"{start} has changed since" in capsys.readouterr().err


def test_a_run_begun_before_its_files_were_kept_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("expert").write_bytes(b"an expert")
    Path("other").write_bytes(b"another")
    taught(tmp_path / "run", "expert")
    path = tmp_path / "run" / "state.ckpt"
    state = loop.load_state(path.parent)
    del state["files"]
    for steps, name in ((20, "expert"), (30, "./expert")):
        torch.save(state, path)
        assert taught(path.parent, name, steps=steps).step == steps
    torch.save(state, path)
    with pytest.raises(JobError, match="expert was"):
        taught(path.parent, "other", steps=40)


def test_the_log_can_be_read_by_strict_readers_of_json(tmp_path):
    """jq, pandas and browsers refuse a bare NaN, and with it the whole log."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    task = Line()
    task.poisoned = {7}
    run(task, tmp_path)
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["step"] for row in rows if "loss" in row and row["loss"] is None] == [10]


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
