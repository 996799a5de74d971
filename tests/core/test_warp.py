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
        small, large = net(torch.cat([masked, coarse], 1), mel), net(torch.cat([masked, coarse], 1), mel, fine=fine)
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


def painted(rgb: tuple[float, float, float], trust: torch.Tensor) -> torch.Tensor:
    """Of a net that moves nothing, paints everything in one colour and trusts the reference so far (1, 1, 96, 96)."""
    raw = torch.zeros(1, 6, 96, 96)
    raw[:, 2:3] = trust
    raw[:, 3:] = torch.logit(torch.tensor(rgb))[:, None, None]
    return raw


def test_lips_that_are_painted_have_the_tint_of_the_persons_own() -> None:
    """Red lips would fade to everybody's pink as soon as they move."""
    red, pink = torch.tensor([0.6, 0.1, 0.15]), (0.75, 0.5, 0.5)
    reference = red[None, :, None, None].expand(1, 3, 192, 192)
    trust = torch.full((1, 1, 96, 96), 1.0)
    trust[..., 40:56, 30:66] = -8.0  # between the lips all must be painted
    raw = painted(pink, trust)
    learnt, shown = (warp(raw, reference, finished=finished)[0] for finished in (False, True))
    between = np.s_[:, 84:108, 70:122]
    assert (learnt[between].mean((1, 2)) - torch.tensor(pink)).abs().max() < 0.01
    assert (shown[between].mean((1, 2)) - red).abs().max() < 0.1
    assert (shown - red[:, None, None]).abs().mean() < (learnt - red[:, None, None]).abs().mean() / 4


def test_teeth_that_are_covered_do_not_shine_through_the_lips_over_them() -> None:
    reference = torch.full((1, 3, 96, 96), 0.3)
    reference[..., 44:52, 30:66] = 0.95
    trust = torch.full((1, 1, 96, 96), 3.0)
    trust[..., 42:54, 28:68] = -4.0
    shown = warp(painted((0.3, 0.3, 0.3), trust), reference, finished=True)
    assert float(shown[..., 44:52, 30:66].max()) < 0.4


def torn(stretch: float) -> torch.Tensor:
    """(1, 6, 96, 96): a third sure of a reference's rows in the middle, that many times as tall; dark is painted."""
    raw = painted((0.2, 0.2, 0.2), torch.full((1, 1, 96, 96), 1.0))
    way = torch.linspace(-0.5, 0.5, 16) * (16 / 96) * (1 / stretch - 1)
    raw[:, 1, 40:56] = torch.atanh(way / furthest)[:, None]
    return raw


def test_teeth_are_not_drawn_long() -> None:
    """Shut teeth have no dark between them: what would tear them apart must be painted."""
    teeth = torch.full((1, 3, 192, 192), 0.9)
    as_they_are, apart = (warp(torn(s), teeth, finished=True)[..., 90:102, :].mean() for s in (1.2, 3.0))
    assert float(as_they_are) > 0.8 and float(apart) < 0.25


def test_a_gap_between_teeth_is_not_as_bright_as_they() -> None:
    """A net paints teeth too dark, and the light that they are given must not be given to the gap."""
    raw = torn(3.0)
    raw[:, 3:, :38] = raw[:, 3:, 58:] = 0.0  # teeth, painted 0.5 where the reference has 0.9
    shown = warp(raw, torch.full((1, 3, 192, 192), 0.9), finished=True)
    assert float(shown[..., 90:102, :].mean()) < 0.25


def test_teeth_part_along_a_line_and_not_tooth_by_tooth() -> None:
    """One place of the flow that stretches less than those beside it would be a bright speck in the gap."""
    raw = torn(3.0)
    raw[:, 1, 40:56, 46:48] = 0.0
    shown = warp(raw, torch.full((1, 3, 192, 192), 0.9), finished=True)
    assert float(shown[..., 92:100, 92:96].mean()) < 0.35


def test_an_open_mouth_that_is_painted_stays_as_dark_as_it_was_painted() -> None:
    """Dark red gets the tint of the lips around it, not the light they lack: else the mouth is full of pale stuff."""
    bright_lips = torch.tensor([0.85, 0.45, 0.5])
    reference = bright_lips[None, :, None, None].expand(1, 3, 192, 192)
    trust = torch.full((1, 1, 96, 96), 2.0)
    trust[..., 40:56, 30:66] = -8.0
    raw = painted((0.6, 0.25, 0.3), trust)
    raw[:, 3:, 40:56, 30:66] = torch.logit(torch.tensor([0.16, 0.02, 0.03]))[:, None, None]
    shown = warp(raw, reference, finished=True)[0]
    assert float(shown[:, 84:108, 70:122].mean()) < 0.12
    assert (shown[:, :70].mean((1, 2)) - bright_lips).abs().max() < 0.03


def test_a_net_that_is_half_sure_shows_the_detail_of_its_reference() -> None:
    """Averaged with what it paints, every mouth would be soft."""
    reference = tensor(face(192))
    raw = painted((0.6, 0.5, 0.45), torch.full((1, 1, 96, 96), 0.5))
    learnt, shown = warp(raw, reference), warp(raw, reference, finished=True)
    assert detail(shown) > 0.75 * detail(reference) > 1.5 * detail(learnt)


def test_a_net_learns_from_what_it_gave_and_shows_what_is_finished() -> None:
    torch.manual_seed(0)
    net = Generator(config)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    faces, mel = torch.rand(4, 6, 96, 96), torch.rand(4, 1, 80, 16) * 8 - 4
    with torch.no_grad():
        net.train()(faces, mel)
        shown = net.eval()(faces, mel)
        for layer in net.modules():  # as in training, but with the statistics that are used in eval
            layer.training = not isinstance(layer, torch.nn.BatchNorm2d | torch.nn.Dropout)
        learnt = net(faces, mel)
    assert not torch.allclose(shown, learnt, atol=1e-3)


def test_a_net_that_has_drawn_can_still_learn() -> None:
    """A training run draws samples between its steps; nothing may be kept of them that autograd refuses."""
    answer, reference = torch.rand(1, 6, 96, 96), torch.rand(1, 3, 192, 192)
    with torch.inference_mode():
        warp(answer, reference, finished=True)
    answer.requires_grad_()
    warp(answer, reference, finished=True).sum().backward()
    assert answer.grad is not None
    assert answer.grad.isfinite().all()
