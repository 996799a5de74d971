# SPDX-License-Identifier: GPL-3.0-or-later
"""The generator's training: equation (4) as written, its gate, the paper's configs, and the halves learned apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import default_collate

from core.engine import Engine
from core.errors import JobError, LipSyncError, ModelError
from core.nets.checkpoint import load_generator, save_net
from core.nets.generator import Generator, GeneratorConfig
from core.nets.lipcode import LipCode, LipHead, map_statistics
from core.nets.syncnet import SyncNet, SyncNetConfig
from training_cli import cli, config, losses
from training_cli.data import DataSettings, PictureWindows, SoundWindows, dev_seed
from training_cli.fit import FitSettings
from training_cli.generator import GeneratorSettings, GeneratorTask, LossSettings, train_generator
from training_cli.perceptual import lite_trunk
from training_cli.pretrain import Listen, PretrainSettings, measure_bounds, measure_gain, most_gain, pretrain

net = GeneratorConfig(width=0.125, align_blocks=1)
no_data = DataSettings("")
quick = FitSettings(steps=4, batch=2, workers=0, dev_samples=2, evaluate_every=2, save_every=2, accelerator="cpu")


@pytest.fixture(scope="module")
def expert(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "expert.safetensors"
    save_net(path, SyncNet(SyncNetConfig(0.25)), {})
    return str(path)


@pytest.fixture
def batch(talkers) -> dict[str, torch.Tensor]:
    windows = PictureWindows(DataSettings(str(talkers)), "train", 5, 96, 16, seed=0)
    return default_collate([windows[k] for k in range(2)])


def task(expert: str = "", **loss: Any) -> GeneratorTask:
    torch.manual_seed(1)
    return GeneratorTask(GeneratorSettings("", no_data, expert, model=net, loss=LossSettings(**loss)))


def test_the_loss_is_equation_4(batch, expert):
    trained = task(expert, lpips_trunk="untrained", alpha_from_step=5)
    with torch.no_grad():
        closed, opened = trained(batch, 4), trained(batch, 5)
    assert float(closed["alpha"]) == 0 and "sync" not in closed
    assert float(closed["loss"]) == pytest.approx(0.93 * float(closed["l1"]) + 0.07 * float(closed["lpips"]), rel=1e-5)
    expected = 0.9 * float(opened["l1"]) + 0.03 * float(opened["sync"]) + 0.07 * float(opened["lpips"])
    assert float(opened["alpha"]) == pytest.approx(0.03) and float(opened["loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_l1_of_the_paper_is_over_the_whole_face(batch):
    trained = task(alpha=0.0, beta=0.0)
    found = float(trained(batch, 0)["l1"].detach())
    with torch.no_grad():
        true = batch["true"].flatten(0, 1).permute(0, 3, 1, 2) / 255
        upper = true.clone()
        upper[:, :, 48:] = 0
        face = torch.cat([upper, batch["reference"].flatten(0, 1).permute(0, 3, 1, 2) / 255], 1)
        drawn = trained.generator(face, batch["mel"].flatten(0, 1))
    assert found == pytest.approx(float((drawn - true).abs().mean()), rel=1e-4)


def test_the_gate_opens_when_the_dev_set_says_so_and_stays_open_in_the_saved_state(batch, expert):
    trained = task(expert, beta=0.0, alpha_gate=0.5).eval()
    assert not trained.advice({"sync": 0.6}, 10) and trained.alpha(11) == 0
    eager = task(expert, beta=0.0, alpha_gate=0.5, alpha_ramp=4).eval()
    assert "Step 10" in eager.advice({"sync": 0.4}, 10) and not eager.advice({"sync": 0.4}, 20)
    assert eager.alpha(10) == pytest.approx(0.03 / 4)
    again = task(expert, beta=0.0, alpha_gate=0.5, alpha_ramp=4)
    again.load_state_dict(eager.state_dict(), strict=False)
    assert again.alpha(11) == pytest.approx(0.03 / 2) and again.alpha(50) == pytest.approx(0.03)


def test_the_dev_sets_loss_means_the_same_before_and_after_the_gate_opens(batch, expert):
    """Else every model after it would look worse than those before, and patience would keep one that never synced."""
    trained = task(expert, beta=0.0).eval()
    before = trained.evaluate([batch], 10)["loss"]
    trained.advice({"sync": 0.1}, 10)
    assert trained.evaluate([batch], 11)["loss"] == pytest.approx(before, rel=1e-5)


def test_the_expert_never_learns_from_what_is_drawn(batch, expert):
    """Wav2Lip leaves its expert in training mode: its batch norms drift towards what they shall judge."""
    trained = task(expert, beta=0.0, alpha_from_step=1)
    assert trained.expert
    trained.train()
    before = {name: value.clone() for name, value in trained.expert.state_dict().items()}
    trained(batch, 2)["loss"].backward()
    assert all(torch.equal(before[name], value) for name, value in trained.expert.state_dict().items())
    assert not any(name.startswith("expert") for name in trained.state_dict())
    drawn = next(p for p in trained.generator.parameters() if p.grad is not None)
    assert drawn.grad is not None and drawn.grad.abs().sum() > 0


def test_copying_the_reference_is_told(batch):
    trained = task(alpha=0.0, beta=0.0).eval()
    copied = {**batch, "reference": batch["true"].roll(1, 0)}
    copier = Generator(replace(net, warp=True))
    last = cast(nn.Conv2d, copier.output[-1])
    assert last.bias is not None
    last.bias.data[2] = 30.0  # a new one moves nothing
    trained.generator = copier.eval()
    assert trained.evaluate([copied], 0)["copies_reference"] > 0.99


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("paper", 14_261_315), ("no_lpips", 14_261_315), ("align_1", 11_598_403), ("no_cbam", 14_175_859)],
)
def test_a_config_makes_the_network_that_the_paper_names(name, parameters):
    asked = config.parse(GeneratorSettings, ["--config", name, "--output", "x", "--data.folder", "y"], "", "")
    assert sum(p.numel() for p in Generator(asked.model).parameters()) == parameters


def test_the_tables_configs_differ_from_the_papers_in_what_the_table_says():
    def asked(name: str) -> GeneratorSettings:
        return config.parse(GeneratorSettings, ["--config", name, "--output", "x", "--data.folder", "y"], "", "")

    paper = asked("paper")
    assert (paper.loss.alpha, paper.loss.beta, paper.model) == (0.03, 0.07, GeneratorConfig())
    assert paper.data == DataSettings("y") and paper.loss == LossSettings()
    no_lpips, align_1, no_align = asked("no_lpips"), asked("align_1"), asked("no_align")
    assert no_lpips == replace(paper, loss=replace(paper.loss, beta=0.0))
    assert align_1 == replace(no_lpips, model=replace(paper.model, align_blocks=1))
    assert no_align == replace(paper, model=replace(paper.model, align_blocks=0))
    assert asked("no_cbam") == replace(paper, model=replace(paper.model, cbam=False))
    for size in (192, 288):
        assert asked(f"size_{size}").model == replace(paper.model, image_size=size)
    for path in config.bundled.glob("*.toml"):
        kind = PretrainSettings if path.stem == "default_model" else None
        if path.stem == "expert":
            continue
        config.parse(kind or GeneratorSettings, ["--config", path.stem, "--output", "x", "--data.folder", "y"], "", "")


def test_a_config_and_flags_give_settings_that_a_file_gives_again(tmp_path):
    words = ["--config", "narrow", "--output", "x", "--data.folder", "y", "--fit.rate", "0.002"]
    asked = config.parse(GeneratorSettings, words, "", "")
    assert asked.fit.rate == 0.002 and asked.loss.mouth_weight == 6 and asked.data.one_reference
    config.dump(asked, tmp_path / "config.toml")
    assert config.parse(GeneratorSettings, ["--config", str(tmp_path / "config.toml")], "", "") == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fit.raet", "1"], "fit.raet"),
        (["--fit.steps", "many"], "fit.steps"),
        (["--config", "nowhere"], "nowhere"),
        (["--model.image_size", "97"], "97"),
        (["--config", "{folder}/unknown.toml"], "alpah"),
        (["--config", "{folder}/broken.toml"], "config"),
        (["--loss.alpha", "0.9", "--loss.beta", "0.2"], "loss.alpha"),
        (["--data.reference_gap", "0"], "reference_gap"),
        (["--loss.alpha", "0", "--lpips-trunk", "{folder}/unknown.toml"], "AlexNet"),
        ([], "expert"),
        (["--start", "{folder}/unknown.toml", "--loss.alpha", "0"], "unknown.toml"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence_and_a_hint(tmp_path, capsys, words, said):
    (tmp_path / "unknown.toml").write_text("[loss]\nalpah = 0.5\n")
    (tmp_path / "broken.toml").write_text("[loss\n")
    words = [word.format(folder=tmp_path) for word in words]
    given = ["generator", "--output", str(tmp_path / "run"), "--data.folder", str(tmp_path), *words]
    assert cli.main(given) == 2
    error = capsys.readouterr().err
    assert said in error and "hint: " in error and "Traceback" not in error
    assert error.count("\n") == 2 and not (tmp_path / "run").exists()


def test_a_settings_last_name_is_enough_where_no_other_has_it():
    words = ["--output", "x", "--folder", "y", "--lpips-trunk", "untrained", "--steps=7", "--align-blocks", "1"]
    asked = config.parse(GeneratorSettings, words, "", "")
    assert asked.loss.lpips_trunk == "untrained" and asked.fit.steps == 7 and asked.model.align_blocks == 1
    with pytest.raises(JobError):  # three stages have steps
        config.parse(PretrainSettings, ["--output", "x", "--data.folder", "y", "--steps", "7"], "", "")


def test_help_teaches_every_setting(capsys):
    for name in cli.commands:
        with pytest.raises(SystemExit):
            cli.main([*name.split(), "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "--output" in text and "no help" not in text
    with pytest.raises(SystemExit):
        cli.main(["generator", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for taught in ("Weight of LPIPS", "the run goes on from its last saved state", "Equation (4)", "--loss.alpha_gate"):
        assert taught in text
    assert cli.main(["nonsense"]) == 2 and cli.main([]) == 0


def test_a_run_leaves_a_model_that_redubs_and_a_start_for_another(talkers, tmp_path, expert):
    settings = GeneratorSettings(
        str(tmp_path / "run"),
        DataSettings(str(talkers)),
        expert,
        model=net,
        loss=LossSettings(beta=0.0, alpha_from_step=1),
        fit=quick,
    )
    result = train_generator(settings)
    engine = Engine(str(result.model), "cpu")
    assert engine.card["training"]["loss"]["alpha"] == 0.03 and engine.card["training"]["fit"]["steps"] == 4
    pictures = np.zeros((2, 96, 96, 3), np.uint8)
    assert engine.generate(pictures, pictures[:1], np.zeros((2, 80, 16))).shape == (2, 96, 96, 3)
    start = GeneratorTask(replace(settings, start=str(result.model), expert="", loss=LossSettings(alpha=0, beta=0)))
    trained, _ = load_generator(result.model)
    assert isinstance(trained, Generator)
    kept = dict(trained.state_dict())
    assert all(torch.equal(value, kept[name]) for name, value in start.generator.state_dict().items())
    with pytest.raises(ModelError, match="another network"):
        other = replace(settings.model, align_blocks=2)
        GeneratorTask(replace(settings, start=str(result.model), model=other))


def test_learning_the_halves_apart_can_be_stopped_and_ends_in_a_model_whose_mouth_follows(talkers, tmp_path):
    loop = replace(quick, steps=20, batch=4, rate=3e-3, average=0.9, evaluate_every=60, save_every=30)
    settings = PretrainSettings(
        str(tmp_path / "run"),
        DataSettings(str(talkers), balance="people"),
        model=replace(net, lip_code=True),
        beta=0.0,
        listen=loop,
        paint=replace(loop, steps=10),
    )
    stopped = pretrain(replace(settings, minutes=1e-6))
    assert not stopped.finished and not (tmp_path / "run" / "generator.safetensors").exists()
    painted = pretrain(replace(settings, only="paint"))
    assert painted.finished and not (tmp_path / "run" / "generator.safetensors").exists()
    result = pretrain(settings)
    assert result.finished
    again = pretrain(settings)
    assert again.finished and again.step == result.step
    trained, card = load_generator(result.model)
    assert isinstance(trained, Generator) and trained.lip_code and card["training"]["listen"]["steps"] == 20
    assert (trained.lip_code.gain >= 1).all() and (trained.lip_code.gain <= most_gain).all()
    for stage, part in (("listen", "lip_code.head.layers.1.weight"), ("paint", "lip_code.voice.0.weight")):
        kept = load_file(tmp_path / "run" / stage / f"{stage}.safetensors")
        assert torch.equal(trained.state_dict()[part], kept[part])
    loud, quiet = torch.zeros(1, 1, 80, 16), torch.full((1, 1, 80, 16), -4.0)
    face = torch.rand(1, 6, 96, 96)
    with torch.inference_mode():
        assert (trained(face, loud) - trained(face, quiet)).abs().max() > 1e-3
    with pytest.raises(JobError, match="lip code"):
        pretrain(replace(settings, output=str(tmp_path / "x"), model=net))
    (tmp_path / "run" / "paint" / "paint.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be used"):
        pretrain(settings)


@pytest.mark.parametrize("kept", ["generator.safetensors", "listen/listen.safetensors"])
def test_a_pretrained_net_whose_states_are_gone_is_not_overwritten(talkers, tmp_path, kept):
    """Or one that `generator` trained in this folder: a few steps of a new run would take its place."""
    path = tmp_path / kept
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"hours of training")
    one = replace(quick, steps=1)
    data, model = DataSettings(str(talkers)), replace(net, lip_code=True)
    with pytest.raises(JobError, match="trained net") as caught:
        pretrain(PretrainSettings(str(tmp_path), data, model=model, beta=0.0, listen=one, paint=one))
    assert path.read_bytes() == b"hours of training" and "another output folder" in caught.value.hint
    assert ("--start" in caught.value.hint) == (path.parent == tmp_path)  # a half is no net to start from


def test_what_a_half_hears_too_quietly_is_made_as_lively_as_the_truth(talkers, tmp_path):
    """A prediction is smaller than the truth: unlevelled, every dub would mumble."""
    loop = replace(quick, steps=60, batch=8, rate=3e-3, average=0.9)
    data = DataSettings(str(talkers))
    settings = PretrainSettings(str(tmp_path), data, only="listen", model=replace(net, lip_code=True), listen=loop)
    pretrain(settings)
    generator = Generator(settings.model)
    generator.load_state_dict(load_file(tmp_path / "listen" / "listen.safetensors"), strict=False)
    listen, dev = Listen(settings, generator), SoundWindows(data, "dev", 8, 16, dev_seed)
    code = listen.code
    with torch.no_grad():
        last = cast(nn.Linear, cast(LipHead, code.head).layers[-1])
        last.weight.mul_(0.5)
        last.bias.mul_(0.5)
        measure_gain(listen, dev)
        measure_bounds(listen, dev)
        heard, true = [], []
        for number in range(60):
            sample = dev[number]
            shapes = (listen.heard({"mel": sample["mel"][None]}) * code.gain).clamp(*code.bounds)
            heard.append(shapes[:, 0] - shapes[:, 0].mean())
            true.append(sample["shapes"][:, 0] - sample["shapes"][:, 0].mean())
    assert code.gain[0] > 1.5
    shown = torch.cat([dev[number]["shapes"] for number in range(60)])
    rare = torch.quantile(shown, torch.tensor([0.01, 0.99]), dim=0)
    assert (code.bounds - rare).abs().max() < 0.3, "mouths nobody has, or none as wide as people's"
    assert (rare.abs() < 3).any()  # so that bounds nobody measured would not pass
    assert 0.7 < float(torch.cat(heard).std() / torch.cat(true).std()) < 1.3


def test_a_lip_code_says_to_adain_just_the_statistics_of_a_shape():
    torch.manual_seed(0)
    code = LipCode(10).eval()
    shapes = torch.randn(3, 8)
    mean, deviation = code.voice(shapes).chunk(2, 1)
    wanted = torch.cat([mean, nn.functional.softplus(deviation)], 1)
    assert torch.allclose(map_statistics(code.speak(shapes)), wanted, atol=1e-4)
    code.gain.fill_(1000.0)
    sound = torch.rand(3, 10, 6, 6)
    extreme = (cast(LipHead, code.head)(map_statistics(sound)) * 1000).clamp(-4, 4)
    assert torch.equal(code(sound), code.speak(extreme))  # no mouth beyond
    code.bounds[0] = -1.5
    assert torch.equal(code(sound), code.speak(extreme.clamp(-1.5, 4)))


def test_the_whole_net_can_be_trained_through_its_lip_code(batch, tmp_path):
    """From `pretrain` on: eight numbers are no dead end for the picture's gradient."""
    model = replace(net, lip_code=True)
    loss = LossSettings(alpha=0.0, beta=0.0, shape_weight=0.1)
    whole = GeneratorTask(GeneratorSettings(str(tmp_path), no_data, model=model, loss=loss))
    found = whole(batch, 0)
    found["loss"].backward()
    first = next(p for name, p in cast(nn.Module, whole.generator.audio_encoder).named_parameters() if p.requires_grad)
    assert found["shape"] > 0 and first.grad is not None and first.grad.abs().max() > 0


def test_mouth_weights_put_the_mouth_first():
    mouth = torch.tensor([[[0.4, 0.7], [0.6, 0.8]]]).repeat(1, 20, 1)
    mouth = torch.cat([mouth, torch.zeros(1, 45, 2)], 1)  # the rest of the face has no say
    weights = losses.mouth_weights(mouth, 96, 6.0, 0.1)[0, 0]
    assert abs(weights.mean() - 1) < 1e-5
    assert weights[72, 48] > 4 * weights[60, 4] > 4 * weights[20, 48]


def test_the_trunk_that_can_be_had_is_trained_and_dislikes_blur_more_than_a_shift():
    """L1 finds the two about equal, and a net that is told so learns to blur."""
    measure = losses.perceptual_loss(lite_trunk)
    face = torch.from_numpy(skimage.data.astronaut()[40:168, 160:288]).permute(2, 0, 1)[None] / 255
    small = nn.functional.interpolate(face, 48, mode="area")
    kernel = torch.ones(3, 1, 5, 5) / 25
    blurred = nn.functional.conv2d(nn.functional.pad(small, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
    shifted = small.roll(1, 3)
    assert measure(small, small) == 0
    assert measure(blurred, small) > 1.5 * measure(shifted, small)
    drawn = blurred.clone().requires_grad_()
    measure(drawn, small).backward()
    assert drawn.grad is not None and drawn.grad.abs().max() > 0
    assert not any(p.requires_grad for p in measure.parameters())


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


def test_an_untrained_trunk_is_the_same_after_a_resume_and_moves_no_other_random_number():
    """Else the second half of a killed run would chase another loss than the first."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = losses.Lpips(losses.untrained_trunk)
    assert torch.equal(torch.rand(1), expected)
    second = losses.Lpips(losses.untrained_trunk)
    picture = torch.rand(1, 3, 64, 64)
    assert first(picture, picture.flip(3)) == second(picture, picture.flip(3))


def test_an_expert_of_another_kind_is_refused(talkers, tmp_path, expert):
    path = tmp_path / "generator.safetensors"
    save_net(path, Generator(net), {})
    with pytest.raises(LipSyncError) as caught:
        task(str(path))
    assert "expert" in str(caught.value)
    assert Path(expert).exists()
