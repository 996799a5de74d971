# SPDX-License-Identifier: GPL-3.0-or-later
"""Nets that move the reference: what they keep of it, and how large it may be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from core.engine import Engine
from core.nets.checkpoint import save_net
from core.nets.generator import Generator, GeneratorConfig
from core.nets.warp import furthest, warp

config = GeneratorConfig(width=0.25, align_blocks=1, lip_code=True, warp=True)


def answer(flow: tuple[float, float] = (0.0, 0.0), trust: float = 30.0, size: int = 96) -> torch.Tensor:
    """Of a net: a flow that is the same everywhere, in parts of the crop; where it is not trusted, mid grey."""
    raw = torch.zeros(1, 6, size, size)
    raw[:, 0], raw[:, 1] = (float(np.arctanh(way / furthest)) for way in flow)
    raw[:, 2] = trust
    return raw


def face(size: int) -> np.ndarray:
    return cv2.resize(astronaut()[20:210, 130:320], (size, size), interpolation=cv2.INTER_AREA)


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("size", [96, 192, 384])
def test_a_reference_that_is_trusted_and_not_moved_stays_as_it_is(size: int) -> None:
    reference = tensor(face(size))
    assert torch.allclose(warp(answer(), reference), reference, atol=1e-4)
    assert torch.allclose(warp(answer(trust=-30.0), reference), torch.full_like(reference, 0.5), atol=1e-4)


@pytest.mark.parametrize("size", [96, 288])
def test_a_flow_moves_by_parts_of_the_crop_whatever_its_size(size: int) -> None:
    """Else a jaw would drop less on a large face than on a small one."""
    reference = tensor(face(size))
    moved = warp(answer((0.125, -0.0625)), reference)
    right, up = size // 8, size // 16
    assert torch.allclose(moved[..., up:, :-right], reference[..., :-up, right:], atol=1e-4)


def test_no_flow_goes_further_than_a_face_can() -> None:
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 96, 96)
    moved = warp(answer((0.2499999, 0.0)), ramp)[..., 20:60] - ramp[..., 20:60]
    assert float(moved.min()) > 0.24 and float(moved.max()) < 0.26


def test_a_finer_reference_gives_the_same_picture_in_more_detail() -> None:
    torch.manual_seed(0)
    net = Generator(config).eval()
    fine = tensor(face(288))
    coarse = torch.nn.functional.avg_pool2d(fine, 3)
    masked = coarse.clone()
    masked[:, :, 48:] = 0
    mel = torch.rand(1, 1, 80, 16) * 8 - 4
    with torch.inference_mode():
        small, large = net(torch.cat([masked, coarse], 1), mel), net(torch.cat([masked, coarse], 1), mel, fine)
    assert small.shape == (1, 3, 96, 96) and large.shape == (1, 3, 288, 288)
    assert (torch.nn.functional.avg_pool2d(large, 3) - small).abs().mean() < 0.02
    enlarged = torch.nn.functional.interpolate(small, 288, mode="bicubic")
    assert detail(large) > 3 * detail(enlarged)


def test_large_faces_are_the_same_alone_and_together() -> None:
    """They are warped a few at a time; none may get another's flow or be lost."""
    random = torch.Generator().manual_seed(0)
    answers, references = (torch.randn(9, c, s, s, generator=random) for c, s in ((6, 96), (3, 192)))
    alone = [warp(answers[i : i + 1], references[i : i + 1]) for i in range(9)]
    assert torch.equal(warp(answers, references), torch.cat(alone))
    one_reference = references[:1].expand(9, -1, -1, -1)
    assert torch.equal(warp(answers, one_reference)[8:], warp(answers[8:], references[:1]))


def detail(picture: torch.Tensor) -> float:
    return float(picture.diff(n=2, dim=3).square().mean())


def test_the_engine_draws_large_faces_with_the_detail_of_their_reference(tmp_path: Path) -> None:
    """What a net of 96 pixels cannot give: its faces are soft in every close-up."""
    torch.manual_seed(0)
    save_net(tmp_path / "net.safetensors", Generator(config), {})
    engine = Engine(str(tmp_path / "net.safetensors"), "cpu")
    mel = np.zeros((2, 80, 16), np.float32)
    large, small = face(288)[None].repeat(2, 0), face(96)[None].repeat(2, 0)
    drawn, coarse = engine.generate(large, large[:1], mel), engine.generate(small, small[:1], mel)
    assert engine.finest == 4 and drawn.shape == (2, 288, 288, 3) and drawn.dtype == np.uint8
    enlarged = cv2.resize(coarse[0], (288, 288), interpolation=cv2.INTER_CUBIC)
    assert cv2.Laplacian(drawn[0], cv2.CV_32F).var() > 3 * cv2.Laplacian(enlarged, cv2.CV_32F).var()
    plain = tmp_path / "plain.safetensors"
    save_net(plain, Generator(GeneratorConfig(width=0.25, align_blocks=1)), {})
    assert Engine(str(plain), "cpu").finest == 1
