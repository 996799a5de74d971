# SPDX-License-Identifier: GPL-3.0-or-later
"""How far lips open that a net draws from a reference, and what it must be asked for so that they open as far as meant.

Nets draw what they have seen often. Of a wide smile they shut the lips by half as much as they are asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np

from . import mouth
from .engine import Engine
from .faces.detect import Detector
from .faces.detectors import open_detector
from .faces.mesh import lower_lip, upper_lip
from .reference import References

asked = np.array([-0.05, -0.02, 0.01, 0.04, 0.07, 0.1, 0.14])
"""Openings that are tried, crop units."""
offsets, slopes = np.linspace(-0.04, 0.06, 51), np.linspace(0.4, 1.6, 25)
"""Crop units, and openings for one asked, that a reference's answer may have."""
unsure = 0.009
"""Crop units: root mean square of what is left, from which on the measure says nothing, as of small faces."""
furthest = 2.5
"""Steps by which more, or less, is asked than is meant, at most."""
around = 0.3
"""Of a crop's side: what the detector sees around it. Without it faces fill the picture, and are found a bit off."""


def measured(
    engine: Engine, references: Mapping[int, References], medians: Mapping[int, float], go_on: Callable[[], None]
) -> dict[int, References]:
    """The references with their `answers`.

    Args:
        references: for each number of a shot.
        medians: for each of these the median opening that shapes count from, crop units.
        go_on: called after every reference; may raise to end the work.
    """
    result = {}
    with open_detector("mediapipe") as detector:
        for number, known in references.items():
            answers = []
            for crop, shape in zip(known.crops, known.shapes, strict=True):
                answers.append(_answer(engine, detector, crop, shape, medians[number]))
                go_on()
            result[number] = replace(known, answers=np.array(answers))
    return result


def _answer(
    engine: Engine, detector: Detector, crop: np.ndarray, shape: np.ndarray, median: float
) -> tuple[float, float]:
    """Of one reference, as References.answers has them."""
    steps = (asked - median) / mouth.opening_step
    shapes = shape + (steps - shape[0])[:, None] * mouth.along
    drawn = engine.generate(crop[None].repeat(len(asked), 0), crop[None], shapes, shape[None].repeat(len(asked), 0))
    own, *openings = (_opening(detector, picture) for picture in (crop, *drawn))
    if own is None or None in openings:
        return 0.0, 1.0
    known = float(shape[0]) * mouth.opening_step + median
    offset, slope = fitted(np.array(openings, float) + known - own)
    return (offset + (slope - 1) * median) / mouth.opening_step, slope


def fitted(openings: np.ndarray) -> tuple[float, float]:
    """Offset and slope of what opens, crop units, of lips that are `asked` to; shut lips answer no further."""
    lines = np.maximum(offsets[:, None, None] + slopes[:, None] * asked, 0)
    left = np.sqrt(np.square(lines - np.maximum(openings, 0)).mean(axis=2))
    offset, slope = np.unravel_index(left.argmin(), left.shape)
    return (float(offsets[offset]), float(slopes[slope])) if left.min() < unsure else (0.0, 1.0)


def _opening(detector: Detector, picture: np.ndarray) -> float | None:
    """Of the lips in a crop, crop units; None: no face is found there."""
    border = round(around * len(picture))
    whole = cv2.copyMakeBorder(picture, border, border, border, border, cv2.BORDER_REPLICATE)
    points = detector.points(whole, (0, 0, len(whole)), 0, True)
    return None if points is None else float(np.linalg.norm(points[upper_lip] - points[lower_lip])) / len(picture)


def to_ask(shapes: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Shapes (n, 8) that draw the mouths meant by `shapes`, from references of such `answers` (n, 2)."""
    meant = shapes[:, 0]
    more = np.clip((meant - answers[:, 0]) / answers[:, 1] - meant, -furthest, furthest)
    return (shapes + more[:, None] * mouth.along).astype(np.float32)
