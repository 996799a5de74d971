# SPDX-License-Identifier: GPL-3.0-or-later
"""The scores of a table's run so far, kept in its folder, so that a killed run goes on."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torchmetrics.image.fid import FrechetInceptionDistance

from core.errors import OutputError

from .measure import ClipScore

save_after = 20.0
"""Seconds of work that a killed run may lose, and the clip it was at."""


class Run:
    """Scores and sentences of the clips done, in order, with FID's sums over them.

    Args:
        output: the run's folder; made where it does not exist.
        key: hash of all that the scores depend on.
        fid: whose sums are kept along.

    Raises:
        OutputError: the folder holds another run, or cannot be written to.
    """

    def __init__(self, output: Path, key: str, fid: FrechetInceptionDistance | None) -> None:
        self._path, self._key, self._fid = output / "run.safetensors", key, fid
        self.scores: list[ClipScore] = []
        self.left_out: list[tuple[str, str]] = []
        """Clip and why."""
        self._saved = time.monotonic()
        self._on_disk = 0
        try:
            for folder in (output, output / "sheets", output / "films"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OutputError(f"The folder {output} cannot be made: {e.strerror}.") from None
        if self._path.exists():
            self._load()
        elif (output / "table.json").exists():
            raise OutputError(f"{output} holds another table.", "Choose another folder: nothing is overwritten.")

    @property
    def done(self) -> int:
        """Clips measured or left out."""
        return len(self.scores) + len(self.left_out)

    def add(self, score: ClipScore) -> None:
        self.scores.append(score)
        self._save_now_and_then()

    def leave_out(self, clip: str, why: str) -> None:
        self.left_out.append((clip, why))
        self._save_now_and_then()

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > save_after:
            self.save()

    def save(self) -> None:
        """Writes all of it, complete or not at all, unless it is on disk already."""
        if self.done == self._on_disk:
            return
        scores = json.dumps([asdict(score) for score in self.scores])
        header = {"key": self._key, "scores": scores, "left_out": json.dumps(self.left_out)}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            # save_file would let nobody but its maker read it
            temporary.write_bytes(serialised({name: tensor.cpu() for name, tensor in self._sums().items()}, header))
            temporary.replace(self._path)
        except OSError as e:
            raise OutputError(f"{self._path} cannot be written: {e.strerror}.") from None
        finally:
            temporary.unlink(missing_ok=True)
        self._saved, self._on_disk = time.monotonic(), self.done

    def forget(self) -> None:
        """Removes what was kept: the next run begins anew."""
        self._path.unlink(missing_ok=True)

    def _sums(self) -> dict[str, torch.Tensor]:
        names = [f"{kind}_features_{part}" for kind in ("real", "fake") for part in ("sum", "cov_sum", "num_samples")]
        return {name: getattr(self._fid, name) for name in names} if self._fid else {}

    def _load(self) -> None:
        hint = "Choose another folder, or remove this one."
        try:
            with safe_open(self._path, "pt") as file:
                header = file.metadata() or {}
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if header.get("key") != self._key:
                raise OutputError(f"{self._path.parent} holds a run with other settings, clips or weights.", hint)
            self.scores = [ClipScore(**score) for score in json.loads(header["scores"])]
            self.left_out = [(str(clip), str(why)) for clip, why in json.loads(header["left_out"])]
            for name, tensor in self._sums().items():
                tensor.copy_(kept[name])
            self._on_disk = self.done
        except (SafetensorError, OSError, ValueError, LookupError, TypeError):
            raise OutputError(f"{self._path} is damaged.", hint) from None
