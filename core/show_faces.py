# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync faces`: the people of some footage as JSON, and as a contact sheet to pick them from."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from . import faces, media, people
from .errors import OutputError
from .faces.tracks import FaceTrack, People

tile = 128
"""Side of a face on the sheet, in pixels."""
columns = 8
"""Faces of each track."""
gap, text_height = 6, 22
margin = 0.35
"""More of the picture than the nets' crop, on every side of it, as a part of its side."""
ink, paper = (235, 235, 235), (32, 32, 32)
colours = ((255, 120, 60), (80, 170, 255), (120, 220, 90), (240, 200, 60), (220, 110, 230), (90, 220, 210))


def as_json(footage: people.Footage, found: People) -> dict[str, object]:
    """What `lipsync faces` prints; frames count in the source, pixels are those of its upright picture."""
    info = footage.info
    cuts = np.flatnonzero(np.diff(found.shots)) + 1
    firsts, lasts = np.append(0, cuts), np.append(cuts - 1, len(found.shots) - 1)
    return {
        "video": footage.name,
        "rate": str(info.rate),
        "width": info.width,
        "height": info.height,
        "shots": [[footage.start + int(a), footage.start + int(b)] for a, b in zip(firsts, lasts, strict=True)],
        "tracks": people.describe(footage, found),
    }


def check_sheet(path: str) -> None:
    """Raises OutputError where no sheet can be written."""
    if Path(path).exists():
        raise OutputError(f"{path} exists already.", "Choose another name: nothing is ever overwritten.")
    if Path(path).suffix.lower() != ".png" or not Path(path).resolve().parent.is_dir():
        raise OutputError(f"A contact sheet cannot be written as {path}.", "Name a .png file in a folder that exists.")


def write_sheet(path: str, footage: people.Footage, found: People) -> None:
    """Draws the sheet and writes it as a PNG file.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    check_sheet(path)
    png = cv2.imencode(".png", draw_sheet(footage, found)[..., ::-1])[1].tobytes()
    begun = False
    try:
        with open(path, "xb") as file:
            begun = True
            file.write(png)
    except OSError as e:
        if begun:
            os.unlink(path)
        raise OutputError(f"The contact sheet {path} cannot be written: {e.strerror}.") from None


def draw_sheet(footage: people.Footage, found: People) -> np.ndarray:
    """(h, w, 3) uint8: the frame with most faces, each in its box, and below it a row of faces for each track."""
    chosen = [np.unique(np.linspace(0, len(t.frames) - 1, columns).round().astype(int)) for t in found.tracks]
    overview = _fullest_frame(found)
    wanted = {overview} | {int(f) for t, some in zip(found.tracks, chosen, strict=True) for f in t.frames[some]}
    tiles: list[list[np.ndarray]] = [[] for _ in found.tracks]
    top = np.zeros((0, 0, 3), np.uint8)
    for frame, picture in enumerate(media.read(footage.info, footage.start, max(wanted) + 1)):
        if frame not in wanted:
            continue
        for row, track, some in zip(tiles, found.tracks, chosen, strict=True):
            for i in some[track.frames[some] == frame]:
                row.append(_tile(picture, track, int(i), footage.start + frame))
        if frame == overview:
            top = _overview(picture.rgb(), found, frame)
    rows = [_row(n, footage, track, row) for n, (track, row) in enumerate(zip(found.tracks, tiles, strict=True), 1)]
    return np.vstack([_titled(f"frame {footage.start + overview}", top), *rows])


def _fullest_frame(found: People) -> int:
    counts = np.zeros(len(found.shots), int)
    for track in found.tracks:
        counts[track.frames] += 1
    return int(counts.argmax())


def _width() -> int:
    return columns * (tile + gap) + gap


def _overview(rgb: np.ndarray, found: People, frame: int) -> np.ndarray:
    width = _width()
    scale = width / rgb.shape[1]
    small = cv2.resize(rgb, (width, round(rgb.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    for number, track in enumerate(found.tracks, 1):
        for left, top, right, bottom in track.boxes[track.frames == frame] * scale:
            colour = colours[(number - 1) % len(colours)]
            cv2.rectangle(small, (round(left), round(top)), (round(right), round(bottom)), colour, 2, cv2.LINE_AA)
            _write(small, f"track {number}", (round(left), max(14, round(top) - 6)), colour)
    return small


def _tile(shown: faces.Pixels, track: FaceTrack, i: int, frame: int) -> np.ndarray:
    points = track.origin[i, :2] + track.origin[i, 2] * track.mesh[i]
    picture = faces.crop(shown, faces.expand(faces.fit(points[None])[0], margin), tile)
    _write(picture, str(frame), (4, tile - 5), ink)
    return picture


def _row(number: int, footage: people.Footage, track: FaceTrack, tiles: list[np.ndarray]) -> np.ndarray:
    row = np.full((tile, _width(), 3), paper, np.uint8)
    for column, picture in enumerate(tiles):
        left = gap + column * (tile + gap)
        row[:, left : left + tile] = picture
    first, last = footage.start + int(track.frames[0]), footage.start + int(track.frames[-1])
    colour = colours[(number - 1) % len(colours)]
    return _titled(f"track {number}: seen in {len(track.frames)} of frames {first} to {last}", row, colour)


def _titled(text: str, picture: np.ndarray, colour: tuple[int, int, int] = ink) -> np.ndarray:
    title = np.full((text_height, picture.shape[1], 3), paper, np.uint8)
    _write(title, text, (gap, text_height - 7), colour)
    return np.vstack([title, picture, np.full((gap, picture.shape[1], 3), paper, np.uint8)])


def _write(picture: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Text with a dark rim, to be read on any picture."""
    for paint, width in (((0, 0, 0), 3), (colour, 1)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, paint, width, cv2.LINE_AA)
