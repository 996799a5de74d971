# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracks kept between runs, so that the same footage is not searched again: safetensors files, found by content.

In the user's cache folder (or the one that the environment variable LIPSYNC_CACHE names), where nothing is precious:
a damaged file is overlooked, one that cannot be written is left out, and the oldest go when there are too many bytes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .mesh import point_count
from .tracks import FaceTrack, People

most_bytes = 500_000_000
"""A frame of a face takes 1.9 KB."""
sample = 65536
"""Bytes read at the beginning, in the middle and at the end of a file to know it again."""


def folder() -> Path:
    """Where tracks are kept."""
    named = os.environ.get("LIPSYNC_CACHE")
    return Path(named) if named else Path(user_cache_dir("lip-sync-redub", appauthor=False)) / "tracks"


def key(paths: Sequence[str], *facts: object) -> str:
    """Names the tracks of files, by their size, time and content, and of `facts`: range, detector and the like.

    Another version of this package's code gives another name.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256(_code())
    digest.update(repr(facts).encode())
    for number, path in enumerate(paths):
        stat = os.stat(path)
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
        if number in (0, len(paths) // 2, len(paths) - 1):  # of a long image sequence a few stand for all
            with open(path, "rb") as file:
                for place in (0, stat.st_size // 2, max(0, stat.st_size - sample)):
                    file.seek(place)
                    digest.update(file.read(sample))
    return digest.hexdigest()


@cache
def _code() -> bytes:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).digest()


def load(name: str) -> People | None:
    """The people kept under a `key`; None where there are none, or none that make sense."""
    path = folder() / f"{name}.safetensors"
    try:
        people = _unpacked(load_file(path))
        os.utime(path)  # the oldest go first: used is young
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return people


def save(name: str, people: People) -> None:
    """Keeps people under a `key`. What hinders it is no error: it only costs time at the next run."""
    partial = None
    with suppress(OSError, SafetensorError):
        folder().mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix="new-", suffix=".part", dir=folder())
        os.close(handle)
        save_file(_packed(people), partial)
        os.replace(partial, folder() / f"{name}.safetensors")
        partial = None
        _make_room()
    if partial is not None:
        with suppress(OSError):
            os.unlink(partial)


def _make_room() -> None:
    files = sorted(((path.stat(), path) for path in folder().glob("*.safetensors")), key=lambda f: -f[0].st_mtime)
    total = 0
    for stat, path in files:
        total += stat.st_size
        if total > most_bytes:
            with suppress(OSError):
                path.unlink()


def _packed(people: People) -> dict[str, np.ndarray]:
    tensors = {"shots": people.shots}
    for number, track in enumerate(people.tracks):
        tensors |= {f"{number}.frames": track.frames, f"{number}.origin": track.origin, f"{number}.mesh": track.mesh}
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _unpacked(tensors: dict[str, np.ndarray]) -> People:
    """Raises KeyError or ValueError where the tensors are no People."""
    shots = _checked(tensors["shots"], np.int32, ())
    if len(shots) and (shots[0] != 0 or (np.diff(shots) < 0).any()):
        raise ValueError("shots fall")
    tracks = []
    for number in range((len(tensors) - 1) // 3):
        frames = _checked(tensors[f"{number}.frames"], np.int32, ())
        origin = _checked(tensors[f"{number}.origin"], np.float32, (3,))
        mesh = _checked(tensors[f"{number}.mesh"], np.int16, (point_count, 2))
        rising = len(frames) > 0 and frames[0] >= 0 and frames[-1] < len(shots) and (np.diff(frames) > 0).all()
        if not rising or not len(frames) == len(origin) == len(mesh) or not np.isfinite(origin).all():
            raise ValueError("no track")
        tracks.append(FaceTrack(frames, origin, mesh))
    return People(shots, tuple(tracks))


def _checked(tensor: np.ndarray, kind: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    if tensor.dtype != kind or tensor.shape[1:] != shape or tensor.ndim != 1 + len(shape):
        raise ValueError("no tensor of a track")
    return tensor
