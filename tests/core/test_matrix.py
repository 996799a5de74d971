# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of footage through the whole pipeline: an editor gets the same shot back, with nothing but other lips."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from portrait_clips import write_images, write_movie
from test_restore import net

from core import media, redub
from core.job import RedubJob, Result
from core.media.planes import components
from core.paint import Mouth, Painter

display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
hdr10 = (1, 9, 9, 16)
hlg = (1, 9, 9, 18)
quiet_hevc = "log-level=error:info=0"

movies: dict[str, tuple[str, dict[str, Any]]] = {
    "23.976.mp4": ("h264", {"rate": Fraction(24000, 1001)}),
    "29.97 drop frame.mov": ("h264", {"rate": Fraction(30000, 1001)}),
    "50.mkv": ("h264", {"rate": Fraction(50)}),
    "59.94.mp4": ("h264", {"rate": Fraction(60000, 1001)}),
    "60.mov": ("h264", {"rate": Fraction(60)}),
    "variable rate.mkv": ("h264", {"times": [0, 40, 80, 200, 240, 250, 260, 400]}),
    "edit list.mp4": ("h264", {"hidden": 4, "count": 12}),
    "rotated left.mp4": ("h264", {"rotation": 90, "size": (240, 320)}),
    "rotated right.mov": ("h264", {"rotation": -90, "size": (240, 320)}),
    "upside down.mp4": ("h264", {"rotation": 180}),
    "top field first.mp4": ("h264", {"fields": "tff", "options": {"flags": "+ildct+ilme"}}),
    "bottom field first.mp4": (
        "h264", {"fields": "bff", "options": {"flags": "+ildct+ilme", "x264-params": "bff=1"}}
    ),
    "bottom field first.mov": (
        "prores", {"codec": "prores_ks", "pixel_format": "yuv422p10le", "fields": "bff", "options": {"flags": "+ildct"}}
    ),
    "anamorphic.mp4": ("h264", {"aspect": Fraction(64, 45)}),
    "10 bit.mp4": ("h264", {"pixel_format": "yuv420p10le"}),
    "4-2-2 10 bit.mov": ("h264", {"pixel_format": "yuv422p10le"}),
    "4-4-4.mkv": ("h264", {"pixel_format": "yuv444p"}),
    "full range.mp4": ("h264", {"tags": (2, 5, 5, 6)}),
    "hdr10.mp4": (
        "hevc",
        {
            "codec": "libx265", "pixel_format": "yuv420p10le", "tags": hdr10,
            "options": {"x265-params": f"{quiet_hevc}:master-display={display}:max-cll=1000,400"},
        },
    ),
    "hlg.mov": (
        "hevc",
        {"codec": "libx265", "pixel_format": "yuv420p10le", "tags": hlg, "options": {"x265-params": quiet_hevc}},
    ),
    "hevc 8 bit.mkv": ("hevc", {"codec": "libx265", "options": {"x265-params": quiet_hevc}}),
    "prores hlg.mov": ("prores", {"codec": "prores_ks", "pixel_format": "yuv422p10le", "tags": hlg}),
    "prores lt.mov": ("prores", {"codec": "prores_ks", "pixel_format": "yuv422p10le", "options": {"profile": "lt"}}),
    "prores 4444.mov": (
        "prores", {"codec": "prores_ks", "pixel_format": "yuva444p10le", "options": {"profile": "4444"}}
    ),
    "dnxhr.mov": (
        "dnxhd", {"codec": "dnxhd", "pixel_format": "yuv422p10le", "options": {"profile": "dnxhr_hqx"}}
    ),
    "archive.mkv": ("ffv1", {"codec": "ffv1", "pixel_format": "yuv422p10le"}),
    "see through.mkv": ("ffv1", {"codec": "ffv1", "pixel_format": "yuva420p"}),
    "phone variable rate.mp4": ("h264", {"times": [0, 33, 67, 133, 166, 200, 300, 333]}),
    "late start.mp4": ("h264", {"hidden": -5}),
    "one frame.mp4": ("h264", {"count": 1}),
    "phone hlg.mov": (
        "hevc",
        {
            "codec": "libx265", "pixel_format": "yuv420p10le", "tags": hlg, "rotation": -90, "size": (240, 320),
            "options": {"x265-params": quiet_hevc},
        },
    ),
    "wide and upright.mov": ("h264", {"aspect": Fraction(4, 3), "rotation": 90, "size": (240, 320)}),
    "wide, upright and interlaced.mov": (
        "h264",
        {
            "aspect": Fraction(4, 3), "rotation": 90, "size": (240, 320), "fields": "tff",
            "options": {"flags": "+ildct+ilme"},
        },
    ),
    "broadcast.ts": (
        "h264",
        {"codec": "mpeg2video", "pixel_format": "yuv422p", "fields": "tff", "options": {"flags": "+ildct+ilme"}},
    ),
    "tape.avi": (
        "h264",
        {"codec": "dvvideo", "size": (720, 576), "fields": "bff", "aspect": Fraction(16, 15), "tags": (1, 5, 5, 6)},
    ),
    "web.webm": ("h264", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "odd size.mkv": (
        "ffv1",
        {"codec": "libvpx-vp9", "size": (853, 481), "count": 3, "options": {"deadline": "realtime", "cpu-used": "8"}},
    ),
    "odd and upright.mkv": (
        "ffv1", {"codec": "ffv1", "pixel_format": "yuv422p", "size": (241, 321), "rotation": 90}
    ),
    "odd 4-4-4.mp4": ("h264", {"pixel_format": "yuv444p", "size": (321, 241)}),
    "prores 4444 of 10 bit.mov": (
        "prores", {"codec": "prores_ks", "pixel_format": "yuv444p10le", "options": {"profile": "4444"}}
    ),
    "4k.mp4": ("h264", {"size": (3840, 2160), "count": 2, "options": {"preset": "ultrafast"}}),
}  # fmt: skip
"""Name of the source, codec of the result, and how the source is made."""
kinds: dict[str, dict[str, object]] = {
    "29.97 drop frame.mov": {"rate": Fraction(30000, 1001)},
    "variable rate.mkv": {"frames": 11},
    "edit list.mp4": {"frames": 8},
    "rotated left.mp4": {"rotation": 1, "width": 240},
    "upside down.mp4": {"rotation": 2},
    "top field first.mp4": {"field_order": 2},
    "bottom field first.mp4": {"field_order": 3},
    "bottom field first.mov": {"field_order": 3},
    "one frame.mp4": {"frames": 1},
    "phone hlg.mov": {"rotation": 3, "color_trc": 18},
    "wide and upright.mov": {"rotation": 1, "sample_aspect_ratio": Fraction(4, 3)},
    "wide, upright and interlaced.mov": {
        "rotation": 1,
        "sample_aspect_ratio": Fraction(4, 3),
        "field_order": 2,
    },
    "broadcast.ts": {"field_order": 2, "pixel_format": "yuv422p"},
    "tape.avi": {"field_order": 3, "sample_aspect_ratio": Fraction(16, 15)},
    "odd size.mkv": {"width": 853, "height": 481},
    "anamorphic.mp4": {"sample_aspect_ratio": Fraction(64, 45)},
    "full range.mp4": {"color_range": 2, "colorspace": 5},
    "hdr10.mp4": {"color_trc": 16, "mastering_display": display, "content_light": "1000,400"},
    "prores hlg.mov": {"color_trc": 18, "color_primaries": 9},
    "prores lt.mov": {"profile": "LT"},
    "prores 4444.mov": {"profile": "4444", "pixel_format": "yuva444p12le"},
    "dnxhr.mov": {"profile": "DNXHR HQX"},
}
"""What makes a source one of its kind, as the probe has to see it."""

images = {
    "png 8": ("png", "rgb24", "png", {}),
    "png 16 alpha": ("png", "rgba64be", "png", {}),
    "tiff 16": ("tiff", "rgb48le", "tif", {}),
    "jpeg": ("mjpeg", "yuvj420p", "jpg", {}),
    "exr half": ("exr", "gbrpf32le", "exr", {"format": "half"}),
    "exr float alpha": ("exr", "gbrapf32le", "exr", {"format": "float"}),
}

Run = Callable[..., tuple[Result, list[np.ndarray]]]


@pytest.fixture
def run(make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run(output, **job): the result, and of each frame that was painted where, (h, w) bool, upright."""

    def go(output: str, **fields: Any) -> tuple[Result, list[np.ndarray]]:
        masks: dict[int, np.ndarray] = {}
        paste = Painter.paste

        def watched(painter: Painter, frame: int, picture: media.Picture | media.Field, mouth: Mouth) -> None:
            def blend(x: int, y: int, rgb: np.ndarray, alpha: np.ndarray) -> None:
                type(picture).blend(picture, x, y, rgb, alpha)  # type: ignore[arg-type]
                shape = picture.shape[:2]
                room = np.zeros((shape[0] + 2 * alpha.shape[0], shape[1] + 2 * alpha.shape[1]), bool)
                room[alpha.shape[0] + y :, alpha.shape[1] + x :][: alpha.shape[0], : alpha.shape[1]] = alpha > 0
                own = np.s_[picture.parity :: 2] if isinstance(picture, media.Field) else np.s_[:]
                index = picture.lines.index if isinstance(picture, media.Field) else picture.index
                mask = masks.setdefault(index, np.zeros(shape, bool))
                mask[own] |= room[alpha.shape[0] :, alpha.shape[1] :][: shape[0], : shape[1]][own]

            picture.blend = blend  # type: ignore[method-assign]
            paste(painter, frame, picture, mouth)

        with monkeypatch.context() as patched:
            patched.setattr(Painter, "paste", watched)
            job = RedubJob(
                **{"sound": "none", "device": "cpu", "silence": "off", **fields},
                speech=str(make_speech(1.2)),
                model=str(tiny_model),
                output=str(tmp_path / output),
            )
            result = redub.run(job)
        return result, [masks[index] for index in sorted(masks)]

    return go


def check_outside(before: media.SourceInfo, after: media.SourceInfo, masks: list[np.ndarray], limit: float) -> None:
    """Each frame's samples differ in the mask, and outside by no more than `limit` levels of 8 bits on average."""
    assert len(masks) == before.frames
    for mask, old, new in zip(masks, media.read(before), media.read(after), strict=True):
        coded = np.rot90(mask, -before.rotation)
        first, second = components(old.frame), components(new.frame)
        assert sorted(first) == sorted(second)
        main = "y" if "y" in first else "g"
        changed = np.abs(first[main].astype(np.float64) / unit(old) - second[main].astype(np.float64) / unit(new))
        assert changed[coded].mean() > 1, "no new lips in this frame"
        if media.moments(before) == 2:  # so that a line of colour lies beside its own field's lines
            coded = fields_apart(coded)
            first, second = ({k: fields_apart(plane) for k, plane in each.items()} for each in (first, second))
        for name, values in first.items():
            difference = np.abs(values.astype(np.float64) / unit(old) - second[name].astype(np.float64) / unit(new))
            down, across = (-(-whole // part) for whole, part in zip(coded.shape, values.shape, strict=True))
            padded = np.pad(coded, ((0, -coded.shape[0] % down), (0, -coded.shape[1] % across)))
            inside = padded.reshape(values.shape[0], down, values.shape[1], across).any(axis=(1, 3))
            if name == "a":
                assert difference.max() <= (limit and 0.25), "alpha changes"
                continue
            assert difference[~inside].mean() <= limit, (name, "changes outside the mask")


def fields_apart(plane: np.ndarray) -> np.ndarray:
    """All lines of one field, then those of the other."""
    return np.concatenate([plane[::2], plane[1::2]])


def unit(picture: media.Picture) -> float:
    """Of the picture's samples, in a level of 8 bits."""
    name, bits = picture.frame.format.name, picture.frame.format.components[0].bits
    return 1 / 255 if "f16" in name or "f32" in name else 2.0 ** (bits - 8)


def check_facts(before: media.SourceInfo, after: media.SourceInfo) -> None:
    facts = (
        "frames", "rate", "width", "height", "rotation", "display_matrix", "sample_aspect_ratio", "field_order",
        "colorspace", "color_primaries", "color_trc", "mastering_display", "content_light", "pixel_format",
    )  # fmt: skip
    for fact in facts:
        assert getattr(after, fact) == getattr(before, fact), fact
    assert (after.color_range == 2) == (before.color_range == 2)


def times(path: str) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    with av.open(path) as container:
        return sorted(p.pts * p.time_base for p in container.demux(video=0) if p.pts is not None and p.size)


@pytest.mark.parametrize("name", movies)
def test_a_movie_of_this_kind_comes_back_with_new_lips_and_nothing_else_changed(
    run: Run, tmp_path: Path, name: str
) -> None:
    codec, made = movies[name]
    source = write_movie(tmp_path / name, **made)
    suffix = source.suffix if source.suffix in (".mp4", ".mov", ".mkv") else ".mov"
    result, masks = run(f"new{suffix}", video=str(source))
    before, after = media.probe(str(source)), media.probe(result.output)
    assert {fact: getattr(before, fact) for fact in kinds.get(name, {})} == kinds.get(name, {})
    assert after.codec == codec
    assert after.profile == before.profile or codec == "h264" or codec != before.codec
    check_facts(before, after)
    check_outside(before, after, masks, 0.5)
    step = 1 / before.rate
    shown = times(result.output)
    assert len(shown) == before.frames
    assert all(abs(time - shown[0] - i * step) <= Fraction(1, 1000) for i, time in enumerate(shown))


@pytest.mark.parametrize(
    "name", ["variable rate.mkv", "rotated left.mp4", "top field first.mp4", "prores 4444.mov", "see through.mkv"]
)
def test_lossless_means_that_outside_the_mask_no_sample_differs(run: Run, tmp_path: Path, name: str) -> None:
    source = write_movie(tmp_path / name, **movies[name][1])
    result, masks = run("new.mkv", video=str(source), quality="lossless")
    before, after = media.probe(str(source)), media.probe(result.output)
    check_facts(before, after)
    check_outside(before, after, masks, 0)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("prores 4444.mov", {"mask": "mouth", "mask_feather": 0.1}),
        ("see through.mkv", {"mask": "mouth", "strength": 0.6, "quality": "lossless"}),
        ("hdr10.mp4", {"restore": "net.onnx"}),
        ("4-2-2 10 bit.mov", {"restore": "net.onnx", "debug": "stages", "grain": 2}),
        ("59.94.mp4", {"face": "at:7,160,120", "sharpen": 2}),
        ("wide, upright and interlaced.mov", {"face": "speaking", "mask_padding": 0.4}),
        ("odd and upright.mkv", {"debug": "stages", "turn_limit": 10}),
    ],
    ids=str,
)
def test_settings_go_with_every_kind_of_footage(run: Run, tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    """What was right with plain footage and with plain settings must be so together."""
    source = write_movie(tmp_path / name, **{"tone": True, "count": 8, **movies[name][1]})
    if "restore" in fields:
        fields = {**fields, "restore": net(tmp_path / "net.onnx", "Neg")}
    if "debug" in fields:
        fields = {**fields, "debug": str(tmp_path / "stages")}
    result, masks = run(f"new{source.suffix}", video=str(source), **fields)
    before, after = media.probe(str(source)), media.probe(result.output)
    check_facts(before, after)
    check_outside(before, after, masks, 0 if fields.get("quality") == "lossless" else 0.5)
    if "debug" in fields:
        assert len(list((tmp_path / "stages").glob("*_after.png"))) == before.frames


def test_see_through_images_keep_their_alpha_under_a_small_mask_and_a_second_look(run: Run, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", "png", "rgba64be", "png")
    _, masks = run("out", images=tuple(paths), rate=Fraction(24), mask="mouth", debug=str(tmp_path / "stages"))
    before = media.probe_images(paths, Fraction(25))
    after = media.probe_images([str(tmp_path / "out" / Path(path).name) for path in paths], Fraction(25))
    check_outside(before, after, masks, 0)
    assert sorted(os.listdir(tmp_path / "out")) == ["out.lipsync.json", *(Path(path).name for path in paths)]


@pytest.mark.parametrize("name", images)
def test_an_image_sequence_of_this_kind_comes_back_with_new_lips_and_nothing_else_changed(
    run: Run, tmp_path: Path, name: str
) -> None:
    codec, pixel_format, ending, options = images[name]
    paths = write_images(tmp_path / "in", codec, pixel_format, ending, **options)
    _, masks = run("out", images=tuple(paths), rate=Fraction(25))
    before = media.probe_images(paths, Fraction(25))
    after = media.probe_images([str(tmp_path / "out" / Path(path).name) for path in paths], Fraction(25))
    check_facts(before, after)
    check_outside(before, after, masks, 0.5 if codec == "mjpeg" else 0)


def test_images_without_new_lips_are_the_very_files(run: Run, tmp_path: Path) -> None:
    """A JPEG that is written again has lost a little, and its camera's notes; one that is copied has not."""
    paths = write_images(tmp_path / "in", "mjpeg", "yuvj420p", "jpg")
    run("out", images=tuple(paths), rate=Fraction(25), speech_start=Fraction(3, 25))
    same = [Path(path).read_bytes() == (tmp_path / "out" / Path(path).name).read_bytes() for path in paths]
    assert same == [True] * 3 + [False] * 3
