# SPDX-License-Identifier: GPL-3.0-or-later
"""What a movie says beside its pictures comes along: without its timecode a shot is lost in the conform."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.stream import Disposition
from clips import make_movie
from portrait_clips import write_movie

from core.media import SourceInfo, probe, read, write
from core.media.tags import later, track_tags

ntsc = Fraction(30000, 1001)


def copy(info: SourceInfo, output: Path, start: int = 0) -> SourceInfo:
    count = info.frames - start
    with write(info, str(output), start=start, count=count) as writer:
        for picture in read(info, start, count):
            writer.add(picture)
    return probe(str(output))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("rate", "first", "fifth"), [
    (Fraction(25), "10:59:59:22", "11:00:00:02"), (ntsc, "01:00:59;28", "01:01:00;05"),
])  # fmt: skip
def test_the_timecode_is_that_of_the_first_picture(
    tmp_path: Path, suffix: str, rate: Fraction, first: str, fifth: str
) -> None:
    info = probe(str(write_movie(tmp_path / f"clip{suffix}", 12, rate=rate, metadata={"timecode": first})))
    assert info.tags.timecode == first
    assert copy(info, tmp_path / f"all{suffix}").tags.timecode == first
    part = copy(info, tmp_path / f"part{suffix}", start=5)
    assert part.tags.timecode == fifth
    assert part.frames == 7


def test_drop_frame_timecode_keeps_the_time_of_day() -> None:
    assert later("00:09:59;29", 1, ntsc) == "00:10:00;00"
    assert later("00:00:00;00", 107892, ntsc) == "01:00:00;00"
    assert later("23:59:59;29", 1, ntsc) == "00:00:00;00"
    assert later("00:00:59;59", 1, 2 * ntsc) == "00:01:00;04"
    whole = {later("00:00:00;00", number, ntsc) for number in range(18000)}
    assert len(whole) == 18000
    assert not any(code[4] != "0" and code.endswith(("00;00", "00;01")) for code in whole)


@pytest.mark.parametrize(("code", "rate"), [("noon", ntsc), ("01:00:00;00", Fraction(24)), ("", ntsc)])
def test_a_timecode_that_is_none_does_not_stop_the_job(tmp_path: Path, code: str, rate: Fraction) -> None:
    assert ";" not in later(code, 1, rate)
    info = probe(str(write_movie(tmp_path / "clip.mkv", 4, rate=rate, metadata={"timecode": code} if code else None)))
    assert copy(info, tmp_path / "new.mov").frames == 4


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_tags_come_along_and_the_old_files_coding_does_not(tmp_path: Path, suffix: str) -> None:
    told = {
        "title": "Interview", "artist": "A. Person", "comment": "Take 3", "encoder": "An old camera",
        "creation_time": "2021-02-03T04:05:06.000000Z",
    }  # fmt: skip
    info = probe(str(write_movie(tmp_path / "clip.mkv", 4, metadata=told)))
    found = dict(copy(info, tmp_path / f"new{suffix}").tags.metadata)
    assert {key: found.get(key) for key in told if key != "encoder"} == {
        key: value for key, value in told.items() if key != "encoder"
    }
    assert b"An old camera" not in (tmp_path / f"new{suffix}").read_bytes()


def test_a_phones_own_keys_come_along(tmp_path: Path) -> None:
    info = probe(str(write_movie(tmp_path / "clip.mkv", 4, metadata={"com.apple.quicktime.make": "Acme"})))
    assert dict(copy(info, tmp_path / "new.mov").tags.metadata)["com.apple.quicktime.make"] == "Acme"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_chapters_move_with_the_part_that_is_taken(tmp_path: Path, suffix: str) -> None:
    chapters = [(0, 3, "gone"), (3, 8, "cut"), (8, 12, "whole")]
    info = probe(str(write_movie(tmp_path / "clip.mp4", 12, chapters=chapters)))
    new = copy(info, tmp_path / f"new{suffix}", start=5)
    assert new.frames == 7, "the chapters' own stream must not count as pictures"
    found = [(float(c.start), float(c.end), dict(c.metadata)["title"]) for c in new.tags.chapters]
    assert found == [(0, pytest.approx(0.12), "cut"), (pytest.approx(0.12), pytest.approx(0.28), "whole")]


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_a_sound_streams_name_and_role_come_along(tmp_path: Path, suffix: str) -> None:
    clip = tmp_path / "clip.mkv"
    make_movie(tmp_path / "plain.mp4", 8, sound="aac")
    with av.open(str(tmp_path / "plain.mp4")) as old, av.open(str(clip), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        sounds = [new.add_stream_from_template(old.streams.audio[0]) for _ in range(2)]
        for sound, title, role in zip(sounds, ("Boom", "Comments"), ("default", "comment"), strict=True):
            sound.metadata["title"], sound.disposition = title, Disposition[role]
        for packet in old.demux():
            if packet.dts is not None:
                for stream in [video] if packet.stream.type == "video" else sounds:
                    packet.stream = stream
                    new.mux(packet)
    output = tmp_path / f"new{suffix}"
    copy(probe(str(clip)), output)
    with av.open(str(output)) as container:
        first, second = container.streams.audio
        name = "title" if suffix == ".mkv" else "handler_name"  # which is a track's name there
        assert [first.metadata.get(name), second.metadata.get(name)] == ["Boom", "Comments"]
        assert Disposition.default in first.disposition
        assert Disposition.default not in second.disposition
        assert Disposition.comment in second.disposition or suffix == ".mov"  # which knows no such role


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_reel_and_the_names_of_tracks_come_along(tmp_path: Path, suffix: str) -> None:
    """By its reel an edit list finds a camera's card again; by their names a mixer tells dialogue from music."""
    names = ("Camera A", "Dialogue", "M&E L")
    clip = tmp_path / "clip.mov"
    make_movie(tmp_path / "plain.mp4", 8, sound="aac")
    with av.open(str(tmp_path / "plain.mp4")) as old, av.open(str(clip), "w") as new:
        new.metadata["timecode"] = "01:00:00:00"
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        sounds = [new.add_stream_from_template(old.streams.audio[0]) for _ in range(2)]
        for stream, name in zip([video, *sounds], names, strict=True):
            stream.metadata["title"] = name
        video.metadata["reel_name"] = "A001C003"
        for packet in old.demux():
            if packet.dts is not None:
                for stream in [video] if packet.stream.type == "video" else sounds:
                    packet.stream = stream
                    new.mux(packet)
    info = probe(str(clip))
    output = tmp_path / f"new{suffix}"
    with write(info, str(output), count=info.frames) as writer:
        for picture in read(info):
            writer.add(picture)
    if suffix == ".mp4":
        assert [warning for warning in writer.warnings if "the reel name A001C003" in warning]
    else:
        assert dict(probe(str(output)).tags.video)["reel_name"] == "A001C003"
    with av.open(str(output)) as container:
        key = "title" if suffix == ".mkv" else "name"
        streams = [container.streams.video[0], *container.streams.audio]
        assert [stream.metadata.get(key) for stream in streams] == list(names)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"handler_name": "English"}, "English"),
        ({"HANDLER_NAME": "English"}, "English"),
        ({"handler_name": "SoundHandler"}, None),
        ({"handler_name": "Core Media Audio"}, None),
        ({"handler_name": "SoundHandler", "name": "Boom"}, "Boom"),
        ({"title": "Boom", "name": "Channel 1"}, "Boom"),
    ],
)
def test_a_track_is_called_what_people_call_it_not_after_a_program(told: dict[str, str], name: str | None) -> None:
    assert track_tags(told).get("title") == name
