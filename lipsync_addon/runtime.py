# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's environment: which Python runs it, whether that has what it needs, and how to make one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .shared import core, errors

core_folder = Path(core.__file__).parent
# Blender's own libraries and Python settings would break another Python.
foreign_variables = ("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES")
needed_modules = (
    "av", "cv2", "mediapipe", "numpy", "onnxruntime", "platformdirs", "safetensors", "scipy", "silero_vad", "torch",
)  # fmt: skip
ready_mark = "lipsync-ready"
"""File in a runtime made here; missing while it is made, so that a half-made one is never used."""


def clean_environment() -> dict[str, str]:
    """This process's environment without what is meant for Blender's Python and libraries."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name not in foreign_variables
    }


def own_python(folder: Path) -> Path:
    """The interpreter of the virtual environment in `folder`."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def find(preference: str, folder: Path | None) -> Path:
    """The worker's interpreter: the preference, else the variable LIPSYNC_PYTHON, else the one made in `folder`.

    Raises:
        LipSyncError: none is there, or the named one does not exist.
    """
    variable = os.environ.get("LIPSYNC_PYTHON")
    for named, where in ((preference, "the add-on's preferences"), (variable, "LIPSYNC_PYTHON")):
        if named:
            path = Path(os.path.expanduser(named))
            if path.is_file():
                return path
            raise errors.LipSyncError(f"The Python {named} named in {where} does not exist.", "Name another one.")
    if folder and (folder / ready_mark).is_file() and own_python(folder).is_file():
        return own_python(folder)
    raise errors.LipSyncError(
        "Lip Sync has no runtime yet.", "Name its Python in the add-on's preferences, or install one there."
    )


def command(python: Path) -> list[str]:
    """What starts the worker: this extension's own core, isolated from the user's Python settings and packages."""
    return [str(python), "-I", "-X", "utf8", str(core_folder / "worker.py")]


def check(python: Path, modules: tuple[str, ...] = needed_modules) -> str:
    """One line about a Python that can run the worker, or with other `modules` serve another end.

    Raises:
        LipSyncError: it does not start, is no Python 3.11 or 3.12, or lacks packages.
    """
    code = (
        "import importlib.util as u, json, sys; "
        f"print(json.dumps([sys.version_info[:3], [m for m in {modules!r} if u.find_spec(m) is None]]))"
    )
    try:
        answer = subprocess.run(
            [str(python), "-I", "-c", code],
            capture_output=True,
            timeout=60,
            env=clean_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        version, missing = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise errors.LipSyncError(f"{python} does not answer as a Python.", "Name another one.") from None
    if not [3, 11] <= version[:2] <= [3, 12]:
        raise errors.LipSyncError(
            f"{python} is Python {version[0]}.{version[1]}.", "The packages that Lip Sync needs want 3.11 or 3.12."
        )
    if missing:
        raise errors.LipSyncError(
            f"{python} has no {', '.join(missing)}.", f"Install the packages of {core_folder.parent} into it."
        )
    return f"Python {'.'.join(map(str, version))} with all packages"


def create(base: Path, folder: Path, log: Path) -> Iterator[str]:
    """Makes a virtual environment in `folder` with the extension's pinned packages, step by step.

    Yields what is being done while it is done, so that a window can stay alive; closing the generator gives up and
    leaves an environment that is not used. The caller has asked the user and Blender for online access.

    Raises:
        LipSyncError: `base` is of no use, or a step fails (the log tells why).
    """
    check(base, modules=("venv",))
    lists = core_folder.parent
    python = own_python(folder)
    steps = (
        ("Making the environment", [str(base), "-I", "-m", "venv", "--clear", str(folder)]),
        (
            "Installing the packages",
            [
                *(str(python), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"),
                *("-r", str(lists / "requirements.txt"), "-c", str(lists / "constraints.txt")),
            ],
        ),
    )
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("wb")
    except OSError as e:
        raise errors.LipSyncError(f"The log {log} cannot be written: {e.strerror or e}.") from None
    with output:
        for text, arguments in steps:
            try:
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=clean_environment(),
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
            except OSError as e:
                raise errors.LipSyncError(f"{base} cannot be started: {e}.", "Name another Python.") from None
            try:
                while process.poll() is None:
                    yield text
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if process.returncode:
                raise errors.LipSyncError(f"{text} failed.", f"The log is {log}.")
    check(python)
    (folder / ready_mark).touch()
