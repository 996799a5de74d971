# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings: one frozen dataclass a command, filled from TOML files and from flags that override them, by jsonargparse.

The docstrings under the fields are what --help says of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

from core.errors import JobError, OutputError

from . import named_files

set_parsing_settings(docstring_parse_attribute_docstrings=True)
bundled = Path(__file__).resolve().parent / "configs"
"""TOML files that `--config` knows by their names without ending."""
Settings = TypeVar("Settings")


def parse(kind: type[Settings], arguments: list[str], program: str, description: str) -> Settings:
    """Settings from a command's arguments; later ones win, and a config counts where it stands.

    Raises:
        JobError: an unknown key, a value of the wrong kind, a missing setting or an unreadable file.
        SystemExit: after --help.
    """
    parser = _parser(kind, program, description)
    hint = f"`{program} --help` lists every setting."
    try:
        words = [_full_name(kind, argument) for argument in arguments]
        values = parser.parse_args([_bundled_config(word, words[:i]) for i, word in enumerate(words)])
        made = parser.instantiate(values)
        return kind(**{name: value for name, value in vars(made).items() if name != "config"})
    except UnicodeDecodeError:
        raise JobError("A config is no text file.", "Name a TOML file.") from None
    except argparse.ArgumentError as e:
        raise JobError(" ".join(str(e).split()).rstrip(".") + ".", hint) from None


def resolved(settings: Any) -> dict[str, Any]:
    """Settings as JSON can hold them."""
    return json.loads(json.dumps(asdict(settings)))


def dump(settings: Any, path: Path) -> None:
    """Writes settings as a TOML file that gives them again.

    Raises:
        OutputError: the file cannot be written.
    """
    parser = _parser(type(settings), "", "")
    text = parser.dump(parser.parse_object(resolved(settings)))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise OutputError(f"{path} cannot be written: {e.strerror}.") from None


def differences(kept: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configs in words; how long and on what a run trains may change. Files that settings name
    are compared by named_files."""
    free = {"output", "folder", "minutes", "steps", "workers", "threads", "patience", "log_every", "save_every"}
    free |= {"evaluate_every", "dev_samples", "accelerator", "devices", "nodes", "strategy", *named_files.names}
    found = []
    for name in sorted(kept.keys() | asked.keys()):
        before, now, full = kept.get(name), asked.get(name), prefix + name
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, full + ".")
        elif before != now and name not in free:
            found.append(f"{full} was {before!r}, now {now!r}")
    return found


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A config for a card that others read: of a path only its last name, as where it lies is nobody else's concern."""
    kept = {}
    for name, value in config.items():
        if isinstance(value, dict):
            value = without_places(value)
        elif isinstance(value, str) and value:
            value = Path(value).name
        kept[name] = value
    return kept


def _parser(kind: type, program: str, description: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=program,
        description=description,
        exit_on_error=False,
        parser_mode="toml",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", action="config", help="TOML file of settings, or the name of one of ours")
    parser.add_class_arguments(kind)
    return parser


def _names(kind: type, prefix: str = "") -> Iterator[str]:
    """The full names of all settings, those in groups with dots."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _names(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _full_name(kind: type, argument: str) -> str:
    """`--lpips-trunk=x` is `--loss.lpips_trunk=x` where that is the only setting of the name."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    bare, plus = name.replace("-", "_").removesuffix("+"), "+" if name.endswith("+") else ""
    known = list(_names(kind))
    ends = [full for full in known if full.rsplit(".", 1)[-1] == bare]
    if bare not in known and len(ends) == 1:
        bare = ends[0]
    return f"--{bare}{plus}{equals}{value}" if bare in known else argument


def _bundled_config(argument: str, before: list[str]) -> str:
    """`paper` after --config is our paper.toml, unless there is a file of that name."""
    follows = bool(before) and before[-1] == "--config"
    name = argument.removeprefix("--config=") if argument.startswith("--config=") else argument if follows else ""
    path = bundled / f"{name}.toml"
    if not name or Path(name).is_file():
        return argument
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in bundled.glob("*.toml")))
        raise JobError(f"There is no config {name}.", f"Name a TOML file, or one of ours: {known}.")
    return f"--config={path}" if argument.startswith("--config=") else str(path)
