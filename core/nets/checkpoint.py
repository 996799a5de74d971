# SPDX-License-Identifier: GPL-3.0-or-later
"""Generators on disk: safetensors for the weights, JSON in its header for the rest. Nothing in a file is executed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ModelError
from .generator import Generator, GeneratorConfig

format_name = "lipsync-redub generator 1"
default_model = Path(__file__).resolve().parents[1] / "weights" / "default.safetensors"


def save_generator(path: Path, generator: Generator, card: dict[str, Any], dtype: torch.dtype = torch.float16) -> None:
    """Writes a generator, complete or not at all.

    Args:
        card: what a user should know: data, licence, steps, losses, results; anything JSON can hold.
        dtype: of the floating point tensors on disk.
    """
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in generator.state_dict().items()
    }
    metadata = {"format": format_name, "config": json.dumps(asdict(generator.config)), "card": json.dumps(card)}
    temporary = path.with_suffix(".part")
    save_file(state, temporary, metadata)
    temporary.replace(path)


def load_generator(path: Path) -> tuple[Generator, dict[str, Any]]:
    """The generator of a file, in float32 and eval mode, and its card.

    Raises:
        ModelError: no such file, no safetensors, not a generator of ours, or tensors of other names or shapes.
    """
    if not path.is_file():
        raise ModelError(f"There is no model file {path}.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as e:
        raise ModelError(f"{path} is not a safetensors file ({e}).") from None
    if metadata.get("format") != format_name:
        raise ModelError(f"{path} holds no generator of this tool.")
    try:
        config = GeneratorConfig(**json.loads(metadata["config"]))
        card = json.loads(metadata.get("card", "{}"))
        generator = Generator(config)
        generator.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ModelError(f"The settings in {path} cannot be used: {e}.") from None
    except RuntimeError as e:
        first = str(e).splitlines()[1].strip() if "\n" in str(e) else str(e)
        raise ModelError(f"The weights in {path} do not fit its network: {first}") from None
    return generator.eval(), card
