# SPDX-License-Identifier: GPL-3.0-or-later
"""From crops and what is heard to new lips in the footage's own pictures, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from . import compose, faces, media, occlusion, reference, response
from .chin import ChinMatch
from .colour import ColourMatch
from .debug import Debug
from .detail import DetailMatch
from .edge import EdgeMatch
from .engine import Engine
from .grain import GrainMatch
from .job import RedubJob
from .restore import Restorer
from .silhouette import SilhouetteMatch


@dataclass(frozen=True)
class Mouth:
    """What is pasted into one picture; both (s, s, 3) uint8."""

    crop: np.ndarray
    """The face as it is."""
    drawn: np.ndarray
    """The same with new lips."""


class Painter:
    """Draws new lips for batches of pictures, and pastes them into pictures that come in order.

    Pasting keeps what one picture must know of the one before; drawing keeps nothing, so that it may be ahead.

    Of interlaced footage each field is a frame here.

    Args:
        size: side of the crops, in pixels.
        track: the face in the frames of the output.
        strength: (n,) float32 of the new lips in each, before the job's own.
        references: for each number in `track.shot` what the net sees of the person; without any it sees the very crop
            that it paints.
        shares: (n, k), see reference.weights.
        fronts: as in occlusion.Hidden.
    """

    def __init__(
        self,
        job: RedubJob,
        engine: Engine,
        restorer: Restorer | None,
        size: int,
        track: faces.Track,
        strength: np.ndarray,
        references: dict[int, reference.References],
        shares: np.ndarray,
        fronts: dict[int, np.ndarray],
        debug: Debug,
    ) -> None:
        self._engine, self._size = engine, size
        self._strength = strength * np.float32(job.strength)
        self._fronts = fronts
        self._shot_of, self._to_crop = track.shot, track.to_crop
        mask = compose.MaskSettings(job.mask, job.mask_padding, job.mask_feather)
        self._feather = mask.feather
        self._outline, self._lower_face = compose.outline(track, mask), compose.outline(track)
        self._references, self._shares = references, shares
        self._colour, self._edge = ColourMatch(), EdgeMatch(mask.feather)
        self._detail, self._grain = DetailMatch(job.sharpen), GrainMatch(job.grain)
        self._silhouette, self._chin = SilhouetteMatch(track, mask.feather), ChinMatch(track)
        self._restorer = restorer
        self._painted = -1
        self._debug = debug

    def draw(
        self, first: int, pictures: Sequence[media.Picture | media.Field], heard: np.ndarray
    ) -> Iterator[tuple[int, Mouth]]:
        """New mouths for `pictures`, the frames first, first + 1, … of the output, with their places in it.

        Args:
            heard: of the sound, one each.
        """
        chosen = [i for i in range(len(pictures)) if self._strength[first + i] > 0]
        if chosen:
            crops = [faces.crop(pictures[i], self._to_crop[first + i], self._size) for i in chosen]
            drawn = self._draw([first + i for i in chosen], np.stack(crops), heard[chosen])
            yield from zip(chosen, map(Mouth, crops, drawn), strict=True)

    def _draw(self, frames: list[int], crops: np.ndarray, heard: np.ndarray) -> np.ndarray:
        """The crops (n, s, s, 3) uint8 with new lips, each from the reference of its pose or from two mixed."""
        if not self._references:
            return self._engine.generate(crops, crops, heard)
        shares = self._shares[frames]
        shown = [self._references[int(self._shot_of[frame])] for frame in frames]
        mixed = np.zeros(crops.shape, np.float32)
        for place in np.flatnonzero(shares.any(axis=0)):
            some = np.flatnonzero(shares[:, place])
            seen = np.stack([shown[i].crops[place] for i in some])
            shapes = np.stack([shown[i].shapes[place] for i in some])
            asked = heard[some]
            answers = [each[place] for each in (shown[i].answers for i in some) if each is not None]
            if answers:
                asked = response.to_ask(asked, shapes, np.array(answers))
            drawn = self._engine.generate(crops[some], seen, asked, shapes)
            mixed[some] += shares[some, place, None, None, None] * drawn
        return np.rint(mixed).astype(np.uint8)

    def paste(self, frame: int, picture: media.Picture | media.Field, mouth: Mouth) -> None:
        """Changes `picture`, frame `frame` of the output, in place; frames come in order."""
        crop = mouth.crop
        if self._painted != frame - 1 or self._shot_of[frame] != self._shot_of[self._painted]:
            for each in (self._silhouette, self._chin, self._colour, self._edge, self._detail, self._grain):
                each.restart()
        self._painted = frame
        face, lips = self._outline.face[frame], self._outline.lips[frame]
        to_crop = self._to_crop[frame]
        front = occlusion.refined(self._fronts[frame], crop) if frame in self._fronts else None
        skin = compose.skin(self._lower_face.face[frame], lips, len(crop))
        if front is not None:
            skin &= front < 0.1
        drawn, reach = self._silhouette.match(mouth.drawn, crop, lips, frame)
        drawn = self._chin.match(drawn, crop, frame)
        matched = self._colour.match(drawn, crop, skin)
        matched = self._edge.match(matched, crop, face, lips, front, reach)
        patch = compose.patch(matched, face, to_crop, picture.shape, self._strength[frame], self._feather, front, reach)
        if patch is None:
            return
        stages = {"patch": patch.rgb}
        if self._restorer:
            patch = self._restorer.restore(patch, picture, to_crop)
            stages["restored"] = patch.rgb
        skin_below = compose.skin_in_patch(patch, face, lips, to_crop)
        patch = self._detail.match(patch, picture, lips, to_crop, len(crop), skin_below)
        stages["sharpened"] = patch.rgb
        patch = self._grain.match(patch, picture, skin_below, frame)
        stages["grained"] = patch.rgb
        before = picture.rgb() if self._debug.wants(frame) else None
        picture.blend(patch.x, patch.y, patch.rgb, patch.alpha)
        if before is not None:
            shown = {
                "crop": crop,
                "mouth": mouth.drawn,
                "matched": matched,
                "skin": skin * 255.0,
                "mask": patch.alpha * 255,
            }
            if front is not None:
                shown["front"] = front * 255
            self._debug.save(frame, before=before, after=picture.rgb(), **shown, **stages)
