# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a training program as it is, and says how long its steps take.

python in_turns.py [--old-librosa] PROGRAM.py|MODULE ARGUMENT …

Each line of standard input is a number of optimiser steps. When they are done, a line of JSON goes to standard output:
`steps`, `seconds` they took, and `waited`, the part of it that the program spent waiting for its DataLoader. Then the
program waits for the next line; at the end of the input it ends. What the program itself prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from typing import Any


class Turns:
    """Counts the program's optimiser steps and the time that they take."""

    def __init__(self) -> None:
        self._results = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self.waited = 0.0
        self._begin()

    def _begin(self) -> None:
        line = sys.stdin.readline()
        if not line.strip():
            os._exit(0)  # the program has no end of its own
        self._asked, self._done, self.waited = int(line), 0, 0.0
        self._begun = time.perf_counter()

    def stepped(self, *_: Any) -> None:
        import torch

        self._done += 1
        if self._done < self._asked:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._begun
        print(json.dumps({"steps": self._done, "seconds": seconds, "waited": self.waited}), file=self._results)
        self._begin()


def main() -> None:
    arguments = sys.argv[1:]
    old_librosa = arguments[0] == "--old-librosa"
    program, *sys.argv[1:] = arguments[old_librosa:]
    turns = Turns()
    watch(turns)
    if old_librosa:
        take_positions()
    if program.endswith(".py"):
        sys.path[0] = os.path.dirname(os.path.abspath(program))
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path[0] = os.getcwd()
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def watch(turns: Turns) -> None:
    """Sees the end of every optimiser step, and every wait for a DataLoader's next batch."""
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from torch.utils.data import dataloader

    register_optimizer_step_post_hook(turns.stepped)
    batches: Any = dataloader._BaseDataLoaderIter
    take = batches.__next__

    def timed(iterator: Any) -> Any:
        begin = time.perf_counter()
        batch = take(iterator)
        turns.waited += time.perf_counter() - begin
        return batch

    batches.__next__ = timed


def take_positions() -> None:
    """Lets librosa.filters.mel take its sampling rate and window by position, as it did before librosa 0.10."""
    import librosa

    by_name = librosa.filters.mel
    librosa.filters.mel = lambda sr, n_fft, **others: by_name(sr=sr, n_fft=n_fft, **others)


if __name__ == "__main__":
    main()
