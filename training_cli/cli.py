# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train`: which command does what. The settings of each are a dataclass in its module."""

from __future__ import annotations

import importlib
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

from core.cli import keep_traceback, libraries_silenced
from core.errors import LipSyncError


@dataclass(frozen=True)
class Command:
    """A command and where it lives."""

    module: str
    settings: str
    """The dataclass of its settings."""
    function: str
    """Takes the settings; what it returns is printed."""
    about: str
    looks: bool = False
    """It looks at videos: MediaPipe's notes about itself would fill the terminal."""


commands = {
    "prepare": Command(
        "prepare",
        "PrepareSettings",
        "prepare",
        "Videos → aligned crops, landmarks and 16 kHz sound. Stopped and run again, it goes on where it was; "
        "report.jsonl says of each video `ok` or why it was left out. With an expert it also measures and corrects "
        "each clip's offset.",
        looks=True,
    ),
    "pack": Command(
        "pack",
        "PackSettings",
        "pack",
        "Prepared clips → one small file, to train on another machine: an hour of faces in some 50 MB.",
    ),
    "unpack": Command(
        "pack",
        "UnpackSettings",
        "unpack",
        "What `pack` made → prepared clips. Stopped and run again, it goes on where it was.",
    ),
    "expert": Command(
        "expert",
        "ExpertSettings",
        "train_expert",
        "Trains the SyncNet expert on prepared clips: does this sound belong to these five pictures?",
    ),
    "generator": Command(
        "generator",
        "GeneratorSettings",
        "train_generator",
        "Trains the generator on the paper's equation (4). Run it again with the same output to go on. The configs "
        "`paper`, `no_lpips`, `align_1`, `no_align`, `no_cbam`, `size_192`, `size_288` and `narrow` come along.",
    ),
    "pretrain": Command(
        "pretrain",
        "PretrainSettings",
        "pretrain",
        "Trains the generator's hearing and drawing apart, which takes minutes instead of days: on its own for a small "
        "model, or as a start for `generator`. The config `default_model` comes along.",
    ),
    "evaluate lips": Command(
        "evaluate.lips",
        "LipSettings",
        "evaluate_lips",
        "Re-dubs clips with their own sound shifted by two seconds and compares the opening of the inner lips with the "
        "true footage: correlation r (untouched footage 0, truth 1), best lag, leak of the replaced lips, sharpness, "
        "jitter and opening range against the source.",
        looks=True,
    ),
    "evaluate table": Command(
        "evaluate.table",
        "TableSettings",
        "evaluate_table",
        "The paper's Table 1 for a model: LSE-C, LSE-D, FID, and LPIPS, SSIM, PSNR, LMD, the lip measure and a "
        "reference-copy score, per clip and mean.",
        looks=True,
    ),
    "export": Command(
        "export",
        "ExportSettings",
        "export",
        "A run's net as one small file with a card, for `lipsync redub --model`, or as ONNX.",
    ),
    "import": Command(
        "import_",
        "ImportSettings",
        "import_checkpoint",
        "Wav2Lip's published .pth of generator or expert → safetensors. Nothing in the file is executed.",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """The console script. Returns 0, 2 for a user's mistake, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # Windows' pipes know no arrows
    words = sys.argv[1:] if arguments is None else arguments
    name = next((name for name in commands if words[: name.count(" ") + 1] == name.split()), None)
    if name is None:
        asked = not words or words[0] in ("-h", "--help") or words == ["evaluate"]
        print(_overview(), file=sys.stdout if asked else sys.stderr)
        if asked:
            return 0
        print(f"lipsync-train: error: There is no command {words[0]}.", file=sys.stderr)
        return 2
    try:
        return _run(name, words[name.count(" ") + 1 :])
    except LipSyncError as e:
        print(f"lipsync-train: error: {e}", file=sys.stderr)
        if e.hint:
            print(f"hint: {e.hint}", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"lipsync-train: error: {e.filename or 'a file'}: {e.strerror or e}", file=sys.stderr)
        print("hint: Check the name, the permissions and the free space of the disk.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lipsync-train: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except ModuleNotFoundError as e:
        print(f"lipsync-train: error: The package {e.name} is not installed.", file=sys.stderr)
        print("hint: Training needs `pip install -c constraints.txt -e '.[train]'`.", file=sys.stderr)
        return 2
    except Exception as e:
        short = type(e).__name__ == "OutOfMemoryError"
        what = "The device's memory is too small" if short else "An error nobody foresaw"
        print(f"lipsync-train: error: {what} ({type(e).__name__}).", file=sys.stderr)
        print(f"hint: {'Use a smaller fit.batch.' if short else keep_traceback()}", file=sys.stderr)
        return 1


def _run(name: str, arguments: list[str]) -> int:
    from .config import parse

    command = commands[name]
    module: Any = importlib.import_module(f"training_cli.{command.module}")
    settings = parse(getattr(module, command.settings), arguments, f"lipsync-train {name}", command.about)
    with warnings.catch_warnings(), libraries_silenced() if command.looks else nullcontext():
        # what libraries say to programmers
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        result = getattr(module, command.function)(settings)
    if result is not None:
        print(result)
    return 0


def _overview() -> str:
    lines = ["usage: lipsync-train COMMAND [--config FILE] [--setting VALUE …]", ""]
    lines += [f"  {name:15} {command.about.split('. ')[0].split(': ')[0]}" for name, command in commands.items()]
    return "\n".join([*lines, "", "`lipsync-train COMMAND --help` explains every setting."])


if __name__ == "__main__":
    sys.exit(main())
