# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses of equation (4): LPIPS and sync; the expert's own; and the weight that puts the mouth first."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import ModelError
from core.faces.mesh import face_oval, jaw_line, lips, rigid
from core.nets.syncnet import SyncNet, sync_window_faces

from .perceptual import LiteTrunk, lite_trunk

inside = 0.75
"""Part of the way from the lips' outline to their inner edge where `flow_loss` looks."""
upper_teeth, lower_teeth = (0.2, 0.4), 0.8
"""Parts of the way from the upper lip's inner edge to the lower one's where `flow_loss` looks for teeth."""
parted = 0.02
"""Crop units, two pixels of 96, from which lips are so far open that something is seen between them."""
fine_flow = 0.01
"""Crop units, about a pixel of 96, up to which an error of the flow counts by its square: the mesh errs so far itself.
"""
jaw = tuple(len(lips) + face_oval.index(point) for point in jaw_line)
"""Where the jaw's outline lies among `shards.points`, from the viewer's right to left."""
nose_base = tuple(len(lips) + len(face_oval) + rigid.index(point) for point in (98, 2, 327))
"""Where points lie among `shards.points` that go with the upper jaw."""
untrained_trunk = "untrained"
"""Value of `lpips_trunk` that asks for LPIPS on an AlexNet trunk that was never trained."""


class Lpips(nn.Module):
    """LPIPS (equation 3) on AlexNet: pictures (B, 3, H, W) in [0, 1] → their mean distance.

    Args:
        trunk: torchvision's AlexNet weights (`alexnet-owt-*.pth`); empty: torchvision's own download or its cache;
            `untrained`: random weights, for machines that have no others. Random features still compare edges and
            texture, but they are not what people were asked about.

    Raises:
        ModelError: the file is no AlexNet, or there is no file and nothing could be downloaded.
    """

    def __init__(self, trunk: str) -> None:
        super().__init__()
        import lpips

        hint = "Name alexnet-owt-7be5be79.pth with --lpips-trunk, or `untrained`, which the model's card will say."
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                torch.manual_seed(0)  # an untrained trunk is the same one in every run, and after every resume
                warnings.simplefilter("ignore")  # torchvision's, at how lpips calls it
                self.net = lpips.LPIPS(net="alex", pnet_rand=bool(trunk), verbose=False)
        except OSError as e:
            raise ModelError(f"The AlexNet trunk of LPIPS could not be downloaded: {e}.", hint) from None
        if trunk and trunk != untrained_trunk:
            try:
                state = torch.load(Path(trunk), map_location="cpu", weights_only=True)
                features = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
                self._load_trunk(features)
            except (OSError, RuntimeError, LookupError, AttributeError, ValueError, EOFError, UnpicklingError):
                raise ModelError(f"{trunk} is no AlexNet of torchvision.", hint) from None
        self.requires_grad_(False).eval()

    def _load_trunk(self, features: dict[str, Tensor]) -> None:
        """Fills LPIPS's five slices, whose layers keep torchvision's numbers."""
        for name, parameter in self.net.net.named_parameters():
            parameter.data.copy_(features[name.split(".", 1)[1]])

    def forward(self, drawn: Tensor, true: Tensor) -> Tensor:
        return self.net(drawn, true, normalize=True).mean()


def mouth_weights(landmarks: Tensor, size: int, mouth: float, upper: float) -> Tensor:
    """Weights (B, 1, size, size) of the reconstruction loss, each picture's mean 1.

    Args:
        landmarks: (B, 85, 2), `shards.points` in crop units.
        mouth: weight at the mouth over that of the cheeks; falls off as a Gaussian around the lips.
        upper: weight of the upper half, which the net only has to pass on.
    """
    weights = 1 + (mouth - 1) * _nearness(landmarks, size)
    weights[:, : size // 2] *= upper
    return (weights / weights.mean((1, 2), keepdim=True))[:, None]


def _nearness(landmarks: Tensor, size: int) -> Tensor:
    """(B, size, size): 1 in the middle of the mouth, less as a Gaussian of its size falls off."""
    low, high = landmarks[:, : len(lips)].aminmax(dim=1)
    middle, reach = (low + high) / 2, (high - low) / 2 + 0.06
    at = (torch.arange(size, device=landmarks.device) + 0.5) / size
    x = ((at[None, :] - middle[:, :1]) / reach[:, :1]) ** 2
    y = ((at[None, :] - middle[:, 1:]) / reach[:, 1:]) ** 2
    return torch.exp(-0.5 * (x[:, None, :] + y[:, :, None]))


def flow_loss(flow: Tensor, landmarks: Tensor, reference_landmarks: Tensor) -> Tensor:
    """How far beside the reference's landmarks a flow looks for those it shows: a scalar, in crop units.

    Pictures tell a flow little where all around looks alike, as lips and cheeks do: the mesh knows where each point of
    them went. Looked at are, the first with twice the weight of each other:

    - the lips' outline and, well inside of them, a line near their inner edge. On the edge itself shut lips would ask
      for two flows at one place;
    - the face's outline where it is in the crop, the cheeks half-way from the jaw to the lips, the nose and the eyes;
    - the teeth, where both show the mouth's inside. The upper ones are bone and go with the nose; so the dark below
      them grows, where a flow that lies between the lips' would stretch them like gum. The lower ones are taken for
      the lower lip's: with the chin, which goes another way, they spoil the flow of its edge.

    Args:
        flow: (B, 2, h, w) in crop units, core.nets.warp.flow.
        landmarks, reference_landmarks: (B, 85, 2), `shards.points` in crop units.
    """
    (lip_places, face_places), (lips_there, face_there) = (_places(p) for p in (landmarks, reference_landmarks))
    seen = ((face_places - 0.5).abs() < 0.5).all(2) & ((face_there - 0.5).abs() < 0.5).all(2)
    teeth = _teeth(landmarks, reference_landmarks)
    return 2 * _astray(flow, lip_places, lips_there).mean() + sum(
        (_astray(flow, places, there) * valid).sum() / valid.sum().clamp(min=1)
        for places, there, valid in ((face_places, face_there, seen), teeth)
    )


def _places(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Places (B, n, 2) on the lips and on the rest of the face where a flow is looked at."""
    outer, inner = landmarks[:, : len(lips)].chunk(2, 1)
    line = landmarks[:, jaw]
    # the outline begins with the lower lip, from the viewer's left to right; the jaw's line has other points
    lower = outer[:, : outer.shape[1] // 2 + 1].flip(1).mT
    lower = F.interpolate(lower, size=len(jaw), mode="linear", align_corners=True).mT
    on_lips = torch.cat([outer, outer.lerp(inner, inside)], 1)
    return on_lips, torch.cat([landmarks[:, len(lips) :], line.lerp(lower, 0.5)], 1)


def _teeth(landmarks: Tensor, reference_landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places (B, n, 2) between the lips, where what is there lies in the reference, and (B, n) whether it shows it."""
    upper, lower = _inner_edges(landmarks)
    upper_there, lower_there = _inner_edges(reference_landmarks)
    with_nose = (reference_landmarks - landmarks)[:, nose_base].mean(1, keepdim=True)
    places = [upper.lerp(lower, part) for part in (*upper_teeth, lower_teeth)]
    there = [*(place + with_nose for place in places[:-1]), places[-1] + lower_there - lower]
    inside_there = [(x[..., 1] > upper_there[..., 1]) & (x[..., 1] < lower_there[..., 1]) for x in there]
    is_open = (lower - upper)[..., 1] > parted
    return torch.cat(places, 1), torch.cat(there, 1), torch.cat([is_open & x for x in inside_there], 1)


def _inner_edges(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower inner edge of the lips without their corners, (B, 7, 2) each, points of both above each other."""
    inner = landmarks[:, len(lips) // 2 : len(lips)]
    return inner[:, 12:19].flip(1), inner[:, 2:9]


def _astray(flow: Tensor, places: Tensor, there: Tensor) -> Tensor:
    """Errors (B, n) of a flow at places (B, n, 2) which lie there (B, n, 2) in the reference."""
    got = F.grid_sample(flow, 2 * places[:, None] - 1, padding_mode="border", align_corners=False)[:, :, 0].mT
    return F.smooth_l1_loss(got, there - places, beta=fine_flow, reduction="none").mean(2)


def bend_loss(flow: Tensor, landmarks: Tensor) -> Tensor:
    """How much a flow bends away from the mouth, the mean size of its second differences: a scalar, in crop units.

    Skin that speech does not open moves as one. Where the pictures' losses look little, as in the upper half, a flow
    would else wander, and be seen wandering at the mask's edge.

    Args:
        flow: (B, 2, s, s) in crop units, core.nets.warp.flow.
        landmarks: (B, 85, 2), `shards.points` in crop units.
    """
    far = 1 - _nearness(landmarks, flow.shape[-1])[:, None]
    down, across = flow.diff(n=2, dim=2).abs(), flow.diff(n=2, dim=3).abs()
    return (down * far[:, :, 1:-1]).mean() + (across * far[..., 1:-1]).mean()


def course_loss(heard: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """1 - Pearson's r in time between heard and true shapes, the mean over samples and numbers: a scalar, 0 to 2.

    A prediction that is unsure of how far a mouth moves is least wrong when it hardly moves; this asks when it moves.

    Args:
        heard, true: (B, T, n).
        known: (B, T), 1 where the true shape is known, else 0.
    """
    weights = known[..., None]
    count = weights.sum(1, keepdim=True).clamp(min=1)
    a, b = ((x - (x * weights).sum(1, keepdim=True) / count) * weights for x in (heard, true))
    spread = [(x.square().sum(1) + 1).sqrt() for x in (a, b)]  # + 1: a mouth that rests says nothing of time
    return 1 - ((a * b).sum(1) / (spread[0] * spread[1])).mean()


def match_loss(cosine: Tensor, match: Tensor) -> Tensor:
    """Binary cross-entropy of cosines (B,) in [0, 1] against matches (B,) in {0, 1}, in float32 under autocast too.

    Clamped, as the logarithm of 0 has no gradient to come back from and rounding can give a cosine above 1. A cosine
    that is not finite makes loss and gradient NaN, and the step is left out; torch's cross-entropy would raise instead.
    """
    with torch.autocast(cosine.device.type, enabled=False):
        cosine = cosine.float()
        finite = cosine.isfinite()
        loss = F.binary_cross_entropy(cosine.where(finite, 0.5).clamp(1e-6, 1 - 1e-6), match.float())
        nothing = torch.zeros_like(cosine).where(finite, torch.nan)
        return loss + (cosine * nothing).sum()


def sync_loss(expert: SyncNet, drawn: Tensor, mel: Tensor) -> Tensor:
    """What the expert thinks of drawn faces: 0 when it finds that they speak the sound.

    Args:
        expert: frozen and in eval mode: a batch norm that went on learning from drawn faces would learn to like them.
        drawn: (B, 5, 3, S, S) in [0, 1], five consecutive pictures each; the gradient goes into these.
        mel: (B, 1, 80, 16), from core.timing.sync_window of the first.

    Returns:
        A scalar: the mean of -log(cosine).
    """
    assert not any(module.training for module in expert.modules()), "the expert must be in eval mode"
    assert not any(parameter.requires_grad for parameter in expert.parameters()), "the expert must be frozen"
    cosine = expert(sync_window_faces(drawn), mel)
    return match_loss(cosine, torch.ones_like(cosine))


def perceptual_loss(trunk: str) -> nn.Module:
    """LPIPS by the name or file of its trunk (see Lpips and perceptual.LiteTrunk)."""
    return LiteTrunk() if trunk == lite_trunk else Lpips(trunk)
