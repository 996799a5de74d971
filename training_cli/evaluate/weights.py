# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics' published weights: PyTorch files of others, of which only tensors are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from core.errors import ModelError


def read_state(path: Path, hint: str) -> dict[str, Tensor]:
    """The tensors of a state dict that torch.save wrote. Nothing in the file is executed.

    Raises:
        ModelError: no such file, or something else than a list of tensors; with `hint`.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", hint)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ModelError(f"{path} is no PyTorch file, or holds more than tensors; nothing was run.", hint) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ModelError(f"{path} cannot be read as weights of PyTorch.", hint) from None
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(value) for value in state.values()):
        raise ModelError(f"{path} holds something else than a list of tensors.", hint)
    return {str(name): tensor for name, tensor in state.items()}
