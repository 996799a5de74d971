# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses that know the lips' landmarks and their course in time: wrong, they teach lips to go elsewhere, or late."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import JobError
from core.faces.mesh import rigid_in_crop
from core.nets.generator import GeneratorConfig
from core.nets.warp import channels, coarse, flow, warp
from training_cli.data import DataSettings, PictureWindows
from training_cli.fit import FitSettings
from training_cli.losses import bend_loss, course_loss, flow_loss
from training_cli.pretrain import PretrainSettings, pretrain

size = 96


def face(opening: float, jaw: float = 0.0) -> Tensor:
    """(1, 85, 2): a mouth in the middle, its outline, then its inner edge, and a face around it, in the mesh's order.

    Args:
        jaw: by how much the chin is lower.
    """
    around = torch.linspace(np.pi, -np.pi, 21)[:-1]  # from the left corner along the lower lip
    outer = torch.stack([0.5 + 0.18 * around.cos(), 0.7 + (0.06 + opening) * around.sin()], 1)
    inner = torch.stack([0.5 + 0.14 * around.cos(), 0.7 + opening * around.sin()], 1)
    clockwise = torch.linspace(0, 2 * np.pi, 37)[:-1]  # from the forehead
    down = -0.55 * clockwise.cos()
    outline = torch.stack([0.5 + 0.42 * clockwise.sin(), 0.42 + down + jaw * down.clamp(min=0) / 0.55], 1)
    return torch.cat([outer, inner, outline, torch.from_numpy(rigid_in_crop).float()])[None]


def opened(by: float) -> Tensor:
    """(1, 6, S, S): the answer that shows, of a shut mouth, one opened by so much up and down (crop units)."""
    answer = torch.zeros(1, channels, size, size)
    at = (torch.arange(size) + 0.5) / size
    along = (1 - ((at - 0.5) / 0.18).square()).clamp(min=0).sqrt()
    chin = ((0.97 - at) / 0.16).clamp(0, 1)  # the skin between lip and chin goes part of the way
    by_row = torch.where(at > 0.7, -by * chin, by * (at > 0.55))
    answer[:, 1] = torch.atanh(by_row[:, None] * along / 0.25)
    return answer


def test_lips_that_are_found_in_the_reference_cost_nothing():
    shut, wide = face(0.0), face(0.05)
    away = flow(opened(0.05))
    assert away.shape == (1, 2, size // coarse, size // coarse)
    found = flow_loss(away, wide, shut)
    assert found < 0.1 * flow_loss(torch.zeros_like(away), wide, shut)
    assert found < 0.1 * flow_loss(flow(opened(-0.05)), wide, shut)


def test_shut_lips_may_be_made_of_open_ones():
    """Asked on the seam itself, both lips would claim one place, and the flow would settle on the teeth between."""
    shut, wide = face(0.0), face(0.05)
    assert flow_loss(flow(opened(-0.05)), shut, wide) < 0.2 * flow_loss(torch.zeros(1, 2, 48, 48), shut, wide)


def between_lips(opening: float, by: float, upper: float, lower: float) -> Tensor:
    """(1, 2, 48, 48): a flow that finds lips which are open so far up and down in ones that are less open by `by`, and
    between them goes that part of the upper and lower one's way, less and less to the middle."""
    at = (torch.arange(48) + 0.5) / 48
    along = (1 - ((at - 0.5) / 0.16).square()).clamp(min=0.01).sqrt()
    beside = (at - 0.7)[:, None] / (opening * along)  # of the opening
    between = torch.where(beside < 0, upper, lower) * beside
    away = torch.zeros(1, 2, 48, 48)
    away[:, 1] = -by * along * torch.where(beside.abs() < 0.9, between, beside.sign())
    return away


def test_upper_teeth_are_bone():
    """They were drawn long, as if of gum, where the reference's lips were less open than the new ones."""
    smile, wide = face(0.04), face(0.08)
    gum, bone = between_lips(0.08, 0.04, 1.0, 1.0), between_lips(0.08, 0.04, 0.0, 1.0)
    assert flow_loss(bone, wide, smile) < 0.95 * flow_loss(gum, wide, smile)


def test_lower_teeth_go_with_the_lower_lip():
    """What goes there another way than the lip beside it takes the lip's edge with it."""
    smile, wide = face(0.05), face(0.08, jaw=0.04)
    still, with_lip = between_lips(0.08, 0.03, 0.0, 0.0), between_lips(0.08, 0.03, 0.0, 1.7)
    assert flow_loss(with_lip, wide, smile) < flow_loss(still, wide, smile)


def test_shut_lips_ask_for_no_teeth():
    """Behind them nothing is seen: what a flow does between open lips is for the picture to say."""
    shut, wide = face(0.0), face(0.08)
    away = between_lips(0.08, 0.08, 0.0, 0.0)
    other = away.clone()
    other[..., 32:35, 22:26] += 0.05
    assert flow_loss(away, wide, shut) == flow_loss(other, wide, shut)
    assert flow_loss(away, wide, wide) != flow_loss(other, wide, wide)


def test_cheeks_jaw_and_eyes_are_held_too():
    """Where only the lips were, the far cheek of a head turned to the side was streaked."""
    shut = face(0.0)
    still, astray = torch.zeros(1, 2, 48, 48), torch.zeros(1, 2, 48, 48)
    astray[:, 0, 26:44, 3:8] = 0.1  # a cheek is looked for a tenth of the crop beside itself
    assert flow_loss(still, shut, shut) == 0
    assert flow_loss(astray, shut, shut) > 0.0005


def test_a_jaw_that_drops_is_followed():
    rest, dropped = face(0.0), face(0.0, jaw=0.04)
    at = (torch.arange(48) + 0.5) / 48
    down = torch.zeros(1, 2, 48, 48)
    down[:, 1] = -0.04 * ((at - 0.78) / 0.19).clamp(0, 1)[:, None]  # cheeks half as far
    assert flow_loss(down, dropped, rest) < 0.5 * flow_loss(torch.zeros_like(down), dropped, rest)


def test_a_jaw_outside_the_crop_asks_for_nothing():
    """The net sees nothing of it, and a border's flow would be pulled to where no one looks."""
    rest, below = face(0.0), face(0.0, jaw=0.04)
    outside = (below[..., 1] > 0.9).nonzero()[:, 1]
    beyond = below.clone()
    beyond[:, outside, 1] += 0.5
    away = torch.full((1, 2, 48, 48), 0.01)
    further = beyond.clone()
    further[:, outside, 1] += 0.3
    assert flow_loss(away, beyond, rest) == flow_loss(away, further, rest)


def test_a_flow_that_wanders_where_nobody_looks_costs_and_one_that_opens_the_mouth_does_not():
    """At the eyes the pictures' losses count little, and the mask's edge would show what a flow does there."""
    shut = face(0.0)
    turned = torch.linspace(-0.1, 0.1, 48).expand(1, 2, 48, 48)
    assert bend_loss(turned, shut) < 1e-6, "a head that turns moves all of its skin"
    eyes, lips = torch.zeros(1, 2, 48, 48), torch.zeros(1, 2, 48, 48)
    eyes[..., 8:12, 30:34] = 0.05
    lips[..., 32:36, 22:26] = 0.05
    assert bend_loss(eyes, shut) > 5 * bend_loss(lips, shut) > 0


def test_the_flow_is_the_one_by_which_the_picture_is_made():
    row = torch.linspace(0, 1, size)[:, None].expand(size, size)
    answer = opened(0.05)
    answer[:, 2] = 30  # trusted
    shown = warp(answer, row[None, None].expand(1, 3, -1, -1))[0, 0, :, 48]
    away = flow(answer)[0, 1, :, 24].repeat_interleave(coarse)
    inner = slice(56, 63)
    assert away.abs().max() > 0.04
    assert torch.allclose((shown - row[:, 48])[inner], away[inner] * size / (size - 1), atol=2e-3)


def test_landmarks_of_a_reference_lie_on_its_lips_mirrored_or_shifted(talkers):
    settings = DataSettings(str(talkers), augment_picture=True, dissimilar_mouth=1.0)
    windows = PictureWindows(settings, "train", 1, size, 16, 0)
    apart = []
    for number in range(20):
        item = windows[number]
        lips = {key: item[key][0, :40] for key in ("landmarks", "reference_landmarks")}
        x, y = (lips["reference_landmarks"].mean(0) * size).round().int().tolist()
        assert item["reference"][0, y, x].float().mean() < 140  # the drawn mouth is dark
        tall = [points[:, 1].max() - points[:, 1].min() for points in lips.values()]
        apart.append(abs(float(tall[0] - tall[1])))
    assert max(apart) > 0.05, "the reference's lips are the target's"


def test_a_mouth_that_moves_at_the_right_time_costs_nothing_however_far_it_moves():
    true = torch.sin(torch.arange(100) * 0.4)[None, :, None] * 3
    known = torch.ones(1, 100)
    alike, late = course_loss(0.4 * true, true, known), course_loss(true.roll(4, 1), true, known)
    assert alike < 0.05 < 0.5 < late
    still = course_loss(torch.zeros_like(true), true, known)
    assert torch.isfinite(still) and still > 0.9, "a mouth that rests is not right"


def test_what_is_not_known_has_no_part_in_the_course():
    true = torch.sin(torch.arange(100) * 0.4)[None, :, None] * 3
    known = (torch.arange(100) < 60).float()[None]
    wrong = true.clone()
    wrong[:, 60:] = 50
    assert torch.allclose(course_loss(true, wrong, known), course_loss(true, true, known))


def test_a_net_learns_where_the_lips_went(talkers, tmp_path):
    loop = FitSettings(steps=40, batch=8, rate=3e-3, evaluate_every=40, workers=0, dev_samples=8, log_every=10)
    settings = PretrainSettings(
        str(tmp_path / "run"),
        DataSettings(str(talkers), dissimilar_mouth=1.0),
        only="paint",
        model=GeneratorConfig(width=0.1, align_blocks=1, lip_code=True, warp=True),
        beta=0.0,
        flow_weight=20.0,
        paint=loop,
    )
    pretrain(settings)
    lines = [json.loads(line) for line in (Path(settings.output) / "paint" / "log.jsonl").read_text().splitlines()]
    flows = [line["flow"] for line in lines if "flow" in line]
    assert flows[-1] < 0.75 * flows[0]


def test_a_net_that_paints_has_no_flow_to_learn(talkers, tmp_path):
    settings = PretrainSettings(str(tmp_path), DataSettings(str(talkers)), flow_weight=1.0)
    with pytest.raises(JobError, match="flow"):
        pretrain(settings)
    with pytest.raises(JobError, match="flow"):
        pretrain(replace(settings, flow_weight=0.0, bend_weight=1.0))
    with pytest.raises(JobError, match="bend_weight"):
        pretrain(replace(settings, flow_weight=0.0, bend_weight=-1.0))
    with pytest.raises(JobError):
        pretrain(replace(settings, flow_weight=-1.0))
