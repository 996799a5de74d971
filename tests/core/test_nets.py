# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's network: shapes, sizes and numbers; and checkpoints that never run code."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.engine import Engine, choose_device
from core.errors import DeviceError, ModelError
from core.nets.align import adain
from core.nets.checkpoint import load_generator, save_generator
from core.nets.ffc import FourierUnit, dft_matrices
from core.nets.generator import Generator, GeneratorConfig

small = GeneratorConfig(width=0.25, align_blocks=2)


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_papers_network_has_its_parameters_and_maps():
    net = Generator().eval()
    assert count(net) == 14_261_315
    assert count(Generator(GeneratorConfig(cbam=False))) == 14_175_859
    with torch.inference_mode():
        assert net.audio_encoder(torch.zeros(1, 1, 80, 16)).shape == (1, 256, 6, 6)
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


def test_the_sound_reaches_the_picture():
    torch.manual_seed(2)
    net = Generator(small)  # training mode: batch norm passes on what an untrained net would let fade
    face, mel = torch.rand(4, 6, 96, 96), torch.randn(4, 1, 80, 16)
    with torch.inference_mode():
        first, second = net(face, mel), net(face, mel.flip(0))
    assert (first - second).abs().mean() > 0.01


def test_checkpoint_brings_back_the_same_generator_and_card(tmp_path):
    torch.manual_seed(3)
    net = Generator(small).eval()
    path = tmp_path / "model.safetensors"
    save_generator(path, net, {"data": "made up", "steps": 7}, torch.float32)
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
    save_generator(path, Generator(GeneratorConfig(width=0.25, align_blocks=1)), {})
    engine = Engine(str(path), "cpu")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(engine.generator, "forward", full)
    faces = np.zeros((3, 96, 96, 3), np.uint8)
    with pytest.raises(DeviceError, match="3 frames") as caught:
        engine.generate(faces, faces[:1], np.zeros((3, 80, 16), np.float32))
    assert "--batch-size" in caught.value.hint


def test_engine_never_looks_at_the_lips_it_replaces(tmp_path):
    torch.manual_seed(4)
    path = tmp_path / "model.safetensors"
    save_generator(path, Generator(small), {})
    engine = Engine(str(path), "cpu")
    faces = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8).numpy()
    other_lips = faces.copy()
    other_lips[:, 48:] = 255 - other_lips[:, 48:]
    mel = torch.randn(3, 80, 16).numpy()
    drawn = engine.generate(faces, faces[:1], mel)
    assert drawn.shape == faces.shape and drawn.dtype == faces.dtype
    assert (drawn == engine.generate(other_lips, faces[:1], mel)).all()
    assert (drawn != engine.generate(faces, faces[:1], mel[::-1])).any()
