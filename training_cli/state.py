# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's saved state, as it is read: what anybody may have put there is data, and never code."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.errors import ModelError

unreadable = (
    *(OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    pickle.UnpicklingError,
)
"""What torch.load and load_state_dict raise for a file that they cannot or will not read."""
state_name = "state.ckpt"


@dataclass
class RunState:
    """What a run is, besides its weights."""

    step: int = 0
    best: float = float("inf")
    unimproved: int = 0
    rollbacks: int = 0
    done: bool = False
    evaluation: dict[str, float] = field(default_factory=dict)


def load_state(folder: Path) -> dict[str, Any]:
    """The state of a run; nothing in it is executed.

    Raises:
        ModelError: there is none, or it is damaged, or it is something else.
    """
    path, hint = folder / state_name, "Name the output folder of a run; if its state is damaged, begin anew in another."
    if path.is_file() and not path.stat().st_size:
        raise ModelError(f"The state of a run in {folder} cannot be read: the file is empty.", hint)
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except unreadable as e:
        raise ModelError(f"The state of a run in {folder} cannot be read: {first_line(e)}", hint) from None
    try:
        if not isinstance(kept, dict):
            raise TypeError
        RunState(**kept["run"])
        told = (json.loads(kept["config"]), kept.get("files", {}), kept["task"], kept["optimizer"])
        if not all(isinstance(part, dict) for part in told) or "average" not in kept:
            raise TypeError
    except unreadable:
        raise ModelError(f"{path} is a file of PyTorch, but not the state of a run.", hint) from None
    return kept


def first_line(error: Exception) -> str:
    """What an error says, without the rest of what some libraries say; some say nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
