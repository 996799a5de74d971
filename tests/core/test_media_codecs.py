# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec of a new movie: the source's where that can be, or the one that was chosen; never a silent loss."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import click_times, make_movie
from portrait_clips import write_images, write_movie

from core import media
from core.errors import OutputError
from core.media import SourceInfo, probe, read, write
from core.media.planes import components


def copy(info: SourceInfo, output: Path, quality: str, **options: Any) -> SourceInfo:
    with write(info, str(output), quality=quality, count=info.frames, **options) as writer:
        for picture in read(info):
            writer.add(picture)
    return probe(str(output))


def seen_error(one: SourceInfo, other: SourceInfo) -> float:
    """Mean difference of the pictures as they are seen, in levels."""
    pairs = zip(read(one), read(other), strict=True)
    return float(np.mean([np.abs(a.rgb().astype(float) - b.rgb()).mean() for a, b in pairs]))


def boxes(path: str) -> list[bytes]:
    """The kinds of a movie's outermost boxes, in order."""
    data, at, kinds = Path(path).read_bytes(), 0, []
    while at < len(data):
        kinds.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big") or len(data)
    return kinds


@pytest.mark.parametrize(
    ("name", "made", "suffix", "codec"),
    [
        ("prores.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}, ".mp4", "h264"),
        ("prores.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}, ".mkv", "prores"),
        (
            "dnxhr.mov",
            {"codec": "dnxhd", "pixel_format": "yuv422p", "options": {"profile": "dnxhr_hq"}},
            ".mp4",
            "h264",
        ),
        ("archive.mkv", {"codec": "ffv1"}, ".mp4", "h264"),
        ("see through.mkv", {"codec": "ffv1", "pixel_format": "bgra"}, ".mov", "png"),
        ("see through.mkv", {"codec": "ffv1", "pixel_format": "yuva420p"}, ".mov", "prores"),
    ],
)
def test_a_container_that_cannot_hold_the_sources_codec_gets_the_next_best(
    tmp_path: Path, name: str, made: dict[str, Any], suffix: str, codec: str
) -> None:
    info = probe(str(write_movie(tmp_path / name, 4, **made)))
    new = copy(info, tmp_path / f"new{suffix}", "high")
    assert new.codec == codec
    # A colour for every pixel is a guess where there was one for four.
    assert seen_error(info, new) <= (1 if codec == "prores" and info.pixel_format == "yuva420p" else 0.5)


@pytest.mark.parametrize(
    ("made", "profile"),
    [
        ({"pixel_format": "yuv420p"}, "HQ"),
        ({"pixel_format": "yuv420p", "tags": (2, 5, 5, 6)}, "HQ"),
        ({"pixel_format": "yuv444p"}, "4444"),
        ({"codec": "libx264rgb", "pixel_format": "rgb24", "tags": (0, 2, 2, 2)}, "4444"),
        ({"codec": "ffv1", "pixel_format": "yuva420p"}, "4444"),
        ({"codec": "ffv1", "pixel_format": "bgra", "tags": (0, 2, 2, 2)}, "4444"),
        ({"codec": "ffv1", "pixel_format": "gray", "tags": (0, 2, 2, 2)}, "HQ"),
        ({"codec": "ffv1", "size": (321, 240)}, "4444"),
    ],
)
def test_a_mezzanine_is_prores_that_looks_the_same_alpha_and_all(
    tmp_path: Path, made: dict[str, Any], profile: str
) -> None:
    info = probe(str(write_movie(tmp_path / "clip.mkv", 4, **made)))
    new = copy(info, tmp_path / "new.mov", "mezzanine")
    assert (new.codec, new.profile) == ("prores", profile)
    assert (new.frames, new.rate, new.width, new.height) == (info.frames, info.rate, info.width, info.height)
    assert new.color_range != 2
    assert seen_error(info, new) <= 1
    for old, now in zip(read(info), read(new), strict=True):
        first, second = components(old.frame), components(now.frame)
        assert ("a" in first) == ("a" in second)
        if "a" in first:
            assert np.array_equal(np.rint(second["a"] / 4095 * 255), first["a"])


def test_images_become_a_mezzanine_with_a_colour_for_every_pixel(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", "png", "rgb48be", "png", 3)
    images = media.probe_images(paths, Fraction(24))
    info = media.movie_info(images, "mezzanine")
    with write(info, str(tmp_path / "new.mov"), quality="mezzanine", count=info.frames) as writer:
        for picture in read(images):
            writer.add(media.converted(picture, info))
    new = probe(str(tmp_path / "new.mov"))
    assert (new.codec, new.profile, new.colorspace) == ("prores", "4444", 1)
    assert seen_error(images, new) <= 1


def test_a_web_movie_is_8_bit_4_2_0_with_aac_and_begins_to_play_while_it_loads(tmp_path: Path) -> None:
    clicks = [Fraction(1, 10), Fraction(3, 10)]
    clip = make_movie(tmp_path / "master.mov", 12, pixel_format="yuv422p10le", sound="pcm_s16le", clicks=clicks)
    info = probe(str(clip))
    new = copy(info, tmp_path / "new.mp4", "web", sound="source")
    assert (new.codec, new.profile, new.pixel_format) == ("h264", "High", "yuv420p")
    assert (new.frames, new.rate) == (info.frames, info.rate)
    kinds = boxes(new.path)
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    with av.open(new.path) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert click_times(Path(new.path)) == pytest.approx([float(c) for c in clicks], abs=0.01)
    assert seen_error(info, new) < 3


def test_a_full_range_source_looks_the_same_on_the_web(tmp_path: Path) -> None:
    info = probe(str(write_movie(tmp_path / "phone.mp4", 4, tags=(2, 5, 5, 6))))
    new = copy(info, tmp_path / "new.mp4", "web")
    assert (new.pixel_format, new.color_range) == ("yuv420p", 1)
    means = [np.mean([p.rgb().mean() for p in read(one)]) for one in (info, new)]
    assert abs(means[0] - means[1]) < 1


@pytest.mark.parametrize(
    ("made", "size"),
    [
        ({"size": (97, 63)}, (98, 64)),
        ({"size": (96, 63), "pixel_format": "yuv422p10le"}, (96, 64)),
        ({"size": (97, 64), "pixel_format": "bgr0", "tags": (0, 2, 2, 2)}, (98, 64)),
        ({"size": (63, 97), "pixel_format": "yuv444p"}, (64, 98)),
    ],
    ids=str,
)
def test_on_the_web_an_odd_size_gets_a_line_more_and_the_user_is_told(
    tmp_path: Path, made: dict[str, Any], size: tuple[int, int]
) -> None:
    """A list of screen captures for a site would be refused for a pixel, or stand a pixel beside its captions."""
    info = probe(str(write_movie(tmp_path / "clip.mkv", 2, codec="ffv1", **made)))
    with write(info, str(tmp_path / "new.mp4"), quality="web", count=2) as writer:
        for picture in read(info):
            writer.add(picture)
    new = probe(str(tmp_path / "new.mp4"))
    assert (new.width, new.height) == size and new.pixel_format == "yuv420p"
    assert [f"{size[0]}x{size[1]}" in warning for warning in writer.warnings] == [True]
    for old, shown in zip(read(info), read(new), strict=True):
        rgb = shown.rgb().astype(int)
        assert np.abs(rgb[: info.height, : info.width] - old.rgb()).mean() < 4
        repeated = np.pad(old.rgb(), [(0, size[1] - info.height), (0, size[0] - info.width), (0, 0)], mode="edge")
        assert np.abs(rgb[-1] - repeated[-1]).mean() < 12 and np.abs(rgb[:, -1] - repeated[:, -1]).mean() < 12


@pytest.mark.parametrize(
    ("height", "quality", "ending", "made"),
    [(242, "web", ".mp4", 244), (241, "web", ".mp4", 244), (242, "high", ".mp4", 242), (241, "high", ".mp4", 241)],
)
def test_fields_of_a_height_that_h264_does_not_know_are_no_error_at_the_end_of_the_work(
    tmp_path: Path, height: int, quality: str, ending: str, made: int
) -> None:
    """NTSC of 486 lines: after an hour of looking for faces the encoder would refuse the first picture."""
    info = probe(str(write_movie(tmp_path / "tape.mkv", 2, codec="ffv1", size=(320, height), fields="tff")))
    new = copy(info, tmp_path / f"new{ending}", quality)
    assert (new.height, new.frames, new.field_order in (2, 5)) == (made, 2, True)


def test_a_turned_web_movie_tells_its_size_as_it_is_seen(tmp_path: Path) -> None:
    made: dict[str, Any] = {"codec": "prores_ks", "pixel_format": "yuv444p10le", "size": (63, 98), "rotation": 90}
    clip = write_movie(tmp_path / "phone.mov", 2, **made)
    info = probe(str(clip))
    with write(info, str(tmp_path / "new.mp4"), quality="web", count=2) as writer:
        for picture in read(info):
            writer.add(picture)
    new = probe(str(tmp_path / "new.mp4"))
    assert (info.width, info.height, new.width, new.height) == (63, 98, 64, 98)
    assert "64x98 and not 63x98" in writer.warnings[0]


def test_what_the_web_cannot_show_is_refused_not_dropped(tmp_path: Path) -> None:
    info = probe(str(write_movie(tmp_path / "clip.mkv", 2, codec="ffv1", pixel_format="bgra")))
    with pytest.raises(OutputError, match="no transparency") as caught:
        media.check_output(info, str(tmp_path / "new.mp4"), "web")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("made", "most"),
    [
        ({"size": (321, 241)}, 1),
        ({"size": (321, 241), "tags": (2, 5, 5, 6)}, 1),
        ({"size": (321, 240), "pixel_format": "yuv422p10le"}, 1),
        ({"pixel_format": "yuv411p"}, 1),
        ({"pixel_format": "yuv422p12le"}, 0.5),
        ({"pixel_format": "gray", "tags": (0, 2, 2, 2)}, 0.5),
        ({"pixel_format": "gbrp12le", "tags": (0, 2, 2, 2)}, 1),
    ],
    ids=str,
)
def test_an_mp4_holds_what_players_play_in_the_sources_size_and_colours(
    tmp_path: Path, made: dict[str, Any], most: float
) -> None:
    """FFV1 in .mp4 opens nowhere but in Blender and a few others."""
    info = probe(str(write_movie(tmp_path / "clip.mkv", 3, codec="ffv1", **made)))
    new = copy(info, tmp_path / "new.mp4", "high")
    assert (new.codec, new.width, new.height, new.frames) == ("h264", info.width, info.height, info.frames)
    assert (new.color_range == 2) == (info.color_range == 2)
    assert (new.color_primaries, new.color_trc) == (info.color_primaries, info.color_trc)
    # A colour for every pixel is a guess where there was one for four; RGB of 12 bits is rounded twice to be seen.
    assert seen_error(info, new) <= most


@pytest.mark.parametrize(
    ("made", "quality", "kept"),
    [
        ({"size": (321, 241)}, "lossless", "yuv420p pixels unchanged"),
        ({"pixel_format": "yuva420p"}, "high", "transparency"),
    ],
)
def test_what_only_ffv1_keeps_in_an_mp4_is_said(tmp_path: Path, made: dict[str, Any], quality: str, kept: str) -> None:
    info = probe(str(write_movie(tmp_path / "clip.mkv", 2, codec="ffv1", **made)))
    with write(info, str(tmp_path / "new.mp4"), quality=quality, count=2) as writer:
        for picture in read(info):
            writer.add(picture)
    assert ["FFV1" in warning and kept in warning for warning in writer.warnings] == [True]
    assert seen_error(info, probe(str(tmp_path / "new.mp4"))) == 0


@pytest.mark.parametrize(("quality", "suffix", "right"), [("mezzanine", ".mp4", ".mov"), ("web", ".mkv", ".mp4")])
def test_a_choice_that_the_container_cannot_hold_is_refused_with_one_that_can(
    tmp_path: Path, quality: str, suffix: str, right: str
) -> None:
    info = probe(str(write_movie(tmp_path / "clip.mp4", 2)))
    with pytest.raises(OutputError, match=f"{suffix} file cannot hold a {quality} movie") as caught:
        media.check_output(info, str(tmp_path / f"new{suffix}"), quality)
    assert right in caught.value.hint


@pytest.mark.parametrize("codec", ["libx265", "prores_ks", "ffv1"])
def test_the_same_job_twice_gives_the_same_bytes_in_every_codec(tmp_path: Path, codec: str) -> None:
    layout = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    options = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    info = probe(str(write_movie(tmp_path / "clip.mkv", 20, codec=codec, pixel_format=layout, options=options)))
    first, second = (Path(copy(info, tmp_path / f"{i}.mkv", "high").path).read_bytes() for i in range(2))
    assert first == second


every_encoder = {
    "h264.mp4": ({}, "high", ".mp4"),
    "h264 lossless.mp4": ({}, "lossless", ".mp4"),
    "web.mp4": ({}, "web", ".mp4"),
    "tff.mp4": ({"fields": "tff", "options": {"flags": "+ildct+ilme"}}, "high", ".mp4"),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": "log-level=error"}}, "high", ".mp4"),
    "mezzanine.mp4": ({}, "mezzanine", ".mov"),
    "dnxhr.mov": ({"codec": "dnxhd", "pixel_format": "yuv422p", "options": {"profile": "dnxhr_hq"}}, "high", ".mov"),
    "ffv1.mkv": ({"codec": "ffv1"}, "high", ".mkv"),
    "rgb.mkv": ({"codec": "ffv1", "pixel_format": "bgra"}, "high", ".mov"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can fill the memory that a program is given")
def test_the_bytes_do_not_depend_on_what_lay_in_memory(tmp_path: Path) -> None:
    """An encoder that reads what nobody has written, or not yet, gives other bytes once in many runs."""
    tasks = []
    for name, (made, quality, suffix) in every_encoder.items():
        source = write_movie(tmp_path / name, 12, tone=True, **made)
        tasks.append((str(source), str(tmp_path / f"new {source.stem}{suffix}"), quality))
    program = f"""
import hashlib, os
from core.media import probe, read, write
for source, output, quality in {tasks!r} * 8:
    info = probe(source)
    with write(info, output, quality=quality, count=info.frames) as writer:
        for picture in read(info):
            writer.add(picture)
    print(source, hashlib.sha256(open(output, "rb").read()).hexdigest())
    os.remove(output)
"""
    root = str(Path(media.__file__).parents[2])
    said = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=root, env={**os.environ, "MALLOC_PERTURB_": fill},
            capture_output=True, text=True, check=True, timeout=300,
        ).stdout.splitlines()
        for fill in ("85", "170", "240")
    ]  # fmt: skip
    assert len(said[0]) == 8 * len(tasks)
    assert sorted({line for lines in said for line in lines}) == sorted(set(said[0]))
    assert len(set(said[0])) == len(tasks)


@pytest.mark.parametrize(("fields", "container", "stream"), [("tff", b"fiel\2\1", 1), ("bff", b"fiel\2\6", 2)])
def test_which_field_comes_first_is_said_by_the_container_and_by_the_pictures(
    tmp_path: Path, fields: str, container: bytes, stream: int
) -> None:
    """Players believe either; a wrong one makes everything that moves tremble."""
    made: dict[str, Any] = {"codec": "prores_ks", "pixel_format": "yuv422p10le", "options": {"flags": "+ildct"}}
    info = probe(str(write_movie(tmp_path / "clip.mov", 2, fields=fields, **made)))
    new = copy(info, tmp_path / "new.mov", "high")
    assert container in Path(new.path).read_bytes()
    with av.open(new.path) as movie:
        headers = [bytes(packet)[20] for packet in movie.demux(video=0) if packet.size]
    assert [header >> 2 & 3 for header in headers] == [stream, stream]  # SMPTE RDD 36, frame header


def test_grain_survives_a_new_generation_of_each_codec(tmp_path: Path) -> None:
    """The grainiest footage is the hardest to keep: within half a level each, as everything else."""
    grain = np.random.default_rng(0).normal(0, 12, (4, 240, 320, 3))
    base = probe(str(write_movie(tmp_path / "clip.mkv", 4, codec="ffv1", pixel_format="yuv422p10le")))
    for codec, options in (
        ("libx265", {"x265-params": "log-level=error", "crf": "0"}),
        ("prores_ks", {"profile": "hq"}),
        ("dnxhd", {"profile": "dnxhr_hqx"}),
    ):
        path = tmp_path / f"{codec}.mov"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, width=320, height=240, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.codec_context.pix_fmt = "yuv422p10le"
            for picture in read(base):
                rgb = np.clip(picture.rgb() + grain[picture.index], 0, 255).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv422p10le")
                frame.pts = picture.index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        info = probe(str(path))
        new = copy(info, tmp_path / f"new {codec}.mov", "high")
        assert new.codec == info.codec
        for old, now in zip(read(info), read(new), strict=True):
            first, second = components(old.frame), components(now.frame)
            for name in first:
                assert np.abs(first[name].astype(float) - second[name]).mean() / 4 <= 0.5, (codec, name)
