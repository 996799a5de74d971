# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a video is still the one that its verdicts are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import shards
from ..evaluate.files import sha256
from .summary import prepared_again


def traits(path: Path) -> dict[str, Any]:
    """What a verdict keeps of a video's file, to know it again; nothing of one that cannot be read."""
    try:
        status = path.stat()
        return {"film_bytes": status.st_size, "film_modified": status.st_mtime_ns, "film_sha256": sha256(path)}
    except OSError:
        return {}


def replaced(root: Path, sources: set[str], report: Sequence[shards.Verdict]) -> list[shards.Verdict]:
    """The verdicts on videos that are others by now. Reports of before have no traits, and count as right."""
    told = {_told(v) for v in report if v.source in sources and v.film_sha256}
    others = {one for one in told if _is_another(root, *one)}
    return [v for v in report if _told(v) in others]


def drop(folder: Path, verdicts: Sequence[shards.Verdict]) -> None:
    """Removes clips of videos that are not there any more; killed in the middle, the next run finds the rest.

    Raises:
        OSError: the folder cannot be written to.
    """
    for verdict in verdicts:
        if verdict.clip:
            shards.clip_path(folder, verdict).unlink(missing_ok=True)
    bare = {"film_bytes": 0, "film_modified": 0, "film_sha256": ""}
    shards.append(folder, [replace(verdict, verdict=prepared_again, **bare) for verdict in verdicts])


def _told(verdict: shards.Verdict) -> tuple[str, int, int, str]:
    return verdict.source, verdict.film_bytes, verdict.film_modified, verdict.film_sha256


def _is_another(root: Path, source: str, size: int, modified: int, digest: str) -> bool:
    path = root / source
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) == (size, modified):
        return False
    return status.st_size != size or sha256(path) != digest  # a corpus that was only copied stays as it is
