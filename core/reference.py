# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frames of a shot show the net whose mouth it paints: sharp, for each pose of the head, with open and shut lips.

Teeth that are not to be seen must be painted; those that are there only have to be covered. The seam of shut lips can
be moved, but not made of open ones. A picture of another pose must be bent into place, and smears.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from . import compose, faces, media, mouth, occlusion
from .faces.mesh import lower_lip, upper_lip
from .shot import Shot

nose_tip, left_cheek, right_cheek = 1, 454, 234
lip_edges, lip_corners = (0, 17), (61, 291)
"""Points of the outer lips: upper and lower middle, corners."""
usual_open = 0.75
"""Quantile of the shot's lip openings that the first reference of a pose should have."""
inside = 0.75
"""Part of the way from a lip's outer edge to its inner one where it is looked for: the edges of shut lips are one."""
touching = 0.012
"""Crop units up to which lips are shut."""
natural = 0.15
"""Part by which thickness and width of shut lips may be away from the shot's usual: pressed, bitten or pouting lips are
not what every m and every silence looks like."""
candidate_count = 5
"""Frames of each kind whose sharpness is compared: each must be decoded once more."""
most_poses = 4
most = 2 * most_poses
"""References of a shot: what they take must not grow with its length."""
one_pose = 0.08
"""Distance up to which two poses (see `pose`) are the same for the net: a turn of about 9 degrees."""
fewest = 25
"""Frames that a pose must last to get a reference of its own: in a shorter one the reference would be a close neighbour
of every frame, with the very lips that are to be replaced."""
lonely, fewest_lonely = 0.25, 8
"""Distance from all other references, a turn of about 28 degrees, from which a pose that lasts so many frames gets one
with any lips: what is bent that far no longer looks like a mouth."""
looks = 24
"""Groups of like frames that are looked at for poses: each takes time."""
size_weight = 0.12
"""Distance between two poses of which one shows the face twice as large."""
stay = 0.03
"""How much nearer another pose must be before it takes over: a head that sways between two has one."""
settle, fade = 0.1, 0.3
"""Seconds: standard deviation over which the path of a pose is smoothed, and how long two poses are mixed."""
opened, shut = 0.2, 0.1
"""Parts of the way from shut to usually open lips: from the first on a mouth is drawn from the open ones, below the
second from the shut ones, between as before. Open lips are more easily shut than shut ones opened."""
open_fade = 0.1
"""Seconds over which references of two openings are mixed."""


@dataclass(frozen=True)
class References:
    """Pictures of the person of one shot, each of another pose or with other lips."""

    crops: np.ndarray
    """(k, s, s, 3) uint8, k up to `most`; the first has the shot's usual pose. Of each pose there is one with usually
    open lips, which may be followed by one with shut lips."""
    pose_of: np.ndarray
    """(k,) int, rising from 0: the number of each one's pose."""
    poses: np.ndarray
    """(p, 3), see `pose`."""
    shapes: np.ndarray
    """(k, 8) float32 of the lips (core.mouth), within [-4, 4]: openings against the shot's median, what depends on the
    pose too against that of frames of the same pose."""
    lips: np.ndarray
    """(k, 2, 2), see `lip_places`."""
    answers: np.ndarray | None = None
    """(k, len(core.response.asked)) steps by which lips open further than the reference's where so many are asked;
    None: nobody has measured."""


def pose(points: np.ndarray, to_crop: np.ndarray) -> np.ndarray:
    """(n, 3) yaw, pitch and size of faces, in crop units: where the nose lies between the cheeks, and how near it is.

    Args:
        points: (n, 478, 2) in frame pixels.
        to_crop: (n, 2, 3).
    """
    upright = np.einsum("nij,nkj->nki", to_crop[:, :, :2], points[:, [nose_tip, left_cheek, right_cheek]])
    upright += to_crop[:, None, :, 2]
    turned = upright[:, 0] - upright[:, 1:].mean(axis=1)
    (a, b), (c, d) = to_crop[:, :, :2].transpose(1, 2, 0)
    nearness = -0.5 * np.log2(np.abs(a * d - b * c))  # numpy's det would complain of faces that were not found
    return np.column_stack([turned, size_weight * nearness])


def lip_gap(points: np.ndarray, to_crop: np.ndarray, upper: int = upper_lip, lower: int = lower_lip) -> np.ndarray:
    """(n,) distance of two points of the lips in crop units, of faces as in `pose`; of the inner ones the opening."""
    across = points[:, upper] - points[:, lower]
    return np.linalg.norm(np.einsum("nij,nj->ni", to_crop[:, :, :2], across), axis=1)


def lip_places(track: faces.Track) -> np.ndarray:
    """(n, 2, 2) crop units: a place in the middle of the upper lip, near its inner edge, and one of the lower."""
    outer, inner = np.split(track.in_crop((*lip_edges, upper_lip, lower_lip)), 2, axis=1)
    return outer + inside * (inner - outer)


def candidates(track: faces.Track, shot: int) -> list[list[list[int]]]:
    """For each pose of one shot, and each opening of its lips, the frames, rising, that suit best.

    The sharpest crop of such frames is a reference. The usual pose comes first; others follow where at least `fewest`
    frames are further than `one_pose` from those before, or `fewest_lonely` further than `lonely`. In each pose the
    usual opening comes first, then shut lips, if there are any.

    Args:
        track: the face through all frames.
        shot: a number in `track.shot` with at least one found face.
    """
    frames = np.flatnonzero(track.found & (track.shot == shot))
    poses = pose(track.points, track.to_crop)[frames]  # the meshes of a long shot are too large to copy
    opening, outer, broad = (
        lip_gap(track.points, track.to_crop, *pair)[frames] for pair in ((upper_lip, lower_lip), lip_edges, lip_corners)
    )
    thick = outer - opening
    odd = np.column_stack([np.abs(size - np.median(size)) for size in (thick, broad)])
    is_natural = (odd <= natural * np.array([np.median(thick), np.median(broad)])).all(axis=1)
    usual = float(np.quantile(opening, usual_open))
    chosen = []
    for centre, alike, open_ones in _poses(poses, opening):
        away = np.abs(poses[:, :2] - centre[:2]).sum(axis=1)

        def best(among: np.ndarray, unsuitable: np.ndarray) -> list[int]:
            order = np.argsort(unsuitable[among], kind="stable")
            return sorted(int(frames[i]) for i in among[order[:candidate_count]])

        unlike = away + odd.sum(axis=1)
        kinds = [best(open_ones, unlike + np.abs(opening - usual))]
        # of another pose they would be pale and soft: there is little in shut lips to see where they belong
        near = np.linalg.norm(poses[alike] - centre, axis=1) <= one_pose
        among = alike[is_natural[alike] & near]
        closed = among[opening[among] <= touching]
        if len(alike) >= fewest and len(closed) and usual >= 2 * touching:
            kinds.append(best(closed, unlike))
        chosen.append(kinds)
    return chosen


def _poses(poses: np.ndarray, opening: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Centre of each pose of a shot, its frames (indices into `poses` (n, 3)), and those that may show open lips."""
    wanted = np.quantile(opening, usual_open)
    # the usual pose, not the most frontal one: what a turned face hides, its reference must not show
    usual = np.median(poses, axis=0)
    alike = np.linalg.norm(poses - usual, axis=1) <= one_pose
    far = ~alike
    found = [(usual, np.flatnonzero(alike), np.flatnonzero(alike))]
    for _ in range(looks):
        if len(found) == most_poses or far.sum() < fewest_lonely:
            break
        some = poses[far][:: 1 + int(far.sum()) // 256]
        near = np.linalg.norm(poses[far][None] - some[:, None], axis=2) <= one_pose
        centre = some[near.sum(axis=1).argmax()]
        alike = far & (np.linalg.norm(poses - centre, axis=1) <= one_pose)
        far &= ~alike
        is_lonely = min(np.linalg.norm(centre - other) for other, _, _ in found) > lonely
        if alike.sum() < (fewest_lonely if is_lonely else fewest):
            continue
        # half open at least: teeth that nobody has seen look worse than a bent cheek
        open_ones = np.flatnonzero(alike & (opening >= wanted / 2))
        if len(open_ones) < candidate_count and is_lonely:
            open_ones = np.flatnonzero(alike)
        if len(open_ones) >= candidate_count:
            found.append((centre, np.flatnonzero(alike), open_ones))
    if len(found) == 1:
        everything = np.arange(len(poses))
        return [(usual, everything, everything)]
    if len(found[0][1]) < candidate_count:
        del found[0]  # between two poses lies none
    return found


def sharpness(crop: np.ndarray) -> float:
    """How much detail a crop (s, s, 3) uint8 has: the variance of its Laplacian."""
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def choose(
    shot: Shot, track: faces.Track, used: np.ndarray, size: int, go_on: Callable[[], None] = lambda: None
) -> dict[int, References]:
    """For each number in `track.shot` that gets new lips the crops, `size` pixels a side, the net sees of the person.

    Args:
        used: (n,) bool: the frames that get them.
        go_on: called after every decoded picture; may raise to end the search.
    """
    wanted: dict[int, list[tuple[int, int, int]]] = {}
    for number in np.unique(track.shot[used]).tolist():
        for which_pose, kinds in enumerate(candidates(track, number)):
            for kind, frames in enumerate(kinds):
                for frame in frames:
                    wanted.setdefault(frame, []).append((number, which_pose, kind))
    best: dict[tuple[int, int, int], tuple[float, int, np.ndarray]] = {}
    for frame, picture in shot.between(sorted(wanted)):
        if frame in wanted:
            crop = faces.crop(media.split(picture, shot.info)[0], track.to_crop[frame], size)
            fine = sharpness(crop)
            for key in wanted[frame]:
                if key not in best or fine > best[key][0]:
                    best[key] = fine, frame, crop
        go_on()
    return {
        number: _references(track, {key[1:]: best[key][1:] for key in sorted(best) if key[0] == number})
        for number in sorted({number for number, _, _ in best})
    }


def _references(track: faces.Track, chosen: dict[tuple[int, int], tuple[int, np.ndarray]]) -> References:
    """Of one shot, from frame and crop of each number of a pose, and of an opening in it."""
    frames, crops = zip(*chosen.values(), strict=True)
    frames = np.array(frames)
    usual = [frame for (_, kind), (frame, _) in chosen.items() if kind == 0]
    pose_of = np.array([number for number, _ in chosen])
    poses = pose(track.points[usual], track.to_crop[usual])
    shot = np.flatnonzero(track.found & (track.shot == track.shot[frames[0]]))
    numbers = mouth.numbers(track.in_crop(mouth.points))
    away = np.linalg.norm(pose(track.points, track.to_crop)[shot, None] - poses, axis=2)
    medians = np.stack([np.median(numbers[shot[away.argmin(1) == number]], axis=0) for number in range(len(poses))])
    medians[:, : mouth.openings] = np.median(numbers[shot], axis=0)[: mouth.openings]
    shapes = numbers[frames] - medians[pose_of]
    return References(np.stack(crops), pose_of, poses, shapes.clip(-mouth.most, mouth.most), lip_places(track)[frames])


def weights(
    track: faces.Track, references: Mapping[int, References], rate: float, opening: np.ndarray | None = None
) -> np.ndarray:
    """How much of each reference of its shot is in each frame, (n, `most`) float32; of a frame without any 0.

    The nearest pose is drawn from, and of its openings the one that suits what is to be drawn. Where another becomes
    the nearest, both are mixed for a moment, so that no frame shows the change.

    Args:
        track: the face through all frames.
        references: for each number in `track.shot` that has them.
        rate: frames a second.
        opening: (n,) how far the lips will be open, in crop units more than the shot's median; None: nobody knows, and
            every frame is drawn from lips that are usually open.
    """
    result = np.zeros((len(track.found), most), np.float32)
    for first, last in compose.runs(np.where(track.found, track.shot, -1)):
        known = references.get(int(track.shot[first])) if track.found[first] else None
        if known is None:
            continue
        run = np.s_[first : last + 1]
        of_pose = _mixed(_nearest_pose(pose(track.points[run], track.to_crop[run]), known.poses, rate), fade * rate)
        for number in range(len(known.poses)):
            places = np.flatnonzero(known.pose_of == number)
            if opening is None or len(places) == 1:
                result[run, places[0]] = of_pose[:, number]
                continue
            usual, closed = known.shapes[places, 0] * mouth.opening_step
            is_open = occlusion.hysteresis(
                opening[run], closed + opened * (usual - closed), closed + shut * (usual - closed)
            )
            of_opening = _mixed(np.column_stack([is_open, ~is_open]).astype(np.float32), open_fade * rate)
            result[run, places] = of_pose[:, [number]] * of_opening
    return result


def _nearest_pose(path: np.ndarray, poses: np.ndarray, rate: float) -> np.ndarray:
    """(n, p) of 0 and 1: the pose that each frame of a run is drawn from."""
    path = gaussian_filter1d(path, settle * rate, axis=0, mode="nearest")
    away = np.linalg.norm(path[:, None] - poses, axis=2)
    used = int(away[0].argmin())
    chosen = np.zeros(away.shape, np.float32)
    for i, distances in enumerate(away):
        nearest = int(distances.argmin())
        if distances[nearest] + stay < distances[used]:
            used = nearest
        chosen[i, used] = 1
    return chosen


def _mixed(chosen: np.ndarray, frames: float) -> np.ndarray:
    """(n, m) of 0 and 1, with each change spread over so many frames."""
    window = 1 + 2 * round(frames / 2)
    mixed = uniform_filter1d(chosen, window, axis=0, mode="nearest")
    return np.rint(mixed * window) / window  # rounding's crumbs would each cost a drawing
