# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing: the new movie must be the old one in everything but the lips, and be there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import barcode, make_movie, number_of

from core.errors import MediaError, OutputError
from core.media import SourceInfo, check_output, probe, read, suffixes, write
from core.media.planes import components


def copy(info: SourceInfo, output: Path, start: int = 0, count: int | None = None, **options) -> SourceInfo:
    """Write frames of the source unchanged and look at what came out."""
    count = info.frames - start if count is None else count
    with write(info, str(output), start=start, count=count, **options) as writer:
        for picture in read(info, start, count):
            writer.add(picture)
    return probe(str(output))


def plane_errors(one: SourceInfo, other: SourceInfo, start: int = 0) -> np.ndarray:
    """Mean absolute error of each plane over the clip, in levels of 8 bit."""
    errors = []
    for a, b in zip(read(one, start), read(other), strict=True):
        first, second = components(a.frame), components(b.frame)
        assert first.keys() == second.keys()
        unit = max(1, 1 << (a.frame.format.components[0].bits - 8))
        errors.append([np.abs(first[name].astype(float) - second[name]).mean() / unit for name in first])
    return np.mean(errors, axis=0)


sources = {
    "plain.mp4": {},
    "tagged 709.mov": {"tags": (1, 1, 1, 1)},
    "tagged 601 full.mp4": {"tags": (2, 5, 5, 6)},
    "hdr.mp4": {"tags": (1, 9, 9, 16), "pixel_format": "yuv420p10le"},
    "wide pixels.mp4": {"aspect": Fraction(16, 11)},
    "phone.mp4": {"rotation": -90},
    "upside down.mov": {"rotation": 180},
    "ntsc.mp4": {"rate": Fraction(30000, 1001)},
    "422.mov": {"pixel_format": "yuv422p"},
    "444.mp4": {"pixel_format": "yuv444p", "size": (97, 63)},
    "odd.mkv": {"codec": "ffv1", "size": (97, 63)},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le"},
    "prores alpha.mov": {"codec": "prores_ks", "pixel_format": "yuva444p10le"},
    "rgb alpha.mkv": {"codec": "ffv1", "pixel_format": "bgra"},
    "screen.mp4": {"codec": "libx264rgb", "pixel_format": "rgb24"},
    "camera.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "broadcast.ts": {"codec": "mpeg2video"},
    "12 bit.mkv": {"codec": "ffv1", "pixel_format": "yuv422p12le"},
    "grey.mkv": {"codec": "ffv1", "pixel_format": "gray"},
}


@pytest.mark.parametrize("name", sources)
@pytest.mark.parametrize("quality", ["high", "lossless"])
def test_the_new_movie_is_the_source_again(tmp_path: Path, name: str, quality: str) -> None:
    info = probe(str(make_movie(tmp_path / name, 8, **sources[name])))
    for suffix in suffixes(info, quality):
        new = copy(info, tmp_path / f"new{suffix}", quality=quality)
        for field in ("width", "height", "rate", "frames", "rotation", "display_matrix", "sample_aspect_ratio"):
            assert getattr(new, field) == getattr(info, field), (suffix, field)
        for field in ("color_primaries", "color_trc"):
            assert getattr(new, field) == getattr(info, field), (suffix, field)
        if new.codec == "png":  # of RGB and grey, where no matrix is asked for
            new = replace(new, colorspace=info.colorspace, pixel_format=info.pixel_format, color_range=0)
        assert new.colorspace == info.colorspace
        assert (new.color_range == 2) == (info.color_range == 2), suffix  # 0 and 1 both mean limited
        assert new.pixel_format.replace("yuvj", "yuv") == info.pixel_format.replace("yuvj", "yuv"), suffix
        assert plane_errors(info, new).max() <= (0.5 if quality == "high" else 0), suffix


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_part_of_a_movie_begins_and_ends_where_asked(tmp_path: Path, suffix: str) -> None:
    info = probe(str(make_movie(tmp_path / "long.mp4", 120, sound="aac")))
    new = copy(info, tmp_path / f"part{suffix}", start=73, count=11)
    assert new.frames == 11
    assert [number_of(picture.rgb()) for picture in read(new)] == list(range(73, 84))


def test_variable_rate_becomes_the_constant_rate_blender_counts_in(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 240, 250, 260, 400]
    clip = make_movie(tmp_path / "phone.mp4", 8, times=times, time_base=Fraction(1, 1000), options={"bf": "0"})
    info = probe(str(clip))
    new = copy(info, tmp_path / "new.mp4")
    assert (new.frames, new.rate) == (info.frames, info.rate)
    assert [number_of(p.rgb()) for p in read(new)] == [number_of(p.rgb()) for p in read(info)]
    with av.open(new.path) as container:
        steps = {packet.duration for packet in container.demux(video=0) if packet.size}
    assert len(steps) == 1


def test_the_same_job_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    info = probe(str(make_movie(tmp_path / "clip.mp4", 20, sound="aac")))
    for suffix in (".mp4", ".mov", ".mkv"):
        outputs = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
        for output in outputs:
            copy(info, output)
        assert outputs[0].read_bytes() == outputs[1].read_bytes(), suffix


def test_only_the_blended_box_changes(tmp_path: Path) -> None:
    info = probe(str(make_movie(tmp_path / "clip.mp4", 10)))
    output = tmp_path / "new.mp4"
    with write(info, str(output), quality="lossless", count=10) as writer:
        for picture in read(info):
            picture.blend(40, 40, np.full((12, 20, 3), 250, np.float32), np.ones((12, 20), np.float32))
            writer.add(picture)
    for old, new in zip(read(info), read(probe(str(output))), strict=True):
        changed = (old.rgb() != new.rgb()).any(axis=2)
        assert changed[40:52, 40:60].mean() > 0.9
        changed[40:52, 40:60] = False
        assert not changed.any()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MediaError])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    info = probe(str(make_movie(tmp_path / "clip.mp4", 10, sound="aac")))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(error), write(info, str(folder / "new.mp4"), count=10) as writer:
        for picture in read(info, 0, 6):
            writer.add(picture)
        assert len(list(folder.iterdir())) == 1, "the movie grows beside its place"
        assert not (folder / "new.mp4").exists()
        raise error("stop")
    assert list(folder.iterdir()) == []


def test_too_few_frames_are_no_result(tmp_path: Path) -> None:
    info = probe(str(make_movie(tmp_path / "clip.mp4", 10)))
    with (
        pytest.raises(OutputError, match="9 frames, not 10"),
        write(info, str(tmp_path / "new.mp4"), count=10) as writer,
    ):
        for picture in read(info, 0, 9):
            writer.add(picture)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_an_existing_file_is_refused_before_any_work_and_kept(tmp_path: Path) -> None:
    info = probe(str(make_movie(tmp_path / "clip.mp4", 4)))
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"), write(info, str(taken), count=4):
        pytest.fail("the writer should not open")
    assert taken.read_bytes() == b"mine"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    info = probe(str(make_movie(tmp_path / "clip.mp4", 4)))
    output = tmp_path / "new.mp4"
    with pytest.raises(OutputError, match="exists already"), write(info, str(output), count=4) as writer:
        for picture in read(info):
            writer.add(picture)
        output.write_bytes(b"mine")
    assert output.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "new.mp4"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("new.webm", "cannot be written as .webm"),
        ("new", "without an ending"),
        ("gone/new.mp4", "no folder"),
        ("new.mp4/", "without an ending"),
    ],
)
def test_an_output_that_cannot_be_gets_one_sentence(tmp_path: Path, name: str, says: str) -> None:
    info = probe(str(make_movie(tmp_path / "clip.mp4", 4)))
    with pytest.raises(OutputError, match=says) as caught:
        check_output(info, f"{tmp_path}/{name}")  # before anybody has waited for the faces
    assert caught.value.hint
    with pytest.raises(OutputError, match=says), write(info, f"{tmp_path}/{name}", count=4):
        pytest.fail("the writer should not open")


def test_colours_that_only_the_container_tells_stay(tmp_path: Path) -> None:
    """Many cameras' ProRes is silent in its pictures; without its tags HLG plays flat and grey."""
    told = (1, 9, 9, 18)
    path = tmp_path / "camera.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("prores_ks", rate=25, width=96, height=64)
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.pix_fmt = "yuv422p10le"
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = told
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24").reformat(format="yuv422p10le")
            frame.colorspace, frame.pts, frame.time_base = 2, number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert tags_told(next(container.decode(video=0)))[1:] == (2, 2, 2), "the pictures are to be silent here"
    info = probe(str(path))
    assert tags_told(info) == told
    assert next(read(info)).frame.colorspace == 9, "new lips would be in the colours of another matrix"
    copy(info, tmp_path / "new.mov")
    with av.open(str(tmp_path / "new.mov")) as container:
        assert tags_told(container.streams.video[0].codec_context) == told
        assert tags_told(next(container.decode(video=0))) == told


def tags_told(by: Any) -> tuple[int, int, int, int]:
    return by.color_range, by.colorspace, by.color_primaries, by.color_trc


def test_a_container_that_cannot_keep_the_pixels_is_refused_with_the_ones_that_can(tmp_path: Path) -> None:
    info = probe(str(make_movie(tmp_path / "alpha.mkv", 4, codec="ffv1", pixel_format="yuva420p")))
    assert suffixes(info) == (".mkv", ".mp4")
    new = write(info, str(tmp_path / "new.mov"), count=4, quality="lossless")
    with pytest.raises(OutputError, match="yuva420p") as caught, new:
        pytest.fail("the writer should not open")
    assert ".mkv" in caught.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")
def test_a_full_disk_gets_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    clip = make_movie(tmp_path / "clip.mp4", 60, size=(320, 240), codec="mpeg4")
    folder = tmp_path / "out"
    folder.mkdir()
    program = """
import resource, signal, sys
from core.errors import OutputError
from core.media import probe, read, write
info = probe(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
try:
    with write(info, sys.argv[2], count=info.frames, quality="lossless") as writer:
        for picture in read(info):
            writer.add(picture)
except OutputError as e:
    print(e, e.hint)
    sys.exit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(clip), str(folder / "new.mp4")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stdout
    assert "free space" in done.stdout
    assert os.listdir(folder) == []


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    program = """
import resource, sys
from core.media import probe, read, write
info = probe(sys.argv[1])
with write(info, sys.argv[2], count=info.frames) as writer:
    for picture in read(info):
        writer.add(picture)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    pytest.importorskip("resource", reason="peak memory is read through the resource module")
    peaks = []
    for count in (40, 240):
        clip = make_movie(
            tmp_path / f"{count}.mp4", count, size=(480, 320), sound="aac", options={"preset": "ultrafast"}
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(clip), str(tmp_path / f"new{count}.mp4")],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        peaks.append(int(done.stdout) * (1 if sys.platform == "darwin" else 1024))
    a_frame = 480 * 320 * 3 // 2
    assert peaks[1] - peaks[0] < 60 * a_frame, "200 more frames, and not a third of them kept"


@pytest.mark.parametrize(
    "name", ["AOC_07b602.mp4", "GRID_id2_ba7e56.mpg", "VRT_1_fd1b5c.mp4", "HDTF_WDA_KatieHill_745c28.mp4"]
)
def test_real_footage_comes_through_within_half_a_level(footage: Path, tmp_path: Path, name: str) -> None:
    info = probe(str(footage / name))
    new = copy(info, tmp_path / "new.mp4", start=10, count=25)
    assert (new.frames, new.rate, new.width, new.height) == (25, info.rate, info.width, info.height)
    old = read(info, 10, 25)
    errors = [
        [np.abs(components(a.frame)[c].astype(float) - components(b.frame)[c]).mean() for c in "yuv"]
        for a, b in zip(old, read(new), strict=True)
    ]
    assert np.max(errors) <= 0.5
