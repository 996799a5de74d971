# SPDX-License-Identifier: GPL-3.0-or-later
"""Interlaced footage: each field gets a mouth of its own, where and when the field shows the face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from portrait_clips import portrait, write_movie

from core import faces, media, redub, sync_mode
from core.job import RedubJob
from core.media.planes import components

frames = 14
stride = 3
"""Pixels that the face moves from one field to the next."""


def panned(moment: int, width: int, height: int) -> np.ndarray:
    """The portrait at one moment of a fast pan."""
    whole = portrait()[20 : 20 + height]
    return np.roll(whole, stride * (moment - frames) - (whole.shape[1] - width) // 2, axis=1)[:, :width]


def woven(first_line: int) -> Callable[[int, int, int], np.ndarray]:
    """What a camera gives whose first field has the lines first_line, first_line + 2, …"""

    def shown(number: int, width: int, height: int) -> np.ndarray:
        both = panned(2 * number, width, height).copy()
        both[1 - first_line :: 2] = panned(2 * number + 1, width, height)[1 - first_line :: 2]
        return both

    return shown


def write_interlaced(path: Path, fields: str = "tff") -> str:
    shown = woven(0 if fields == "tff" else 1)
    return str(write_movie(path, frames, codec="ffv1", pixel_format="yuv422p", fields=fields, shown=shown))


@pytest.mark.parametrize("fields", ["tff", "bff"])
def test_the_new_mouth_goes_along_with_the_face_from_field_to_field(
    fields: str, tmp_path: Path, tiny_model: Path
) -> None:
    """One mouth for both fields stands where the face is in neither: on a screen it trembles and has teeth like a comb.

    Nothing is said, so that the mouth itself does not move.
    """
    soundfile.write(tmp_path / "nothing.wav", np.zeros(16000, np.float32), 16000)
    job = RedubJob(
        video=write_interlaced(tmp_path / "pan.mkv", fields),
        speech=str(tmp_path / "nothing.wav"),
        output=str(tmp_path / "new.mkv"),
        model=str(tiny_model),
        device="cpu",
        quality="lossless",
        silence="off",
        in_front="ignore",
    )
    result = redub.run(job)
    assert (result.frames, result.changed, result.untouched) == (frames, frames, ())
    moves = []
    for old, new in zip(*(media.read(media.probe(path)) for path in (job.video, job.output)), strict=True):
        info = media.probe(job.video)
        lumas = [[components(part.lines.frame)["y"].astype(int) for part in fields_of(p, info)] for p in (old, new)]
        where = [centre_of_change(before, after) for before, after in zip(*lumas, strict=True)]
        moves.append(where[1] - where[0])
    assert len(moves) == frames
    assert np.median(moves) == pytest.approx(stride, abs=1)
    assert min(moves) > stride / 2


def test_film_that_is_sent_as_interlaced_keeps_one_mouth_a_frame(tmp_path: Path, tiny_model: Path) -> None:
    """Most film on television: two mouths there, where the face is in one place, would be the comb we wish to avoid."""
    soundfile.write(tmp_path / "nothing.wav", np.zeros(16000, np.float32), 16000)

    def shown(number: int, width: int, height: int) -> np.ndarray:
        return panned(2 * number, width, height)

    film = write_movie(tmp_path / "film.mkv", frames, codec="ffv1", pixel_format="yuv422p", fields="tff", shown=shown)
    job = RedubJob(
        video=str(film),
        speech=str(tmp_path / "nothing.wav"),
        output=str(tmp_path / "new.mkv"),
        model=str(tiny_model),
        device="cpu",
        quality="lossless",
        silence="off",
        in_front="ignore",
    )
    assert redub.run(job).changed == frames
    progressive = write_movie(tmp_path / "same.mkv", frames, codec="ffv1", pixel_format="yuv422p", shown=shown)
    redub.run(replace(job, video=str(progressive), output=str(tmp_path / "like.mkv")))
    info, like = (media.probe(str(tmp_path / name)) for name in ("new.mkv", "like.mkv"))
    assert media.moments(info) == 2, "the stream says of itself what the source's did"
    for one, other in zip(media.read(info), media.read(like), strict=True):
        assert (one.rgb() == other.rgb()).all()


def fields_of(frame: media.Picture, info: media.SourceInfo) -> list[media.Field]:
    parts = media.split(frame, info)
    assert len(parts) == 2
    return [part for part in parts if isinstance(part, media.Field)]


def centre_of_change(before: np.ndarray, after: np.ndarray) -> float:
    """Column around which (h, w) differ."""
    change = np.abs(after - before).sum(0)
    assert change.any()
    return float((change * np.arange(len(change))).sum() / change.sum())


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p10le", "gray"])
@pytest.mark.parametrize("order", [2, 3])
def test_a_field_is_painted_in_its_own_lines_and_colours(layout: str, order: int, tmp_path: Path) -> None:
    """In 4:2:0 neighbouring lines of colour belong to other moments than those of light beside them."""
    path = str(write_movie(tmp_path / "clip.mkv", 1, codec="ffv1", pixel_format=layout, fields="tff"))
    info = replace(media.probe(path), field_order=order)
    frame = next(media.read(info))
    parts = media.split(frame, info)
    painted = fields_of(frame, info)
    second = painted[1]
    assert [part.parity for part in painted] == ([0, 1] if order == 2 else [1, 0])
    assert media.woven(frame, parts) is frame
    alpha = np.zeros((21, 30), np.float32)
    alpha[3:18, 2:28] = 1
    second.blend(40, 51, np.full((21, 30, 3), (250.0, 10.0, 20.0), np.float32), alpha)
    new = media.woven(frame, (painted[0], second))
    for name, plane in components(new.frame).items():
        before, now = components(frame.frame)[name], plane
        assert (now[1 - second.parity :: 2] == before[1 - second.parity :: 2]).all(), name
        assert (now[second.parity :: 2] != before[second.parity :: 2]).any(), name
    rows = np.arange(58, 65)
    rows = rows[rows % 2 == second.parity]
    seen = fields_of(new, info)[1][0:240, 0:320][rows, 44:66]
    wanted = (250, 10, 20) if layout != "gray" else seen[0, 0]
    assert np.abs(seen.astype(int) - wanted).max() <= 3


def test_between_the_lines_of_a_field_stands_what_is_halfway(tmp_path: Path) -> None:
    path = str(write_movie(tmp_path / "clip.mkv", 1, codec="ffv1", pixel_format="gray", fields="tff"))
    info = media.probe(path)
    frame = next(media.read(info))
    whole = frame.rgb().astype(int)
    for part in fields_of(frame, info):
        seen = part.rgb().astype(int)
        own = np.arange(part.parity, 240, 2)
        assert (seen[own] == whole[own]).all()
        between = np.arange(1 + part.parity, 238, 2)
        assert np.abs(seen[between] - (whole[between - 1] + whole[between + 1]) / 2).max() <= 0.5
        assert (part[31:90, 5:200] == seen[31:90, 5:200]).all()
        assert (part[31:90:3, 5:200:2] == seen[31:90:3, 5:200:2]).all()
        assert part[50:50, 3:9].shape == (0, 6, 3)
        assert (part[0:2, 0:9] == seen[0:2, 0:9]).all()
        assert (part[238:240, 0:9] == seen[238:240, 0:9]).all()


def test_footage_whose_fields_cannot_be_told_apart_is_painted_by_frames(tmp_path: Path) -> None:
    upright = media.probe(str(write_movie(tmp_path / "clip.mkv", 1, codec="ffv1", fields="tff")))
    assert media.moments(upright) == 2
    assert media.moments(replace(upright, field_order=1)) == 1
    assert media.moments(replace(upright, rotation=1, width=240, height=320)) == 1
    assert media.moments(replace(upright, height=242)) == 1  # 121 lines of colour


def test_a_track_knows_both_moments_of_a_frame_and_does_not_guess_across_a_cut() -> None:
    found = np.array([True, True, True, False, True, True, True])
    shot = np.array([0, 0, 0, 0, 0, 1, 1], np.int32)
    at = np.array([0.0, 4, 8, np.nan, 30, 100, 98])
    points = np.repeat(at[:, None, None], 478, axis=1).repeat(2, axis=2).astype(np.float32)
    to_crop = np.repeat(at[:, None, None], 2, axis=1).repeat(3, axis=2)
    both = faces.at_fields(faces.Track(found, shot, to_crop, points))
    expected = [-1, 1, 3, 5, 7, 9, np.nan, np.nan, 30, 30, 100.5, 99.5, 98.5, 97.5]
    assert np.allclose(both.points[:, 0, 0], expected, equal_nan=True)
    assert np.allclose(both.to_crop[:, 1, 2], expected, equal_nan=True)
    assert both.found.tolist() == np.repeat(found, 2).tolist()
    assert both.shot.tolist() == np.repeat(shot, 2).tolist()
    backwards = sync_mode.shown(both, np.array([0, 1, 2, 1, 0, 0]), 2)
    assert np.allclose(backwards.points[:, 0, 0], [-1, 1, 3, 5, 7, 9, 3, 5, -1, 1, -1, 1])
    assert not backwards.shot.any()
