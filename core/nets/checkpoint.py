# SPDX-License-Identifier: GPL-3.0-or-later
"""Nets on disk: safetensors for the weights, JSON in its header for the rest. Nothing in a file is executed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from ..errors import ModelError
from .generator import Generator, GeneratorConfig
from .syncnet import SyncNet, SyncNetConfig
from .wav2lip import Wav2Lip, Wav2LipConfig

Net = Generator | Wav2Lip | SyncNet

formats: dict[str, tuple[type[Net], type[GeneratorConfig | Wav2LipConfig | SyncNetConfig]]] = {
    "lipsync-redub generator 1": (Generator, GeneratorConfig),
    "lipsync-redub wav2lip 1": (Wav2Lip, Wav2LipConfig),
    "lipsync-redub sync expert 1": (SyncNet, SyncNetConfig),
}
"""What a file's header calls its net, and what it is built from."""
default_model = Path(__file__).resolve().parents[1] / "weights" / "default.safetensors"


def save_net(path: Path, net: Net, card: dict[str, Any], dtype: torch.dtype = torch.float16) -> None:
    """Writes a net, complete or not at all.

    Args:
        card: what a user should know: data, licence, steps, losses, results; anything JSON can hold.
        dtype: of the floating point tensors on disk; a tensor with values it cannot hold stays as it is.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; nothing is left of the file.
    """
    kind = next(name for name, (net_type, _) in formats.items() if isinstance(net, net_type))
    state = {name: _narrowed(tensor, dtype).contiguous() for name, tensor in net.state_dict().items()}
    metadata = {"format": kind, "config": json.dumps(asdict(net.config)), "card": json.dumps(card)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(serialised(state, metadata))  # save_file would let nobody but its maker read it
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    narrow = tensor.to(dtype)
    return narrow if bool(narrow.isfinite().all()) else tensor


def load_net(path: Path) -> tuple[Net, dict[str, Any]]:
    """The net of a file, in float32 and eval mode, and its card.

    Raises:
        ModelError: no such file, no safetensors, not a net of ours, or tensors of other names or shapes.
    """
    if not path.is_file():
        raise ModelError(f"There is no model file {path}.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in formats:
                raise ModelError(f"{path} holds no net of this tool.")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as e:
        raise ModelError(f"{path} is not a safetensors file ({e}).") from None
    net_type, config_type = formats[metadata["format"]]
    try:
        net = net_type(config_type(**json.loads(metadata["config"])))  # pyright: ignore[reportArgumentType]
        card = dict(json.loads(metadata.get("card", "{}")))
        net.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ModelError(f"The settings in {path} cannot be used: {e}.") from None
    except RuntimeError as e:
        first = str(e).splitlines()[1].strip() if "\n" in str(e) else str(e)
        raise ModelError(f"The weights in {path} do not fit its network: {first}") from None
    return net.eval(), card


def load_generator(path: Path) -> tuple[Generator | Wav2Lip, dict[str, Any]]:
    """The generator of a file, in float32 and eval mode, and its card.

    Raises:
        ModelError: as `load_net`, or the file holds another kind of net.
    """
    net, card = load_net(path)
    if isinstance(net, SyncNet):
        raise ModelError(f"{path} holds a sync expert, which draws nothing.", "Name a generator's .safetensors.")
    return net, card


def load_expert(path: Path) -> tuple[SyncNet, dict[str, Any]]:
    """The sync expert of a file, in float32 and eval mode, and its card.

    Raises:
        ModelError: as `load_net`, or the file holds another kind of net.
    """
    net, card = load_net(path)
    if not isinstance(net, SyncNet):
        raise ModelError(
            f"{path} holds a generator, which judges nothing.",
            "Name the .safetensors of `lipsync-train expert`, or of `lipsync-train import` of lipsync_expert.pth.",
        )
    return net, card
