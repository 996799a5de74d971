# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's network: shapes, sizes and numbers; and checkpoints that never run code."""

from __future__ import annotations

import json
import pickle
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.engine import Engine, choose_device
from core.errors import DeviceError, ModelError
from core.nets.align import adain
from core.nets.blocks import CBAM
from core.nets.checkpoint import load_expert, load_generator, save_net
from core.nets.ffc import FourierUnit, dft_matrices
from core.nets.generator import Generator, GeneratorConfig
from core.nets.syncnet import SyncNet, SyncNetConfig, sync_window_faces
from core.nets.wav2lip import Wav2Lip

small = GeneratorConfig(width=0.25, align_blocks=2)


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_papers_network_has_its_parameters_and_maps():
    net = Generator().eval()
    assert count(net) == 14_261_315
    assert count(Generator(GeneratorConfig(cbam=False))) == 14_175_859
    with torch.inference_mode():
        assert cast(nn.Module, net.audio_encoder)(torch.zeros(1, 1, 80, 16)).shape == (1, 256, 6, 6)
        x = torch.zeros(1, 6, 96, 96)
        shapes = []
        for level in net.encoder:
            x = level(x)
            shapes.append(tuple(x.shape[1:]))
        assert shapes == [(16, 96, 96), (32, 48, 48), (64, 24, 24), (128, 12, 12), (256, 6, 6)]
        assert net(torch.zeros(2, 6, 96, 96), torch.zeros(2, 1, 80, 16)).shape == (2, 3, 96, 96)


@pytest.mark.parametrize("size", [96, 192, 288])
def test_every_image_size_draws_a_picture_of_its_size_within_0_and_1(size):
    net = Generator(GeneratorConfig(image_size=size, width=0.25, align_blocks=1)).eval()
    with torch.inference_mode():
        drawn = net(torch.rand(1, 6, size, size), torch.randn(1, 1, 80, 16))
    assert drawn.shape == (1, 3, size, size) and drawn.min() >= 0 and drawn.max() <= 1


@pytest.mark.parametrize("size", [6, 12])
def test_fourier_unit_is_the_fft_it_stands_for(size):
    torch.manual_seed(1)
    unit = FourierUnit(3, size).eval()
    x = torch.randn(2, 3, size, size)
    spectrum = torch.fft.rfft2(x, norm="ortho")
    stacked = torch.stack([spectrum.real, spectrum.imag], 2).flatten(1, 2)
    real, imaginary = torch.relu(unit.norm(unit.conv(stacked))).unflatten(1, (3, 2)).unbind(2)
    expected = torch.fft.irfft2(torch.complex(real, imaginary), s=(size, size), norm="ortho")
    assert torch.allclose(unit(x), expected, atol=1e-5)
    to, back = dft_matrices(size)
    assert torch.allclose(to @ back, torch.eye(size * size), atol=1e-5)


def test_adain_takes_the_sounds_statistics_even_in_half_precision():
    x, y = torch.randn(2, 5, 6, 6) * 3 + 1, torch.randn(2, 5, 6, 6) * 0.5 - 2
    aligned = adain(x, y).flatten(2)
    assert torch.allclose(aligned.mean(2), y.flatten(2).mean(2), atol=1e-4)
    assert torch.allclose(aligned.std(2, correction=0), y.flatten(2).std(2, correction=0), atol=1e-3)
    assert adain(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_learns_exactly_what_plain_pools_would_teach_it(memory_format):
    """Its pools have a faster gradient of their own; a wrong one would train another network, silently."""

    def plain(net: CBAM, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.sigmoid(net.mlp(x.mean((2, 3))) + net.mlp(x.amax((2, 3))))[:, :, None, None]
        return x * torch.sigmoid(net.spatial(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)))

    torch.manual_seed(1)
    net = CBAM(16).double()
    # few values, so that several places share the peak
    x = torch.randint(-3, 4, (2, 16, 7, 9)).double().contiguous(memory_format=memory_format).requires_grad_()
    weights = torch.randn(2, 16, 7, 9).double()
    results = [(call(x) * weights).sum() for call in (net, lambda x: plain(net, x))]
    gradients = [torch.autograd.grad(result, [x, *net.parameters()], retain_graph=True) for result in results]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_sound_reaches_the_picture():
    torch.manual_seed(2)
    net = Generator(small)  # training mode: batch norm passes on what an untrained net would let fade
    face, mel = torch.rand(4, 6, 96, 96), torch.randn(4, 1, 80, 16)
    with torch.inference_mode():
        first, second = net(face, mel), net(face, mel.flip(0))
    assert (first - second).abs().mean() > 0.01


def test_without_alignment_the_sound_is_concatenated():
    """Table 3's "simple concatenate": without it the ablation would train a net that cannot hear."""
    torch.manual_seed(2)
    net = Generator(GeneratorConfig(width=0.25, align_blocks=0))
    assert cast(nn.Sequential, net.decoder[0])[0].in_channels == 2 * net.audio_channels
    face, mel = torch.rand(4, 6, 96, 96), torch.randn(4, 1, 80, 16)
    with torch.inference_mode():
        assert (net(face, mel) - net(face, mel.flip(0))).abs().mean() > 0.01
    wide = Generator(GeneratorConfig(image_size=192, width=0.125, align_blocks=0)).eval()
    with torch.inference_mode():
        assert wide(torch.rand(1, 6, 192, 192), mel[:1]).shape == (1, 3, 192, 192)
    with pytest.raises(ModelError, match="Without alignment"):
        GeneratorConfig(align_blocks=0, audio_frames=32)


@pytest.mark.parametrize("frames", [16, 32, 64])
def test_every_column_of_a_longer_sound_is_heard(frames):
    torch.manual_seed(2)
    net = Generator(GeneratorConfig(width=0.25, align_blocks=2, audio_frames=frames))
    face, mel = torch.rand(2, 6, 96, 96), torch.randn(2, 1, 80, frames, requires_grad=True)
    drawn = net(face, mel)
    (gradient,) = torch.autograd.grad(drawn.square().sum(), mel)
    assert (gradient.abs().amax((0, 1, 2)) > 0).all()


def test_an_audio_length_the_net_cannot_have_is_refused():
    for frames in (15, 17, 14, 66, 0):
        with pytest.raises(ModelError, match=str(frames)) as caught:
            GeneratorConfig(audio_frames=frames)
        assert caught.value.hint


def test_a_generator_from_before_longer_sound_goes_on_loading(tmp_path):
    config = {"image_size": 96, "width": 0.25, "align_blocks": 2, "cbam": True, "ffc_ratio": 0.75}
    path = tmp_path / "old.safetensors"
    metadata = {"format": "lipsync-redub generator 1", "config": json.dumps(config), "card": "{}"}
    save_file(Generator(small).state_dict(), path, metadata)
    net, _ = load_generator(path)
    assert net.config == small


def test_wav2lips_nets_have_its_sizes():
    assert count(Wav2Lip()) == 36_298_035
    assert count(SyncNet()) == 16_435_072
    half = SyncNet(SyncNetConfig(0.5)).eval()
    with torch.inference_mode():
        assert half.embed_faces(torch.rand(2, 15, 48, 96)).shape == (2, 256)
        assert SyncNet().eval().embed_sound(torch.randn(2, 1, 80, 16)).shape == (2, 512)
    for width in (0, 0.05, 5, float("nan")):
        with pytest.raises(ModelError):
            SyncNetConfig(width)


def test_the_experts_cosine_is_a_probability_even_in_half_precision():
    """BCE of a cosine above 1 or below 0 is an error, and half precision's steps near 1 hide who is in sync."""
    torch.manual_seed(9)
    net = SyncNet(SyncNetConfig(0.25)).eval()
    window, mel = torch.rand(6, 15, 48, 96), torch.randn(6, 1, 80, 16)
    for half in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            faces, sound, cosine = net.embed_faces(window), net.embed_sound(mel), net(window, mel)
        assert faces.dtype == sound.dtype == cosine.dtype == torch.float32
        assert faces.min() >= 0 and sound.min() >= 0
        assert torch.allclose(faces.norm(dim=1), torch.ones(6)) and torch.allclose(sound.norm(dim=1), torch.ones(6))
        assert cosine.shape == (6,) and cosine.min() >= 0 and cosine.max() <= 1
        assert torch.allclose(cosine, (faces * sound).sum(1))


def test_the_expert_sees_the_lower_halves_in_order():
    faces = torch.rand(2, 5, 3, 96, 96)
    window = sync_window_faces(faces)
    assert window.shape == (2, 15, 48, 96)
    for frame in range(5):
        assert torch.equal(window[:, 3 * frame : 3 * frame + 3], faces[:, frame, :, 48:])
    larger = faces.repeat_interleave(2, 3).repeat_interleave(2, 4)
    assert torch.allclose(sync_window_faces(larger), window)
    larger.requires_grad_()
    sync_window_faces(larger)[:, 7].sum().backward()
    assert larger.grad is not None
    seen = larger.grad.abs().amax((0, 3, 4)) > 0
    assert seen.nonzero().tolist() == [[2, 1]], "the expert's gradient reaches another frame or colour"
    assert not larger.grad[..., :96, :].any()


def test_an_expert_comes_back_from_its_file(tmp_path):
    torch.manual_seed(10)
    net, path = SyncNet(SyncNetConfig(0.25)).eval(), tmp_path / "expert.safetensors"
    save_net(path, net, {"accuracy": 0.9}, torch.float32)
    again, card = load_expert(path)
    assert card == {"accuracy": 0.9} and again.config == net.config and not again.training
    window, mel = torch.rand(2, 15, 48, 96), torch.randn(2, 1, 80, 16)
    with torch.inference_mode():
        assert torch.equal(net(window, mel), again(window, mel))


def test_a_net_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        save_net(tmp_path / "gone" / "net.safetensors", SyncNet(SyncNetConfig(0.125)), {})
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(OSError):
        save_net(tmp_path / "taken.safetensors", SyncNet(SyncNetConfig(0.125)), {})
    assert [p.name for p in tmp_path.iterdir()] == ["taken.safetensors"]


def test_checkpoint_brings_back_the_same_generator_and_card(tmp_path):
    torch.manual_seed(3)
    net = Generator(small).eval()
    path = tmp_path / "model.safetensors"
    save_net(path, net, {"data": "made up", "steps": 7}, torch.float32)
    again, card = load_generator(path)
    assert card == {"data": "made up", "steps": 7} and again.config == small
    face, mel = torch.rand(1, 6, 96, 96), torch.randn(1, 1, 80, 16)
    with torch.inference_mode():
        assert torch.equal(net(face, mel), again(face, mel))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


def test_files_that_are_no_generator_are_refused_and_never_run(tmp_path):
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps(Trap()))
    torch_file = tmp_path / "torch.safetensors"
    torch.save({"weights": Trap()}, torch_file)
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    for path in (pickled, torch_file, empty, foreign, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(ModelError) as caught:
            load_generator(path)
        assert str(path) in str(caught.value) and caught.value.hint


def test_a_checkpoint_of_another_shape_is_refused_by_the_first_tensor_that_differs(tmp_path):
    path = tmp_path / "model.safetensors"
    config = {"image_size": 96, "width": 0.5, "align_blocks": 2, "cbam": True, "ffc_ratio": 0.75}
    state = Generator(small).state_dict()
    metadata = {"format": "lipsync-redub generator 1", "config": json.dumps(config)}
    save_file(state, path, metadata)
    with pytest.raises(ModelError, match="encoder"):
        load_generator(path)
    save_file(state, path, {**metadata, "config": json.dumps({**config, "width": 1e9})})
    with pytest.raises(ModelError, match="width"):
        load_generator(path)


def test_a_device_that_is_not_there_is_refused():
    for name in ("cuda:99", "tpu", "meta"):
        with pytest.raises(DeviceError):
            choose_device(name)
    assert choose_device("cpu").type == "cpu"


def test_too_little_gpu_memory_is_told_with_what_helps(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_net(path, Generator(GeneratorConfig(width=0.25, align_blocks=1)), {})
    engine = Engine(str(path), "cpu")

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(engine.generator, "forward", full)
    faces = np.zeros((3, 96, 96, 3), np.uint8)
    with pytest.raises(DeviceError, match="3 frames") as caught:
        engine.generate(faces, faces[:1], np.zeros((3, 80, 16), np.float32))
    assert "--batch-size" in caught.value.hint


def test_engine_never_looks_at_the_lips_it_replaces(tmp_path):
    torch.manual_seed(4)
    path = tmp_path / "model.safetensors"
    save_net(path, Generator(small), {})
    engine = Engine(str(path), "cpu")
    faces = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8).numpy()
    other_lips = faces.copy()
    other_lips[:, 48:] = 255 - other_lips[:, 48:]
    mel = torch.randn(3, 80, 16).numpy()
    drawn = engine.generate(faces, faces[:1], mel)
    assert drawn.shape == faces.shape and drawn.dtype == faces.dtype
    assert (drawn == engine.generate(other_lips, faces[:1], mel)).all()
    assert (drawn != engine.generate(faces, faces[:1], mel[::-1])).any()
