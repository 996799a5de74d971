# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepared clips on disk: one safetensors file a clip, mapped into memory when read, and never executed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core.errors import MediaError
from core.faces.mesh import face_oval, lips, rigid

crop_size = 96
margin = 8
"""Crop pixels kept on every side beyond the net's view, so that training can shift it."""
stored_size = crop_size + 2 * margin
points = (*lips, *face_oval, *rigid)
"""Mesh points kept of each frame: 40 of the lips, 36 of the face's outline, 9 rigid ones."""


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a prepared clip."""

    source: str
    """The video's name below the folder it was prepared from."""
    identity: str
    split: str
    """`train`, `dev` or `test`."""
    rate: Fraction
    licence: str = ""


@dataclass(frozen=True)
class Clip:
    """A prepared clip of T frames."""

    info: ClipInfo
    crops: np.ndarray
    """(T, 112, 112, 3) uint8 RGB: the aligned crop and 8 pixels more on each side."""
    landmarks: np.ndarray
    """(T, 85, 2) float32: `points` in units of the crop, 0…1."""
    wave: np.ndarray
    """(samples,) int16 at 16 kHz; sample 0 is heard when frame 0 appears."""


def save(path: Path, clip: Clip) -> None:
    """Writes a clip, complete or not at all."""
    temporary = path.with_suffix(".part")
    arrays = {"crops": clip.crops, "landmarks": clip.landmarks, "wave": clip.wave}
    # safetensors writes an array's memory as it lies, whatever its strides say
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, temporary, metadata={"info": json.dumps(asdict(clip.info), default=str)})
    temporary.replace(path)


def load(path: Path) -> Clip:
    """Reads a clip.

    Raises:
        MediaError: no prepared clip, or one of another crop size.
    """
    try:
        with safe_open(path, "numpy") as file:
            fields = json.loads(file.metadata()["info"])
            clip = Clip(
                ClipInfo(**{**fields, "rate": Fraction(fields["rate"])}),
                *(file.get_tensor(name) for name in ("crops", "landmarks", "wave")),
            )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
        raise MediaError(f"{path} is no prepared clip: {e}.", "Run `lipsync-train prepare` again.") from None
    if clip.crops.shape[1:] != (stored_size, stored_size, 3):
        raise MediaError(f"{path} holds crops of another size.", "Run `lipsync-train prepare` again.")
    return clip
