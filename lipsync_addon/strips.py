# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportAttributeAccessIssue=none
"""Sequencer strips: what one shows, giving it other media, and giving the old media back.

The only module that knows how Blender's versions differ (4.2 to 5.2). Source frames are counted from 0 as Blender
counts them; timeline frames are the scene's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

import bpy

from .shared import errors

record_key = "lipsync"
"""Custom property of a re-dubbed strip: how to get its original media back, as JSON."""
job_key = "lipsync_job"
"""Custom property of a strip while it is being re-dubbed: how to find it again, also after an undo or a rename."""

strip_type = getattr(bpy.types, "Strip", None) or bpy.types.Sequence
"""The class of all strips."""

# Blender 5.2 renamed the times; the older names go in 6.0.
_renamed = bpy.app.version >= (5, 2)
_start, _left, _right, _skipped, _skipped_end = (
    ("content_start", "left_handle_offset", "right_handle_offset", "content_trim_start", "content_trim_end")
    if _renamed
    else ("frame_start", "frame_offset_start", "frame_offset_end", "animation_offset_start", "animation_offset_end")
)
_duration = "content_duration" if _renamed else "frame_duration"
_handles = ("left_handle", "right_handle") if _renamed else ("frame_final_start", "frame_final_end")

unlisted = {".3gp", ".3g2"}
"""Endings of movies that Blender plays although its own list lacks them."""
reach = 60
"""Seconds beyond what a shot shows that are made too because a face was picked there; further away it has to be picked
anew, else one click would cost the pictures of an hour."""


@dataclass(frozen=True)
class Media:
    """The files a strip plays, named as the strip names them (perhaps relative to the .blend)."""

    filepath: str = ""
    """Movie file; empty for an image sequence."""
    stream: int = 0
    directory: str = ""
    filenames: tuple[str, ...] = ()

    def paths(self) -> tuple[str, ...]:
        """Absolute paths: the one movie, or the images in order."""
        if self.filepath:
            return (_absolute(self.filepath),)
        folder = _absolute(self.directory)
        return tuple(os.path.join(folder, name) for name in self.filenames)


@dataclass(frozen=True)
class Record:
    """What a re-dubbed strip knows of its original, kept as JSON in the custom property `record_key`."""

    media: Media
    absolute: str
    """Where the original movie or image folder was: for a .blend saved elsewhere, whose relative paths then differ."""
    take: str
    """Base name of the new movie or image folder: the record holds as long as the strip plays this one."""
    head: int
    """Source frames before the first one of the new media; of a still, timeline frames from its start to there."""
    rate: str
    """The media's frame rate, such as 24000/1001, when the strip plays at that; empty: one frame a timeline frame."""
    tail: int = 0
    """Source frames after the last one of the new media; 0 of a still."""
    beside: str = ""
    """The original movie or image folder as seen from the new media's folder: it leads there from wherever the .blend
    is saved, appended or linked to, and after both were moved. Empty: not known (older records, another drive)."""
    size: int = 0
    """Bytes of the original movie or first image, to tell it from another one of its name; 0: not known."""


@dataclass(frozen=True)
class Shot:
    """What one strip shows of its original media, and which source frames a re-dub of it makes."""

    name: str
    key: str
    """Value of the strip's property `job_key` during the job."""
    media: Media
    files: tuple[str, ...]
    """Absolute paths of the media: what its relative ones lead to changes when the .blend is saved elsewhere."""
    frames: int
    """All source frames."""
    head: int
    """First source frame to make; of a still, timeline frames from the strip's start to its left handle."""
    count: int
    """Source frames to make; of a still, frames that it is held."""
    rate: Fraction
    """Source frames a second, as played on this timeline."""
    timeline_rate: Fraction
    """Timeline frames a second."""
    begin: Fraction
    """Timeline frame at which the source frame `head` begins."""
    visible: tuple[int, int]
    """Timeline frames between the handles, the second one exclusive."""
    adjusted: bool
    """Played at the media's own frame rate, not one source frame a timeline frame."""

    @property
    def still(self) -> bool:
        """One image, held: the new media is a sequence of as many as the strip is long."""
        return len(self.media.filenames) == 1


def scene_of(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene whose strips the user sees."""
    return getattr(context, "sequencer_scene", None) or context.scene


def all_strips(scene: bpy.types.Scene) -> list[Any]:
    """Every strip of a scene, also inside meta strips."""
    editor = scene.sequence_editor
    if editor is None:
        return []
    return list(editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all)


def sounds_of(strip: Any) -> list[Any]:
    """The sounds heard through a sound strip, or through a scene strip that shows another scene's sequencer."""
    if strip.type == "SOUND":
        return [strip.sound] if strip.sound else []
    found, scenes = [], [strip]
    for shown in scenes:  # grows meanwhile
        if shown.type != "SCENE" or shown.scene_input != "SEQUENCER" or not shown.scene:
            continue
        for inner in all_strips(shown.scene):
            if muted(inner, shown.scene):
                continue
            if inner.type == "SOUND" and inner.sound:
                found.append(inner.sound)
            elif inner.type == "SCENE" and all(inner.scene != known.scene for known in scenes):
                scenes.append(inner)
    return found


def redubbable(strip: Any) -> bool:
    """A movie or an image sequence."""
    return strip.type in {"MOVIE", "IMAGE"}


def selected(context: bpy.types.Context) -> list[Any]:
    """The selected movie and image strips and those that selected meta strips show, from the left."""
    found = {}
    for strip in _chosen(context):
        found.update((s.as_pointer(), s) for s in ([strip] if redubbable(strip) else _shown_in(strip)))
    return sorted(found.values(), key=lambda s: (visible(s), s.channel))


def what_to_select(context: bpy.types.Context) -> str:
    """A hint for a user who has selected nothing that can be re-dubbed."""
    kinds = {strip.type for strip in _chosen(context)}
    hints = {
        "SCENE": "Open the scene that the scene strip shows, and select the shot there.",
        "MOVIECLIP": "Add the clip's file as a movie strip, and select that.",
        "META": "The meta strip shows none that is not muted.",
    }
    return next((hint for kind, hint in hints.items() if kind in kinds), "Select the shot to re-dub.")


def _chosen(context: bpy.types.Context) -> list[Any]:
    """All selected strips, of whatever type."""
    strips = getattr(context, "selected_strips", None) or getattr(context, "selected_sequences", None)
    if strips is None:  # a background Blender 5 has no sequencer scene
        strips = [strip for strip in all_strips(scene_of(context)) if strip.select]
    return list(strips)


def _shown_in(strip: Any) -> list[Any]:
    """The movie and image strips that a meta strip shows, if it is one: neither muted in there nor cut off."""
    if strip.type != "META":
        return []
    within = strip.strips if hasattr(strip, "strips") else strip.sequences
    shown = [s for s in within if not (s.mute or strip.channels[s.channel].mute or hidden(s))]
    return [found for s in shown for found in ([s] if redubbable(s) else _shown_in(s))]


def active(scene: bpy.types.Scene) -> Any | None:
    """The active strip, if it is a movie or image strip."""
    strip = scene.sequence_editor.active_strip if scene.sequence_editor else None
    return strip if strip and redubbable(strip) else None


def visible(strip: Any) -> tuple[int, int]:
    """The timeline frames between a strip's handles, the second one exclusive."""
    return round(getattr(strip, _handles[0])), round(getattr(strip, _handles[1]))


def seen(strip: Any) -> tuple[int, int]:
    """The timeline frames between a strip's handles that no meta strip around it cuts off; empty if it hides all."""
    first, end = visible(strip)
    while strip := strip.parent_meta():
        outer = visible(strip)
        first, end = max(first, outer[0]), min(end, outer[1])
    return first, max(end, first)


def hidden(strip: Any) -> bool:
    """Whether a meta strip around it cuts off all of it."""
    first, end = seen(strip)
    return first == end


def muted(strip: Any, scene: bpy.types.Scene) -> bool:
    """Muted itself, by its channel, or by a meta strip around it."""
    while strip:
        parent = strip.parent_meta()
        if strip.mute or (parent or scene.sequence_editor).channels[strip.channel].mute:
            return True
        strip = parent
    return False


def locked(strip: Any) -> bool:
    """Locked itself, by its channel, or by a meta strip around it."""
    while strip:
        parent = strip.parent_meta()
        if strip.lock or (parent or strip.id_data.sequence_editor).channels[strip.channel].lock:
            return True
        strip = parent
    return False


def refuse_unchangeable(strip: Any) -> None:
    """
    Raises:
        LipSyncError: the strip is locked, itself or by what it is in, or lies in a scene of another file.
    """
    if strip.id_data.library:  # Blender would let us change it and forget it all with the next save
        raise errors.LipSyncError(
            f"The scene “{strip.id_data.name}” is linked from {strip.id_data.library.name}.",
            "Open that file, or make the scene local.",
        )
    if locked(strip):
        raise errors.LipSyncError(
            f"The strip “{strip.name}” is locked.", "Unlock it, its channel, and the meta strips around it."
        )


def original_name(strip: Any) -> str:
    """File or folder name of the media a re-dubbed strip had before; empty if it is not re-dubbed."""
    record = record_of(strip)
    if record is None:
        return ""
    still = record.media.filenames[0] if len(record.media.filenames) == 1 else ""
    return _base(record.media.filepath or still or record.media.directory)


def outgrown(strip: Any) -> bool:
    """Whether a re-dubbed strip stands still at an end where its original would go on: it was made longer since."""
    record = record_of(strip)
    if record is None or hidden(strip):
        return False
    still = len(record.media.filenames) == 1
    (first, end), (first_seen, end_seen) = visible(strip), seen(strip)
    ends = ((_left, first_seen - first, record.head), (_right, end - end_seen, record.tail))
    return any(  # 1: rounded rates
        getattr(strip, offset) + unseen < -1 and (still or more > 0) for offset, unseen, more in ends
    )


def complete(strip: Any) -> bool:
    """Whether a strip plays new media, which are all there, over its whole length. Asks the disk."""
    return bool(record_of(strip)) and not outgrown(strip) and _first_missing(media_of(strip)) is None


def collection_name(scene: bpy.types.Scene) -> str:
    """What the editor's property with every strip is called."""
    return "strips_all" if hasattr(scene.sequence_editor, "strips_all") else "sequences_all"


def leave_only(scene: bpy.types.Scene, names: set[str]) -> None:
    """Mutes every strip of the (copied) scene but the named ones, which are heard even if they were muted."""
    owners = [scene.sequence_editor]
    for strip in all_strips(scene):
        strip.mute = strip.type != "META" and strip.name not in names
        if strip.type == "META":
            owners.append(strip)
    for owner in owners:
        for channel in owner.channels:
            channel.mute = False


def remove_scene(scene: bpy.types.Scene) -> None:
    """Removes a temporary scene; scenes.remove would crash Blender 4.3 in a `--command`, which has no window."""
    bpy.data.batch_remove([scene])


def timeline_rate(scene: bpy.types.Scene) -> Fraction:
    """Timeline frames a second."""
    return exact_rate(scene.render.fps / scene.render.fps_base)


def exact_rate(rate: float) -> Fraction:
    """The frame rate that Blender has made a float: a whole number, n × 1000 / 1001, or the nearest simple one."""
    for unit in (Fraction(1), Fraction(1000, 1001)):
        if abs(round(rate / unit) * unit - rate) < 1e-4:
            return round(rate / unit) * unit
    return Fraction(rate).limit_denominator(1000)


def read(strip: Any, scene: bpy.types.Scene, key: str, clicked: Sequence[int] = ()) -> Shot:
    """What the strip shows, of its original media if it has been re-dubbed before.

    Args:
        clicked: source frames that have to be made too, because a click into them tells who is meant.

    Raises:
        MediaError: the media is missing or unreadable.
        LipSyncError: the strip cannot be changed, is hidden, or its time runs in a way that no speech can follow; or a
            click lies too far from what it shows.
    """
    _refuse_unsuitable(strip)
    if hidden(strip):
        raise errors.LipSyncError(
            f"A meta strip hides all of the strip “{strip.name}”.", "Make the meta strip longer, or leave this one out."
        )
    record = record_of(strip)
    media = _original(record, strip) if record else media_of(strip)
    if not _plausible(media, strip.type):
        first = media.filepath or next(iter(media.filenames), "")
        raise errors.MediaError(
            f"The media of the strip “{strip.name}” is named in an unusual way: {_base(first)}.",
            "Rename it to end as its kind does, such as .mp4 or .png, and choose it for the strip again.",
        )
    frames, media_rate = _measure(media, strip.name)
    per_second = timeline_rate(scene)
    skipped, skipped_end = int(getattr(strip, _skipped)), int(getattr(strip, _skipped_end))
    first_visible, end_visible = seen(strip)

    if record:
        adjusted = bool(record.rate)
    else:  # nothing in Blender's API tells; the length does, unless it makes no difference
        left, right = visible(strip)
        length = right - left + getattr(strip, _left) + getattr(strip, _right)
        shown = frames - skipped - skipped_end
        adjusted = bool(media.filepath) and abs(length - shown) > abs(length - shown * per_second / media_rate)
    speed = media_rate / per_second if adjusted else Fraction(1)
    start = Fraction(getattr(strip, _start)).limit_denominator(10000)
    if record:
        start -= record.head / speed

    def source_frame(timeline_frame: int) -> Fraction:
        return (timeline_frame - start) * speed + skipped

    first = min(max(floor(source_frame(first_visible)), 0), frames - 1)
    last = min(max(ceil(source_frame(end_visible - 1)), first), frames - 1)
    rate = speed * per_second
    if clicked and len(media.filenames) != 1:
        first, last = _reaching(strip.name, (first, last), [min(frame, frames - 1) for frame in clicked], rate)
    head, count = 0, frames
    begin = start - skipped / speed
    if len(media.filenames) == 1:
        head, count, begin = round(first_visible - start), end_visible - first_visible, Fraction(first_visible)
    elif frames - (last - first + 1) > rate and not (skipped or skipped_end):
        # More than a second is unused: leave it out. The new start must lie on a whole timeline frame, and where two
        # source frames are equally near Blender's rounding must not see another sum.
        if speed.denominator % 2:
            head = first // speed.numerator * speed.numerator
        count = last - head + 1
        begin += head / speed
    return Shot(
        name=strip.name,
        key=key,
        media=media,
        files=media.paths(),
        frames=frames,
        head=head,
        count=count,
        rate=rate,
        timeline_rate=per_second,
        begin=begin,
        visible=(first_visible, end_visible),
        adjusted=adjusted,
    )


def _reaching(name: str, span: tuple[int, int], clicked: Sequence[int], rate: Fraction) -> tuple[int, int]:
    """The first and last source frame of a shot, so that the clicked ones are among them."""
    first, last = min(span[0], *clicked), max(span[1], *clicked)
    if max(span[0] - first, last - span[1]) > reach * rate:
        far = first if first < span[0] - reach * rate else last
        raise errors.LipSyncError(
            f"A person of the strip “{name}” was picked in frame {far} of its media, far from the frames {span[0]} to "
            f"{span[1]} that it shows.",
            "Remove and pick them again in what it shows.",
        )
    return first, last


def swap(strip: Any, shot: Shot, output: str, images: tuple[str, ...] = ()) -> None:
    """Gives the strip the re-dubbed media of `shot`; what it shows when, and all else about it, stays.

    Args:
        output: absolute path of the new movie, or of the folder of the new `images`.

    Raises:
        MediaError: Blender cannot read the new media, or the original is gone; the strip is as before.
        LipSyncError: the strip has been locked or retimed since it was read; it is as before.
    """
    _refuse_unsuitable(strip)
    revert(strip)
    original = media_of(strip)  # as it is named now: the .blend may have been saved elsewhere since
    named = original.filepath or original.directory
    take = _like(named, output)
    new = Media(directory=take, filenames=images) if images else Media(filepath=take)
    _set_media(strip, new, shot.head, shot.frames - shot.head - shot.count, shot.head * shot.timeline_rate / shot.rate)
    strip[record_key] = json.dumps(
        asdict(
            Record(
                media=original,
                absolute=_absolute(named),
                take=os.path.basename(output),
                head=shot.head,
                rate=str(shot.rate) if shot.adjusted else "",
                tail=0 if shot.still else shot.frames - shot.head - shot.count,
                beside=_from_folder(os.path.dirname(output), _absolute(named)),
                size=_size(original),
            )
        )
    )
    if not (images or strip.fps):
        revert(strip)
        raise errors.MediaError(f"Blender cannot read the new media {output}.")


def revert(strip: Any) -> bool:
    """Gives a re-dubbed strip its original media back; False if it has not been re-dubbed.

    The strip keeps its place and handles, also where the user has changed them since.

    Raises:
        MediaError: the original media is missing; the strip is as before.
    """
    record = record_of(strip)
    if record is None:
        return False
    media = _original(record, strip)
    _refuse_missing(media, strip.name)
    now = len(strip.elements) if media.filenames else 0
    shift = record.head / (Fraction(record.rate) / timeline_rate(strip.id_data) if record.rate else Fraction(1))
    _set_media(strip, media, -record.head, now + record.head - len(media.filenames), -shift)
    del strip[record_key]
    return True


def find(scene: bpy.types.Scene, shot: Shot) -> list[Any]:
    """The strip of the shot, and its parts if the user has split it since; empty if it is gone.

    What the user has given other media meanwhile is not taken from them. An undo past the start of the job takes the
    mark off the strip; then the name tells.
    """
    same = [s for s in all_strips(scene) if redubbable(s) and shot.files == _original_of(s).paths()]
    return [s for s in same if s.get(job_key) == shot.key] or [s for s in same if s.name == shot.name]


def revert_each(chosen: Sequence[Any]) -> tuple[int, list[str]]:
    """Reverts strips; how many, and a sentence and a hint about each whose original is missing.

    Raises:
        LipSyncError: one of them cannot be changed; none was.
    """
    for strip in chosen:
        refuse_unchangeable(strip)
    done, problems = 0, []
    for strip in chosen:
        try:
            done += revert(strip)
        except errors.LipSyncError as e:
            problems.append(f"{e} {e.hint}".strip())
    return done, problems


def record_of(strip: Any) -> Record | None:
    """How the strip was re-dubbed; None if it was not, or if it plays something else by now.

    The property may come from anyone's .blend, so what does not look exactly like ours is not used.
    """
    text = strip.get(record_key)
    if not isinstance(text, str) or len(text) > 10_000_000:
        return None
    try:
        data = json.loads(text)
        media = data.pop("media")
        media["filenames"] = tuple(media["filenames"])
        record = Record(Media(**media), **data)
        Fraction(record.rate or 1)
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError):
        return None
    current = media_of(strip)
    playing = current.filepath or current.directory
    valid = (
        _plausible(record.media, strip.type)
        and _is_text(record.absolute, record.take, record.rate, record.beside)
        and type(record.head) is type(record.tail) is type(record.size) is int
        and record.tail >= 0
        and (record.head >= 0 or len(record.media.filenames) == 1)
        and Fraction(record.rate or 1) > 0
        and not (record.rate and record.media.filenames)
        and record.take == _base(playing)
    )
    return record if valid else None


def media_of(strip: Any) -> Media:
    """The files the strip plays now."""
    if strip.type == "MOVIE":
        return Media(filepath=strip.filepath, stream=strip.stream_index)
    return Media(directory=strip.directory, filenames=tuple(e.filename for e in strip.elements))


def _is_text(*values: Any) -> bool:
    return all(isinstance(v, str) and len(v) < 1024 and min(v, default=" ") >= " " for v in values)


def _plausible(media: Media, strip_type: str) -> bool:
    """Plain names of picture files of the strip's own kind."""
    if not _is_text(media.filepath, media.directory, *media.filenames) or type(media.stream) is not int:
        return False
    if strip_type == "MOVIE":
        return _is_movie(media.filepath) and not (media.directory or media.filenames) and 0 <= media.stream < 100
    return bool(media.directory and media.filenames) and all(
        name == _base(name) and os.path.splitext(name)[1].lower() in bpy.path.extensions_image
        for name in media.filenames
    )


def _original_of(strip: Any) -> Media:
    record = record_of(strip)
    return _original(record, strip) if record else media_of(strip)


def _original(record: Record, strip: Any) -> Media:
    """The original media, named as it was if that leads there.

    Where to look, the surest first: beside the new media, which Blender leads the strip to wherever the .blend goes;
    the absolute path it had; the strip's name for it, which means something else in another folder; above the new
    media, where it lies after a project's folder was moved and the strip's path mended. One of the size that it had
    goes before all others, and the guesses have to be of it: another shot has the same name in another folder.
    """
    media, current = record.media, media_of(strip)
    named = media.filepath or media.directory
    folder = os.path.dirname(_absolute(current.filepath or current.directory.rstrip("/\\")))
    sure = [os.path.normpath(os.path.join(folder, record.beside))] if record.beside else []
    sure.append(record.absolute)
    guesses = [_absolute(named), os.path.join(os.path.dirname(folder), _base(named))]
    places = [(path, _at(media, path)) for path in sure + guesses if path]
    there = [(path, place) for path, place in places if place and _size(place)]
    alike = [pair for pair in there if _size(pair[1]) == record.size]
    trusted = [pair for pair in there if not record.size or pair[0] in sure]
    path, found = next(iter(alike + trusted), (record.absolute, _at(media, record.absolute) or media))
    if path == _absolute(named):
        return media
    return _at(media, _like(named, path)) or found


def _at(media: Media, path: str) -> Media | None:
    """The same media at another path; None if no movie can be called so."""
    if media.filepath:
        return Media(filepath=path, stream=media.stream) if _is_movie(path) else None
    return Media(directory=path, filenames=media.filenames)


def _is_movie(path: str) -> bool:
    ending = os.path.splitext(path)[1].lower()
    return ending in bpy.path.extensions_movie or ending in unlisted


def _size(media: Media) -> int:
    """Bytes of the movie or the first image; 0 if it is not there."""
    try:
        return os.path.getsize(replace(media, filenames=media.filenames[:1]).paths()[0])
    except OSError:
        return 0


def _from_folder(folder: str, path: str) -> str:
    """`path` as seen from a folder; empty if it lies on another drive."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return ""


def _base(path: str) -> str:
    """The last part of a path of any system (ntpath would take Blender's // for a network drive)."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _absolute(path: str) -> str:
    return os.path.abspath(bpy.path.abspath(path))


def _like(named: str, path: str) -> str:
    """`path` relative to the .blend if `named` is and that is possible."""
    if named.startswith("//") and bpy.data.filepath:
        try:
            return bpy.path.relpath(path)
        except ValueError:  # another drive
            pass
    return path


def _refuse_unsuitable(strip: Any) -> None:
    refuse_unchangeable(strip)
    if strip.type == "MOVIE" and strip.stream_index:
        raise errors.LipSyncError(
            f"The strip “{strip.name}” plays a further video stream of its file.",
            "Copy that stream to a file of its own first.",
        )
    if strip.use_multiview and strip.id_data.render.use_multiview:
        raise errors.LipSyncError(
            f"The strip “{strip.name}” shows another picture to each eye.",
            "Turn off its Use Multi-View, and re-dub one eye's pictures after the other.",
        )
    for bearer in _bearers(strip):
        name = f"The strip “{bearer.name}”"
        if len(getattr(bearer, "retiming_keys", ())):
            raise errors.LipSyncError(
                f"{name} is retimed, so its speech has no even pace.",
                "Reset its retiming, or render it to a movie first.",
            )
        if bearer.type in {"MOVIE", "IMAGE", "META"} and bearer.use_reverse_frames:
            raise errors.LipSyncError(
                f"{name} plays backwards.", "Turn Reverse Frames off, or render it to a movie first."
            )
        if bearer.type == "SPEED":
            raise errors.LipSyncError(
                f"The strip “{strip.name}” is under the speed effect “{bearer.name}”.",
                "Remove it, or render it to a movie first.",
            )


def _bearers(strip: Any) -> list[Any]:
    """The strip, the meta strips around it and the effects over any of these: all that may change its time."""
    known = all_strips(strip.id_data)
    bearers: list[Any] = [strip]
    for bearer in bearers:  # grows meanwhile
        over = [s for s in known if any(bearer == getattr(s, name, None) for name in ("input_1", "input_2"))]
        bearers += [s for s in (bearer.parent_meta(), *over) if s and s not in bearers]
    return bearers


def _first_missing(media: Media) -> str | None:
    return next((path for path in media.paths() if not os.path.isfile(path)), None)


def _refuse_missing(media: Media, name: str) -> None:
    missing = _first_missing(media)
    if missing is not None:
        raise errors.MediaError(
            f"The media of the strip “{name}” is missing: {missing}.", "Put the file back, or choose another one."
        )


def _measure(media: Media, name: str) -> tuple[int, Fraction]:
    """Source frames and frames a second (1 for images, which have no rate of their own).

    Since 4.5 a strip tells its length in timeline frames only, so a movie is put into a scene of its own and asked.
    """
    _refuse_missing(media, name)
    if not media.filepath:
        return len(media.filenames), Fraction(1)
    scene = bpy.data.scenes.new("lipsync")
    try:
        editor = scene.sequence_editor_create()
        strips = editor.strips if hasattr(editor, "strips") else editor.sequences
        probe = strips.new_movie(name="probe", filepath=media.paths()[0], channel=1, frame_start=1)
        frames, rate = int(getattr(probe, _duration)), probe.fps
    finally:
        remove_scene(scene)
    if not rate:
        raise errors.MediaError(f"The media of the strip “{name}” is no movie: {media.paths()[0]}.")
    return frames, exact_rate(rate)


def _set_media(strip: Any, media: Media, head: int, tail: int, shift: Fraction) -> None:
    """Makes the strip play `media`, which lacks `head` source frames at the front and `tail` at the end.

    Negative numbers: it has so many more. `shift` is the head in timeline frames.
    """
    handles = visible(strip)
    left, right, start = (getattr(strip, name) for name in (_left, _right, _start))
    if media.filepath:
        strip.stream_index = media.stream  # before the path: a stream that the file lacks shows magenta
        strip.filepath = media.filepath  # Blender reloads at once and keeps the right handle
    else:
        strip.directory = media.directory
        while len(strip.elements) > len(media.filenames):
            strip.elements.pop(index=-1)
        for index, filename in enumerate(media.filenames):
            if index < len(strip.elements):
                strip.elements[index].filename = filename
            else:
                strip.elements.append(filename)
    if head or (tail and not media.filepath):
        # Offsets before the start: the other order moves the effects that depend on the strip.
        setattr(strip, _left, left - float(shift))
        if not media.filepath:
            setattr(strip, _right, right - tail)
        setattr(strip, _start, start + float(shift))
    for name, value in zip(_handles, handles, strict=True):
        if round(getattr(strip, name)) != value:
            setattr(strip, name, value)
