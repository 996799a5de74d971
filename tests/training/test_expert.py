# SPDX-License-Identifier: GPL-3.0-or-later
"""The sync expert: what it is shown, that it learns, what it says of a clip with moved sound, and what it teaches."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_faces import store, talking_clip

from core import audio
from core.errors import JobError, MediaError, ModelError
from core.nets.checkpoint import load_expert, save_net
from core.nets.generator import Generator, GeneratorConfig
from core.nets.syncnet import SyncNet, SyncNetConfig, sync_window_faces
from core.timing import sync_window
from training_cli import cli, expert, shards, sync
from training_cli.data import Index
from training_cli.expert import ExpertSettings, ExpertTask, SyncDataSettings, SyncWindows, train_expert
from training_cli.fit import FitResult, FitSettings
from training_cli.losses import match_loss, sync_loss
from training_cli.sync import measure_offset, sync_distances


def settings(folder: Path, output: Path, **changes) -> ExpertSettings:
    """A narrow expert that learns drawn faces in seconds."""
    fit = {"steps": 100, "batch": 12, "rate": 1e-3, "average": 0.9, "workers": 0, "evaluate_every": 20}
    fit |= {"dev_samples": 48, "accelerator": "cpu", "patience": 10, **changes.pop("fit", {})}
    model = SyncNetConfig(width=0.25)
    made = ExpertSettings(str(output), SyncDataSettings(str(folder)), model=model, offset_clips=2)
    return replace(made, fit=FitSettings(**fit), **changes)


@pytest.fixture(scope="module")
def trained(talkers, tmp_path_factory) -> FitResult:
    result = train_expert(settings(talkers, tmp_path_factory.mktemp("expert")))
    assert isinstance(result, FitResult)
    return result


def windows(folder: Path, split: str = "train", seed: int = 3, **changes) -> SyncWindows:
    return SyncWindows(SyncDataSettings(str(folder), **changes), split, seed)


# --- what it is shown


def test_a_sound_called_wrong_is_never_a_near_miss(talkers):
    """Windows that overlap look right; called wrong, they keep the loss at 0.69."""
    drawn = [windows(talkers).starts(14, Fraction(25), np.random.default_rng(k)) for k in range(300)]
    assert all(0 <= start < 10 and 0 <= other < 10 and abs(start - other) >= 5 for start, other in drawn)
    assert len(set(drawn)) == 2 * sum(range(1, 6))  # every pair that is far enough apart
    with pytest.raises(JobError) as caught:
        SyncDataSettings(str(talkers), negative_gap=4)
    assert "5" in caught.value.hint


@pytest.mark.parametrize(("rate", "apart"), [(Fraction(25), 5), (Fraction(30000, 1001), 6), (Fraction(60), 12)])
def test_a_sample_holds_five_frames_their_sound_and_one_of_others(tmp_path, rate, apart):
    """A sound lasts 0.2 s: at 60 frames a second one that comes five frames later is for the most part the same."""
    clip = talking_clip(1)
    folder = store(tmp_path, replace(clip, info=replace(clip.info, rate=rate)))
    mel = audio.log_mel(clip.wave.astype(np.float32) / 32768)
    heard = audio.mel_windows(mel, [sync_window(frame, rate) for frame in range(36)])
    for number in range(8):
        item = windows(folder)[number]
        seen = item["faces"].numpy()
        start = next(s for s in range(36) if (clip.crops[s : s + 5, 8:104, 8:104] == seen).all())
        right, wrong = (np.abs(heard - sound.numpy()).max((1, 2)) for sound in item["mel"][:, 0])
        assert right[start] < 0.01  # stored as float16
        assert min(abs(int(other) - start) for other in np.flatnonzero(wrong < 0.01)) >= apart


def test_clips_too_short_for_their_rate_are_not_drawn(tmp_path):
    """28 frames are enough at 60 a second, and 27 are not: some starts would have nothing to be wrong with."""
    fast = [talking_clip(seed, frames=frames) for seed, frames in ((0, 27), (1, 28))]
    fast = [replace(clip, info=replace(clip.info, rate=Fraction(60))) for clip in fast]
    slow = [talking_clip(seed, frames=frames) for seed, frames in ((2, 13), (3, 14))]
    drawn = windows(store(tmp_path / "all", *fast, *slow))
    assert {drawn._draw(np.random.default_rng(k)).info.source for k in range(60)} == {"1.mp4", "3.mp4"}
    for clips in (fast[:1], [slow[0], fast[0]]):
        with pytest.raises(MediaError):
            windows(store(tmp_path / str(len(clips)), *clips))


def test_some_wrong_sounds_come_from_other_clips_when_asked(talkers):
    def strangers(share: float) -> int:
        far, own = windows(talkers, other_clips=share), windows(talkers)
        items = [(far[k], own[k]) for k in range(20)]
        assert all(torch.equal(a["mel"][0], b["mel"][0]) and torch.equal(a["faces"], b["faces"]) for a, b in items)
        return sum(not torch.equal(a["mel"][1], b["mel"][1]) for a, b in items)

    assert strangers(0.0) == 0 and strangers(1.0) > 10  # a sixth of them happens upon the same clip


def test_the_dev_set_is_the_same_every_time_and_varied_by_nothing(talkers, tmp_path, monkeypatch):
    """Else the loss that stops a run and opens the generator's gate would be noise."""
    kept = []
    monkeypatch.setattr(expert, "fit", lambda task, train, dev, *_: kept.append([dev[k] for k in range(12)]))
    one, two = settings(talkers, tmp_path), settings(talkers, tmp_path, fit={"seed": 9})
    data = replace(one.data, augment_picture=True, augment_sound=True, other_clips=0.5, negative_gap=7)
    for each in (one, replace(two, data=data)):
        train_expert(each)
    for a, b in zip(*kept, strict=True):
        assert torch.equal(a["faces"], b["faces"]) and torch.equal(a["mel"], b["mel"])
    trained_on = windows(talkers)
    assert not any(torch.equal(item["faces"], trained_on[k]["faces"]) for k, item in enumerate(kept[0]))


def test_variation_leaves_the_mouth_in_its_place_and_the_five_frames_alike(talkers):
    varied, plain = windows(talkers, augment_picture=True, augment_sound=True), windows(talkers)
    for number in range(10):
        faces = varied[number]["faces"].float()
        assert faces.shape == (5, 96, 96, 3) and not torch.equal(faces, plain[number]["faces"].float())
        assert faces[:, 68:76, 44:52].mean() < faces[:, 40:48, 44:52].mean() - 30  # the drawn mouth is dark
        assert not torch.equal(varied[number]["mel"], plain[number]["mel"])
        still = faces[:, 30:34, 44:52]
        assert (still == still[:1]).all()  # above the eyes nothing moves: one light and one shift for all five


def test_larger_crops_are_shown_at_the_experts_size(tmp_path):
    clip = talking_clip(3)
    large = replace(clip, info=replace(clip.info, size=192), crops=clip.crops.repeat(2, 1).repeat(2, 2))
    small = windows(store(tmp_path / "small", clip))[0]
    assert torch.equal(windows(store(tmp_path / "large", large))[0]["faces"], small["faces"])


# --- that it learns


def test_an_expert_learns_and_its_card_says_how_well(trained, talkers):
    net, card = load_expert(trained.model)
    best = card["evaluation"]
    assert best["auc"] > 0.65 and best["best_accuracy"] > 0.6 and best["offset_accuracy"] == 1
    assert best["best_accuracy"] >= best["accuracy"] and best["loss"] <= trained.evaluation["loss"]
    assert net.config.width == 0.25 and card["data"]["clips"] == 6 and card["data"]["people"] == 6
    assert 0 < card["step"] <= trained.step == 100
    assert card["training"]["data"]["negative_gap"] == 5


def test_dev_numbers_are_what_they_are_called(talkers, tmp_path, monkeypatch):
    task = ExpertTask(settings(talkers, tmp_path))
    cosines = torch.tensor([[0.9, 0.2], [0.4, 0.3], [0.45, 0.1], [0.8, 0.42]])
    monkeypatch.setattr(task, "_cosines", lambda batch: cosines)
    values = task.evaluate([{}], 1)
    assert values["accuracy"] == pytest.approx(6 / 8) and values["best_accuracy"] == pytest.approx(7 / 8)
    assert values["auc"] == pytest.approx(15 / 16)  # of the 16 pairs only 0.4 and 0.42 are the wrong way round
    right, wrong = -np.log([0.9, 0.4, 0.45, 0.8]), -np.log(1 - np.array([0.2, 0.3, 0.1, 0.42]))
    assert values["loss"] == pytest.approx((right.sum() + wrong.sum()) / 8, abs=1e-5)


def test_one_batch_can_be_learnt_by_heart(talkers, tmp_path):
    """The first thing to know of a loss that stays at 0.69."""
    check = settings(talkers, tmp_path / "run", overfit_one_batch=True, fit={"batch": 6})
    assert "Wired right" in str(train_expert(check))
    assert not (tmp_path / "run").exists()


def test_the_same_settings_begin_with_the_same_weights(talkers, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(expert, "fit", lambda task, *_: begun.append(task.expert.state_dict()))
    for seed in (0, 0, 1):
        torch.rand(1)
        train_expert(settings(talkers, tmp_path, fit={"seed": seed}))
    name = "face_encoder.0.0.weight"
    assert torch.equal(begun[0][name], begun[1][name]) and not torch.equal(begun[0][name], begun[2][name])


@pytest.mark.parametrize(("losses", "said"), [((0.64, 0.11), "Wired right"), ((0.7, 0.6), "not learnt by heart")])
def test_one_batch_takes_the_steps_it_is_given_and_advises_nothing_that_is_already_so(
    talkers, tmp_path, monkeypatch, losses, said
):
    """A loss that falls from 0.64 to 0.11 was called a failure, whose remedy was the default rate. Losses made up."""
    left = list(losses)

    def forward(task: ExpertTask, batch, step: int):
        return {"loss": sum(p.sum() for p in task.parameters()) * 0 + left.pop(0), "accuracy": torch.tensor(0.5)}

    monkeypatch.setattr(ExpertTask, "forward", forward)
    check = settings(talkers, tmp_path, overfit_one_batch=True, fit={"batch": 2, "steps": 2, "rate": 1e-4})
    try:
        found = str(train_expert(check))
    except JobError as e:
        found = str(e)
        assert "--fit.steps 1000" in e.hint and "1e-4" not in e.hint and "32-true" not in e.hint
    assert said in found and f"from {losses[0]:.2f} to {losses[1]:.2f}" in found and "2 steps" in found and not left


@pytest.mark.parametrize("missing", ["faces", "mel"])
def test_an_expert_that_misses_pictures_or_sound_does_not_pass_for_wired_right(talkers, tmp_path, monkeypatch, missing):
    seeing = ExpertTask._cosines
    blind = lambda task, batch: seeing(task, {**batch, missing: torch.zeros_like(batch[missing])})  # noqa: E731
    monkeypatch.setattr(ExpertTask, "_cosines", blind)
    monkeypatch.setattr(expert, "most_overfit_steps", 30)
    with pytest.raises(JobError, match="not learnt by heart") as caught:
        train_expert(settings(talkers, tmp_path, overfit_one_batch=True, fit={"batch": 6}))
    assert caught.value.hint


def test_a_batch_of_one_is_refused_in_a_sentence(talkers, tmp_path):
    """Batch norm cannot learn from one value: it ended in an error nobody foresaw, after the data had been read."""
    with pytest.raises(JobError, match=r"fit\.batch is 1") as caught:
        train_expert(settings(talkers, tmp_path / "run", fit={"batch": 1}))
    assert "2 or more" in caught.value.hint and not (tmp_path / "run").exists()


def test_a_rate_that_breaks_the_expert_ends_as_documented(talkers, tmp_path):
    """Left out, rolled back, then a sentence: torch's cross-entropy raised at the first cosine that was no number."""
    fit = {"steps": 40, "batch": 2, "rate": 1e30, "evaluate_every": 9, "dev_samples": 2, "save_every": 1, "patience": 0}
    with pytest.raises(JobError, match="not finite") as caught:
        train_expert(settings(talkers, tmp_path, fit=fit))
    assert "rate" in caught.value.hint


def test_silent_footage_is_named_instead_of_trained_on(tmp_path):
    clip = talking_clip(1)
    folder = store(tmp_path / "data", replace(clip, wave=np.zeros_like(clip.wave)))
    with pytest.raises(MediaError, match="sound") as caught:
        train_expert(settings(folder, tmp_path / "run", overfit_one_batch=True, fit={"batch": 2}))
    assert "silent" in caught.value.hint


def test_an_expert_that_still_guesses_gets_one_line_of_advice(talkers, tmp_path):
    task = ExpertTask(settings(talkers, tmp_path))
    assert not task.advice({"accuracy": 0.5}, 100) and not task.advice({"accuracy": 0.8}, 5000)
    assert "--overfit_one_batch" in task.advice({"accuracy": 0.5}, 5000)
    assert not task.advice({"accuracy": 0.5}, 10_000)


def test_a_damaged_dev_clip_does_not_end_a_run(talkers, tmp_path):
    paths = Index(talkers, "dev", "clips", 14).paths
    broken = tmp_path / "x.safetensors"
    broken.write_bytes(paths[0].read_bytes()[:900])
    with pytest.warns(UserWarning, match="skipped"):
        assert expert._spread([broken, paths[1]], 2) == [paths[1]]


def test_mistakes_are_answered_with_a_sentence_and_a_hint(talkers, tmp_path, capsys):
    save_net(tmp_path / "wide.safetensors", SyncNet(SyncNetConfig(0.5)), {})
    save_net(tmp_path / "drawer.safetensors", Generator(GeneratorConfig(width=0.25, align_blocks=1)), {})
    good = ["--data.folder", str(talkers), "--model.width", "0.25"]
    for arguments in (
        ["--data.folder", str(tmp_path)],
        ["--data.folder", str(tmp_path / "missing")],
        [*good, "--data.negative_gap", "2"],
        [*good, "--data.negativ_gap", "6"],
        [*good, "--start", str(tmp_path / "wide.safetensors")],
        [*good, "--start", str(tmp_path / "drawer.safetensors")],
    ):
        assert cli.main(["expert", "--output", str(tmp_path / "run"), *arguments]) == 2
        said = capsys.readouterr().err
        assert "lipsync-train: error: " in said and "hint: " in said and "Traceback" not in said
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_an_expert_can_be_trained_further_on_other_footage(trained, talkers, tmp_path):
    task = ExpertTask(settings(talkers, tmp_path, start=str(trained.model)))
    net, _ = load_expert(trained.model)
    assert all(torch.equal(a, b) for a, b in zip(task.expert.parameters(), net.parameters(), strict=True))
    with pytest.raises(ModelError, match="width"):
        ExpertTask(replace(task.settings, model=SyncNetConfig(0.5)))


# --- what it says of a clip


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_a_sound_that_was_moved_is_found_and_moved_back(trained, late):
    """prepare moves every clip's sound by this: with the wrong sign it would double the error."""
    net, _ = load_expert(trained.model)
    clip = talking_clip(20, frames=60, late=late)
    found = measure_offset(net, clip)
    assert found.frames == late and found.confidence > 0.05
    assert measure_offset(net, shards.moved(clip, found.frames)).frames == 0


def test_a_face_that_does_not_speak_gives_little_confidence(trained):
    net, _ = load_expert(trained.model)
    clip = talking_clip(20, frames=60)
    still = replace(clip, crops=clip.crops[:1].repeat(60, 0))
    assert measure_offset(net, still).confidence < 0.3 * measure_offset(net, clip).confidence


def test_offsets_are_the_same_from_disk_from_memory_and_in_small_parts(trained, tmp_path, monkeypatch):
    net, _ = load_expert(trained.model)
    clip = talking_clip(21, frames=50, late=2)
    in_memory = measure_offset(net, clip)
    folder = store(tmp_path, clip)
    from_disk = measure_offset(net, shards.ClipFile(folder / "clips" / "0.safetensors"))
    assert np.allclose(in_memory.distances, from_disk.distances, atol=1e-2)  # its mel is float16
    faces = torch.from_numpy(clip.crops[:, 8:-8, 8:-8].copy()).permute(0, 3, 1, 2) / 255
    mel = audio.log_mel(clip.wave.astype(np.float32) / 32768)
    monkeypatch.setattr(sync, "windows_at_once", 7)
    assert np.allclose(in_memory.distances, sync_distances(net, faces, mel, Fraction(25)), atol=1e-4)


def test_a_distance_is_the_mean_over_windows_that_have_both(trained):
    net, _ = load_expert(trained.model)
    clip = talking_clip(22, frames=30)
    distances = measure_offset(net, clip).distances
    faces = torch.from_numpy(clip.crops[:, 8:-8, 8:-8].copy()).permute(0, 3, 1, 2) / 255
    mel = audio.log_mel(clip.wave.astype(np.float32) / 32768)
    apart = []
    for frame in range(26 - 2):
        sound = audio.mel_windows(mel, [sync_window(frame + 2, Fraction(25))])
        with torch.no_grad():
            seen = net.embed_faces(sync_window_faces(faces[None, frame : frame + 5]))
            apart.append(float((seen - net.embed_sound(torch.from_numpy(sound)[:, None])).norm()))
    assert distances[15 + 2] == pytest.approx(np.mean(apart), abs=1e-4)


def test_short_clips_are_measured_as_far_as_they_reach_and_no_further(trained):
    net, _ = load_expert(trained.model)
    distances = measure_offset(net, talking_clip(23, frames=14)).distances
    assert np.isfinite(distances).sum() == 2 * 5 + 1 and np.isfinite(distances[10:21]).all()
    with pytest.raises(MediaError, match="too short"):
        measure_offset(net, talking_clip(23, frames=8))


# --- what it teaches


def test_teaching_a_generator_leaves_the_expert_as_it_was(trained):
    """Wav2Lip's public loop leaves it in train mode: its batch norms drift towards what the generator draws."""
    net, _ = load_expert(trained.model)
    net.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    drawn = torch.rand(3, 5, 3, 96, 96, requires_grad=True)
    mel = torch.rand(3, 1, 80, 16) * 8 - 4
    sync_loss(net, drawn, mel).backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert drawn.grad is not None
    assert drawn.grad[..., 48:, :].abs().sum() > 0 and drawn.grad[..., :48, :].abs().sum() == 0
    for spoilt in (net.train(), net.eval().requires_grad_(True)):
        with pytest.raises(AssertionError, match="expert"):
            sync_loss(spoilt, drawn, mel)


def test_the_sync_loss_is_low_for_lips_that_speak_the_sound(trained):
    net, _ = load_expert(trained.model)
    net.requires_grad_(False)
    clip = talking_clip(24, frames=60)
    faces = torch.from_numpy(clip.crops[:, 8:-8, 8:-8].copy()).permute(0, 3, 1, 2) / 255
    drawn = faces.unfold(0, 5, 1).movedim(-1, 1)
    mel = audio.log_mel(clip.wave.astype(np.float32) / 32768)
    sound = torch.from_numpy(audio.mel_windows(mel, [sync_window(k, Fraction(25)) for k in range(56)]))[:, None]
    with torch.no_grad():
        assert sync_loss(net, drawn, sound) < sync_loss(net, drawn, sound.roll(9, 0)) - 0.1


def test_cosine_and_loss_stay_in_float32_under_autocast(talkers, tmp_path):
    """bfloat16 knows nothing between 0.996 and 1, where a trained expert's cosines lie."""
    torch.manual_seed(0)
    task = ExpertTask(settings(talkers, tmp_path)).eval()
    batch = {name: torch.stack([windows(talkers)[k][name] for k in range(4)]) for name in ("faces", "mel")}
    with torch.autocast("cpu", torch.bfloat16):
        cosine = task._cosines(batch)
        loss = task(batch, 0)["loss"]
        exact = match_loss(torch.tensor([0.999, 0.9991]), torch.tensor([0.0, 0.0]))
    assert cosine.dtype == loss.dtype == torch.float32
    assert (cosine.bfloat16().float() != cosine).any()
    assert exact == pytest.approx(-np.log([0.001, 0.0009]).mean(), rel=1e-3)


def test_a_cosine_at_the_edge_has_a_finite_loss():
    """One infinite loss would end a run of days."""
    cosine = torch.tensor([0.0, 1.0, 1.0000001, 0.5], requires_grad=True)
    loss = match_loss(cosine, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    loss.backward()
    assert torch.isfinite(loss) and cosine.grad is not None and torch.isfinite(cosine.grad).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_cosine_that_is_no_number_makes_loss_and_gradient_such_that_the_step_is_left_out(bad):
    cosine = torch.tensor([bad, 0.5], requires_grad=True)
    loss = match_loss(cosine, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert torch.isnan(loss) and cosine.grad is not None and torch.isnan(cosine.grad[0])


def test_a_clip_of_which_an_expert_says_no_numbers_is_a_sentence():
    net = SyncNet(SyncNetConfig(width=0.25)).eval()
    torch.nn.init.constant_(next(net.parameters()), float("nan"))
    with pytest.raises(MediaError, match="no numbers"):
        measure_offset(net, talking_clip(5, frames=20))
