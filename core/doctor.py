# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync doctor`: what this installation has and what it lacks."""

from __future__ import annotations

import importlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from . import __version__
from .errors import LipSyncError

needed = {"numpy": "numpy", "scipy": "scipy", "cv2": "opencv-contrib-python", "av": "av", "mediapipe": "mediapipe",
          "torch": "torch", "safetensors": "safetensors", "onnxruntime": "onnxruntime",
          "platformdirs": "platformdirs",
          "silero_vad": "silero-vad"}  # fmt: skip
"""Modules that a job needs, and the packages they come in."""
optional = {"c2pa": "c2pa-python", "face_alignment": "face-alignment"}
codecs = ("libx264", "libx265", "prores_ks", "dnxhd", "ffv1", "png", "aac", "flac", "pcm_s16le")
"""Encoders that jobs may ask PyAV for."""


def report() -> int:
    """Prints what is there and what is missing; returns 1 when something needed is missing."""
    _line("lipsync", __version__)
    _line("Python", f"{platform.python_version()} ({sys.executable})")
    _line("system", f"{platform.platform()}, {platform.machine()}")
    missing = [hint for module, package in needed.items() if (hint := _check(module, package))]
    for module, package in optional.items():
        _check(module, package, "not installed (optional)")
    if not missing:
        _show_devices()
        missing += _check_codecs() + _check_model()
    for hint in missing:
        print(f"hint: {hint}", file=sys.stderr)
    print("Something needed is missing." if missing else "Everything needed is there.")
    return 1 if missing else 0


def _check(module: str, package: str, absent: str = "MISSING") -> str:
    """Prints a package's version; returns a hint when it cannot be imported, else nothing."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        _line(package, absent)
        return f"Install {package}: {sys.executable} -m pip install {package}"
    except Exception as e:  # a broken installation fails in any way
        _line(package, f"BROKEN: {type(e).__name__}: {e}")
        return f"Install {package} anew: {sys.executable} -m pip install --force-reinstall {package}"
    try:
        _line(package, version(package))
    except PackageNotFoundError:
        _line(package, "there, of unknown version")
    return ""


def _show_devices() -> None:
    import torch

    if not torch.cuda.is_available():
        _line("CUDA", "none; the CPU does the work")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        _line(f"CUDA device {i}", f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")


def _check_codecs() -> list[str]:
    import av

    there = [name for name in codecs if name in av.codecs_available]
    _line("PyAV encoders", ", ".join(there))
    if "libx264" in there:
        return []
    return ["This PyAV cannot encode H.264: install the wheel of `av` from PyPI."]


def _check_model() -> list[str]:
    from .nets.checkpoint import default_model, load_generator

    try:
        generator, card = load_generator(default_model)
    except LipSyncError as e:
        _line("bundled model", f"MISSING: {e}")
        return ["Name a model of your own with --model, or install this tool anew."]
    parameters = sum(p.numel() for p in generator.parameters())
    _line("bundled model", f"{default_model} ({parameters / 1e6:.2f} M parameters)")
    _line("  settings", json.dumps(vars(generator.config)))
    for name, value in card.items():
        _line(f"  {name}", value if isinstance(value, str) else json.dumps(value))
    return []


def _line(name: str, text: str) -> None:
    print(f"{name:<24} {text}")
