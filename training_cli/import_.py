# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train import`: Wav2Lip's published checkpoints as our safetensors. Nothing in them is executed."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import ModelError
from core.nets.checkpoint import save_net
from core.nets.syncnet import SyncNet
from core.nets.wav2lip import Wav2Lip

from .config import dump
from .export import refuse_to_overwrite

published_parts = {
    Wav2Lip: {
        "encoder": "face_encoder_blocks",
        "sound_encoder": "audio_encoder",
        "decoder": "face_decoder_blocks",
        "output": "output_block",
    },
    SyncNet: {"face_encoder": "face_encoder", "sound_encoder": "audio_encoder"},
}
"""What Wav2Lip calls the parts of its nets [models/wav2lip.py, models/syncnet.py]."""
get_them = "Get wav2lip.pth, wav2lip_gan.pth or lipsync_expert.pth from the links of Wav2Lip's own README."


@dataclass(frozen=True)
class ImportSettings:
    """Wav2Lip's published checkpoints."""

    checkpoint: str
    """Wav2Lip's .pth: its generator (wav2lip.pth, wav2lip_gan.pth) or its sync expert (lipsync_expert.pth)."""
    output: str
    """The .safetensors to write: for `lipsync redub --model` a generator, for `--expert` an expert."""


def import_checkpoint(settings: ImportSettings) -> str:
    """Converts a checkpoint; its file says which net it is.

    Returns:
        What was written, for the user.

    Raises:
        ModelError: no checkpoint of Wav2Lip's, or one that holds more than numbers.
        OutputError: the output is there already or cannot be.
    """
    path, output = Path(settings.checkpoint), Path(settings.output)
    refuse_to_overwrite(output, ".safetensors")
    content = _read(path)
    state = _state(path, content)
    net: Wav2Lip | SyncNet
    if any(name.startswith("face_decoder_blocks.") for name in state):
        net, kind = Wav2Lip(), "generator"
    elif any(name.startswith("face_encoder.") for name in state):
        net, kind = SyncNet(), "sync expert"
    else:
        raise ModelError(f"{path} holds neither Wav2Lip's generator nor its sync expert.", get_them)
    _fill(net, state, path)
    flip_colours(net)
    card = {
        "name": f"Wav2Lip's {kind}",
        "source": "https://github.com/Rudrabha/Wav2Lip",
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "step": content["global_step"] if isinstance(content.get("global_step"), int) else None,
        "data": "LRS2",
        "licence": "Wav2Lip's: research, academic and personal use only, nothing commercial.",
    }
    save_net(output, net, card, torch.float32)
    dump(settings, output.with_name(f"{output.name}.toml"))
    return f"{output}: {card['name']}. Licence: {card['licence']}"


def published_name(name: str, parts: Mapping[str, str]) -> str:
    """What Wav2Lip calls our tensor `name`, with `parts` of `published_parts`."""
    *place, layer, tensor = name.split(".")
    words = [parts[place[0]], *place[1:]]
    if len(place) == 1:  # the last convolution stands alone
        return ".".join([*words, layer, tensor])
    return ".".join([*words, "conv_block", {"conv": "0", "norm": "1"}.get(layer, layer), tensor])


def flip_colours(net: Wav2Lip | SyncNet) -> None:
    """Changes a net of BGR pictures into the same of RGB pictures, or back."""
    with torch.no_grad():
        first = (net.encoder if isinstance(net, Wav2Lip) else net.face_encoder).get_parameter(
            "0.0.0.weight" if isinstance(net, Wav2Lip) else "0.0.weight"
        )
        first.copy_(first.unflatten(1, (-1, 3)).flip(2).flatten(1, 2))
        if isinstance(net, Wav2Lip):
            for last in net.output[-1].parameters():
                last.copy_(last.flip(0))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", get_them)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it tells of a way to run what is in the file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} is no checkpoint, or holds more than numbers; nothing in it was run.",
            f"A pickle can run programs when it is read. {get_them}",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        if "TorchScript" in str(e):
            raise ModelError(f"{path} is a TorchScript archive, a program; nothing in it was run.", get_them) from None
        why = " ".join(str(e).split()).split(". ")[0].rstrip(".") or type(e).__name__
        raise ModelError(f"{path} cannot be read as a checkpoint of PyTorch: {why}.", get_them) from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__} instead of a checkpoint of Wav2Lip's.", get_them)
    return content


def _state(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors by Wav2Lip's names; those of nets trained on several GPUs begin with `module.`."""
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise ModelError(f"The state_dict in {path} is no list of tensors.", get_them)
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items() if torch.is_tensor(tensor)}


def _fill(net: Wav2Lip | SyncNet, state: dict[str, Tensor], path: Path) -> None:
    """Loads tensors by their published names into our net; all of them must be there, and no others."""
    ours = net.state_dict()
    theirs = {published_name(name, published_parts[type(net)]): name for name in ours}
    found = {}
    for published, name in theirs.items():
        tensor = state.pop(published, None)
        if tensor is None and name.endswith("num_batches_tracked"):  # not written by PyTorch before 0.4.1
            continue
        if tensor is None:
            raise ModelError(f"{path} lacks the tensor {published}.", get_them)
        if tensor.shape != ours[name].shape:
            shapes = " instead of ".join(str(tuple(t.shape)) for t in (tensor, ours[name]))
            raise ModelError(f"The tensor {published} in {path} has the shape {shapes}.", get_them)
        found[name] = tensor
    if state:
        raise ModelError(f"{path} has a tensor {next(iter(state))} that is not Wav2Lip's.", get_them)
    net.load_state_dict(found, strict=False)
