# SPDX-License-Identifier: GPL-3.0-or-later
"""Mouth shapes from speech by an encoder that has already heard 680,000 hours of it: Whisper's. Beyond the paper."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ..audio import mel_filters, sample_rate
from ..mouth import shape_size
from .lipcode import hidden

weights = Path(__file__).resolve().parents[1] / "weights" / "whisper_base.safetensors"
"""Of the speech encoder, by examples/whisper_encoder.py."""
token_rate = 50
"""Shapes a second."""
samples_per_token = sample_rate // token_rate
width, heads, layers = 512, 8, 3
"""Of Whisper's `base`, whose later layers think of words: the third of its six tells mouths best (docs)."""
longest = 600
"""Tokens that are heard together, of the 1500 the encoder can place in time: the head has learnt from spans of 2 s, and
what it is told of a word changes with the length of what was said before."""
overlap = 50
"""Tokens at either end of a longer sound's pieces that only lend their context to the others."""
near_sound, fade = 5, 5
"""Tokens around a sound in which it moves the mouth, and half of those in which that comes or goes at their edges."""
n_fft, hop_length = 400, 160


class SpeechEncoder(nn.Module):
    """The first layers of Whisper's encoder [Radford et al. 2022; openai/whisper, model.py], of size `base`.

    It knows 99 languages.

    forward: sound (B, N) at 16 kHz in [-1, 1], N a multiple of 320 up to 480,000 → (B, 512, N / 320); token k is
    centred at sample 320 k.

    Its weights are never trained, so they lie beside the models instead of in each: they are no part of its state.
    """

    def __init__(self) -> None:
        super().__init__()
        with safe_open(weights, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                self.register_buffer(name, file.get_tensor(name).float(), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters(n_fft, 0.0, 8000.0)), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    filters: Tensor
    window: Tensor

    def forward(self, wave: Tensor) -> Tensor:
        x = F.gelu(F.conv1d(self.log_mel(wave), *self._of("conv1"), padding=1))
        x = F.gelu(F.conv1d(x, *self._of("conv2"), stride=2, padding=1)).transpose(1, 2)
        x = x + self.get_buffer("positions")[: x.shape[1]]
        for layer in range(layers):
            joint = F.linear(self._normal(x, f"norm1_{layer}"), *self._of(f"attention_in_{layer}"))
            query, key, value = joint.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            x = x + F.linear(seen, *self._of(f"attention_out_{layer}"))
            thought = F.gelu(F.linear(self._normal(x, f"norm2_{layer}"), *self._of(f"linear1_{layer}")))
            x = x + F.linear(thought, *self._of(f"linear2_{layer}"))
        return x.transpose(1, 2)

    def _of(self, part: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{part}_weight"), self.get_buffer(f"{part}_bias")

    def _normal(self, x: Tensor, part: str) -> Tensor:
        return F.layer_norm(x, (width,), *self._of(part))

    def log_mel(self, wave: Tensor) -> Tensor:
        """Whisper's log-mel (B, 80, N / 160): powers over 8 decades below the loudest, about -1…1 [its audio.py]."""
        with torch.autocast(wave.device.type, enabled=False):  # powers of 8 decades
            spectrum = torch.stft(wave.float(), n_fft, hop_length, window=self.window, return_complex=True)
            mel = torch.log10((self.filters @ spectrum[..., :-1].abs().square()).clamp(min=1e-10))
        return (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8) + 4) / 4


class _Moment(nn.Module):
    """What lies `dilation` tokens before and after, added to what is there."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv1d(channels, channels, 1, bias=False),
        )
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x + self.layers(x)))


class Ear(nn.Module):
    """Speech → mouth shapes: a frozen encoder, and a head that looks 140 ms to either side.

    forward: sound (B, N) as the encoder takes it → shapes (B, 8, N / 320), as the head heard them: core.nets.lipcode
    gives them their gain.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SpeechEncoder()
        self.head = nn.Sequential(
            nn.BatchNorm1d(width, affine=False),
            nn.Dropout1d(0.4),
            nn.Conv1d(width, hidden, 1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            *(_Moment(hidden, dilation) for dilation in (1, 2, 4)),
            nn.Dropout(0.5),
            nn.Conv1d(hidden, shape_size, 1),
        )

    def forward(self, wave: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.encoder(wave)
        return self.head(features.float())

    @torch.inference_mode()
    def listen(self, wave: Tensor) -> Tensor:
        """Shapes (8, T) of a sound (N,) of any length; T = ⌈N / 320⌉ + 100, shape k at sample 320 (k - 50).

        A second of silence is heard before and after it. Where the sound is digital silence, as outside a gate, the
        shape is that of silence alone, whatever the words around it make the encoder expect.
        """
        tokens = -(-len(wave) // samples_per_token) + 2 * overlap
        parts, sounds = [], []
        for first in range(0, max(1, tokens - 2 * overlap), longest - 2 * overlap):
            last = min(first + longest, tokens)
            begin, end = ((token - overlap) * samples_per_token for token in (first, last))
            piece = F.pad(wave[max(0, begin) : end], (max(0, -begin), max(0, end - max(len(wave), begin))))
            own = slice(overlap if first else 0, None if last == tokens else -overlap)
            parts.append(self(piece[None])[0, :, own])
            sounds.append(piece.unflatten(0, (-1, samples_per_token)).ne(0).any(1)[own])
        rest = self(wave.new_zeros(1, 2 * overlap * samples_per_token))[0].mean(1, keepdim=True)
        near = F.max_pool1d(torch.cat(sounds)[None].float(), 2 * near_sound + 1, 1, near_sound)
        share = F.avg_pool1d(near, 2 * fade + 1, 1, fade, count_include_pad=False)
        return rest + share * (torch.cat(parts, 1) - rest)
