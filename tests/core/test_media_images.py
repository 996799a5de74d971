# SPDX-License-Identifier: GPL-3.0-or-later
"""Image sequences: same names, kinds and depth, and not a pixel moved outside the lips."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import barcode, number_of

from core.errors import MediaError, OutputError
from core.media import SourceInfo, converted, movie_info, probe, probe_images, read, write
from core.media.images import encode_image
from core.media.planes import components, editable

kinds = [
    ("png", "rgb24"), ("png", "rgba"), ("png", "gray"), ("png", "rgb48be"), ("png", "rgba64be"), ("png", "gray16be"),
    ("png", "ya8"), ("tiff", "rgb24"), ("tiff", "rgba"), ("tiff", "rgb48le"), ("tiff", "rgba64le"),
    ("tiff", "gray16le"), ("bmp", "bgr24"), ("bmp", "bgra"), ("webp", "bgra"), ("exr", "gbrpf32le"),
    ("exr", "gbrapf32le"), ("exr half", "gbrpf32le"),
]  # fmt: skip
lossy = [("mjpeg", "yuvj420p"), ("mjpeg", "yuvj422p"), ("mjpeg", "yuvj444p"), ("webp", "yuv420p")]
endings = {"mjpeg": "jpg", "tiff": "tif"}


def make_images(folder: Path, codec: str, pixel_format: str, count: int = 3) -> SourceInfo:
    """An image sequence by FFmpeg's own writers, with noise in the low bits of deep formats."""
    folder.mkdir(exist_ok=True)
    paths = []
    half, codec = codec == "exr half", codec.removesuffix(" half")
    random = np.random.default_rng(0)
    for number in range(count):
        encoder = av.VideoCodecContext.create({"webp": "libwebp"}.get(codec, codec), "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, pixel_format, Fraction(1, 25)
        if half:
            encoder.options = {"format": "half"}
        if codec == "webp" and pixel_format == "bgra":
            encoder.options = {"lossless": "1"}
        source = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
        frame = (
            source.reformat(format=pixel_format) if "f32" not in pixel_format else av.VideoFrame(96, 64, pixel_format)
        )
        if "f32" in pixel_format:
            for name, values in components(frame).items():
                values[...] = 0.5 if name == "a" else (barcode(number)[..., "rgb".index(name)] / 255.0) ** 2.2
        else:
            for name, values in components(frame).items():
                if frame.format.components[0].bits == 16:
                    values[...] ^= random.integers(0, 200, values.shape).astype(values.dtype)
                if name == "a":
                    values[:20] //= 2
        frame.pts = 0
        data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
        path = folder / f"shot {number:04}.{endings.get(codec, codec)}"
        path.write_bytes(data)
        paths.append(str(path))
    return probe_images(paths, Fraction(24))


def redo(info: SourceInfo, output: Path, patch: bool = False) -> SourceInfo:
    with write(info, str(output), count=info.frames) as writer:
        for picture in read(info):
            # A file is copied where nothing is laid over it: what moves no sample has it written anew.
            strength = 1 if patch else 1e-6
            picture.blend(40, 40, np.full((12, 20, 3), 250, np.float32), np.full((12, 20), strength, np.float32))
            writer.add(picture)
    return probe_images([str(output / Path(path).name) for path in info.paths], info.rate)


@pytest.mark.parametrize(("codec", "pixel_format"), kinds)
def test_images_come_back_sample_for_sample(tmp_path: Path, codec: str, pixel_format: str) -> None:
    info = make_images(tmp_path / "in", codec, pixel_format)
    new = redo(info, tmp_path / "out", patch=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [Path(path).name for path in info.paths]
    assert new.codec == info.codec
    for number, (a, b) in enumerate(zip(read(info), read(new), strict=True)):
        assert number_of(a.rgb()) == number_of(b.rgb()) == number
        old, now = components(a.frame), components(b.frame)
        assert old.keys() == now.keys()
        for name, values in old.items():
            changed = values != now[name]
            if name != "a":
                assert changed[40:52, 40:60].mean() > 0.9
                changed[40:52, 40:60] = False
            assert not changed.any(), name
            assert values.dtype.itemsize == now[name].dtype.itemsize


@pytest.mark.parametrize(("codec", "pixel_format"), lossy)
def test_lossy_images_stay_within_half_a_level(tmp_path: Path, codec: str, pixel_format: str) -> None:
    info = make_images(tmp_path / "in", codec, pixel_format)
    new = redo(info, tmp_path / "out")
    assert new.pixel_format == info.pixel_format
    limit = 0.3 if codec == "mjpeg" else 0.5
    for a, b in zip(read(info), read(new), strict=True):
        errors = [np.abs(v.astype(float) - components(b.frame)[k]).mean() for k, v in components(a.frame).items()]
        assert max(errors) <= limit


def test_another_library_sees_the_same_16_bit_image(tmp_path: Path) -> None:
    info = make_images(tmp_path / "in", "png", "rgba64be")
    new = redo(info, tmp_path / "out")
    for old, now in zip(info.paths, new.paths, strict=True):
        first, second = (cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in (old, now))
        assert first.dtype == np.uint16
        assert first.shape == (64, 96, 4)
        assert np.array_equal(first, second)


def test_a_palette_with_a_see_through_colour_keeps_it(tmp_path: Path) -> None:
    encoder = av.VideoCodecContext.create("png", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 4, "pal8", Fraction(1, 25)
    frame = av.VideoFrame(64, 4, "pal8")
    frame.planes[0].update(bytes(range(64)) * 4)
    palette = np.random.default_rng(0).integers(0, 256, (256, 4)).astype(np.uint8)  # blue, green, red, alpha
    frame.planes[1].update(palette.tobytes())
    frame.pts = 0
    path = tmp_path / "icon.png"
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
    info = probe_images([str(path)], Fraction(25))
    for shown in (info, redo(info, tmp_path / "out")):
        samples = components(next(read(shown)).frame)
        assert np.array_equal(np.stack([samples[c][2] for c in "bgra"], axis=-1), palette[:64])


def test_a_grey_jpeg_looks_the_same(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpg"
    cv2.imwrite(str(path), barcode(5).mean(axis=2).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    info = probe_images([str(path)], Fraction(25))
    new = redo(info, tmp_path / "out")
    assert new.pixel_format == info.pixel_format == "gray"
    difference = next(read(info)).rgb().astype(float) - next(read(new)).rgb()
    assert np.abs(difference).mean() < 0.5


def test_an_exception_leaves_no_folder(tmp_path: Path) -> None:
    info = make_images(tmp_path / "in", "png", "rgb24")
    with pytest.raises(RuntimeError), write(info, str(tmp_path / "out"), count=3) as writer:
        writer.add(next(read(info)))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    info = make_images(tmp_path / "in", "png", "rgb24")
    with pytest.raises(OutputError, match="exists already"), write(info, str(tmp_path / "in"), count=3):
        pytest.fail("the writer should not open")
    assert len(list((tmp_path / "in").iterdir())) == 3


@pytest.mark.parametrize(
    ("content", "says"), [(b"hello", "no image of a known kind"), (b"\x89PNG\r\n\x1a\n" + bytes(50), "is damaged")]
)
def test_what_is_no_image_gets_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=says) as caught:
        probe_images([str(path)], Fraction(25))
    assert caught.value.hint


def test_pixels_the_kind_of_file_cannot_hold_get_one_sentence() -> None:
    frame = editable(av.VideoFrame(16, 16, "gbrpf32le"))
    with pytest.raises(MediaError, match="TIFF"):
        encode_image(frame, "tiff")


def photo(path: Path, orientation: int, picture: np.ndarray | None = None, sampling: int = 0x221111) -> np.ndarray:
    """Writes a JPEG as a camera does that was held so; returns it as other programs show it, (h, w, 3)."""
    picture = barcode(5) if picture is None else picture
    options = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    data = cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:])
    return cv2.imread(str(path))[..., ::-1]


def as_movie(info: SourceInfo, output: Path, quality: str = "high") -> tuple[SourceInfo, tuple[str, ...]]:
    """A movie of the images, and what the writer warns of."""
    made = movie_info(info, quality)
    with write(made, str(output), quality=quality, count=info.frames) as writer:
        for picture in read(info):
            writer.add(converted(picture, made))
    return probe(str(output)), writer.warnings


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize(("quality", "ending"), [("high", ".mp4"), ("lossless", ".mkv"), ("mezzanine", ".mov")])
def test_a_phones_portrait_stands_upright_in_a_movie(
    tmp_path: Path, orientation: int, turns: int, quality: str, ending: str
) -> None:
    shown = photo(tmp_path / "portrait.jpg", orientation, sampling=0x211111)
    info = probe_images([str(tmp_path / "portrait.jpg")], Fraction(25))
    assert (info.rotation, info.height, info.width) == (turns, *shown.shape[:2])
    assert np.abs(next(read(info)).rgb().astype(int) - shown).mean() < 3, "faces are looked for in a lying picture"
    new, _ = as_movie(info, tmp_path / f"new{ending}", quality)
    assert (new.height, new.width, new.rotation) == (*shown.shape[:2], 0)
    assert np.abs(next(read(new)).rgb().astype(int) - shown).mean() < 4


def test_a_mirrored_photo_is_not_turned_upside_down(tmp_path: Path) -> None:
    photo(tmp_path / "selfie.jpg", 2)
    info = probe_images([str(tmp_path / "selfie.jpg")], Fraction(25))
    assert number_of(next(read(info)).rgb()) == 5


def test_new_images_lie_as_the_old_ones_do(tmp_path: Path) -> None:
    """Blender does not turn images: in the sequencer a turned one would fall over when its lips are new."""
    photo(tmp_path / "portrait 1.jpg", 6)
    info = probe_images([str(tmp_path / "portrait 1.jpg")], Fraction(25))
    redo(info, tmp_path / "out")
    new = str(tmp_path / "out" / "portrait 1.jpg")
    assert number_of(cv2.imread(new, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]) == 5
    assert probe_images([new], Fraction(25)).rotation == 3, "other programs turn it no more"


def renders(folder: Path, count: int, clear: int | None = None) -> SourceInfo:
    """PNGs with an alpha channel, as Blender renders them; in the image `clear` some pixels are see-through."""
    folder.mkdir()
    paths = [str(folder / f"{number}.png") for number in range(count)]
    for number, path in enumerate(paths):
        image = np.dstack([barcode(number)[..., ::-1], np.full((64, 96), 255, np.uint8)])
        image[:4, :4, 3] = 0 if number == clear else 255
        cv2.imwrite(path, image)
    return probe_images(paths, Fraction(25))


@pytest.mark.parametrize("quality", ["high", "lossless", "web"])
def test_renders_that_are_opaque_become_a_movie_that_players_play(tmp_path: Path, quality: str) -> None:
    info = renders(tmp_path / "in", 2)
    new, warnings = as_movie(info, tmp_path / "new.mp4", quality)
    assert (new.codec, warnings) == ("h264", ())
    for number, picture in enumerate(read(new)):
        assert np.abs(picture.rgb().astype(int) - barcode(number)).mean() <= (0 if quality == "lossless" else 4)


def test_one_see_through_render_keeps_the_alpha_of_all(tmp_path: Path) -> None:
    info = renders(tmp_path / "in", 3, clear=2)
    new, warnings = as_movie(info, tmp_path / "new.mp4")
    alphas = [components(picture.frame)["a"] for picture in read(new)]
    assert [bool((alpha < 255).any()) for alpha in alphas] == [False, False, True]
    assert ["FFV1" in warning and "transparency" in warning for warning in warnings] == [True]
    with pytest.raises(OutputError, match="no transparency"):
        as_movie(info, tmp_path / "web.mp4", "web")
