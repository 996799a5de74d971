# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages of the pipeline as PNG files, for a few frames of a job."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from .errors import OutputError

shown_frames = 12


def check_folder(folder: str, output: str) -> None:
    """Refuse, before any work is done, a folder in which something would be lost.

    Args:
        folder: for the pictures; empty: none.
        output: of the job.

    Raises:
        OutputError: it is no folder, holds something, or is the output's own place.
    """
    if not folder:
        return
    place, made = os.path.realpath(folder), os.path.realpath(output)
    if place == made or place.startswith(os.path.join(made, "")):
        raise OutputError(f"The debug folder {folder} is where the output goes.", "Name another one.")
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise OutputError(f"{folder} is there already and is no empty folder.", "Name a new folder for the stages.")


class Debug:
    """Writes pictures into a folder; does nothing when the folder's name is empty.

    Args:
        folder: made when missing.
        count: frames of the job, of which `shown_frames` are shown.

    Raises:
        OutputError: the folder cannot be made; `save` too, when the disk is full.
    """

    def __init__(self, folder: str, count: int) -> None:
        self._folder = Path(folder)
        self._step = max(1, count // shown_frames) if folder else 0
        try:
            if folder:
                self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OutputError(f"The debug folder {folder} cannot be made: {e.strerror}.") from None

    def wants(self, frame: int) -> bool:
        return bool(self._step) and frame % self._step == 0

    def save(self, frame: int, **pictures: np.ndarray) -> None:
        """Pictures (h, w) or (h, w, 3), 0 to 255, as `<frame>_<name>.png`."""
        for name, picture in pictures.items():
            pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
            bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
            png = cv2.imencode(".png", bgr)[1].tobytes()  # imwrite cannot do every path on Windows
            try:
                (self._folder / f"{frame:06d}_{name}.png").write_bytes(png)
            except OSError as e:
                raise OutputError(f"{self._folder} cannot be written to: {e.strerror}.") from None
