# SPDX-License-Identifier: GPL-3.0-or-later
"""Text files that are complete or not there, and hashes of what results depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from core.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Writes a text, complete or not at all.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {e.strerror}.") from None


def sha256(path: Path) -> str:
    """A file's hash, by which a reader of a table knows its weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*things: Any) -> str:
    """A hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()
