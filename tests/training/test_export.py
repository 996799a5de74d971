# SPDX-License-Identifier: GPL-3.0-or-later
"""Nets that leave and enter: an export others can run, and Wav2Lip's checkpoints, which must draw what they drew."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor, nn
from torch.nn import functional as F

from core import media, mouth, redub
from core.errors import JobError, LipSyncError, ModelError, OutputError
from core.job import RedubJob
from core.nets.checkpoint import default_model, load_expert, load_generator, load_net, save_net
from core.nets.generator import Generator, GeneratorConfig
from core.nets.syncnet import SyncNet, SyncNetConfig
from core.nets.wav2lip import Wav2Lip
from training_cli import export
from training_cli.export import ExportSettings
from training_cli.import_ import ImportSettings, import_checkpoint


class Layer(NamedTuple):
    """A convolution with batch norm as Wav2Lip names it: block.level.place.conv_block.{0, 1}."""

    name: str
    c_in: int
    c_out: int
    kernel: int = 3
    stride: Any = 1
    padding: int = 1
    kind: str = "plain"


def level(block: str, first: tuple[Any, ...], residual: int, kind: str = "plain", place: int = 0) -> list[Layer]:
    """A layer and the residual ones of its width that follow."""
    layers = [Layer(f"{block}.{place}", *first, kind=kind)]
    return layers + [Layer(f"{block}.{place + i}", first[1], first[1], kind="residual") for i in range(1, residual + 1)]


def sound(last: int) -> list[Layer]:
    """Wav2Lip's encoder of the sound with `last` residual layers of 256 channels."""
    layers: list[Layer] = []
    for first, residual in (
        ((1, 32, 3, 1), 2),
        ((32, 64, 3, (3, 1)), 2),
        ((64, 128, 3, 3), 2),
        ((128, 256, 3, (3, 2)), last),
        ((256, 512, 3, 1, 0), 0),
        ((512, 512, 1, 1, 0), 0),
    ):
        layers += level("audio_encoder", first, residual, place=len(layers))
    return layers


def expert_faces() -> list[Layer]:
    layers: list[Layer] = []
    for first, residual in (
        ((15, 32, 7, 1, 3), 0),
        ((32, 64, 5, (1, 2), 1), 2),
        ((64, 128, 3, 2), 3),
        ((128, 256, 3, 2), 2),
        ((256, 512, 3, 2), 2),
        ((512, 512, 3, 2), 0),
        ((512, 512, 3, 1, 0), 0),
        ((512, 512, 1, 1, 0), 0),
    ):
        layers += level("face_encoder", first, residual, place=len(layers))
    return layers


encoder = [
    level("face_encoder_blocks.0", (6, 16, 7, 1, 3), 0),
    level("face_encoder_blocks.1", (16, 32, 3, 2), 2),
    level("face_encoder_blocks.2", (32, 64, 3, 2), 3),
    level("face_encoder_blocks.3", (64, 128, 3, 2), 2),
    level("face_encoder_blocks.4", (128, 256, 3, 2), 2),
    level("face_encoder_blocks.5", (256, 512, 3, 2), 1),
    level("face_encoder_blocks.6", (512, 512, 3, 1, 0), 0)
    + level("face_encoder_blocks.6", (512, 512, 1, 1, 0), 0, place=1),
]
decoder = [
    level("face_decoder_blocks.0", (512, 512, 1, 1, 0), 0),
    level("face_decoder_blocks.1", (1024, 512, 3, 1, 0), 1, "up"),
    level("face_decoder_blocks.2", (1024, 512, 3, 2), 2, "up"),
    level("face_decoder_blocks.3", (768, 384, 3, 2), 2, "up"),
    level("face_decoder_blocks.4", (512, 256, 3, 2), 2, "up"),
    level("face_decoder_blocks.5", (320, 128, 3, 2), 2, "up"),
    level("face_decoder_blocks.6", (160, 64, 3, 2), 2, "up"),
]
last_layer = Layer("output_block.0", 80, 32)
State = dict[str, Tensor]


def published(layers: list[Layer], seed: int) -> State:
    """Random weights under the published names, in the published shapes."""
    random = torch.Generator().manual_seed(seed)
    state: State = {}
    for layer in layers:
        shape = (layer.c_out, layer.c_in, layer.kernel, layer.kernel)
        if layer.kind == "up":
            shape = (layer.c_in, layer.c_out, layer.kernel, layer.kernel)
        inputs = layer.c_in * layer.kernel**2
        conv, norm = f"{layer.name}.conv_block.0", f"{layer.name}.conv_block.1"
        state[f"{conv}.weight"] = torch.randn(shape, generator=random) * inputs**-0.5
        state[f"{conv}.bias"] = torch.randn(layer.c_out, generator=random) * 0.1
        state[f"{norm}.weight"] = torch.rand(layer.c_out, generator=random) + 0.5
        state[f"{norm}.bias"] = torch.randn(layer.c_out, generator=random) * 0.1
        state[f"{norm}.running_mean"] = torch.randn(layer.c_out, generator=random) * 0.1
        state[f"{norm}.running_var"] = torch.rand(layer.c_out, generator=random) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(3)
    return state


def published_generator() -> State:
    layers = [layer for block in (*encoder, sound(1), *decoder) for layer in block]
    state = published([*layers, last_layer], 1)
    random = torch.Generator().manual_seed(2)
    state["output_block.1.weight"] = torch.randn(3, 32, 1, 1, generator=random) * 0.1
    state["output_block.1.bias"] = torch.tensor([-0.5, 0.0, 0.5])
    return state


def published_expert() -> State:
    return published(expert_faces() + sound(2), 3)


def _parameters(state: State, name: str) -> dict[str, Any]:
    return {key.rpartition(".")[2]: tensor for key, tensor in state.items() if key.rpartition(".")[0] == name}


def run_layers(x: Tensor, layers: list[Layer], state: State) -> Tensor:
    """What Wav2Lip's layers compute, straight from the published tensors."""
    for layer in layers:
        conv, norm = _parameters(state, f"{layer.name}.conv_block.0"), _parameters(state, f"{layer.name}.conv_block.1")
        norm.pop("num_batches_tracked")
        if layer.kind == "up":
            extra = 1 if layer.stride == 2 else 0
            y = F.conv_transpose2d(x, **conv, stride=layer.stride, padding=layer.padding, output_padding=extra)
        else:
            y = F.conv2d(x, **conv, stride=layer.stride, padding=layer.padding)
        y = F.batch_norm(y, **norm)
        x = F.relu(y + x if layer.kind == "residual" else y)
    return x


def draw(state: State, face: Tensor, mel: Tensor) -> Tensor:
    """What Wav2Lip's generator draws, BGR in and out."""
    skips = []
    for block in encoder:
        face = run_layers(face, block, state)
        skips.append(face)
    x = run_layers(mel, sound(1), state)
    for block in decoder:
        x = torch.cat([run_layers(x, block, state), skips.pop()], 1)
    x = run_layers(x, [last_layer], state)
    return torch.sigmoid(F.conv2d(x, state["output_block.1.weight"], state["output_block.1.bias"]))


def other_colours(pictures: Tensor) -> Tensor:
    """RGB ↔ BGR of pictures one after the other along the channels."""
    return pictures.unflatten(1, (-1, 3)).flip(2).flatten(1, 2)


@pytest.fixture(scope="module")
def generator_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Wav2Lip's authors wrote theirs: PyTorch's old format, from several GPUs, with training's leftovers."""
    path = tmp_path_factory.mktemp("published") / "wav2lip.pth"
    state = {f"module.{name}": tensor for name, tensor in published_generator().items()}
    content = {"state_dict": state, "optimizer": None, "global_step": 253000, "global_epoch": 12}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def wav2lip(generator_file: Path) -> Path:
    """That file, imported."""
    output = generator_file.with_name("wav2lip.safetensors")
    import_checkpoint(ImportSettings(str(generator_file), str(output)))
    return output


def test_an_imported_generator_draws_what_wav2lip_drew_in_rgb(wav2lip: Path) -> None:
    """Layers swapped, or red and blue, would only be seen in the footage."""
    net, card = load_generator(wav2lip)
    assert isinstance(net, Wav2Lip)
    face, mel = torch.rand(2, 6, 96, 96), torch.randn(2, 1, 80, 16)
    with torch.inference_mode():
        drawn, theirs = net(face, mel), draw(published_generator(), other_colours(face), mel)
    assert theirs.std() > 0.01
    assert (drawn - other_colours(theirs)).abs().max() < 1e-5
    assert (drawn - theirs).abs().max() > 0.1, "the colours were not turned"
    assert card["step"] == 253000
    assert "commercial" in card["licence"]
    assert "Wav2Lip" in card["source"]


def test_an_imported_expert_judges_as_wav2lips_did(tmp_path: Path) -> None:
    source, output = tmp_path / "lipsync_expert.pth", tmp_path / "expert.safetensors"
    state = published_expert()
    torch.save({"state_dict": state}, source)
    assert str(output) in import_checkpoint(ImportSettings(str(source), str(output)))
    net, card = load_expert(output)
    assert "expert" in card["name"]
    window, mel = torch.rand(3, 15, 48, 96), torch.randn(3, 1, 80, 16)
    with torch.inference_mode():
        face = F.normalize(run_layers(other_colours(window), expert_faces(), state).flatten(1))
        heard = F.normalize(run_layers(mel, sound(2), state).flatten(1))
        assert (net.embed_faces(window) - face).abs().max() < 1e-5
        assert (net.embed_sound(mel) - heard).abs().max() < 1e-5
        assert (net(window, mel) - (face * heard).sum(1)).abs().max() < 1e-5
        assert (net.embed_faces(other_colours(window)) - face).abs().max() > 1e-3, "the colours were not turned"


def test_an_imported_generator_redubs(
    wav2lip: Path, make_clip: Callable[..., Path], make_speech: Callable[..., Path], tmp_path: Path
) -> None:
    clip, output = str(make_clip(30)), str(tmp_path / "out.mkv")
    job = RedubJob(video=clip, speech=str(make_speech(1.2)), output=output, model=str(wav2lip), device="cpu")
    result = redub.run(job)
    assert result.changed == media.probe(output).frames == 30


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (13,)


def _program(folder: Path) -> bytes:
    """A TorchScript archive: weights and what to run, as nets are handed out too."""
    path = folder / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(nn.ReLU()), path)
    content = path.read_bytes()
    path.unlink()
    return content


def _bad_checkpoints(folder: Path) -> dict[str, tuple[Any, str]]:
    """What is saved (bytes: as they are; None: nothing), and a part of what is said of it."""
    generator, expert = published_generator(), published_expert()
    shape = {**generator, "output_block.1.bias": torch.zeros(4)}
    lacking = {name: t for name, t in expert.items() if name != "audio_encoder.12.conv_block.1.bias"}
    foreign = {**generator, "attention.weight": torch.zeros(1)}
    disc = published(level("face_encoder_blocks.0", (3, 32, 7, 1, 3), 0), 4)
    return {
        "missing": (None, "no file"),
        "text": (b"Dear editor,\n" * 100, "was run"),
        "empty": (b"", "cannot be read"),
        "half": (folder.joinpath("whole.pth").read_bytes()[:100_000], "cannot be read"),
        "code": ({"state_dict": {"output_block.1.bias": Trap()}}, "was run"),
        "a whole module": (nn.Linear(2, 2), "was run"),
        "a program": (_program(folder), "TorchScript"),
        "a list": ([torch.zeros(1)], "list"),
        "no tensors": ({"state_dict": 3}, "state_dict"),
        "another net": ({"state_dict": disc}, "neither"),
        "another shape": ({"state_dict": shape}, r"output_block.1.bias .*\(4,\) instead of \(3,\)"),
        "a tensor less": ({"state_dict": lacking}, "lacks the tensor audio_encoder.12"),
        "a tensor more": ({"state_dict": foreign}, "attention.weight"),
    }


bad = (
    *("missing", "text", "empty", "half", "code", "a whole module", "a program", "a list", "no tensors", "another net"),
    *("another shape", "a tensor less", "a tensor more"),
)


@pytest.mark.parametrize("case", bad)
def test_what_is_no_checkpoint_of_wav2lips_is_one_sentence_and_never_run(case: str, tmp_path: Path) -> None:
    torch.save({"state_dict": published_expert()}, tmp_path / "whole.pth")
    content, message = _bad_checkpoints(tmp_path)[case]
    path, output = tmp_path / "given.pth", tmp_path / "out.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=message) as failure:
        import_checkpoint(ImportSettings(str(path), str(output)))
    said = str(failure.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert str(path) in said
    assert failure.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == (
        ["given.pth", "whole.pth"] if content is not None else ["whole.pth"]
    )


def test_a_generator_and_an_expert_are_never_taken_for_each_other(wav2lip: Path, tmp_path: Path) -> None:
    expert = tmp_path / "expert.safetensors"
    save_net(expert, SyncNet(SyncNetConfig(0.125)), {})
    for load, path in ((load_expert, wav2lip), (load_generator, expert)):
        with pytest.raises(ModelError) as failure:
            load(path)
        assert str(path) in str(failure.value)
        assert failure.value.hint


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run's folder with a net of random statistics and a card."""
    torch.manual_seed(7)
    net = Generator(GeneratorConfig(width=0.25, align_blocks=2, audio_frames=32))
    net(torch.rand(4, 6, 96, 96), torch.randn(4, 1, 80, 32))
    folder = tmp_path / "run"
    folder.mkdir()
    save_net(folder / "generator.safetensors", net.eval(), {"step": 9, "licence": "none yet"}, torch.float32)
    (folder / "state.ckpt").write_bytes(b"not to be read")
    return folder


def test_an_export_is_the_runs_net_in_half_the_bytes_with_both_cards(run_folder: Path, tmp_path: Path) -> None:
    card, output = tmp_path / "card.json", tmp_path / "model.safetensors"
    card.write_text(json.dumps({"licence": "CC BY 4.0", "data": "mine"}), encoding="utf-8")
    assert str(output) in export.export(ExportSettings(str(run_folder), str(output), str(card)))
    before, after = load_net(run_folder / "generator.safetensors"), load_net(output)
    assert after[1] == {"step": 9, "licence": "CC BY 4.0", "data": "mine"}
    assert output.stat().st_size < 0.6 * (run_folder / "generator.safetensors").stat().st_size
    face, mel = torch.rand(1, 6, 96, 96), torch.randn(1, 1, 80, 32)
    with torch.inference_mode():
        assert (before[0](face, mel) - after[0](face, mel)).abs().max() < 0.01


def test_weights_too_large_for_half_precision_stay_whole(tmp_path: Path) -> None:
    """A running variance of 1e5 would become infinite, and the picture grey."""
    net = SyncNet(SyncNetConfig(0.125))
    name = "face_encoder.0.1.running_var"
    net.get_buffer(name).fill_(1e5)
    save_net(tmp_path / "net.safetensors", net, {})
    assert (load_net(tmp_path / "net.safetensors")[0].get_buffer(name) == 1e5).all()


def test_the_bundled_model_as_onnx_draws_what_torch_draws(tmp_path: Path) -> None:
    """A trained net, on batches of sizes that the export did not see, and a face with teeth: they are torn apart."""
    output = tmp_path / "model.onnx"
    said = export.export(ExportSettings(str(default_model), str(output)))
    assert str(output) in said
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"model.onnx", "model.onnx.toml"}, "weights beside the file are lost when it is moved"
    model = onnx.load(output)
    onnx.checker.check_model(model)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == export.opset
    properties = {entry.key: entry.value for entry in model.metadata_props}
    net, card = load_generator(default_model)
    assert json.loads(properties["card"]) == card
    assert json.loads(properties["config"])["image_size"] == 96
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    portrait = cv2.resize(astronaut()[48:208, 144:304], (96, 96), interpolation=cv2.INTER_AREA)
    smile = torch.from_numpy(portrait).permute(2, 0, 1)[None].repeat(1, 2, 1, 1) / 255
    smile[:, :3, 48:] = 0
    for batch in (1, 5):
        shown = torch.zeros(batch, 8)
        shapes = shown + torch.linspace(7, -2, batch)[:, None] * torch.from_numpy(mouth.along)
        face = smile.expand(batch, -1, -1, -1)
        inputs = {"face": face, "shapes": shapes, "reference_shapes": shown}
        (drawn,) = session.run(["picture"], {name: value.numpy() for name, value in inputs.items()})
        with torch.inference_mode():
            expected = net(face, shapes, shown).numpy()
        assert expected.std() > 0.02
        assert np.abs(np.asarray(drawn) - expected).max() < 1e-3


@pytest.mark.parametrize("kind", ["generator", "expert"])
def test_an_onnx_tells_nothing_of_the_machine_it_was_made_on(kind: str, tmp_path: Path) -> None:
    """The exporter notes stack traces on every node: whoever hands the file out would hand out their folders too."""
    drawer, judge = GeneratorConfig(width=0.125, align_blocks=1), SyncNetConfig(0.125)
    net = Generator(drawer) if kind == "generator" else SyncNet(judge)
    export.export_onnx(net.eval(), {"licence": "none yet"}, tmp_path / "net.onnx")
    content = (tmp_path / "net.onnx").read_bytes()
    installed = Path(torch.__file__).parents[1]
    for place in (Path(__file__).parents[2], installed, tmp_path):
        for written in (str(place), place.as_posix(), json.dumps(str(place))[1:-1]):
            assert written.encode() not in content
    for word in (installed.name, "stack_trace"):
        assert word.encode() not in content
    assert {entry.key for entry in onnx.load(tmp_path / "net.onnx").metadata_props} == {"net", "config", "card"}


def test_the_concatenating_net_becomes_onnx_too(tmp_path: Path) -> None:
    net = Generator(GeneratorConfig(width=0.125, align_blocks=0)).eval()
    assert export.export_onnx(net, {}, tmp_path / "net.onnx") <= export.largest_difference


def test_an_expert_becomes_onnx_and_the_check_sees_another_net(tmp_path: Path) -> None:
    """A check that always passes would hand out wrong nets."""
    torch.manual_seed(8)
    net = SyncNet(SyncNetConfig(0.125)).eval()
    assert export.export_onnx(net, {}, tmp_path / "net.onnx") <= export.largest_difference
    with torch.no_grad():
        net.sound_encoder.get_parameter("0.0.weight").mul_(-1)
    assert export._difference(net, tmp_path / "net.onnx") > export.largest_difference


def test_an_onnx_whose_numbers_are_none_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_difference", lambda net, path: float("nan"))
    with pytest.raises(ModelError, match="not kept"):
        export.export_onnx(SyncNet(SyncNetConfig(0.125)).eval(), {}, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def _wrong_exports(run_folder: Path) -> dict[str, tuple[dict[str, Any], type[LipSyncError]]]:
    top = run_folder.parent
    (top / "empty").mkdir()
    (top / "two").mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        (top / "two" / name).touch()
    (top / "there.safetensors").write_bytes(b"precious")
    (top / "list.json").write_text("[1]", encoding="utf-8")
    (top / "torn.json").write_text('{"a": ', encoding="utf-8")
    return {
        "no run": ({"run": str(top / "gone")}, ModelError),
        "a run without a net yet": ({"run": str(top / "empty")}, ModelError),
        "several nets": ({"run": str(top / "two")}, ModelError),
        "no net of ours": ({"run": str(top / "there.safetensors")}, ModelError),
        "an output that exists": ({"output": str(top / "there.safetensors")}, OutputError),
        "another suffix": ({"output": str(top / "out.pth")}, OutputError),
        "no such folder": ({"output": str(top / "gone" / "out.safetensors")}, OutputError),
        "no card": ({"card": str(top / "gone.json")}, JobError),
        "a torn card": ({"card": str(top / "torn.json")}, JobError),
        "a card of a list": ({"card": str(top / "list.json")}, JobError),
    }


wrong = (
    *("no run", "a run without a net yet", "several nets", "no net of ours", "an output that exists"),
    *("another suffix", "no such folder", "no card", "a torn card", "a card of a list"),
)


@pytest.mark.parametrize("case", wrong)
def test_a_wrong_export_is_one_sentence_and_leaves_nothing(case: str, run_folder: Path) -> None:
    changes, kind = _wrong_exports(run_folder)[case]
    before = {p: p.read_bytes() for p in run_folder.parent.rglob("*") if p.is_file()}
    given = {"run": str(run_folder), "output": str(run_folder.parent / "out.safetensors"), **changes}
    with pytest.raises(kind) as failure:
        export.export(ExportSettings(**given))
    assert "\n" not in str(failure.value)
    assert str(failure.value).endswith(".")
    assert failure.value.hint
    assert {p: p.read_bytes() for p in run_folder.parent.rglob("*") if p.is_file()} == before
