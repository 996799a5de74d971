# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches of faces through the generator, on a CPU or a CUDA GPU."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from . import audio
from .allocator import keep_freed_memory
from .errors import DeviceError
from .nets import ear
from .nets.checkpoint import default_model, load_generator
from .nets.generator import Generator
from .nets.warp import flow
from .nets.wav2lip import Wav2Lip
from .timing import frame_middle

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
        self.rules = self.generator.rules
        self.moves = isinstance(self.generator, Generator) and self.generator.config.warp
        """It moves the reference (core.nets.warp)."""
        self.finest = most_fine if self.moves else 1
        """How many times larger than the net's pictures its crops may be."""
        self.hears_shapes = isinstance(self.generator, Generator) and self.generator.ear is not None
        """It tells mouth shapes from a speech, not mel windows."""
        self.generator.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def listen(
        self, wave: np.ndarray, rate: Fraction, speech_start: Fraction, count: int
    ) -> audio.MelWindows | np.ndarray:
        """What the net is given of a speech for each picture: [first:last] makes the array for `generate`.

        Args:
            wave: (samples,) float32 at 16 kHz.
            rate: pictures a second.
            speech_start: seconds from the first picture to the speech.
            count: pictures.

        Returns:
            Mel windows, or (count, 8) float32 mouth shapes (core.mouth) of a net with an ear.
        """
        if isinstance(self.generator, Wav2Lip) or not self.generator.ear:
            length = self.generator.config.audio_frames
            starts = [self.rules.mel_window(i, rate, speech_start, length) for i in range(count)]
            return audio.MelWindows(audio.log_mel(wave), starts, length)
        assert self.generator.lip_code  # GeneratorConfig sees to it
        told = self.generator.ear.listen(torch.from_numpy(wave).to(self.device))
        shapes = self.generator.lip_code.drawn(told.T).T.cpu().numpy()
        times = [float(frame_middle(i, rate) - speech_start) for i in range(count)]
        at = np.array(times) * ear.token_rate + ear.overlap
        heard = [np.interp(at, np.arange(shapes.shape[1]), numbers) for numbers in shapes]
        return np.stack(heard, 1).astype(np.float32)

    @torch.inference_mode()
    def generate(
        self, faces: np.ndarray, references: np.ndarray, heard: np.ndarray, shown: np.ndarray | None = None
    ) -> np.ndarray:
        """The faces with lips for the sound.

        Args:
            faces: (n, F, F, 3) uint8 RGB crops; their lower half is not looked at. F is image_size, or up to `finest`
                times as much.
            references: (n, F, F, 3) uint8 RGB, or (1, F, F, 3) for all: the person in another frame.
            heard: float32 from `listen`: mel windows (n, 80, audio_frames), or mouth shapes (n, 8).
            shown: (n, 8) float32 mouth shapes of the references; None: the person's median.

        Returns:
            (n, F, F, 3) uint8.

        Raises:
            DeviceError: the GPU's memory cannot hold so many at once.
        """
        try:
            return self._generate(faces, references, heard, shown)
        except torch.OutOfMemoryError:
            raise DeviceError(
                f"The memory of {self.device} is too small for {len(faces)} frames at once.",
                "Use a smaller --batch-size (`batch_size` in a job), or the device `cpu`.",
            ) from None

    def _generate(
        self, faces: np.ndarray, references: np.ndarray, heard: np.ndarray, shown: np.ndarray | None
    ) -> np.ndarray:
        size, own_size = faces.shape[1], self.image_size
        factor = size // own_size
        fine = self._to_device(references).expand(len(faces), -1, -1, -1)
        upper = F.avg_pool2d(self._to_device(faces[:, : size // 2]), factor)
        seen = torch.cat([F.pad(upper, (0, 0, 0, own_size // 2)), F.avg_pool2d(fine, factor)], 1)
        sound = torch.from_numpy(np.ascontiguousarray(heard, np.float32)).to(self.device)
        if sound.dim() == 3:
            sound = sound[:, None]
        more = {} if isinstance(self.generator, Wav2Lip) else {"fine": fine if factor > 1 else None}
        if more and shown is not None:
            more["shown"] = torch.from_numpy(np.ascontiguousarray(shown, np.float32)).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16()):
            drawn = self.generator(seen.contiguous(memory_format=torch.channels_last), sound, **more)
        drawn = drawn.mul_(255).round_().clamp_(0, 255).byte()
        return drawn.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    @torch.inference_mode()
    def flows(self, reference: np.ndarray, shapes: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """How an engine that `moves` and `hears_shapes` moves a reference for its own frame with other lips.

        Args:
            reference: (F, F, 3) uint8 RGB, as in `generate`.
            shapes: (n, 8) float32 mouth shapes to draw, for a few pictures.
            shown: (8,) float32, that of the reference.

        Returns:
            (n, 2, h, w) float32, as core.nets.warp.flow.
        """
        assert isinstance(self.generator, Generator)  # only such a net moves
        small = F.avg_pool2d(self._to_device(reference[None]), len(reference) // self.image_size)
        upper = F.pad(small[:, :, : self.image_size // 2], (0, 0, 0, self.image_size // 2))
        face = torch.cat([upper, small], 1).expand(len(shapes), -1, -1, -1)
        steps = torch.from_numpy(np.ascontiguousarray(shapes, np.float32)).to(self.device)
        audio_map = self.generator.hear(steps, torch.from_numpy(np.float32(shown)).to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16()):
            answer = self.generator.answer(face.contiguous(memory_format=torch.channels_last), audio_map)
        return flow(answer).cpu().numpy()

    def _to_device(self, pictures: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device)
        return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _bfloat16(self) -> bool:
        """Half precision where the hardware has it; elsewhere it is emulated, and slower."""
        if self.device.type == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cpu._is_avx512_bf16_supported()
