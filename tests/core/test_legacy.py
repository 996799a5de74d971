# SPDX-License-Identifier: GPL-3.0-or-later
"""A Wav2Lip checkpoint in our pipeline: by any crop, sound or reference but its own, its lips are wrong or late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from core import audio, compose, faces, media, redub
from core.engine import Engine
from core.faces.mesh import face_oval
from core.job import RedubJob
from core.nets.checkpoint import save_net
from core.nets.wav2lip import Wav2Lip
from core.timing import mel_window

frames = 30
late = Fraction(1, 5)
"""Seconds into the clip at which the speech begins: five frames."""


@dataclass
class Seen:
    """What the net was given, what was pasted, and the job's pictures before and after."""

    faces: list[np.ndarray] = field(default_factory=list)
    references: list[np.ndarray] = field(default_factory=list)
    mels: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    track: faces.Track | None = None
    result: redub.Result | None = None
    speech: str = ""


@pytest.fixture(scope="module")
def seen(
    make_clip: Callable[..., Path],
    make_speech: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Seen:
    """One job with an untrained Wav2Lip generator, watched."""
    seen, folder = Seen(), tmp_path_factory.mktemp("wav2lip")
    torch.manual_seed(6)
    save_net(folder / "wav2lip.safetensors", Wav2Lip(), {})
    clip, seen.speech = str(make_clip(frames)), str(make_speech(1.2))
    output = folder / "out.mkv"
    generate, patch, follow_through = Engine.generate, compose.patch, faces.follow_through

    def watched_generate(self: Engine, crops: np.ndarray, references: np.ndarray, mels: np.ndarray) -> np.ndarray:
        seen.faces.extend(crops)
        seen.references.extend(references)
        seen.mels.extend(mels)
        return generate(self, crops, references, mels)

    def watched_patch(*arguments: object) -> compose.Patch | None:
        made = patch(*arguments)  # type: ignore[arg-type]
        assert made is not None
        mask = np.zeros((240, 320), bool)
        mask[made.y : made.y + made.alpha.shape[0], made.x : made.x + made.alpha.shape[1]] = made.alpha > 0
        seen.masks.append(mask)
        return made

    def watched_follow_through(*arguments: Any) -> faces.Track:
        seen.track = follow_through(*arguments)
        return seen.track

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "generate", watched_generate)
        patched.setattr(compose, "patch", watched_patch)
        patched.setattr(faces, "follow_through", watched_follow_through)
        seen.result = redub.run(
            RedubJob(
                video=clip,
                speech=seen.speech,
                speech_start=late,
                output=str(output),
                model=str(folder / "wav2lip.safetensors"),
                device="cpu",
                quality="lossless",
                sound="none",
                silence="off",  # its sound is no voice
            )
        )
    seen.before = [picture.rgb() for picture in media.read(media.probe(clip))]
    seen.after = [picture.rgb() for picture in media.read(media.probe(str(output)))]
    return seen


def test_the_shot_keeps_its_frames_and_only_the_lower_face_changes(seen: Seen) -> None:
    assert seen.result is not None
    assert (seen.result.frames, seen.result.changed) == (frames, frames - 5)
    assert seen.result.untouched == ((0, 4, "before the speech"),)
    assert len(seen.after) == len(seen.before) == frames
    for before, after in zip(seen.before[:5], seen.after[:5], strict=True):
        assert (before == after).all()
    for mask, before, after in zip(seen.masks[4:], seen.before[9:], seen.after[9:], strict=True):
        rows, columns = np.nonzero(mask)
        assert rows.min() > 90, "the mask reaches above the nose"
        assert np.ptp(columns) < 110, "the mask is wider than the face"
        near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) > 0  # chroma is sampled every second pixel
        assert (before == after)[~near].all(), "the picture changes outside the mask"
        assert (before != after).any(-1)[mask].mean() > 0.5, "no new lips in this frame"


def test_the_net_hears_the_sound_from_its_frame_on(seen: Seen) -> None:
    """By our own rule, 6 columns earlier, its lips would lead the sound by 40 ms more."""
    mel = audio.log_mel(audio.load(seen.speech))
    for frame, heard in zip(range(5, frames), seen.mels, strict=True):
        start = 16 * (frame - 5) // 5  # 80 mel frames and 25 pictures a second
        expected = mel[:, start : start + 16]
        assert (heard[:, : expected.shape[1]] == expected).all()
        ours = audio.mel_windows(mel, [mel_window(frame, Fraction(25), late)])[0]
        assert (heard != ours).any()


def test_the_net_sees_the_frame_it_paints_beside_its_masked_copy(seen: Seen) -> None:
    assert len(seen.references) == frames - 5
    assert all((face == reference).all() for face, reference in zip(seen.faces, seen.references, strict=True))


def test_the_net_sees_the_faces_box_resized_and_not_turned(seen: Seen) -> None:
    """What its inference.py cuts out: an upright box of the frame, stretched to 96 x 96."""
    assert seen.track is not None
    for frame, given in zip(range(5, frames), seen.faces, strict=True):
        to_crop = seen.track.to_crop[frame]
        assert to_crop[0, 1] == to_crop[1, 0] == 0
        left, top = -to_crop[:, 2] / to_crop.diagonal()
        right, bottom = (1 - to_crop[:, 2]) / to_crop.diagonal()
        outline = seen.track.points[frame][list(face_oval)]
        assert (left, top) == pytest.approx(outline.min(0), abs=1.5), "smoothed in time, not moved"
        assert (right, bottom - 10) == pytest.approx(outline.max(0), abs=1.5)
        box = seen.before[frame][round(top) : round(bottom), round(left) : round(right)]  # up to half a pixel off
        ours = faces.crop(seen.before[frame], faces.place_aligned(seen.track.points[frame : frame + 1], 25)[0], 96)
        to_theirs, to_ours = (np.abs(given.astype(int) - other).mean() for other in (cv2.resize(box, (96, 96)), ours))
        assert to_theirs < 0.25 * to_ours


def test_a_stretched_crop_is_put_back_where_it_came_from() -> None:
    frame = np.random.default_rng(4).integers(0, 256, (240, 320, 3), np.uint8)
    frame = cv2.GaussianBlur(frame, (0, 0), 4)
    to_crop = np.array([[1 / 90, 0, -100.4 / 90], [0, 1 / 150, -40.7 / 150]])
    x, y, picture, inside = faces.uncrop(faces.crop(frame, to_crop, 192), to_crop, frame.shape)
    assert (x, y, *inside.shape) == (100, 40, 151, 91)
    difference = np.abs(picture - frame[y : y + 151, x : x + 91])[inside == 1]
    assert difference.mean() < 0.6


def test_a_tall_box_is_cropped_without_aliasing() -> None:
    """Averaged by its width alone, a box three times as high as wide would keep every third row."""
    stripes = np.zeros((600, 200, 3), np.uint8)
    stripes[::3] = 255
    crop = faces.crop(stripes, np.array([[1 / 96, 0, -0.5], [0, 1 / 288, -0.5]]), 96)
    assert np.abs(crop.astype(int) - 85).mean() < 12


def test_the_box_is_steady_without_lag() -> None:
    """A box that shakes with the mesh makes the whole mouth shake."""
    random = np.random.default_rng(5)
    oval = random.uniform(0, 100, (478, 2))
    moving = oval + np.linspace(0, 80, 60)[:, None, None]
    calm = faces.place_box(moving + random.normal(0, 1.5, (60, 1, 2)), 25)
    clean, raw = faces.place_box(moving, 25), moving[:, list(face_oval)].min(1)
    corner = -calm[:, :, 2] / calm[:, [0, 1], [0, 1]]
    assert np.abs(np.diff(corner, 2, axis=0)).mean() < 1.0  # of points that tremble by 1.5: 3.7 in the mean
    assert np.abs(-clean[:, :, 2] / clean[:, [0, 1], [0, 1]] - raw)[5:-5].max() < 1e-6
