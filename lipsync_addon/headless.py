# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Re-dubbing without a window: `blender -b film.blend --command lipsync …`; with the bpy module, `redub_file`."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy

from . import batch, preferences, strips
from .shared import client, errors

copy_key = "lipsync_copy_of"
"""Custom property of the scenes in a .blend that --output has made: which .blend it is a copy of. The next run of the
same command may replace it."""
_command = None


def redub_scene(
    scene: bpy.types.Scene,
    names: Sequence[str] = (),
    speech: str = "",
    *,
    remaining: bool = False,
    workers: int = 0,
    between: Callable[[], None] = lambda: None,
) -> batch.Batch:
    """Re-dubs strips and waits; progress goes to stdout.

    Args:
        scene: where the strips are.
        names: of the strips; empty: every movie and image strip that is neither muted nor hidden by its meta strip.
        speech: name of the sound strip to use; empty: all that are heard over the strip.
        remaining: leave out strips that play new media over their whole length, if these are still there.
        workers: how many strips are made at a time; 0: as the preferences say.
        between: called when a strip has got new media and others are still to come; may raise to end the work.

    Returns:
        The ended batch: what is done, and the problems.

    Raises:
        LipSyncError: a name is of no such strip, there is none, or there is no runtime.
    """
    shown = _named(scene, names) if names else _shown(scene)
    if not shown:
        raise errors.LipSyncError(f"The scene “{scene.name}” has no strip to re-dub.", "Add a movie strip.")
    chosen = [s for s in shown if not (remaining and strips.complete(s))]
    settings = preferences.settings(bpy.context)
    work = batch.Batch(scene, chosen, replace(settings, workers=workers or settings.workers), speech)
    said = ""
    try:
        while work.running:
            if work.step(0.5) and work.running:
                between()
            text = f"{work.text} {int(work.fraction * 10) * 10}%"
            if work.running and text != said:
                print(said := text, flush=True)
    finally:
        work.close()
    return work


def _shown(scene: bpy.types.Scene) -> list[Any]:
    """The scene's movie and image strips that are neither muted nor hidden by their meta strip."""
    return [s for s in _named(scene) if not (strips.muted(s, scene) or strips.hidden(s))]


def _named(scene: bpy.types.Scene, names: Sequence[str] = ()) -> list[Any]:
    """The scene's movie and image strips of these names; without names, all of them.

    Raises:
        LipSyncError: there is no such strip.
    """
    known = {s.name: s for s in strips.all_strips(scene) if strips.redubbable(s)}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise errors.LipSyncError(
            f"The scene “{scene.name}” has no movie or image strip “{unknown}”.",
            f"It has {', '.join(known) or 'none'}.",
        )
    return [known[name] for name in names or known]


def redub_file(
    blend: Path,
    names: Sequence[str] = (),
    speech: str = "",
    scene: str = "",
    output: Path | None = None,
    remaining: bool = False,
    workers: int = 0,
    all_scenes: bool = False,
) -> int:
    """Opens a .blend, re-dubs its strips and saves it; see `main` for the exit status it returns."""
    try:
        bpy.ops.wm.open_mainfile(filepath=str(blend), load_ui=False, use_scripts=False)
    except RuntimeError as e:
        return _complain(errors.MediaError(f"{blend} cannot be opened: {str(e).strip()}", "Name a .blend file."))
    return _redub_and_save(names, speech, None if all_scenes else scene, output, remaining, workers)


def main(argv: Sequence[str]) -> int:
    """`lipsync [--strip NAME]… [--speech NAME] [--scene NAME | --all-scenes] [--workers N] [--remaining | --revert]
    [-o FILE]`.

    On the open .blend, which is saved after every strip, so that whatever ends the work costs the running one alone.

    Returns:
        Exit status: 0 all strips done, 1 some or all not (the others are saved), 2 a mistake in the request, 130
        interrupted (what is done is saved).
    """
    parser = argparse.ArgumentParser(
        prog="blender -b FILM.blend --command lipsync", description="Re-dubs strips of the open .blend and saves it."
    )
    parser.add_argument("--strip", action="append", default=[], metavar="NAME", help="strip; default: all not muted")
    parser.add_argument("--speech", default="", metavar="NAME", help="sound strip; default: all heard over the strip")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scene", default="", metavar="NAME", help="default: the open one")
    where.add_argument("--all-scenes", action="store_true", help="all scenes with strips that are not muted")
    parser.add_argument(
        "--workers", type=_several, default=0, metavar="N", help="strips made at a time; default: the preferences'"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--remaining", action="store_true", help="go on: leave out strips that are re-dubbed already")
    which.add_argument("--revert", action="store_true", help="give the strips their original media back instead")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="save the .blend there instead")
    try:
        asked = parser.parse_args(argv)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 2
    if asked.all_scenes and asked.strip:
        return _complain(errors.LipSyncError("--strip names strips of one scene.", "Leave out --all-scenes."))
    scene = None if asked.all_scenes else asked.scene
    if asked.revert:
        return _revert_and_save(asked.strip, scene, asked.output)
    with _interruptible():
        return _redub_and_save(asked.strip, asked.speech, scene, asked.output, asked.remaining, asked.workers)


def _several(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= client.most_workers:
        return int(text)
    raise argparse.ArgumentTypeError(f"“{text}” is no number from 1 to {client.most_workers}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Has Ctrl-C end the work: Blender's own handler only notes the first for its renders, and dies of the second."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if before is not None:  # else it is Blender's, which Python cannot put back; the command is over anyway
            signal.signal(signal.SIGINT, before)


def _redub_and_save(
    names: Sequence[str], speech: str, scene_name: str | None, output: Path | None, remaining: bool, workers: int
) -> int:
    """For `scene_name` see `_scenes`."""
    save = _Save(output)
    problems, idle = False, True
    try:
        _check_target(output)
        for scene in _scenes(scene_name, _shown):
            work = redub_scene(scene, names, speech, remaining=remaining, workers=workers, between=save)
            if work.done:
                save()
            _tell(work, scene.name if scene_name is None else "")
            problems, idle = problems or bool(work.problems), idle and not (work.total or work.problems)
    except errors.LipSyncError as e:
        return _complain(e)
    except KeyboardInterrupt:
        print("Interrupted; the strips that were done are saved. --remaining goes on with the others.", file=sys.stderr)
        return 130
    if remaining and idle:
        print("Every strip has been re-dubbed already.")
    return 1 if problems else 0


def _tell(work: batch.Batch, scene: str) -> None:
    """Prints what has come of a batch, under the name of its scene if there is one."""
    for lines, file in ((work.done, sys.stdout), (work.problems, sys.stderr)):
        for line in lines:
            print(f"{scene}: {line}" if scene else line, file=file, flush=True)


def _revert_and_save(names: Sequence[str], scene_name: str | None, output: Path | None) -> int:
    try:
        _check_target(output)
        scenes = _scenes(scene_name, _named)
        chosen = [s for scene in scenes for s in _named(scene, names) if strips.record_of(s)]
        done, problems = strips.revert_each(chosen)
        if done:
            _Save(output)()
    except errors.LipSyncError as e:
        return _complain(e)
    print(f"{done} strip(s) play the original media again.")
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


def _scenes(name: str | None, wanted: Callable[[bpy.types.Scene], list[Any]]) -> list[bpy.types.Scene]:
    """The scene of this name, or the open one if it is empty; None: all of this file with strips that are `wanted`.

    Raises:
        LipSyncError: there is none.
    """
    if name is not None:
        return [_scene(name)]
    scenes = [scene for scene in bpy.data.scenes if not scene.library and wanted(scene)]
    if not scenes:
        raise errors.LipSyncError("No scene has a strip to re-dub.", "Add a movie strip.")
    return scenes


def _scene(name: str) -> bpy.types.Scene:
    scene = bpy.data.scenes.get(name) if name else strips.scene_of(bpy.context)
    if scene is None:
        raise errors.LipSyncError(
            f"There is no scene “{name}”.", f"The .blend has {', '.join(s.name for s in bpy.data.scenes)}."
        )
    return scene


def _check_target(output: Path | None) -> None:
    """Refuses, before any work is done, a .blend that could not be saved, or only over something else.

    Raises:
        OutputError: there is no name for it, it cannot be written, or another file is there.
    """
    if not output and not bpy.data.filepath:
        raise errors.OutputError("The .blend has no file yet.", "Name one with --output.")
    target = (output or Path(bpy.data.filepath)).absolute()
    reason = "it is a folder" if target.is_dir() else ""
    if target.is_file() and not os.access(target, os.W_OK):
        reason = "it is read-only"
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
    if reason:
        raise errors.OutputError(f"The .blend cannot be saved as {target} ({reason}).", "Name another --output.")
    if output and target.suffix.lower() != ".blend":
        raise errors.OutputError(f"{target} would be no .blend.", "Name an --output that ends in .blend.")
    if os.path.lexists(target) and not (_is_open(target) or _is_our_copy(target)):
        raise errors.OutputError(
            f"{target} is there already, and not as an earlier --output of this .blend.",
            "Name another --output, or open that file and leave --output out.",
        )


def _is_open(target: Path) -> bool:
    opened = bpy.data.filepath
    return bool(opened) and target.exists() and os.path.exists(opened) and os.path.samefile(target, opened)


def _is_our_copy(target: Path) -> bool:
    """Whether an earlier command has saved the open .blend there, and nobody has opened it since."""
    if not bpy.data.filepath:
        return False
    try:  # what is read in here is gone afterwards, and must not be kept
        with bpy.data.temp_data() as temporary:
            with temporary.libraries.load(str(target)) as (there, wanted):
                wanted.scenes = list(there.scenes)
            marks = [scene.get(copy_key) for scene in wanted.scenes if scene]
    except (OSError, RuntimeError):  # it is no .blend, or one of a newer Blender
        return False
    return _mark_of(target) in marks


def _mark_of(copy: Path) -> str:
    """What a copy of the open .blend has as `copy_key`: where that lies from there, so that both can move."""
    source = os.path.abspath(bpy.data.filepath)
    try:
        return os.path.relpath(source, copy.parent)
    except ValueError:  # another drive
        return source


@bpy.app.handlers.persistent
def forget_copy(*_) -> None:
    """A file is opened: what somebody goes on working in is no longer a copy that a command may replace."""
    for scene in bpy.data.scenes:
        if copy_key in scene and not scene.library:
            del scene[copy_key]


class _Save:
    """Saves the open .blend, as often as it is called; its backup (.blend1) stays that from before the first time.

    Args:
        output: where to; None: its own place.
    """

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._saved = False

    def __call__(self) -> None:
        """
        Raises:
            OutputError: it cannot be saved.
        """
        paths = bpy.context.preferences.filepaths
        backups = paths.save_version
        try:
            if self._saved:
                paths.save_version = 0
            if self._output:  # a copy: new media go on being made beside the .blend that is open
                self._save_copy(self._output.absolute())
            else:
                bpy.ops.wm.save_mainfile()
            self._saved = True
        except RuntimeError as e:
            raise errors.OutputError(f"The .blend cannot be saved: {str(e).strip()}") from None
        finally:
            paths.save_version = backups

    def _save_copy(self, target: Path) -> None:
        own = [scene for scene in bpy.data.scenes if not scene.library]
        for scene in own if bpy.data.filepath else ():
            scene[copy_key] = _mark_of(target)
        try:
            bpy.ops.wm.save_as_mainfile(filepath=str(target), copy=True)
        finally:
            forget_copy()


def _complain(error: errors.LipSyncError) -> int:
    print(f"{error} {error.hint}".strip(), file=sys.stderr)
    return 2


def register() -> None:
    global _command
    _command = bpy.utils.register_cli_command("lipsync", main)
    bpy.app.handlers.load_post.append(forget_copy)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(forget_copy)
    bpy.utils.unregister_cli_command(_command)
