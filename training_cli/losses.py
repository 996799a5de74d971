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
from core.nets.syncnet import SyncNet, sync_window_faces

from .perceptual import LiteTrunk, lite_trunk

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


def mouth_weights(lips: Tensor, size: int, mouth: float, upper: float) -> Tensor:
    """Weights (B, 1, size, size) of the reconstruction loss, each picture's mean 1.

    Args:
        lips: (B, 40, 2) lip landmarks in crop units.
        mouth: weight at the mouth over that of the cheeks; falls off as a Gaussian around the lips.
        upper: weight of the upper half, which the net only has to pass on.
    """
    middle = (lips.amin(1) + lips.amax(1)) / 2
    reach = (lips.amax(1) - lips.amin(1)) / 2 + 0.06
    at = (torch.arange(size, device=lips.device) + 0.5) / size
    x = ((at[None, :] - middle[:, :1]) / reach[:, :1]) ** 2
    y = ((at[None, :] - middle[:, 1:]) / reach[:, 1:]) ** 2
    weights = 1 + (mouth - 1) * torch.exp(-0.5 * (x[:, None, :] + y[:, :, None]))
    weights[:, : size // 2] *= upper
    return (weights / weights.mean((1, 2), keepdim=True))[:, None]


def match_loss(cosine: Tensor, match: Tensor) -> Tensor:
    """Binary cross-entropy of cosines (B,) in [0, 1] against matches (B,) in {0, 1}, in float32 under autocast too.

    Clamped, as the logarithm of 0 has no gradient to come back from and rounding can give a cosine above 1.
    """
    with torch.autocast(cosine.device.type, enabled=False):
        return F.binary_cross_entropy(cosine.float().clamp(1e-6, 1 - 1e-6), match.float())


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
