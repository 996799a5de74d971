# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run tells while it trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor


def for_json(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as strict JSON can hold them: null for what is not finite."""
    return {name: value if isfinite(value) else None for name, value in values.items()}


class Log:
    """Means of the last steps: to log.jsonl, to TensorBoard, and back for the progress bar."""

    def __init__(self, fabric: Fabric, folder: Path, batch: int) -> None:
        self._fabric, self._folder, self._batch = fabric, folder, batch
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._count, self._waited, self._seconds = 0, 0.0, 0.0

    def add(self, values: dict[str, Tensor], waited: float, seconds: float) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros_like(value, dtype=torch.float32), 0))
            self._sums[name] = total + value, count + 1  # a loss may begin in the middle of a line
        self._count += 1
        self._waited += waited
        self._seconds += seconds

    def write(self, step: int) -> dict[str, str]:
        values = {name: (total / count).item() for name, (total, count) in self._sums.items()}
        values["steps_per_second"] = self._count / self._seconds
        values["samples_per_second"] = self._batch * self._count / self._seconds
        values["loader_share"] = self._waited / self._seconds
        self._clear()
        self._row(step, values)
        return {name: f"{values[name]:.4g}" for name in ("loss", "samples_per_second", "loader_share")}

    def evaluation(self, step: int, values: dict[str, float], sheet: Tensor | None) -> None:
        self._row(step, {f"dev/{name}": value for name, value in values.items()})
        if sheet is not None and self._fabric.global_rank == 0:
            cast(TensorBoardLogger, self._fabric.logger).experiment.add_image("dev", sheet, step)

    def _row(self, step: int, values: dict[str, float]) -> None:
        if self._fabric.global_rank:
            return
        with open(self._folder / "log.jsonl", "a", encoding="utf-8") as file:
            rounded = {name: round(value, 6) for name, value in values.items()}
            file.write(json.dumps({"step": step} | for_json(rounded)) + "\n")
        self._fabric.log_dict(values, step)
