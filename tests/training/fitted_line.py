# SPDX-License-Identifier: GPL-3.0-or-later
"""A task that is understood by heart: a line through points, with a batch norm behind it if asked.

As a program it trains the line in several processes: python fitted_line.py FOLDER DEVICES BATCH NORM PATIENCE
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from training_cli.fit import FitResult, FitSettings, Task, fit


class Points(Dataset[dict[str, Tensor]]):
    """(x, 2 x + 1); a sample in `poisoned` is not finite."""

    def __init__(self, poisoned: set[int] | None = None) -> None:
        self.poisoned = poisoned or set()

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        x = torch.tensor([float("nan") if number in self.poisoned else float(number % 7) - 3])
        return {"x": x, "y": 2 * x + 1}


class Line(Task):
    name = "line"

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        line = nn.Linear(1, 1)
        nn.init.zeros_(line.weight)
        nn.init.zeros_(line.bias)
        self.net = nn.Sequential(line, nn.BatchNorm1d(1)) if norm else nn.Sequential(line)
        self.poisoned: set[int] = set()
        """Steps whose loss is not finite."""

    def averaged(self) -> nn.Module:
        return self.net

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        return {"loss": loss * float("nan") if step in self.poisoned else loss}

    def evaluate(self, batches, step: int) -> dict[str, float]:
        return {"loss": float(torch.stack([self(batch, -1)["loss"] for batch in batches]).mean())}

    def save(self, path: Path, card: dict[str, Any]) -> None:
        save_file(self.net.state_dict(), path)


@dataclass(frozen=True)
class Config:
    """Settings of the line."""

    output: str = ""
    """Folder."""
    fit: FitSettings = field(default_factory=FitSettings)
    """The loop."""


settings = FitSettings(
    steps=60, batch=4, rate=0.1, workers=0, log_every=5, evaluate_every=20, save_every=10, dev_samples=8,
    accelerator="cpu", average=0.9,
)  # fmt: skip


def run(task: Line, folder: Path, points: Points | None = None, **changes: Any) -> FitResult:
    asked = replace(settings, **changes)
    return fit(task, points or Points(), Points(), asked, folder, Config(str(folder), asked))


if __name__ == "__main__":
    devices, batch, norm, patience = map(int, sys.argv[2:])
    changes = {"devices": devices, "strategy": "ddp", "batch": batch, "patience": patience, "evaluate_every": 5}
    run(Line(bool(norm)), Path(sys.argv[1]), **changes)
