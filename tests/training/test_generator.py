# SPDX-License-Identifier: GPL-3.0-or-later
"""Training: prepared data that are what they seem, a run that can be stopped, and a model the product can use."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.engine import Engine
from core.errors import JobError, MediaError, ModelError
from core.faces.mesh import rigid_in_crop
from core.nets.generator import GeneratorConfig
from training_cli import cli, data, losses, prepare, shards
from training_cli.generator import (
    Nets,
    Settings,
    Trainer,
    fold_negative_means,
    map_of_statistics,
    map_statistics,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, corpus) -> Path:
    """The footage of tests/core, prepared: two speakers' clips, one without sound, one without a face, a text file."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, source in corpus.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    (folder / "c").mkdir()
    (folder / "c" / "notes.mp4").write_text("no film")
    output = folder / "prepared"
    prepare.prepare(folder, output, workers=1)
    return output


def test_prepare_says_of_every_video_whether_and_why_not(prepared):
    report = json.loads((prepared / "report.json").read_text())
    assert report["a/talk.mkv"] == report["b/talk.mkv"] == "ok"
    assert "sound" in report["a/silent.mkv"] and "face" in report["a/faceless.mkv"]
    assert "notes.mp4" in report["c/notes.mp4"]
    assert len(list(prepared.glob("*.safetensors"))) == 2 and not list(prepared.glob("*.part"))


def test_prepare_run_again_does_nothing_twice(prepared):
    before = {p: p.stat().st_mtime_ns for p in prepared.glob("*.safetensors")}
    prepare.prepare(prepared.parent, prepared, workers=1)
    assert before == {p: p.stat().st_mtime_ns for p in prepared.glob("*.safetensors")}


def test_prepare_of_a_folder_without_videos_says_so(tmp_path):
    with pytest.raises(MediaError) as caught:
        prepare.prepare(tmp_path, tmp_path / "out")
    assert caught.value.hint


def test_a_prepared_clip_shows_the_face_in_its_place_with_its_sound(prepared):
    clip = shards.load(next(iter(sorted(prepared.glob("a__*.safetensors")))))
    assert clip.crops.shape == (30, 112, 112, 3) and clip.landmarks.shape == (30, 85, 2)
    assert clip.wave.dtype == np.int16 and len(clip.wave) == 30 * 16000 // 25
    assert clip.info.rate == 25 and clip.info.identity == "a"
    assert np.abs(clip.landmarks[:, -9:] - rigid_in_crop).mean() < 0.03


def test_a_shard_keeps_arrays_however_they_lie_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    turned = np.asfortranarray(rng.random((12, 85, 2)).astype(np.float32))
    info = shards.ClipInfo("x.mp4", "x", "train", Fraction(30000, 1001))
    crops = rng.integers(0, 255, (12, 112, 112, 3), dtype=np.uint8)
    shards.save(tmp_path / "x.safetensors", shards.Clip(info, crops[::-1], turned, np.zeros(9, np.int16)))
    again = shards.load(tmp_path / "x.safetensors")
    assert (again.landmarks == turned).all() and (again.crops == crops[::-1]).all() and again.info == info


def test_a_file_that_is_no_shard_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("not tensors")
    with pytest.raises(MediaError, match="no prepared clip"):
        shards.load(path)


def test_pairs_hide_the_lips_and_never_show_the_frame_itself(prepared):
    clips = data.load_soundings(prepared, "train", 16)
    assert clips[0].windows.shape == (30, 80, 16)
    batch = [(clips[0], frame) for frame in range(0, 30, 5)]
    pairs = data.read_pairs(batch, np.random.default_rng(0), 0.0)
    assert (pairs.face[:, :3, 48:] == 0).all()
    assert torch.equal(pairs.face[:, :3, :48], pairs.true[:, :, :48])
    assert ((pairs.face[:, 3:] - pairs.true).abs().mean((1, 2, 3)) > 1e-3).all()
    assert pairs.lips.min() > 0.2 and pairs.lips.max() < 0.95
    erased = data.read_pairs(batch, np.random.default_rng(0), 1.0)
    assert (erased.face[:, 3:] - erased.true).abs().mean() > (pairs.face[:, 3:] - pairs.true).abs().mean()


def test_sampling_does_not_drown_the_person_with_little_footage():
    def sounding(identity: str, frames: int) -> data.Sounding:
        return data.Sounding(Path(identity), identity, np.zeros(0), np.zeros((frames, 8), np.float32))

    clips = [sounding("long", 100) for _ in range(100)] + [sounding("short", 100)]
    drawn = data.Sampler(clips, np.random.default_rng(0)).draw(4000)
    share = sum(clip.identity == "short" for clip, _ in drawn) / 4000
    assert 0.06 < share < 0.13  # the root of a hundredth


def test_augmented_sound_is_another_voice_within_the_mels_range():
    mel = torch.rand(64, 80, 16) * 8 - 4
    augmented = data.augment_mel(mel, torch.Generator().manual_seed(0))
    assert augmented.shape == mel.shape and augmented.min() >= -4 and augmented.max() <= 4
    assert ((augmented - mel).abs().mean((1, 2)) > 0.05).all()


def test_what_the_teacher_says_is_what_adain_hears():
    statistics = torch.rand(3, 10) + 0.1
    assert torch.allclose(map_statistics(map_of_statistics(statistics)), statistics, atol=1e-3)


def test_folding_gives_only_statistics_a_relu_can_have_and_draws_the_same():
    torch.manual_seed(0)
    nets = Nets(GeneratorConfig(width=0.25, align_blocks=3)).eval()
    for module in nets.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
    face, shapes = torch.rand(2, 6, 96, 96), torch.randn(40, 8) * 2
    channels = nets.generator.audio_channels
    with torch.inference_mode():
        before = nets.generator.draw(face, map_of_statistics(nets.teacher(shapes[:2])))
        assert nets.teacher(shapes)[:, :channels].min() < 0
    fold_negative_means(nets, shapes)
    with torch.inference_mode():
        after = nets.generator.draw(face, map_of_statistics(nets.teacher(shapes[:2])))
        mean, deviation = nets.teacher(shapes).split(channels, 1)
        assert (mean > deviation - 1e-5).all()
    assert torch.allclose(before, after, atol=1e-5)


def test_mouth_weights_put_the_mouth_first():
    mouth = torch.tensor([[[0.4, 0.7], [0.6, 0.8]]]).repeat(1, 20, 1)
    weights = losses.mouth_weights(mouth, 96, 6.0, 0.1)[0, 0]
    assert abs(weights.mean() - 1) < 1e-5
    assert weights[72, 48] > 4 * weights[60, 4] > 4 * weights[20, 48]


def test_lpips_takes_only_a_trunk_that_is_one(tmp_path):
    torch.manual_seed(0)
    measure = losses.Lpips(losses.untrained_trunk)
    picture = torch.rand(2, 3, 64, 64)
    assert measure(picture, picture) == 0 < measure(picture, picture.flip(3))
    wrong = tmp_path / "alexnet.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, wrong)
    for path in (wrong, tmp_path / "missing.pth"):
        with pytest.raises(ModelError, match="AlexNet"):
            losses.Lpips(str(path))
    import torchvision

    torch.manual_seed(7)
    trunk = tmp_path / "trunk.pth"
    torch.save(torchvision.models.alexnet().state_dict(), trunk)
    assert losses.Lpips(str(trunk))(picture, picture.flip(3)) != measure(picture, picture.flip(3))


def settings(prepared: Path, output: Path, **changes: Any) -> Settings:
    small: dict[str, Any] = {"width": 0.25, "align_blocks": 1, "listen_batch": 8, "paint_batch": 2}
    small |= {"lpips_trunk": "none", "listen_minutes": 0.03, "paint_minutes": 0.03, "speak_minutes": 0.03}
    return Settings(str(prepared), str(output), **(small | changes))


def test_a_run_ends_in_a_model_the_product_draws_with(prepared, tmp_path):
    path = Trainer(settings(prepared, tmp_path)).train()
    engine = Engine(str(path), "cpu")
    assert engine.card["training"]["stage"] == "done"
    drawn = engine.generate(
        np.zeros((2, 96, 96, 3), np.uint8), np.zeros((1, 96, 96, 3), np.uint8), np.zeros((2, 80, 16))
    )
    assert drawn.shape == (2, 96, 96, 3)


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_from_its_last_state(prepared, tmp_path, monkeypatch):
    trainer = Trainer(settings(prepared, tmp_path, paint_minutes=1e9))
    paint = trainer.paint_loss

    def stop_at_three(batch):
        if trainer.stage == "paint" and trainer.step == 3:
            trainer._save(optimizers[-1])
            raise Stopped
        return paint(batch)

    optimizers = []
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, **k: optimizers.append(adamw(*a, **k)) or optimizers[-1])
    monkeypatch.setattr(trainer, "paint_loss", stop_at_three)
    with pytest.raises(Stopped):
        trainer.train()
    again = Trainer(settings(prepared, tmp_path, paint_minutes=1e9))
    assert (again.stage, again.step) == ("paint", 3) and again.seconds > 0
    assert again.resumed_optimizer and again.resumed_optimizer["state"]
    for now, then in zip(again.nets.state_dict().values(), trainer.nets.state_dict().values(), strict=True):
        assert torch.equal(now, then)
    assert again.rng.bit_generator.state == trainer.rng.bit_generator.state
    with pytest.raises(ModelError, match="does not fit"):
        Trainer(settings(prepared, tmp_path, width=0.5))
    (tmp_path / "state.pt").write_bytes(b"damaged")
    with pytest.raises(ModelError) as caught:
        Trainer(settings(prepared, tmp_path))
    assert caught.value.hint


def test_the_command_line_answers_mistakes_with_a_sentence_and_a_hint(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.mp4").write_text("no film")
    for arguments in (
        ["prepare", str(tmp_path / "empty"), "-o", str(tmp_path / "out")],
        ["generator", str(tmp_path / "empty"), "-o", str(tmp_path / "run"), "--lpips-trunk", "none"],
        ["export", str(tmp_path / "empty"), "-o", str(tmp_path / "model.safetensors")],
        ["evaluate", "lips", str(tmp_path / "notes.mp4")],
    ):
        assert cli.main(arguments) == 2
        said = capsys.readouterr().err
        assert "lipsync-train: error: " in said and "hint: " in said and "Traceback" not in said
    assert not (tmp_path / "model.safetensors").exists()


def test_export_writes_the_runs_generator_with_the_card_wherever_the_run_is_now(prepared, tmp_path):
    Trainer(settings(prepared, tmp_path / "made")).train()
    (tmp_path / "made").rename(tmp_path / "run")
    card = tmp_path / "card.json"
    card.write_text('{"licence": "made up"}')
    model = tmp_path / "model.safetensors"
    assert cli.main(["export", str(tmp_path / "run"), "-o", str(model), "--card", str(card)]) == 0
    exported = Engine(str(model), "cpu").card
    assert exported["licence"] == "made up" and exported["training"]["stage"] == "done"
    assert not (tmp_path / "made").exists()
    assert cli.main(["export", str(tmp_path / "run"), "-o", str(model)]) == 2  # nothing is overwritten
    with pytest.raises(JobError, match="no training run"):
        from training_cli.generator import load_settings

        load_settings(tmp_path)
