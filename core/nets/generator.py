# SPDX-License-Identifier: GPL-3.0-or-later
"""The generator of LPIPS-AttnWav2Lip: a shallow U-Net of residual CBAM blocks with aligned sound at its bottom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from ..timing import mel_window_length
from .align import AlignBlock
from .blocks import ConvBlock, ResidualBlock, UpBlock, hearing, scaled
from .ear import Ear
from .lipcode import LipCode
from .rules import InputRules, our_rules
from .warp import channels as warp_channels
from .warp import warp

whisper = "whisper-base"


@dataclass(frozen=True)
class GeneratorConfig:
    """What the generator is built from. The defaults are the paper's network."""

    image_size: int = 96
    """Height and width of the face in pixels, a multiple of 16 from 96."""
    width: float = 1.0
    """Factor on all channel counts, which are rounded to multiples of 8."""
    align_blocks: int = 9
    """Modules of FFC and AdaIN that bring the sound in; 0: the sound's map is concatenated to the face's instead, the
    paper's "simple concatenate"."""
    cbam: bool = True
    """Channel and spatial attention in every residual block of the face's encoder and the decoder."""
    ffc_ratio: float = 0.75
    """Part of the channels in FFC's global branch."""
    audio_frames: int = mel_window_length
    """Mel frames heard for a picture, 80 a second, as many before its middle as after it: even, from 16 to 64."""
    lip_code: bool = False
    """The sound reaches the picture only through a mouth's shape of eight numbers (lipcode.py). Beyond the paper."""
    speech_encoder: str = ""
    """Empty: Wav2Lip's encoder of mel windows. `whisper-base`: Whisper's of whole sentences (ear.py), which needs a lip
    code. Beyond the paper."""
    warp: bool = False
    """The net moves the reference's pixels and paints only what they cannot show (warp.py). Beyond the paper."""

    def __post_init__(self) -> None:
        if self.image_size % 16 or not 96 <= self.image_size <= 512:
            raise ModelError(f"Image size {self.image_size} does not fit.", "Use a multiple of 16 from 96 to 512.")
        if not 0.1 <= self.width <= 4 or not 0 <= self.align_blocks <= 32 or not 0 < self.ffc_ratio < 1:
            raise ModelError("The generator's width, alignment modules or FFC ratio are out of range.")
        if self.audio_frames % 2 or not mel_window_length <= self.audio_frames <= 64:
            raise ModelError(
                f"The net cannot hear {self.audio_frames} mel frames.", "Use an even number from 16 to 64."
            )
        if not self.align_blocks and self.audio_frames != mel_window_length:
            raise ModelError(
                f"Without alignment modules the net cannot hear {self.audio_frames} mel frames.",
                f"Its two maps are joined place by place: use {mel_window_length}, or one alignment module and more.",
            )
        if self.speech_encoder not in ("", whisper):
            raise ModelError(
                f"There is no speech encoder {self.speech_encoder!r}.", f"Use {whisper!r}, or none for Wav2Lip's own."
            )
        if self.speech_encoder and not self.lip_code:
            raise ModelError("A speech encoder tells mouth shapes, and this net takes none.", "Set lip_code too.")
        if not self.align_blocks and self.lip_code:
            raise ModelError(
                "A net without alignment modules takes no lip code.",
                "Use one alignment module and more, or no lip code.",
            )


class AudioEncoder(nn.Sequential):
    """Mel windows (B, 1, 80, 16) → the audio map (B, C, 6, 6): Wav2Lip's encoder, cut where it is 6 x 6.

    Longer windows give wider maps: 64 mel frames (B, C, 6, 22).
    """

    def __init__(self, c32: int, c64: int, c128: int, c256: int) -> None:
        super().__init__(
            *hearing(c32, c64, c128),
            ConvBlock(c128, c256, (4, 3), 1, (0, 1)),
            ResidualBlock(c256, False),
        )


class Generator(nn.Module):
    """Draws the lower half of a face to a sound.

    forward(face, sound, shown, fine):
        face: (B, 6, S, S) in [0, 1]: the face with its lower half zero, then a reference of the same person, RGB each.
        sound: (B, 1, 80, audio_frames) log-mel in [-4, 4]; of a net with a speech encoder (B, 8) in [-4, 4], the mouth
            shapes to draw.
        shown: (B, 8) the shape of the reference's mouth, in [-4, 4], of a net with a lip code; None: it is the person's
            median.
        fine: (B, 3, F, F) the same reference with F pixels a side, of a net with `warp`; None: the one in `face`.
        Returns (B, 3, S, S) in [0, 1], with `fine` (B, 3, F, F). In training mode a net with `warp` gives what it
        learns from, else the picture that is shown (core.nets.warp).
    """

    rules: ClassVar[InputRules] = our_rules

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()

        def c(channels: int) -> int:
            return scaled(channels, config.width)

        def residual(channels: int, count: int) -> list[nn.Module]:
            return [ResidualBlock(channels, config.cbam) for _ in range(count)]

        self.encoder = nn.ModuleList(
            [
                ConvBlock(6, c(16), 7, 1, 3),
                nn.Sequential(ConvBlock(c(16), c(32), 3, 2, 1), *residual(c(32), 2)),
                nn.Sequential(ConvBlock(c(32), c(64), 3, 2, 1), *residual(c(64), 3)),
                nn.Sequential(ConvBlock(c(64), c(128), 3, 2, 1), *residual(c(128), 2)),
                nn.Sequential(ConvBlock(c(128), c(256), 3, 2, 1), *residual(c(256), 2)),
            ]
        )
        self.ear = Ear() if config.speech_encoder else None
        self.audio_encoder = None if self.ear else AudioEncoder(c(32), c(64), c(128), c(256))
        self.audio_channels = c(256)
        self.lip_code = LipCode(c(256), head=not self.ear) if config.lip_code else None
        bottom = config.image_size // 16
        self.align = nn.ModuleList(AlignBlock(c(256), bottom, config.ffc_ratio) for _ in range(config.align_blocks))
        self.decoder = nn.ModuleList(
            [
                ConvBlock(c(256) if config.align_blocks else 2 * c(256), c(256), 1),
                nn.Sequential(UpBlock(2 * c(256), c(384)), *residual(c(384), 2)),
                nn.Sequential(UpBlock(c(384) + c(128), c(256)), *residual(c(256), 2)),
                nn.Sequential(UpBlock(c(256) + c(64), c(128)), *residual(c(128), 2)),
                nn.Sequential(UpBlock(c(128) + c(32), c(64)), *residual(c(64), 2)),
            ]
        )
        last = nn.Conv2d(c(32), warp_channels if config.warp else 3, 1)
        if config.warp:  # a new net shows the reference as it is
            nn.init.zeros_(last.weight[:2].data)
            assert last.bias is not None
            last.bias.data[:3] = torch.tensor([0.0, 0.0, 2.0])
        self.output = nn.Sequential(ConvBlock(c(64) + c(16), c(32), 3, 1, 1), last)

    def forward(self, face: Tensor, sound: Tensor, shown: Tensor | None = None, fine: Tensor | None = None) -> Tensor:
        return self.draw(face, self.hear(sound, shown), fine)

    def hear(self, sound: Tensor, shown: Tensor | None = None) -> Tensor:
        """The audio map (B, C, 6, W) of mel windows; with a lip code (B, C, 2, 1) of them or of shapes, with what is
        `shown` as in forward."""
        if self.audio_encoder is None:
            assert self.lip_code  # GeneratorConfig sees to it
            return self.lip_code.speak(sound, shown)
        audio = self.audio_encoder(sound)
        return self.lip_code(audio, shown) if self.lip_code else audio

    def draw(self, face: Tensor, audio: Tensor, fine: Tensor | None = None) -> Tensor:
        """The picture for an audio map that is already there; `fine` as in forward."""
        return self.finish(self.answer(face, audio), face[:, 3:] if fine is None else fine)

    def answer(self, face: Tensor, audio: Tensor) -> Tensor:
        """What the last layer says of each pixel: (B, 3, S, S), with `warp` (B, 6, S, S)."""
        skips = []
        x = face
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        for block in self.align:
            x = block(x, audio)
        if not self.align:
            x = torch.cat([x, F.interpolate(audio, x.shape[-2:])], 1)  # larger pictures have larger maps than 6 x 6
        for level in self.decoder:
            x = torch.cat([level(x), skips.pop()], 1)
        return self.output(x)

    def finish(self, answer: Tensor, reference: Tensor) -> Tensor:
        """The picture of an answer; the reference (B, 3, F, F) is what a net with `warp` moves."""
        if self.config.warp:
            return warp(answer, reference, finished=not self.training)
        return torch.sigmoid(answer.float())
