# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train export`: a run's net as one small file with a card, for `lipsync redub --model`, or as ONNX."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from torch import Tensor

from core.errors import JobError, ModelError, OutputError
from core.mouth import shape_size
from core.nets.checkpoint import Net, load_net, save_net
from core.nets.generator import Generator
from core.nets.syncnet import SyncNet, face_height, face_width
from core.timing import mel_window_length

from .config import dump

opset = 18
"""Of the ONNX files: the newest that PyTorch's exporter writes without a conversion, and that runtimes have had
since 2023."""
largest_difference = 1e-3
"""Between torch's and onnxruntime's outputs, which lie in 0…1; a larger one is no rounding."""


@dataclass(frozen=True)
class ExportSettings:
    """A net as a file for others."""

    run: str
    """Folder of a run, finished or not, or a net's .safetensors."""
    output: str
    """The file to write. One that ends in .safetensors gets the weights in half precision; one that ends in .onnx is
    ONNX: float32, any batch size, checked against torch by onnxruntime."""
    card: str = ""
    """JSON file with what users should know of the model: data, licence, results. It is added to what the run wrote."""


def export(settings: ExportSettings) -> str:
    """Writes the file.

    Returns:
        What was written, for the user.

    Raises:
        ModelError: there is no net in the run, or its ONNX gives other numbers.
        JobError: the card cannot be read.
        OutputError: the output is there already or cannot be.
    """
    output = Path(settings.output)
    refuse_to_overwrite(output, ".safetensors", ".onnx")
    net, card = load_net(find_net(Path(settings.run)))
    card |= _read_card(settings.card)
    said = str(output)
    if output.suffix == ".onnx":
        difference = export_onnx(net, card, output)
        said += f": opset {opset}; at most {difference:.1e} from torch on random inputs."
    else:
        save_net(output, net, card)
    dump(settings, output.with_name(f"{output.name}.toml"))
    return said


def refuse_to_overwrite(output: Path, *suffixes: str) -> None:
    """Sees that `output` can be written before any work is done.

    Raises:
        OutputError: it is there already, its folder is not, or it has another suffix.
    """
    if output.suffix not in suffixes:
        wanted = " or ".join(suffixes)
        raise OutputError(f"{output} does not end in {wanted}.", f"Choose a name that ends in {wanted}.")
    if output.exists():
        raise OutputError(f"{output} exists already.", "Choose another name: nothing is overwritten.")
    if not output.parent.is_dir():
        raise OutputError(f"There is no folder {output.parent}.")


def find_net(run: Path) -> Path:
    """The net's file of a run's folder, or `run` itself when it is a file.

    Raises:
        ModelError: the folder has no net yet, or several.
    """
    if not run.is_dir():
        return run
    nets = sorted(run.glob("*.safetensors"))
    if not nets:
        raise ModelError(f"There is no .safetensors in {run}.", "A run writes its net when it first saves: train on.")
    if len(nets) > 1:
        names = ", ".join(path.name for path in nets)
        raise ModelError(f"There are several nets in {run}: {names}.", "Name the file instead of the folder.")
    return nets[0]


def _read_card(path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        card = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise JobError(f"The card {path} cannot be read: {e}.", "Give a JSON file.") from None
    if not isinstance(card, dict):
        raise JobError(f"The card {path} is no JSON object.", 'Give one such as {"licence": "CC BY 4.0"}.')
    return card


def inputs_of(net: Net, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of a net by their names in ONNX, in the ranges it is made for."""
    random = torch.Generator().manual_seed(seed)
    if isinstance(net, SyncNet):
        heard, pictures = mel_window_length, {"window": (15, face_height, face_width)}
    else:
        heard, pictures = net.config.audio_frames, {"face": (6, net.config.image_size, net.config.image_size)}
    inputs = {name: torch.rand(batch, *shape, generator=random) for name, shape in pictures.items()}
    sounds: dict[str, tuple[int, ...]] = {"mel": (1, 80, heard)}
    if isinstance(net, Generator) and net.lip_code:
        sounds = {"shapes": (shape_size,)} if net.ear else sounds
        sounds["reference_shapes"] = (shape_size,)
    return inputs | {name: torch.rand(batch, *shape, generator=random) * 8 - 4 for name, shape in sounds.items()}


def export_onnx(net: Net, card: dict[str, Any], output: Path) -> float:
    """Writes a net as ONNX with its config and card in `metadata_props`, complete or not at all.

    Inputs `face` (or `window`), `mel` (where the net has an ear: the `shapes` it heard) and, where it has a lip code,
    `reference_shapes`; output `picture` (or
    `cosine`), float32, as the net's forward has them; the batch size is free.

    Returns:
        Largest difference of onnxruntime's output from torch's, on random inputs of two batch sizes.

    Raises:
        ModelError: that difference is above `largest_difference`; nothing is left of the file.
    """
    import onnx

    example = inputs_of(net, 2)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the inputs share one name for their batch size is meant
        program = torch.onnx.export(
            net,
            tuple(example.values()),
            input_names=list(example),
            output_names=["cosine" if isinstance(net, SyncNet) else "picture"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    onnx.helper.set_model_props(
        model,
        {"net": type(net).__name__, "config": json.dumps(asdict(net.config)), "card": json.dumps(card)},
    )
    temporary = output.with_name(f"{output.name}.{os.getpid()}.part")
    try:
        onnx.save(model, temporary)
        difference = _difference(net, temporary)
        if not difference <= largest_difference:
            raise ModelError(
                f"The ONNX of this net is {difference:.1e} off what torch draws; it was not kept.",
                "Export it as .safetensors, or try other versions of torch and onnxscript.",
            )
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _forget_origin(part: Message) -> None:
    """Clears what the exporter notes on every part of a model: stack traces, with the paths of who exports it."""
    for field, value in part.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            part.ClearField(field.name)
        elif field.message_type:
            for inner in [value] if isinstance(value, Message) else value:
                _forget_origin(inner)


@torch.inference_mode()
def _difference(net: Net, path: Path) -> float:
    """How far onnxruntime's output lies from torch's at most; nan when it is no number."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in (1, 3):
        inputs = inputs_of(net, batch, seed=batch)
        expected = net(*inputs.values())
        found = torch.from_numpy(np.asarray(session.run(None, {n: t.numpy() for n, t in inputs.items()})[0]))
        if found.shape != expected.shape:
            return float("nan")
        largest = max(largest, float((found - expected).abs().max()))
    return largest
