# SPDX-License-Identifier: GPL-3.0-or-later
"""Fast Fourier Convolution [Chi et al. 2020; as in LaMa, Suvorov et al. 2022] for maps of one fixed size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FourierUnit(nn.Module):
    """A 1 x 1 convolution, batch norm and ReLU over the spectrum of a map. (B, C, S, S) → the same.

    The orthonormal real FFT of a small map is a product with a constant matrix: the same numbers as torch.fft, faster
    at 6 x 6 on a CPU, and legal in half precision and in ONNX.
    """

    forward_dft: Tensor
    inverse_dft: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        to, back = dft_matrices(size)
        self.register_buffer("forward_dft", to, persistent=False)
        self.register_buffer("inverse_dft", back, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, _ = x.shape
        spectrum = x.flatten(2) @ self.forward_dft.to(x.dtype)  # real parts, then imaginary ones
        spectrum = F.relu(self.norm(self.conv(spectrum.view(batch, 2 * channels, height, -1))))
        return (spectrum.flatten(2).reshape(batch, channels, -1) @ self.inverse_dft.to(spectrum.dtype)).view_as(x)


def dft_matrices(size: int) -> tuple[Tensor, Tensor]:
    """Orthonormal rfft2 of size² values as a matrix (size², 2K), K = size (size // 2 + 1), and irfft2 as (2K, size²).

    Columns and rows hold all real parts before all imaginary parts.
    """
    basis = torch.eye(size * size, dtype=torch.float64).view(-1, size, size)
    spectrum = torch.fft.rfft2(basis, norm="ortho").flatten(1)
    to = torch.cat([spectrum.real, spectrum.imag], 1)
    half = size * (size // 2 + 1)
    parts = torch.eye(2 * half, dtype=torch.float64)
    complex_parts = torch.complex(parts[:, :half], parts[:, half:]).view(-1, size, size // 2 + 1)
    back = torch.fft.irfft2(complex_parts, s=(size, size), norm="ortho").flatten(1)
    return to.float(), back.float()


class SpectralTransform(nn.Module):
    """The global branch: 1 x 1 to half the channels, Fourier unit with a shortcut, 1 x 1 back."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        half = channels // 2
        self.narrow = nn.Sequential(nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.fourier = FourierUnit(half, size)
        self.widen = nn.Conv2d(half, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        return self.widen(x + self.fourier(x))


class FFC(nn.Module):
    """Fast Fourier Convolution, batch norm, ReLU. (B, C, S, S) → the same.

    Args:
        channels: C.
        size: S.
        ratio: part of the channels in the global branch (LaMa: 0.75).
    """

    def __init__(self, channels: int, size: int, ratio: float = 0.75) -> None:
        super().__init__()
        self.n_global = n_global = int(channels * ratio)
        self.n_local = n_local = channels - n_global

        def conv(c_in: int, c_out: int) -> nn.Conv2d:
            return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False, padding_mode="reflect")

        self.local_to_local = conv(n_local, n_local)
        self.local_to_global = conv(n_local, n_global)
        self.global_to_local = conv(n_global, n_local)
        self.global_to_global = SpectralTransform(n_global, size)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        near, far = x.split([self.n_local, self.n_global], 1)
        near_out = self.local_to_local(near) + self.global_to_local(far)
        far_out = self.global_to_global(far) + self.local_to_global(near)
        return F.relu(self.norm(torch.cat([near_out, far_out], 1)))
