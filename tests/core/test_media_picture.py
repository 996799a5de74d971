# SPDX-License-Identifier: GPL-3.0-or-later
"""Laying a patch over a picture: outside it not one sample may move, inside it the colours must be right."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from clips import barcode

from core.media.picture import Picture
from core.media.planes import components, editable, exact_flags

planar = [
    ("yuv420p", 0, 2), ("yuv420p", 1, 1), ("yuvj420p", 2, 5), ("yuv422p", 1, 6), ("yuv444p", 1, 7), ("yuv411p", 0, 2),
    ("yuv420p10le", 1, 9), ("yuv422p10le", 1, 1), ("yuva444p10le", 0, 2), ("yuv444p12le", 1, 1),
]  # fmt: skip
interleaved = [
    "rgb24",
    "bgr24",
    "rgba",
    "bgra",
    "argb",
    "gbrp",
    "gbrap",
    "rgb48be",
    "rgba64le",
    "gray",
    "gray16be",
    "ya8",
]


def picture_of(
    pixel_format: str, color_range: int = 0, colorspace: int = 2, size: tuple[int, int] = (96, 64)
) -> Picture:
    frame = av.VideoFrame.from_ndarray(barcode(0b01011010, *size), format="rgb24")
    matrix = {1: 1, 7: 7, 9: 9}.get(colorspace, 5)
    frame = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=color_range or None)
    frame.color_range, frame.colorspace = color_range, colorspace
    return Picture(0, editable(frame))


def samples(picture: Picture) -> dict[str, np.ndarray]:
    return {name: values.copy() for name, values in components(picture.frame).items()}


@pytest.mark.parametrize(("pixel_format", "color_range", "colorspace"), [*planar, *((f, 0, 2) for f in interleaved)])
def test_samples_outside_the_patch_keep_every_bit(pixel_format: str, color_range: int, colorspace: int) -> None:
    picture = picture_of(pixel_format, color_range, colorspace, (97, 63))
    before = samples(picture)
    alpha = np.zeros((21, 30), np.float32)
    alpha[5:16, 7:23] = 0.6
    picture.blend(31, 17, np.full((21, 30, 3), 255, np.float32), alpha)
    after = samples(picture)
    changed = np.zeros((63, 97), bool)
    changed[22:33, 38:54] = True
    for name, values in before.items():
        down, across = -(-63 // values.shape[0]), -(-97 // values.shape[1])
        padded = np.zeros((values.shape[0] * down, values.shape[1] * across), bool)
        padded[:63, :97] = changed
        touched = padded.reshape(values.shape[0], down, values.shape[1], across).any(axis=(1, 3))
        if name == "a":
            touched[:] = False
        assert np.array_equal(after[name][~touched], values[~touched]), name
        assert name in "auv" or (after[name] != values)[touched].mean() > 0.9, name


@pytest.mark.parametrize(("pixel_format", "color_range", "colorspace"), [*planar, *((f, 0, 2) for f in interleaved)])
def test_a_patch_shows_its_own_colour(pixel_format: str, color_range: int, colorspace: int) -> None:
    picture = picture_of(pixel_format, color_range, colorspace)
    colour = np.array([150, 150, 150] if pixel_format.startswith(("gray", "ya8")) else [190, 110, 90], np.float32)
    picture.blend(16, 16, np.broadcast_to(colour, (32, 32, 3)), np.ones((32, 32), np.float32))
    shown = picture.rgb()[16:48, 16:48].reshape(-1, 3).astype(float)
    assert np.abs(shown.mean(axis=0) - colour).max() < 1.5


@pytest.mark.parametrize(("pixel_format", "color_range", "colorspace"), planar)
def test_laying_a_picture_over_itself_changes_nothing_to_speak_of(
    pixel_format: str, color_range: int, colorspace: int
) -> None:
    picture = picture_of(pixel_format, color_range, colorspace)
    before = samples(picture)
    rgb = picture.rgb()
    picture.blend(0, 0, rgb.astype(np.float32), np.ones(rgb.shape[:2], np.float32))
    unit = 1 << (picture.frame.format.components[0].bits - 8)
    for name, values in samples(picture).items():
        error = values.astype(float) - before[name]
        # Colours that RGB cannot hold are clipped; everything else comes back, without a drift.
        assert np.abs(error).mean() < 0.6 * unit, name
        assert abs(error.mean()) < 0.2 * unit, name


def test_half_alpha_is_half_way(tmp_path: object) -> None:
    picture = picture_of("rgb24")
    before = picture.rgb().astype(float)
    picture.blend(0, 0, np.full((64, 96, 3), 200, np.float32), np.full((64, 96), 0.5, np.float32))
    assert np.abs(picture.rgb() - (before + 200) / 2).max() <= 0.5


def test_garbage_under_zero_alpha_does_not_leak_into_chroma() -> None:
    clean, dirty = picture_of("yuv420p"), picture_of("yuv420p")
    alpha = np.zeros((8, 8), np.float32)
    alpha[::2, ::2] = 1  # one luma sample of each chroma block
    grey = np.full((8, 8, 3), 128, np.float32)
    garbage = np.where(alpha[..., None] > 0, grey, np.array([255, 0, 0], np.float32))
    clean.blend(8, 8, grey, alpha)
    dirty.blend(8, 8, garbage, alpha)
    assert all(np.array_equal(a, b) for a, b in zip(samples(clean).values(), samples(dirty).values(), strict=True))


@pytest.mark.parametrize("corner", [(-10, -7), (90, 60), (-200, 0), (0, 300)])
def test_a_patch_over_the_edge_is_cut(corner: tuple[int, int]) -> None:
    picture = picture_of("yuv420p")
    before = picture.rgb()
    picture.blend(*corner, np.full((20, 20, 3), 255, np.float32), np.ones((20, 20), np.float32))
    x, y = corner
    inside = np.zeros((64, 96), bool)
    inside[max(y, 0) : max(y + 20, 0), max(x, 0) : max(x + 20, 0)] = True
    changed = (picture.rgb() != before).any(axis=2)
    assert changed.any() == inside.any()
    assert not changed[~_grown(inside)].any()


@pytest.mark.parametrize("rotation", [0, 1, 2, 3])
def test_a_patch_lands_upright_where_it_was_put(rotation: int) -> None:
    frame = picture_of("yuv444p").frame
    picture = Picture(0, frame, rotation)
    before = picture.rgb()
    patch = np.zeros((10, 14, 3), np.float32)
    patch[:5] = 230  # bright above, dark below
    picture.blend(20, 12, patch, np.ones((10, 14), np.float32))
    after = picture.rgb()
    assert after[12:17, 20:34].min() > 220
    assert after[17:22, 20:34].max() < 10
    changed = (after != before).any(axis=2)
    changed[12:22, 20:34] = False
    assert not changed.any()


def test_linear_light_is_blended_as_light() -> None:
    frame = av.VideoFrame(8, 8, "gbrpf32le")
    for values in components(frame).values():
        values[...] = 0.25
    frame.time_base = Fraction(1, 24)
    picture = Picture(0, frame)
    assert abs(int(picture.rgb()[0, 0, 0]) - 137) <= 1  # sRGB of a quarter of the light
    picture.blend(0, 0, np.full((4, 4, 3), 255, np.float32), np.ones((4, 4), np.float32))
    red = components(picture.frame)["r"]
    assert red[0, 0] == pytest.approx(1.0)
    assert red[7, 7] == 0.25


layouts = [
    "yuv420p", "yuvj420p", "yuv422p", "yuv440p", "yuv444p", "yuv411p", "yuv410p", "yuva420p", "yuv420p10le",
    "yuv422p12le", "yuv444p16be", "yuva444p10le", "nv12", "rgb24", "bgra", "gbrp", "gbrp10le", "rgb48be", "gray", "ya8",
    "gray16le", "gbrpf32le",
]  # fmt: skip


@pytest.mark.parametrize("pixel_format", layouts)
def test_a_part_of_a_picture_is_that_part_of_the_whole(pixel_format: str) -> None:
    """A face seen in a part read by itself must be the face in the picture: any layout, turn, odd edge or step."""
    random = np.random.default_rng(0)
    for size in ((96, 64), (97, 63), (98, 66), (5, 3)):
        picture = noise_of(pixel_format, size, random)
        for rotation in range(4):
            turned = Picture(0, picture.frame, rotation)
            if rotation == 3:
                turned.blend(1, 1, random.uniform(0, 255, (9, 8, 3)).astype(np.float32), np.ones((9, 8), np.float32))
            _check_parts(turned, random)


def _check_parts(picture: Picture, random: np.random.Generator) -> None:
    whole = picture.rgb()
    assert picture.shape == whole.shape and whole.dtype == np.uint8
    for _ in range(25):
        ends = (sorted(random.integers(0, n + 2, 2).tolist()) for n in whole.shape[:2])
        rows, columns = (slice(a, b, int(random.choice([1, 1, 1, 2, 3, 4, 7]))) for a, b in ends)
        assert np.array_equal(picture[rows, columns], whole[rows, columns]), (rows, columns)
    for part in (np.s_[:, :], np.s_[-3:, :-2], np.s_[:1, :1], np.s_[2:2, :]):
        assert np.array_equal(picture[part], whole[part])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj422p", "yuv444p", "yuv420p10le", "yuv444p12le"])
@pytest.mark.parametrize(("color_range", "colorspace"), [(1, 1), (2, 5), (0, 2), (1, 9)])
def test_a_picture_has_the_colours_that_swscale_gives_an_rgb_frame(
    pixel_format: str, color_range: int, colorspace: int
) -> None:
    """Blender asks swscale for RGB(A); we take its planes, which are quicker, and must show the same picture."""
    picture = noise_of(pixel_format, (258, 194), np.random.default_rng(1), color_range, colorspace)
    shown = picture.frame.reformat(format="rgb24", src_colorspace=colorspace, interpolation=exact_flags).to_ndarray()
    assert np.array_equal(picture.rgb(), shown)


def noise_of(
    pixel_format: str, size: tuple[int, int], random: np.random.Generator, color_range: int = 0, colorspace: int = 2
) -> Picture:
    rgb = random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    frame = editable(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format))
    for values in components(frame).values():
        top = 1 if values.dtype.kind == "f" else 1 << frame.format.components[0].bits
        values[...] = random.uniform(0, top, values.shape).astype(values.dtype)
    frame.color_range, frame.colorspace = color_range, colorspace
    return Picture(0, frame)


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask with the luma samples that share a 2x2 chroma block with it."""
    blocks = mask.reshape(mask.shape[0] // 2, 2, mask.shape[1] // 2, 2).any(axis=(1, 3))
    return blocks.repeat(2, 0).repeat(2, 1)
