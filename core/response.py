# SPDX-License-Identifier: GPL-3.0-or-later
"""How far lips open that a net draws from a reference, and what it must be asked for so that they open as far as meant.

Nets draw what they have seen often. Of a wide smile they shut the lips by half as much as they are asked to. A net that
moves its reference tells itself how far it does: its flow is smooth, where a detector, asked what it sees in the drawn
pictures, jumps, most of all on small faces and on those turned aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy.ndimage import map_coordinates

from . import mouth
from .engine import Engine
from .reference import References

asked = np.array([-5.0, -3.5, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5, 5.0, 7.0])
"""Steps by which lips are tried to open further than the reference's."""
furthest = 2.5
"""Steps by which more, or less, is asked than is meant, at most."""
rounds = 20
"""Steps of the search for where a place of the reference is shown: each leaves a half, or three quarters where the
picture is stretched to twice its size."""


def measured(engine: Engine, references: Mapping[int, References], go_on: Callable[[], None]) -> dict[int, References]:
    """The references, one for each number of a shot, with their `answers`, from an engine that `moves`.

    Args:
        go_on: called after every reference; may raise to end the work.
    """
    result = {}
    for number, known in references.items():
        answers = []
        for crop, shape, lips in zip(known.crops, known.shapes, known.lips, strict=True):
            answers.append(_answer(engine, crop, shape, lips))
            go_on()
        result[number] = replace(known, answers=np.array(answers))
    return result


def _answer(engine: Engine, crop: np.ndarray, shape: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """Of one reference, as References.answers has them."""
    shapes = shape + asked[:, None] * mouth.along
    flows = engine.flows(crop, shapes, shape)
    upper, lower = (np.array([shown_at(flow, place)[1] for flow in flows]) for place in lips)
    return (lower - upper - (lips[1] - lips[0])[1]) / mouth.opening_step


def shown_at(flow: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Where, (2,) in crop units, a picture shows what lies at `place` (2,) in the reference that a flow (2, h, w) in
    crop units moves (core.nets.warp.flow)."""
    at = place.astype(np.float64)
    for _ in range(rounds):
        column, row = at * flow.shape[:0:-1] - 0.5
        away = [map_coordinates(along, [[row], [column]], order=1, mode="nearest")[0] for along in flow]
        at = at + 0.5 * (place - at - away)
    return at


def to_ask(shapes: np.ndarray, shown: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Shapes (n, 8) that draw the mouths meant by `shapes`, from references of shapes `shown` (n, 8) and such `answers`
    (n, len(asked))."""
    meant = shapes[:, 0] - shown[:, 0]
    rising = np.maximum.accumulate(answers, axis=1)  # a net that opens less where more is asked is not followed there
    told = np.array([np.interp(opening, answer, asked) for opening, answer in zip(meant, rising, strict=True)])
    more = np.clip(told - meant, -furthest, furthest)
    return (shapes + more[:, None] * mouth.along).astype(np.float32)
