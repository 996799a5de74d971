# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model draws, to be looked at: contact sheets, and films of footage and result side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from core import audio, faces, media
from core.errors import OutputError
from core.faces import Track

columns = 8
tile = 192
"""Side in pixels of a picture in a contact sheet."""
mouth = np.array([[1.6, 0, -0.3], [0, 1.6, -0.68]])
"""Crop units → the mouth's part of the crop, magnified."""
film_height = 360
"""Pixels of a side-by-side film, at most."""
name_width = 90


def grid(rows: dict[str, list[np.ndarray]], titles: list[str]) -> np.ndarray:
    """A contact sheet (h, w, 3) uint8: a row of equal squares for each name, a title over each column."""
    lines = []
    for number, (name, pictures) in enumerate(rows.items()):
        shown = [label(p, t) for p, t in zip(pictures, titles, strict=True)] if number == 0 else pictures
        head = label(np.zeros((len(pictures[0]), name_width, 3), np.uint8), name)
        lines.append(np.hstack([head, *shown]))
    return np.vstack(lines)


def label(picture: np.ndarray, text: str) -> np.ndarray:
    """A copy of a picture with a text in its upper left corner."""
    labelled = picture.copy()
    for colour, thickness in ((0, 0, 0), 4), ((255, 255, 255), 1):
        cv2.putText(labelled, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, thickness, cv2.LINE_AA)
    return labelled


def write_png(path: Path, rgb: np.ndarray) -> None:
    """Writes a picture (h, w, 3) uint8.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes())


def contact_sheet(films: dict[str, media.SourceInfo], track: Track, count: int) -> np.ndarray:
    """The face and, below, its mouth in several frames of films of one shot.

    Args:
        films: by the names of their rows.
        track: the face in them.
        count: frames that all of them have.
    """
    frames = sorted({int((i + 0.5) * count / columns) for i in range(columns)})
    rows: dict[str, list[np.ndarray]] = {}
    for name, info in films.items():
        pictures = [rgb for frame, rgb in _pictures(info, count) if frame in frames]
        wide = faces.expand(track.to_crop[frames], 0.25)
        near = [mouth @ np.vstack([affine, (0, 0, 1)]) for affine in track.to_crop[frames]]
        rows[name] = [faces.crop(rgb, affine, tile) for rgb, affine in zip(pictures, wide, strict=True)]
        rows[f"{name} "] = [faces.crop(rgb, affine, tile) for rgb, affine in zip(pictures, near, strict=True)]
    order = [*films, *(f"{name} " for name in films)]
    rate = next(iter(films.values())).rate
    return grid({name: rows[name] for name in order}, [f"{float(frame / rate):.2f} s" for frame in frames])


def side_by_side(
    footage: media.SourceInfo, drawn: media.SourceInfo, count: int, wave: np.ndarray, output: Path
) -> None:
    """A film (.mp4) of the footage on the left and what was drawn on the right, with the sound that was drawn to.

    Args:
        wave: float32, 16 kHz, from the first frame on.

    Raises:
        OutputError: it exists, or cannot be written.
    """
    height = min(film_height, footage.height) // 2 * 2
    width = max(2, round(footage.width * height / footage.height) // 2 * 2)
    film = replace(
        footage,
        width=2 * width,
        height=height,
        pixel_format="yuv420p",
        rotation=0,
        display_matrix=(),
        sample_aspect_ratio=None,
        color_range=1,
        colorspace=1,
        color_primaries=1,
        color_trc=1,
    )  # BT.709, limited
    speech = media.Sound([iter([(0, wave[None])])], audio.sample_rate, "mono")
    reformatter = VideoReformatter()
    with media.write(film, str(output), sound="speech", count=count, speech=speech) as writer:
        for (frame, left), (_, right) in zip(_pictures(footage, count), _pictures(drawn, count), strict=True):
            halves = [cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA) for rgb in (left, right)]
            both = np.hstack(halves).astype(np.uint8, copy=False)
            picture = reformatter.reformat(
                av.VideoFrame.from_ndarray(both, format="rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            writer.add(media.Picture(frame, picture))


def _pictures(info: media.SourceInfo, count: int) -> Iterator[tuple[int, np.ndarray]]:
    for frame, picture in enumerate(media.read(info, 0, count)):
        yield frame, picture.rgb()


def fresh(path: Path) -> Path:
    """`path`, free of what an earlier run left there: a sheet or film of the same clip."""
    try:
        path.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(f"{path} cannot be replaced: {e.strerror}.") from None
    return path
