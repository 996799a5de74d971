# SPDX-License-Identifier: GPL-3.0-or-later
"""What a movie says about itself beside its pictures: ordinary tags, timecode and chapters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer, OutputContainer

not_carried = (
    "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id", "timecode", "handler_name",
)  # fmt: skip
"""Keys that tell of the old file, not of what it shows; the timecode is carried in its own way."""
chapter_unit = Fraction(1, 1000)
"""Seconds: what chapters are counted in."""
programs_names = re.compile(r"handle|media file|core media|gopro|dji", re.IGNORECASE)
"""In the handler name of a track that says which program wrote it; any other is what people call the track."""
timecode_form = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")


@dataclass(frozen=True)
class Chapter:
    """A named part of a movie."""

    start: Fraction
    end: Fraction
    """Seconds on the container's clock."""
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tags:
    """A movie's own words."""

    metadata: tuple[tuple[str, str], ...] = ()
    """Of the whole movie, as (key, value)."""
    video: tuple[tuple[str, str], ...] = ()
    """Of its picture stream."""
    timecode: str = ""
    """Of its first frame: HH:MM:SS:FF, with a semicolon before FF where frame numbers are dropped."""
    chapters: tuple[Chapter, ...] = ()


no_tags = Tags()


def tags_of(container: InputContainer, video: av.VideoStream) -> Tags:
    """The tags of a movie, its picture stream's among them."""
    timecode = video.metadata.get("timecode") or _lowered(container.metadata).get("timecode", "")
    own = _lowered(video.metadata)
    told = {"title": own.get("name"), "reel_name": _reel_name(container), **own}
    chapters = [
        Chapter(one["start"] * unit, one["end"] * unit, tuple(one["metadata"].items()))
        for one in container.chapters()
        if (unit := one["time_base"])
    ]
    spoken = {key: value for key, value in told.items() if value}
    return Tags(_carried(container.metadata), _carried(spoken), timecode, tuple(chapters))


def track_tags(metadata: dict[str, str]) -> dict[str, str]:
    """What the new track of a sound or of subtitles says of itself as the old one did: its language and its name.

    A name is a title in Matroska, a name in .mp4 and .mov (which the muxer makes of a title), and in old .mov files
    it is in the place of the handler's.
    """
    own = _lowered(metadata)
    told = {key: own[key] for key in ("language", "handler_name") if own.get(key)}
    handler = "" if programs_names.search(told.get("handler_name", "")) else told.get("handler_name", "")
    name = own.get("title") or own.get("name") or handler
    return {**told, "title": name, "handler_name": name} if name else told


def write_tags(container: OutputContainer, tags: Tags, begin: Fraction, length: Fraction, timecode: str) -> None:
    """Gives a new movie the source's tags, and the chapters that its part of the source has.

    Args:
        begin: time of the first picture on the source's clock.
        length: seconds of picture.
        timecode: of the first picture; empty: none.
    """
    container.metadata.update(tags.metadata)
    if timecode:
        container.metadata["timecode"] = timecode
    chapters = []
    for chapter in tags.chapters:
        start, end = max(chapter.start - begin, Fraction(0)), min(chapter.end - begin, length)
        if start < end:
            chapters.append(
                {
                    "id": len(chapters) + 1,
                    "start": round(start / chapter_unit),
                    "end": round(end / chapter_unit),
                    "time_base": chapter_unit,
                    "metadata": dict(chapter.metadata),
                }
            )
    if chapters:
        container.set_chapters(chapters)


def needs_free_keys(tags: Tags) -> bool:
    """Whether .mp4 and .mov hold these tags only as QuickTime does, whose keys are free."""
    return any("." in key for key, _ in tags.metadata)


def later(timecode: str, frames: int, rate: Fraction) -> str:
    """The timecode `frames` frames after `timecode` [SMPTE ST 12-1]; empty if that is none.

    Drop-frame timecode, which exists for 30000/1001 and its multiples, leaves out the first two numbers (four at 60)
    of every minute but each tenth.
    """
    found = timecode_form.fullmatch(timecode)
    nominal = round(rate)
    if not found or nominal < 1:
        return ""
    hours, minutes, seconds, frame = (int(found[i]) for i in (1, 2, 3, 5))
    dropped = nominal // 15 if found[4] != ":" and nominal % 30 == 0 else 0
    minutes += 60 * hours
    number = (60 * minutes + seconds) * nominal + frame - dropped * (minutes - minutes // 10) + frames
    in_minute = 60 * nominal - dropped
    in_ten = 10 * in_minute + dropped
    number %= 144 * in_ten
    if dropped:
        tens, rest = divmod(number, in_ten)
        number += 9 * dropped * tens + dropped * max(0, (rest - dropped) // in_minute)
    seconds, frame = divmod(number, nominal)
    separator = ";" if dropped else ":"
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{separator}{frame:02}"


def _reel_name(container: InputContainer) -> str:
    """Of the tape or card that the timecode counts: .mov says it on the timecode's own track."""
    return next((name for stream in container.streams if (name := _lowered(stream.metadata).get("reel_name"))), "")


def _carried(metadata: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in _lowered(metadata).items() if key not in not_carried)


def _lowered(metadata: dict[str, str]) -> dict[str, str]:
    """Matroska shouts its keys; elsewhere they are known in small letters only."""
    return {key.lower() if key.isupper() else key: value for key, value in metadata.items()}
