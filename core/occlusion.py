# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in front of a mouth: hands, by MediaPipe's hand model, and anything else that does not look like the face.

The face's aligned crop is compared, cell by cell, with how it looks in the shot's frames whose chin is most like its
cheeks. What stays before the mouth through all of a shot becomes part of that look and is not told apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, median_filter

from . import compose, faces, people
from .colour import to_ycc
from .faces.mediapipe_mesh import solution

cells = 24
"""Cells along each side of a crop that are compared."""
top = 10
"""First row of cells that is compared: the new lips lie below."""
fewest = 12
"""Frames of a shot, with the head turned alike, below which nothing is usual in them."""
alike_turn, least_alike = 10.0, 3
"""Degrees: a step in which heads are turned alike, together with the steps beside it, or with more of them to either
side where those show too little of the face.
"""
spread_floor = np.array([8, 3, 3], np.float32)
"""Least usual spread of a cell's Y, Cb and Cr, in levels: compression alone moves them by some."""
clear = np.array([20, 6, 6], np.float32)
"""Difference in Y, Cb and Cr that a viewer sees at a glance, in levels."""
skin_room = np.array([70, 8, 8], np.float32)
"""Levels of Y, Cb and Cr within which a colour is the skin's of the same frame, in light or in shadow."""
bright_skin = 110
"""Luma of skin below which colours, which fade in the dark, lie nearer together."""
cheek_rows = 5
"""Rows of cells from `top` in which a mask has cheeks only."""
chin_room = 10.0
"""Levels of Cb and Cr that the colours of one bare face's cheeks and chin may differ by more than usual."""
chin_light = 2.5
"""Levels of Y that count there as one: a face has its own shadows."""
strong, weak = (3.0, 1.8), (2.0, 1.2)
"""How many usual spreads, and how many clear differences, a cell is away that is surely hidden, and one beside such
a cell."""
like_until = 1.5
"""How many clear differences a cell before the lips may be from what is before the face beside them."""
around_from = 0.15
seen_from, seen_until = 0.13, 0.03
"""Parts of the mouth's surroundings, or of the lower face, from which something is before the face, and the part of the
lower face to which it must fall to be gone. In 21 clips with nothing there no range of frames reached either."""
hidden_from, hidden_until = 0.4, 0.25
"""Part from which a mouth is hidden as a whole, and to which it must fall to be there again."""
shortest = 0.1
"""Seconds that something is there at least; shorter is a flash or a blink of the measure."""
joined = 0.4
"""Seconds between two ranges of hidden frames that are made one."""
hand_looks = 5
"""Looks for hands a second while there is none; with one there, every frame is looked at."""
hand_unlike = 0.4
"""Part of a hand's cells before the face that must look unlike the face for it to be a hand."""
hand_room = 0.35
"""Parts of the crop's side around it in which hands are looked for."""
hand_size = 256
"""Side in pixels of the picture in which hands are looked for."""
palm = (0, 1, 5, 9, 13, 17)
fingers = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
"""Points of MediaPipe's hand, from the palm to the tip."""


@dataclass(frozen=True)
class Hidden:
    """What is hidden in n frames."""

    mouth: np.ndarray
    """(n,) bool: most of the mouth is hidden."""
    fronts: dict[int, np.ndarray] = field(default_factory=dict)
    """Of frames with something before the face: (cells, cells) float32 over the crop, 1 where it is, steady in time."""


class Watch:
    """Looks at the pictures of a shot for what hides a mouth. A context manager: it holds nets.

    Args:
        track: the face through the footage.
        rate: frames per second.
    """

    def __init__(self, track: faces.Track, rate: float) -> None:
        self._track, self._rate = track, rate
        self._outline = compose.outline(track)
        self._turn = np.nan_to_num(people.yaw(track.points))
        self._looks = np.zeros((len(track.found), cells - top, cells, 3), np.uint8)
        self._hands: dict[int, np.ndarray] = {}
        self._net: Any = None
        self._next_look = 0

    def __enter__(self) -> Self:
        self._net = solution("hands").Hands(max_num_hands=2, model_complexity=0, min_detection_confidence=0.6)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._net.close()

    def add(self, frame: int, picture: faces.Pixels) -> None:
        """Looks at a frame in which the face was found; frames rise."""
        to_crop = self._track.to_crop[frame]
        small = faces.crop(picture, to_crop, cells * 4)
        small = cv2.resize(small, (cells, cells), interpolation=cv2.INTER_AREA)[top:]
        self._looks[frame] = np.clip(np.rint(small @ to_ycc.T + (0, 128, 128)), 0, 255)
        if frame >= self._next_look:
            hands = self._look_for_hands(picture, to_crop)
            if hands is not None:
                self._hands[frame] = hands
            self._next_look = frame + (1 if hands is not None else max(1, round(self._rate / hand_looks)))

    def finish(self) -> Hidden:
        """What was hidden in the frames added."""
        track, n = self._track, len(self._track.found)
        mouth = np.zeros(n, bool)
        fronts: dict[int, np.ndarray] = {}
        for first, last in compose.runs(np.where(track.found, track.shot, -1)):
            if track.found[first]:
                frames = np.arange(first, last + 1)
                shot = np.flatnonzero(track.found & (track.shot == track.shot[first]))
                mouth[frames] = self._in_run(frames, shot, fronts)
        return Hidden(mouth, fronts)

    def _in_run(self, frames: np.ndarray, shot: np.ndarray, fronts: dict[int, np.ndarray]) -> np.ndarray:
        """(m,) bool whether the mouth is hidden in each of an unbroken run; adds to `fronts`."""
        around, face, lips = (np.stack(each) for each in zip(*(self._areas(i) for i in frames), strict=True))
        surely, maybe = self._unlike(frames, shot)
        no_skin = self._unlike_skin(frames, face, shot)
        hands = np.zeros_like(around)
        for j, frame in enumerate(frames):
            hand = self._hands.get(int(frame))
            # The net sees hands in turned cheeks too: a hand that looks as the face always does is none.
            if hand is not None and np.average(maybe[j], weights=hand * face[j] + 1e-6) > hand_unlike:
                hands[j] = hand
        surely, maybe = surely * no_skin, maybe * no_skin
        told = surely * (lips == 0)  # a mouth that opens wide shows what is no skin, and is no thing before the face
        covered = np.maximum(np.where(face > 0, told, 0), hands)
        share, part = (self._covered(covered, area) for area in (around, face))
        seen = hysteresis(np.where(share > around_from, 1, part), seen_from, seen_until)
        there = _lasting(seen, max(2, round(shortest * self._rate)))
        if not there.any():
            return there
        before_lips = self._like_told(frames, told) * (lips > 0)
        area = np.where(face > 0, _grown(told, np.maximum.reduce([surely, maybe, before_lips])), 0)
        area *= there[:, None, None]
        area = np.maximum(area, hands * _near(there)[:, None, None])
        # A little longer than it is seen, on either side, and smooth: what comes or goes must not flicker.
        area = gaussian_filter1d(maximum_filter1d(area, 3, axis=0), 1.0, axis=0, mode="nearest")
        for frame, front in zip(frames, area, strict=True):
            if front.max() > 0.02:
                whole = np.zeros((cells, cells), np.float32)
                whole[top:] = front
                fronts[int(frame)] = whole
        hidden = hysteresis(share * there, hidden_from, hidden_until)
        return ~_lasting(~hidden, max(2, round(joined * self._rate)), inner=True)

    def _like_told(self, frames: np.ndarray, told: np.ndarray) -> np.ndarray:
        """Which cells of the frames have the colour of what is told to be before the face; (m, rows, cells)."""
        like = np.zeros_like(told)
        for i, some in enumerate(told > 0):
            if some.any():
                looks = self._looks[frames[i]].astype(np.float32)
                apart = (looks - np.median(looks[some], axis=0)) / clear
                like[i] = np.square(apart).sum(-1) < like_until**2
        return like

    def _covered(self, covered: np.ndarray, area: np.ndarray) -> np.ndarray:
        """(m,) part of an area that is covered, but not by what shows in single frames only, as in a quick turn."""
        part = (covered * area).sum((1, 2)) / np.maximum(area.sum((1, 2)), 1e-6)
        return median_filter(part, 2 * max(1, round(shortest * self._rate / 2)) + 3, mode="nearest")

    def _unlike(self, frames: np.ndarray, shot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which cells of the frames are surely, and which may be, something else than this face; (m, rows, cells)."""
        surely, maybe = np.zeros((2, len(frames), cells - top, cells), np.float32)
        known = self._uncovered(shot)
        turns, known_turns = (np.rint(self._turn[part] / alike_turn) for part in (frames, known))
        for turn in np.unique(turns):
            reaches = (known[np.abs(known_turns - turn) <= steps] for steps in range(1, least_alike + 1))
            alike = next((part for part in reaches if len(part) >= fewest), None)
            if alike is None:
                continue
            usual = self._looks[alike].astype(np.float32)
            middle = np.median(usual, axis=0)
            spread = np.median(np.abs(usual - middle), axis=0) * 1.4826
            here = turns == turn
            difference = self._looks[frames[here]] - middle
            light = np.median(difference[..., 0].reshape(len(difference), -1), axis=1)
            difference[..., 0] -= light[:, None, None]
            spreads = np.sqrt(np.square(difference / np.maximum(spread, spread_floor)).mean(-1))
            seen = np.sqrt(np.square(difference / clear).sum(-1))
            surely[here], maybe[here] = ((spreads > a) & (seen > b) for a, b in (strong, weak))
        return surely, maybe

    def _unlike_skin(self, frames: np.ndarray, face: np.ndarray, shot: np.ndarray) -> np.ndarray:
        """Which cells of the frames have another colour than the frame's own cheeks; (m, rows, cells).

        A head that turns takes other light, and a skin in other light is no thing before the face.
        """
        looks = self._looks[frames].astype(np.float32)
        usual = np.median(self._cheeks(self._uncovered(shot)), axis=0)
        cheeks = np.tile(usual, (len(frames), 1))
        for i, part in enumerate(face[:, :cheek_rows] > 0.9):
            own = np.median(looks[i, :cheek_rows][part], axis=0) if part.any() else usual
            if np.linalg.norm(own[1:] - usual[1:]) < chin_room:  # else they are hidden too
                cheeks[i] = own
        room = skin_room * np.clip(cheeks[:, :1] / bright_skin, 0.35, 1)
        apart = (looks - cheeks[:, None, None]) / room[:, None, None]
        return (np.square(apart).sum(-1) > 1).astype(np.float32)

    def _uncovered(self, shot: np.ndarray) -> np.ndarray:
        """The frames of a shot that tell how the face looks.

        No hands are seen in them, and the chin is nearly as like the cheeks as it ever is.
        """
        bare = np.array([frame for frame in shot if int(frame) not in self._hands], int)
        bare = bare if len(bare) >= fewest // 2 else shot
        looks = self._looks[bare, 8:, cells // 3 : 2 * cells // 3].astype(np.float32)
        chin = np.median(looks.reshape(len(bare), -1, 3), axis=1)
        apart = np.linalg.norm((chin - self._cheeks(bare)) / (chin_light, 1, 1), axis=1)
        alike = bare[apart <= np.quantile(apart, 0.15) + chin_room]
        return alike if len(alike) >= fewest // 2 else bare

    def _cheeks(self, frames: np.ndarray) -> np.ndarray:
        """(m, 3) median colour on both sides of the nose."""
        sides = np.r_[cells // 6 : cells // 3, 2 * cells // 3 : 5 * cells // 6]
        return np.median(self._looks[frames, :3][:, :, sides].reshape(len(frames), -1, 3), axis=1).astype(np.float32)

    def _areas(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mouth's surroundings, the lower face and the lips in cells, 0 to 1: lips look like anything."""
        face, lips = self._outline.face[frame], self._outline.lips[frame]
        fine = cells * 4
        mouth = np.zeros((fine, fine), np.uint8)
        cv2.fillPoly(mouth, [compose.crop_pixels(lips, fine)], (1,), shift=8)
        near, far = (cv2.dilate(mouth, _disc(round(room * fine))) for room in (0.025, 0.09))
        whole = np.zeros_like(mouth)
        cv2.fillConvexPoly(whole, cv2.convexHull(compose.crop_pixels(face, fine)), (1,), shift=8)
        around = ((far > 0) & (near == 0) & (whole > 0)).astype(np.float32)
        whole_and_lips = (whole.astype(np.float32), near.astype(np.float32))
        parts = [cv2.resize(p, (cells, cells), interpolation=cv2.INTER_AREA)[top:] for p in (around, *whole_and_lips)]
        return parts[0], parts[1], parts[2]

    def _look_for_hands(self, picture: faces.Pixels, to_crop: np.ndarray) -> np.ndarray | None:
        """(rows, cells) float32 of the crop that hands cover; None without a hand in or beside the crop."""
        around = faces.crop(picture, faces.expand(to_crop, hand_room), hand_size)
        found = self._net.process(around).multi_hand_landmarks
        if not found:
            return None
        fine = cells * 4
        area = np.zeros((fine, fine), np.uint8)
        for hand in found:
            points = np.array([(p.x, p.y) for p in hand.landmark]) * (1 + 2 * hand_room) - hand_room
            pixels = compose.crop_pixels(points, fine)
            cv2.fillConvexPoly(area, cv2.convexHull(pixels[list(palm)]), (1,), shift=8)
            width = float(np.linalg.norm(points[5] - points[17]))
            thick = max(1, round(0.35 * width * fine))
            for finger in fingers:
                cv2.polylines(area, [pixels[list(finger)]], False, (1,), thick, shift=8)
        return cv2.resize(area.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)[top:]


def hysteresis(values: np.ndarray, on: float, off: float) -> np.ndarray:
    """(n,) bool: true from where `values` pass `on` until they fall below `off`, to either side in time."""
    result = values > off
    for first, last in compose.runs(result):
        result[first : last + 1] &= bool((values[first : last + 1] > on).any())
    return result


def refined(front: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """`front` (cells, cells) for a crop (s, s, 3), (s, s) float32 0 to 1, its border drawn to the picture's edges.

    A guided filter [He, Sun and Tang 2010] on the crop's luma.
    """
    size = len(crop)
    window = (2 * (size // 16) + 1,) * 2
    coarse = cv2.resize(front, (size, size), interpolation=cv2.INTER_LINEAR)
    luma = (crop @ to_ycc[0] / 255).astype(np.float32)

    def mean(picture: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(picture, -1, window)

    luma_mean, coarse_mean = mean(luma), mean(coarse)
    gain = (mean(luma * coarse) - luma_mean * coarse_mean) / (mean(luma * luma) - luma_mean**2 + 1e-3)
    drawn = mean(gain) * luma + mean(coarse_mean - gain * luma_mean)
    return np.clip(1.25 * drawn - 0.125, 0, 1)


def _lasting(flags: np.ndarray, shortest: int, *, inner: bool = False) -> np.ndarray:
    """`flags` without true runs shorter than `shortest`; inner: those at the ends stay."""
    result = flags.copy()
    for first, last in compose.runs(flags):
        at_end = first == 0 or last == len(flags) - 1
        if flags[first] and last - first + 1 < shortest and not (inner and at_end):
            result[first : last + 1] = False
    return result


def _near(flags: np.ndarray) -> np.ndarray:
    return maximum_filter1d(flags.astype(np.uint8), 5) > 0


def _grown(surely: np.ndarray, maybe: np.ndarray) -> np.ndarray:
    """Each frame's connected cells of `maybe` that hold one of `surely`, with the holes between them closed."""
    result = np.zeros_like(surely)
    for i in range(len(surely)):
        _, parts = cv2.connectedComponents(np.maximum(maybe[i], surely[i]).astype(np.uint8))
        kept = np.unique(parts[surely[i] > 0])
        area = np.isin(parts, kept[kept > 0]).astype(np.uint8)
        result[i] = cv2.morphologyEx(area, cv2.MORPH_CLOSE, _disc(2))
    return result


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
