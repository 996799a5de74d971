# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged and cut-off movies: an editor who is not told of a frozen or torn picture delivers it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import make_movie

from core.media import probe, read, told

count = 60
short_groups = {"g": "10", "x264-params": "mbtree=0"}


def cut_off(data: bytearray) -> bytearray:
    """A download that stopped."""
    return data[: len(data) * 6 // 10]


def zeros(data: bytearray) -> bytearray:
    """Sectors of a disk that could not be read."""
    middle = len(data) // 2
    data[middle : middle + len(data) // 6] = bytes(len(data) // 6)
    return data


def noise(data: bytearray) -> bytearray:
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    return data


def index_first(path: Path) -> None:
    """Puts a movie's index before its pictures, as for the web."""
    whole = path.with_name(f"whole {path.name}")
    path.rename(whole)
    with av.open(str(whole)) as old, av.open(str(path), "w", options={"movflags": "+faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


@pytest.mark.parametrize(
    ("name", "harm", "expected", "made"),
    [
        ("web.mp4", cut_off, {"ended"}, {"options": short_groups}),
        ("phone.mkv", cut_off, {"ended"}, {"options": short_groups}),
        ("broadcast.ts", zeros, {"lost"}, {"codec": "mpeg2video", "options": {"g": "12"}}),
        ("zeros.mp4", zeros, {"lost"}, {"options": short_groups}),
        ("zeros.mkv", zeros, {"ended"}, {"options": short_groups}),
        ("noise.mp4", noise, {"torn"}, {"options": short_groups}),
        ("noise.mov", noise, {"torn"}, {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
    ],
)
def test_every_picture_that_is_not_the_sources_is_named(
    tmp_path: Path,
    name: str,
    harm: Callable[[bytearray], bytearray],
    expected: set[str],
    made: dict[str, Any],
) -> None:
    """What is said to be good is the intact movie's, bit for bit; what is lost or ended shows the last one before."""
    clip = make_movie(tmp_path / name, count, **made)
    if name == "web.mp4":
        index_first(clip)
    intact = [picture.rgb() for picture in read(probe(str(clip)))]
    clip.write_bytes(harm(bytearray(clip.read_bytes())))
    pictures = list(read(probe(str(clip))))
    kinds = [picture.damage for picture in pictures]
    assert len(pictures) == len(intact) == count
    assert expected <= set(kinds) <= {"", "lost", "torn", "ended"}
    before = intact[0]
    for picture, truth in zip(pictures, intact, strict=True):
        shown = picture.rgb()
        if picture.damage == "":
            assert np.array_equal(shown, truth)
        elif picture.damage != "torn":
            assert np.array_equal(shown, before)
        before = shown
    assert kinds.count("") >= 20, "what is whole must not be called damaged"
    starts = [first for first in (0, 20, 45) if kinds[first] == kinds[max(0, first - 12)] == ""]
    assert starts
    for first in starts:  # a strip that begins late hears the same
        assert [picture.damage for picture in read(probe(str(clip)), first)] == kinds[first:]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("plain.mp4", {}),
        ("open groups.mp4", {"options": {"g": "10", "x264-params": "open-gop=1:mbtree=0"}}),
        ("long.ts", {"codec": "mpeg2video"}),
        ("phone.mp4", {"times": [0, 40, 400, 440, 1500, 1510, 2000], "time_base": Fraction(1, 1000)}),
        ("screen.mkv", {"times": [0, 40, 400, 440, 1500, 1510, 2000], "time_base": Fraction(1, 1000)}),
        ("with sound.mkv", {"sound": "aac", "sound_length": Fraction(50, 25)}),
    ],
)
def test_whole_movies_are_not_called_damaged(tmp_path: Path, name: str, made: dict[str, Any]) -> None:
    """Pictures held by a variable frame rate, or a sound that ends a moment later, are no damage."""
    clip = make_movie(tmp_path / name, len(made["times"]) if "times" in made else 48, **made)
    info = probe(str(clip))
    for start in (0, info.frames // 2):
        assert {picture.damage for picture in read(info, start)} == {""}


def test_a_sound_that_goes_on_without_pictures_is_told(tmp_path: Path) -> None:
    clip = make_movie(tmp_path / "long sound.mkv", 25, sound="aac", sound_length=Fraction(3))
    info = probe(str(clip))
    kinds = [picture.damage for picture in read(info)]
    assert kinds == [""] * 25 + ["ended"] * (info.frames - 25) and info.frames >= 75


def test_ranges_are_told_in_frames_and_seconds_and_not_without_end() -> None:
    some = told("a.mp4", ["", "lost", "lost", "", "lost"], Fraction(25))
    assert len(some) == 1
    assert "a.mp4" in some[0] and "frames 1 to 2 (0.04 to 0.12 s) and frame 4 (0.16 to 0.20 s)" in some[0]
    assert told("a.mp4", [""] * 9, Fraction(25)) == ()
    many = told("a.mp4", ["lost", ""] * 500, Fraction(25))
    assert len(many) == 1 and len(many[0]) < 600 and "and 490 more ranges" in many[0]
