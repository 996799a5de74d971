# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches of faces through the generator, on a CPU or a CUDA GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from .allocator import keep_freed_memory
from .errors import DeviceError
from .nets.checkpoint import default_model, load_generator
from .nets.generator import Generator

most_fine = 4
"""Beyond which a face's detail is worth less than the time: 4 x 96 pixels are a face of more than half a 720p frame."""


def choose_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a CUDA GPU if there is one.

    Raises:
        DeviceError: another name, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"There is no device called {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"The device {name!r} is not supported.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"The GPU {name!r} is not there.")
    return device


class Engine:
    """A generator, ready to draw.

    Args:
        model: a generator's .safetensors; empty: the bundled one.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelError, DeviceError.
    """

    def __init__(self, model: str = "", device: str = "auto") -> None:
        keep_freed_memory()
        self.device = choose_device(device)
        self.generator, self.card = load_generator(Path(model) if model else default_model)
        self.image_size: int = self.generator.config.image_size
        self.audio_frames: int = self.generator.config.audio_frames
        self.rules = self.generator.rules
        self.finest = most_fine if isinstance(self.generator, Generator) and self.generator.config.warp else 1
        """How many times larger than the net's pictures its crops may be."""
        self.generator.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    def generate(self, faces: np.ndarray, references: np.ndarray, mel_windows: np.ndarray) -> np.ndarray:
        """The faces with lips for the sound.

        Args:
            faces: (n, F, F, 3) uint8 RGB crops; their lower half is not looked at. F is image_size, or up to `finest`
                times as much.
            references: (n, F, F, 3) uint8 RGB, or (1, F, F, 3) for all: the person in another frame.
            mel_windows: (n, 80, audio_frames) float32 from core.audio.

        Returns:
            (n, F, F, 3) uint8.

        Raises:
            DeviceError: the GPU's memory cannot hold so many at once.
        """
        try:
            return self._generate(faces, references, mel_windows)
        except torch.OutOfMemoryError:
            raise DeviceError(
                f"The memory of {self.device} is too small for {len(faces)} frames at once.",
                "Use a smaller --batch-size (`batch_size` in a job), or the device `cpu`.",
            ) from None

    def _generate(self, faces: np.ndarray, references: np.ndarray, mel_windows: np.ndarray) -> np.ndarray:
        factor = faces.shape[1] // self.image_size
        fine = self._to_device(references).expand(len(faces), -1, -1, -1)
        upper, reference = F.avg_pool2d(self._to_device(faces), factor), F.avg_pool2d(fine, factor)
        upper[:, :, self.image_size // 2 :] = 0
        mel = torch.from_numpy(np.ascontiguousarray(mel_windows, np.float32)).to(self.device)[:, None]
        larger = (fine,) if factor > 1 else ()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16()):
            drawn = self.generator(torch.cat([upper, reference], 1), mel, *larger)
        drawn = drawn.mul(255).round().clamp(0, 255).byte()
        return drawn.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _to_device(self, pictures: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device)
        return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last) / 255

    def _bfloat16(self) -> bool:
        """Half precision where the hardware has it; elsewhere it is emulated, and slower."""
        if self.device.type == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cpu._is_avx512_bf16_supported()
