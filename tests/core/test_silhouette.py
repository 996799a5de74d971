# SPDX-License-Identifier: GPL-3.0-or-later
"""Heads turned away: new lips end where the face ends, with nothing of the old ones beside them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core import compose, media, redub, silhouette
from core.faces import Track, Tracker, crop
from core.faces.mesh import lips_outer
from core.job import RedubJob

size = 192
frame_shape = (400, 400, 3)
to_crop = np.array([[1 / size, 0, -100 / size], [0, 1 / size, -90 / size]])
skin_colour, old_lips, new_lips, wall, other_wall = (
    np.array(c, np.float32) for c in ((200, 150, 120), (70, 20, 30), (190, 80, 90), (215, 225, 150), (60, 70, 200))
)
across, down = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)


def contour(v: np.ndarray) -> np.ndarray:
    """Where the drawn face ends: lips and chin stand out."""
    return 0.72 - 0.25 * np.maximum(v - 0.7, 0) + 0.015 * np.cos(40 * (v - 0.68)) * (np.abs(v - 0.68) < 0.12)


def drawing(lips: np.ndarray, beside: np.ndarray, narrower: float = 0.0, blur: float = 1.0) -> np.ndarray:
    """A turned face's crop (size, size, 3) uint8: lips up to its edge, and a wall beside it."""
    inside = (across < contour(down) - narrower)[..., None]
    mouth = ((np.abs(down - 0.68) < 0.06) & (across > 0.5))[..., None]
    picture = np.where(inside, np.where(mouth, lips, skin_colour), beside).astype(np.float32)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), blur), 0, 255).astype(np.uint8)


def turned_track(count: int = 1, tremble: float = 0.0, room: float | np.ndarray = 0.0) -> Track:
    """Meshes that know the drawing's edge to a hundredth of the crop; lips that end `room` inside it."""
    rng = np.random.default_rng(2)
    v = np.linspace(0.45, 0.98, 478)
    points = np.empty((count, 478, 2))
    for i, each in enumerate(np.broadcast_to(room, count)):
        points[i] = np.column_stack([contour(v) + 0.008 * np.sin(9 * v), v])
        points[i, 1::2, 0] = 0.1
        angles = np.linspace(0, 2 * np.pi, len(lips_outer), endpoint=False)
        end = contour(np.array([0.68]))[0] - each
        ellipse = np.column_stack([end - 0.1 + 0.1 * np.cos(angles), 0.68 + 0.06 * np.sin(angles)])
        points[i, list(lips_outer)] = ellipse
    points += rng.normal(0, tremble, points.shape)
    frames = (points - to_crop[:, 2]) @ np.linalg.inv(to_crop[:, :2]).T
    everywhere = np.broadcast_to(to_crop, (count, 2, 3)).copy()
    return Track(np.ones(count, bool), np.zeros(count, np.int32), everywhere, frames.astype(np.float32))


def laid_over(new: np.ndarray, source: np.ndarray, track: Track) -> np.ndarray:
    """`source` with the new picture blended in, as the painter does it, (size, size, 3) float32."""
    outline = compose.outline(track)
    drawn, reach = silhouette.SilhouetteMatch(track).match(new, source, outline.lips[0], 0)
    patch = compose.patch(drawn, outline.face[0], to_crop, frame_shape, reach=reach)
    assert patch is not None
    frame = np.zeros(frame_shape, np.float32)
    frame[90 : 90 + size, 100 : 100 + size] = source
    part = frame[patch.y : patch.y + patch.alpha.shape[0], patch.x : patch.x + patch.alpha.shape[1]]
    part += patch.alpha[..., None] * (patch.rgb - part)
    return frame[90 : 90 + size, 100 : 100 + size]


def beside_lips(nearer: float, further: float) -> np.ndarray:
    """(size, size) bool: between two distances inside the drawn face's edge, in crop units, at the lips' height."""
    inside = contour(down) - across
    return (inside > nearer) & (inside < further) & (np.abs(down - 0.68) < 0.05)


@pytest.mark.parametrize("narrower", [0.0, 0.03])
def test_nothing_of_the_old_lips_stands_beside_the_new_ones(narrower: float) -> None:
    """A rim of the old lips behind the new ones, or of the wall that the net drew, gives a dub away at first sight."""
    source = drawing(old_lips, wall)
    new = drawing(new_lips, other_wall, narrower, blur=2.0)
    after = laid_over(new, source, turned_track())
    rim = after[beside_lips(0.012, 0.06)]
    assert np.abs(rim - new_lips).max(axis=1).mean() < 12
    assert np.abs(rim - new_lips).max() < 0.5 * np.abs(old_lips - new_lips).max()


def test_the_wall_beside_a_face_stays_as_it_was() -> None:
    """A mask that is only made wider smears the wall along the face's edge."""
    source = drawing(old_lips, wall)
    after = laid_over(drawing(new_lips, other_wall, 0.02), source, turned_track())
    assert np.abs(after - source)[beside_lips(-0.2, -0.015)].max() < 1


def test_the_jaw_under_the_lips_has_one_edge() -> None:
    """Of a narrower new face the usual mask would take what the net drew beside it: a second jaw inside the first."""
    after = laid_over(drawing(new_lips, other_wall, 0.04), drawing(old_lips, wall), turned_track())
    inside = contour(down) - across
    jaw = (inside > 0.015) & (inside < 0.1) & (np.abs(down - 0.84) < 0.03)
    assert np.abs(after[jaw] - skin_colour).max() < 12


def test_a_face_that_looks_to_the_left_is_the_mirror_image() -> None:
    source, new = drawing(old_lips, wall), drawing(new_lips, other_wall, 0.02)
    track = turned_track()
    lips = compose.outline(track).lips[0]
    drawn, reach = silhouette.SilhouetteMatch(track).match(new, source, lips, 0)
    middle = 100 + size / 2
    points = track.points.copy()
    points[..., 0] = 2 * middle - points[..., 0]
    mirrored = Track(track.found, track.shot, track.to_crop, points)
    other_lips = np.column_stack([1 - lips[:, 0], lips[:, 1]])
    other_new, other_source = (np.ascontiguousarray(p[:, ::-1]) for p in (new, source))
    other_drawn, other_reach = silhouette.SilhouetteMatch(mirrored).match(other_new, other_source, other_lips, 0)
    assert reach is not None and other_reach is not None
    assert np.abs(reach - other_reach[:, ::-1]).max() < 0.05
    assert np.abs(drawn.astype(int) - other_drawn[:, ::-1]).max() < 12


def test_a_face_with_room_beside_its_lips_is_left_to_its_feather() -> None:
    """Faces that look into the camera must be, to the bit, what they are without any of this."""
    new, source = drawing(new_lips, wall), drawing(old_lips, wall)
    track = turned_track(room=0.12)
    drawn, reach = silhouette.SilhouetteMatch(track).match(new, source, compose.outline(track).lips[0], 0)
    assert drawn is new and reach is None


def test_a_head_that_turns_away_changes_its_mask_without_a_jump() -> None:
    source, new = drawing(old_lips, wall), drawing(new_lips, other_wall, 0.02)
    track = turned_track(40, room=np.linspace(0.12, 0.0, 40))
    match, outline = silhouette.SilhouetteMatch(track), compose.outline(track)
    reaches = [match.match(new, source, outline.lips[i], i)[1] for i in range(40)]
    masks = np.stack([np.zeros((size, size)) if r is None else r for r in reaches])
    assert masks[0].max() == 0 and masks[-1].max() > 0.99
    assert np.abs(np.diff(masks, axis=0)).max() < 0.15


def test_the_edge_of_the_mask_does_not_tremble_with_grain_and_landmarks() -> None:
    """An edge that jumps by a pixel from frame to frame boils."""
    rng = np.random.default_rng(5)
    track = turned_track(20, tremble=0.002)
    match, outline = silhouette.SilhouetteMatch(track), compose.outline(track)
    source, new = drawing(skin_colour - 10, skin_colour - 30), drawing(new_lips, other_wall, 0.02)
    areas = []
    for i in range(20):
        grain = cv2.GaussianBlur(rng.normal(0, 24, source.shape), (0, 0), 1.5)
        noisy = np.clip(source + grain, 0, 255).astype(np.uint8)
        reach = match.match(new, noisy, outline.lips[i], i)[1]
        assert reach is not None
        areas.append((reach * (across > 0.65))[np.abs(down[:, 0] - 0.68) < 0.05].sum(axis=1))
    steps = np.abs(np.diff(np.array(areas), axis=0))
    assert steps.mean() < 0.19, "pixels that the edge moves in each row"


def test_a_turned_face_of_real_footage_shows_the_new_lips_up_to_its_edge(footage: Path, tmp_path: Path) -> None:
    """With the bundled model: the strip inside the silhouette is new, what lies outside is as it was, nothing boils."""
    clip, sound = (next(footage.glob(f"{n}*")) for n in ("SpkVid_range_side_2_9", "German"))
    job = RedubJob(
        video=str(clip),
        speech=str(sound),
        output=str(tmp_path / "out.mkv"),
        quality="lossless",
        sound="none",
        silence="off",
        start_frame=4,
        frame_count=40,
    )
    redub.run(job)
    info = media.probe(str(clip))
    before = [p.rgb() for p in media.read(info, 4, 40)]
    after = [p.rgb() for p in media.read(media.probe(job.output), 0, 40)]
    with Tracker(float(info.rate)) as tracker:
        for rgb in before:
            tracker.add(rgb)
        track = tracker.finish()
    lips = compose.outline(track).lips
    old, new = (
        np.stack([crop(p, track.to_crop[i], size) for i, p in enumerate(x)]).astype(float) for x in (before, after)
    )
    wall_from = edges_by_brightness(old)
    change = {"in": [], "out": [], "old": [], "new": []}
    for i in range(1, 39):
        inside = wall_from[i][:, None] - across
        high, low = max(lips[i, :, 1].min(), 0.56), lips[i, :, 1].max()
        height = (down > high) & (down < low)
        rim, beyond = (height & (inside > a) & (inside < b) for a, b in ((0.01, 0.035), (-0.1, -0.03)))
        change["in"].append(np.abs(new[i] - old[i])[rim].mean())
        change["out"].append(np.abs(new[i] - old[i])[beyond].mean())
        for name, x in (("old", old), ("new", new)):
            change[name].append(np.abs(x[i + 1] - 2 * x[i] + x[i - 1])[height & (np.abs(inside) < 0.02)].mean())
    means = {name: float(np.mean(values)) for name, values in change.items()}
    assert means["in"] > 27 and means["out"] < 1 and means["new"] < 1.1 * means["old"], means


def edges_by_brightness(crops: np.ndarray) -> np.ndarray:
    """(n, size) where, from the right, the bright wall of that clip ends in each row; in crop units."""
    blue = cv2.GaussianBlur(crops[..., 2].transpose(1, 2, 0), (3, 3), 0).transpose(2, 0, 1)
    bright = blue > 125
    last = size - np.argmin(bright[:, :, ::-1], axis=2)
    return last / size
