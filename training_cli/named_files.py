# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a run's settings name, told apart by what they hold: a path says neither that a file has been replaced
nor that it is the same one from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .evaluate.files import sha256

names = ("expert", "start", "lpips_trunk")
"""Settings that name a file, or nothing, or something that comes along."""


def named(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """What the settings say, by their full names."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= named(value, f"{prefix}{name}.")
        elif name in names:
            found[prefix + name] = str(value or "")
    return found


def hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that are there, by their settings' full names.

    Raises:
        OSError: one cannot be read.
    """
    return {name: sha256(Path(path)) for name, path in named(config).items() if path and Path(path).is_file()}


def differences(
    kept: Mapping[str, Any], asked: Mapping[str, Any], kept_hashes: Mapping[str, str], asked_hashes: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """What differs in words: what makes it another run, and the starts that only are another net by now, which a run
    that has its own weights can do without."""
    before, now = named(kept), named(asked)
    others, starts = [], []
    for name in sorted(before.keys() | now.keys()):
        was, is_now = before.get(name, ""), now.get(name, "")
        if _same(was, is_now, kept_hashes.get(name), asked_hashes.get(name)):
            continue
        if was != is_now:
            others.append(f"{name} was {was!r}, now {is_now!r}")
        elif name.endswith("start"):
            starts.append(is_now)
        else:
            others.append(f"{name} is {is_now!r} as before, but that file has another content now")
    return others, starts


def _same(was: str, is_now: str, kept_hash: str | None, asked_hash: str | None) -> bool:
    if kept_hash and asked_hash:
        return kept_hash == asked_hash
    if was == is_now:
        return True
    # begun before hashes were kept: the file of then may still be there
    return bool(was) and Path(was).is_file() and asked_hash == sha256(Path(was))
