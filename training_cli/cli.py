# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train`: prepare, generator, evaluate."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from core.errors import JobError, LipSyncError, MediaError, OutputError


def main(arguments: list[str] | None = None) -> int:
    """The console script. Returns 0, 2 for a user's mistake, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.do(options)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lipsync-train", description="Train and measure Lip Sync Redub's nets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    prepare = commands.add_parser(
        "prepare",
        help="videos → aligned crops, landmarks and sound",
        description="Prepares every video below a folder. Stopped and run again, it goes on where it was; report.json "
        "says of each video `ok` or why it was left out.",
    )
    prepare.add_argument("videos", type=Path, help="folder of videos; a video's folder is taken for its speaker")
    prepare.add_argument("-o", "--output", type=Path, required=True, help="folder for the prepared clips")
    prepare.add_argument("--manifest", type=Path, help="CSV with the columns file, identity, split (train, dev, test)")
    prepare.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    prepare.set_defaults(do=_prepare)

    generator = commands.add_parser(
        "generator",
        help="train the generator",
        description="Trains on prepared clips: listen, paint, speak (see training_cli/generator.py). Killed and run "
        "again with the same output folder, it goes on from its last state, at most two minutes back.",
    )
    generator.add_argument("data", type=Path, help="folder that `prepare` made")
    generator.add_argument("-o", "--output", type=Path, required=True, help="folder for the run")
    from .generator import Settings

    for field in dataclasses.fields(Settings):
        if field.name not in ("data", "output"):
            kind = {"float": float, "int": int, "str": str}[str(field.type)]
            name = "--" + field.name.replace("_", "-")
            generator.add_argument(name, type=kind, default=field.default, help=f"default {field.default!r}")
    generator.set_defaults(do=_generator)

    publish = commands.add_parser(
        "export",
        help="a run's generator with a card, for lipsync redub --model",
        description="Writes the averaged generator of a run (finished or not) as float16 safetensors.",
    )
    publish.add_argument("run", type=Path, help="folder of `generator`", metavar="RUN")
    publish.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors to write")
    publish.add_argument("--card", type=Path, help="JSON file with what users should know of the model")
    publish.set_defaults(do=_export)

    evaluate = commands.add_parser("evaluate", help="measure a model")
    measures = evaluate.add_subparsers(required=True, metavar="MEASURE")
    lips = measures.add_parser(
        "lips",
        help="do the lips follow the speech?",
        description="Re-dubs clips with their own sound shifted by two seconds and compares the opening of the inner "
        "lips with the true footage: correlation r (untouched footage 0, truth 1), best lag, leak of the replaced "
        "lips, sharpness, jitter and opening range against the source.",
    )
    lips.add_argument("clips", type=Path, nargs="+", help="videos with their own sound, or folders of them")
    lips.add_argument("--model", default="", help="generator .safetensors (default: the bundled one)")
    lips.add_argument("--device", default="auto")
    lips.add_argument("--shortest", type=float, default=6.0, help="leave out clips shorter than this many seconds")
    lips.add_argument("-o", "--output", type=Path, help="folder for the table, JSON and re-dubbed clips")
    lips.set_defaults(do=_evaluate_lips)
    return parser


def _prepare(options: argparse.Namespace) -> int:
    from .prepare import prepare

    report = prepare(options.videos, options.output, options.manifest, options.workers)
    bad = {name: why for name, why in report.items() if why != "ok"}
    print(f"{len(report) - len(bad)} clips prepared, {len(bad)} left out.")
    for name, why in sorted(bad.items()):
        print(f"  {name}: {why}")
    return 0


def _generator(options: argparse.Namespace) -> int:
    from .generator import Settings, Trainer

    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(Settings)}
    path = Trainer(Settings(**{**values, "data": str(options.data), "output": str(options.output)})).train()
    print(path)
    return 0


def _export(options: argparse.Namespace) -> int:
    from .generator import Trainer, load_settings

    card = {}
    if options.card:
        try:
            card = json.loads(options.card.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise JobError(f"The card {options.card} cannot be read: {e}.", "Give a JSON file.") from None
    if options.output.exists():
        raise OutputError(f"{options.output} exists already.", "Choose another name: nothing is overwritten.")
    # the run may have been moved since
    settings = dataclasses.replace(load_settings(options.run), output=str(options.run))
    Trainer(settings).save_model(options.output, card)
    print(options.output)
    return 0


def _evaluate_lips(options: argparse.Namespace) -> int:
    from core import media

    from .evaluate import lip_score, lip_table

    files = [p for c in options.clips for p in (sorted(c.iterdir()) if c.is_dir() else [c])]
    scores = []
    for clip in files:
        try:
            info = media.probe(str(clip))
            if info.frames / info.rate < options.shortest:
                continue
            keep = None
            if options.output:
                options.output.mkdir(parents=True, exist_ok=True)
                keep = options.output / f"{clip.name}.redubbed.mkv"
            scores.append(lip_score(clip, options.model, options.device, keep))
            print(f"{clip.name}: r {scores[-1].r:.3f}", file=sys.stderr)
        except LipSyncError as e:
            print(f"{clip.name}: left out: {e}", file=sys.stderr)
    if not scores:
        raise MediaError("No clip could be measured.", "Name videos of six seconds and more with their own sound.")
    table = lip_table(scores)
    print(table)
    if options.output:
        (options.output / "lips.md").write_text(table + "\n", encoding="utf-8")
        rows = json.dumps([dataclasses.asdict(s) for s in scores], indent=1)
        (options.output / "lips.json").write_text(rows + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
