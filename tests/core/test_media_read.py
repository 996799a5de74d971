# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading: a frame more, less or out of place would put every lip after it out of step with the sound."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import barcode, make_movie, number_of

from core.errors import MediaError
from core.media import SourceInfo, probe, probe_images, read


def numbers(info: SourceInfo, start: int = 0, count: int | None = None) -> list[int]:
    return [number_of(picture.rgb()) for picture in read(info, start, count)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264 with b-frames.mp4", {}),
        ("ntsc.mp4", {"rate": Fraction(30000, 1001)}),
        ("film in milliseconds.mkv", {"rate": Fraction(24000, 1001)}),
        ("mpeg2.ts", {"codec": "mpeg2video"}),
        ("motion jpeg.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("prores.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
        ("odd size.mkv", {"codec": "ffv1", "size": (97, 63)}),
    ],
)
def test_constant_rate_gives_every_frame_once_in_order(tmp_path: Path, name: str, options: dict) -> None:
    info = probe(str(make_movie(tmp_path / name, 30, **options)))
    assert info.rate == options.get("rate", 25)
    assert info.frames == 30
    assert (info.width, info.height) == options.get("size", (96, 64))
    assert numbers(info) == list(range(30))
    assert [picture.index for picture in read(info, 3, 2)] == [3, 4]


def test_variable_rate_repeats_and_skips_frames_as_blender_does(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 240, 250, 260, 400]  # milliseconds; 25 frames a second are due every 40
    clip = make_movie(tmp_path / "phone.mp4", 8, times=times, time_base=Fraction(1, 1000), options={"bf": "0"})
    info = probe(str(clip))
    step = 1000 / info.rate
    expected = [max(n for n, time in enumerate(times) if time <= round(k * step)) for k in range(info.frames)]
    assert numbers(info) == expected
    assert len(set(expected)) < len(expected), "the clip should hold frames"


def test_real_variable_rate_clip_has_blenders_183_frames(footage: Path) -> None:
    info = probe(str(footage / "VRT_1_fd1b5c.mp4"))
    assert (info.frames, info.rate) == (183, 30)
    pictures = [picture.frame.pts for picture in read(info)]
    assert len(pictures) == 183
    assert len(set(pictures)) == 135, "each coded frame is shown at least once"


def test_half_a_frame_counts_as_one_as_in_blender(footage: Path) -> None:
    assert probe(str(footage / "GRID_id2_ba7e56.mpg")).frames == 75  # 74.5; Python's round says 74


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.ts"])
def test_starting_late_gives_the_same_frames_as_reading_all(tmp_path: Path, name: str) -> None:
    codec = "mpeg2video" if name.endswith(".ts") else "libx264"
    info = probe(str(make_movie(tmp_path / name, 200, codec=codec, options={"g": "40"})))
    assert numbers(info, 150, 5) == [150, 151, 152, 153, 154]
    assert numbers(info, 198) == [198, 199]


def test_frames_that_come_twice_are_independent(tmp_path: Path) -> None:
    clip = make_movie(tmp_path / "held.mp4", 2, times=[0, 5], time_base=Fraction(1, 25), options={"bf": "0"})
    pictures = list(read(probe(str(clip)), 0, 3))
    before = pictures[1].rgb()
    pictures[0].blend(0, 0, np.zeros((64, 96, 3), np.float32), np.ones((64, 96), np.float32))
    assert np.array_equal(pictures[1].rgb(), before)
    assert pictures[0].rgb().max() < 8


def test_damaged_end_holds_the_last_good_frame(tmp_path: Path) -> None:
    clip = make_movie(tmp_path / "cut.ts", 40, codec="mpeg2video", options={"g": "5"})
    whole = probe(str(clip))
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    seen = numbers(whole)
    assert len(seen) == 40
    assert seen[:8] == list(range(8))
    assert seen[-1] == seen[-5] < 39


def test_noise_in_the_middle_does_not_end_the_job(tmp_path: Path) -> None:
    clip = make_movie(tmp_path / "noise.mp4", 40, options={"g": "5"})
    info = probe(str(clip))
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    clip.write_bytes(data)
    assert len(numbers(info)) == 40


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_metadata_shows_the_picture_upright(tmp_path: Path, degrees: int) -> None:
    plain = next(read(probe(str(make_movie(tmp_path / "plain.mp4", 3))))).rgb()
    info = probe(str(make_movie(tmp_path / "turned.mp4", 3, rotation=degrees)))
    upright = np.rot90(plain, degrees // 90)  # both count counter-clockwise; Blender 5.0 shows the same
    assert (info.height, info.width) == upright.shape[:2]
    assert np.array_equal(next(read(info)).rgb(), upright)


def test_a_motion_jpeg_with_exif_in_its_pictures_is_read_as_it_lies(tmp_path: Path) -> None:
    """PyAV falls over what FFmpeg makes of it; Blender does not turn it."""
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    plain = make_movie(tmp_path / "plain.mov", 5, codec="mjpeg", pixel_format="yuvj420p")
    with av.open(str(plain)) as old, av.open(str(tmp_path / "camera.mov"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                data = bytes(packet)
                marked = av.Packet(data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:])
                marked.stream, marked.time_base = stream, packet.time_base
                marked.pts, marked.dts, marked.duration = packet.pts, packet.dts, packet.duration
                new.mux(marked)
    info = probe(str(tmp_path / "camera.mov"))
    assert (info.width, info.height, info.rotation) == (96, 64, 0)
    assert numbers(info) == list(range(5))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("text.mp4", b"This is not a movie.\n" * 40, "not a movie"),
        ("empty.mp4", b"", "is empty"),
        ("playlist.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not a movie"),
    ],
)
def test_what_is_no_movie_gets_one_sentence(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=says) as caught:
        probe(str(path))
    assert caught.value.hint


def test_missing_and_sound_only_files_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="There is no file"):
        probe(str(tmp_path / "gone.mp4"))
    sound = tmp_path / "voice.m4a"
    with av.open(str(sound), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="has no picture"):
        probe(str(sound))


def test_a_movie_of_nothing_but_damage_gets_one_sentence(tmp_path: Path) -> None:
    clip = make_movie(tmp_path / "broken.mp4", 10)
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    clip.write_bytes(data)
    with pytest.raises(MediaError, match="can be decoded"):
        probe(str(clip))


def test_an_image_named_as_a_movie_gets_one_sentence(tmp_path: Path) -> None:
    image = tmp_path / "still.mp4"
    av.VideoFrame.from_ndarray(barcode(1), format="rgb24").save(str(tmp_path / "still.png"))
    image.write_bytes((tmp_path / "still.png").read_bytes())
    with pytest.raises(MediaError, match="not a movie or sound file but png"):
        probe(str(image))


def test_images_missing_or_of_another_size_get_one_sentence(tmp_path: Path) -> None:
    paths = [tmp_path / f"shot%02d {number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        size = (96, 64) if number < 2 else (80, 64)
        encoder = av.VideoFrame.from_ndarray(barcode(number, *size), format="rgb24")
        encoder.save(str(tmp_path / "frame.png"))
        (tmp_path / "frame.png").rename(path)
    info = probe_images([str(path) for path in paths], Fraction(24))
    assert (info.frames, info.rate, info.kind) == (3, 24, "images")
    assert numbers(info, 0, 2) == [0, 1]
    with pytest.raises(MediaError, match="80x64"):
        numbers(info)
    paths[1].unlink()
    with pytest.raises(MediaError, match="There is no file"):
        probe_images([str(path) for path in paths], Fraction(24))
