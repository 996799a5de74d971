# SPDX-License-Identifier: GPL-3.0-or-later
"""A face-restoration net of the user's own over the generated patch: GFPGAN, CodeFormer and their kin as ONNX.

Such a net takes a whole face, upright and larger than ours in its picture (FFHQ's alignment), RGB in -1..1, and gives
it back in the same form. Only what lies under the mask is used of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import compose, faces
from .errors import ModelError

zoom = 1.49
"""Side of an FFHQ crop over ours: its eyes are 0.246 of the side apart, ours 0.366."""
eyes_at, our_eyes_at = 0.47, 0.224
"""Height of the eyes' middle in the two crops, both 0.5 from the left."""
sizes = (256, 512)
weight_names = ("w", "weight")
hint = "Name an ONNX file of the class of GFPGAN or CodeFormer: a picture 1x3x512x512 in, one out."


class Restorer:
    """A user's net, ready to run.

    Args:
        path: the .onnx file.
        weight: what CodeFormer-like nets take as their second input: 0 is the most beautiful, 1 the most faithful.
        device: `cpu`, or a CUDA device where onnxruntime has it.

    Raises:
        ModelError: onnxruntime or the file is missing, or the net does not fit.
    """

    def __init__(self, path: str, weight: float = 0.5, device: str = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ModelError(
                "Face restoration needs onnxruntime, which is not installed.",
                "Install it into the runtime: pip install onnxruntime.",
            ) from None
        if not Path(path).is_file():
            raise ModelError(f"The restoration model {path} does not exist.", hint)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its mistakes become our sentences
        wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        wanted = [p for p in wanted if p in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]
        self._path = path
        try:
            self._net: Any = onnxruntime.InferenceSession(path, options, providers=wanted)
        except Exception as e:  # onnxruntime's errors have no common class of their own
            raise ModelError(f"{path} is no ONNX model that can be run: {_first_line(e)}", hint) from None
        self._read_inputs(weight)
        self._run(np.zeros((1, 3, self.size, self.size), np.float32))

    def _read_inputs(self, weight: float) -> None:
        first, *others = self._net.get_inputs()
        shape = first.shape
        if first.type != "tensor(float)" or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise ModelError(f"{self._path} does not take one RGB picture, but {first.type} of {shape}.", hint)
        sides = {side for side in shape[2:] if isinstance(side, int)} or {512}
        if len(sides) != 1 or not sides <= set(sizes):
            raise ModelError(f"{self._path} takes pictures of {shape[2:]}, not 256 x 256 or 512 x 512.", hint)
        self.size: int = sides.pop()
        self._picture = first.name
        self._others: dict[str, np.ndarray] = {}
        for other in others:
            kind = {"tensor(float)": np.float32, "tensor(double)": np.float64}.get(other.type)
            if other.name not in weight_names or kind is None or len(other.shape) > 1:
                raise ModelError(f"{self._path} wants an input {other.name!r} that nobody knows.", hint)
            self._others[other.name] = np.full((1,) * len(other.shape), weight, kind)

    def _run(self, picture: np.ndarray) -> np.ndarray:
        """(s, s, 3) float32, 0 to 255, for a picture (1, 3, size, size) in -1..1."""
        try:
            made = np.asarray(self._net.run(None, {self._picture: picture, **self._others})[0], np.float32)
        except Exception as e:
            raise ModelError(f"{self._path} failed: {_first_line(e)}", hint) from None
        if made.ndim != 4 or made.shape[:2] != (1, 3) or made.shape[2] != made.shape[3]:
            raise ModelError(f"{self._path} gives {made.shape} and no square RGB picture.", hint)
        return np.clip(np.nan_to_num(made[0].transpose(1, 2, 0)) * 127.5 + 127.5, 0, 255)

    def restore(self, patch: compose.Patch, source: faces.Pixels, to_crop: np.ndarray) -> compose.Patch:
        """The patch as the net gives it back.

        Args:
            source: the picture the patch will lie over.
            to_crop: (2, 3), frame pixels to crop units.
        """
        height, width = patch.alpha.shape
        box = np.s_[patch.y : patch.y + height, patch.x : patch.x + width]
        painted = source[:, :].copy()
        alpha = patch.alpha[..., None]
        painted[box] = np.clip(np.rint(painted[box] + alpha * (patch.rgb - painted[box])), 0, 255)
        to_face = to_crop / zoom
        to_face[:, 2] += np.array([0.5, eyes_at]) - np.array([0.5, our_eyes_at]) / zoom
        face = faces.crop(painted, to_face, self.size)
        restored = self._run(face.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
        x, y, whole, inside = faces.uncrop(restored, to_face, (patch.y + height, patch.x + width))
        rgb = patch.rgb.copy()
        top, left = max(y - patch.y, 0), max(x - patch.x, 0)
        part = np.s_[max(patch.y - y, 0) :, max(patch.x - x, 0) :]
        shown, sure = whole[part], inside[part][..., None]
        into = rgb[top : top + shown.shape[0], left : left + shown.shape[1]]
        into += sure * (shown - into)
        return replace(patch, rgb=rgb)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."
