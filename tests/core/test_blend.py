# SPDX-License-Identifier: GPL-3.0-or-later
"""Grain, edges and the settings of the mask: what an editor sees at full size, and what may be turned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import blend_measures as blend
import cv2
import numpy as np
import pytest

from core import compose, media, redub
from core.edge import EdgeMatch
from core.errors import JobError
from core.grain import GrainMatch
from core.job import RedubJob

angles = np.linspace(0, 2 * np.pi, 22, endpoint=False)
face = np.column_stack([0.5 + 0.36 * np.cos(angles), 0.62 + 0.25 * np.sin(angles)]).astype(np.float32)
lips = np.column_stack([0.5 + 0.1 * np.cos(angles), 0.68 + 0.06 * np.sin(angles)]).astype(np.float32)
to_crop = np.array([[0.005, 0, -0.3], [0, 0.005, -0.1]])


def skin_picture(noise: float, blur: float = 0.0, seed: int = 1) -> np.ndarray:
    """(240, 320, 3) uint8: smooth skin with grain, of a coarser spectrum when blurred."""
    grain = np.random.default_rng(seed).standard_normal((240, 320))
    grain = cv2.GaussianBlur(grain, (0, 0), blur) if blur else grain
    light = 150 + 20 * np.sin(np.arange(320) / 50)
    return np.clip(light + noise * grain / grain.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)


def plain_patch() -> compose.Patch:
    made = compose.patch(np.full((96, 96, 3), 150, np.uint8), face, to_crop, (240, 320, 3))
    assert made is not None
    return made


@pytest.mark.parametrize(("noise", "blur"), [(2.0, 0.0), (4.0, 0.0), (3.0, 1.2)])
def test_a_plastic_patch_gets_the_grain_of_its_skin_as_strong_and_as_coarse(noise: float, blur: float) -> None:
    patch, picture = plain_patch(), skin_picture(noise, blur)
    skin = compose.skin_in_patch(patch, face, lips, to_crop)
    assert skin.sum() > 1000
    grained = GrainMatch().match(patch, picture, skin, 7)
    below = picture[patch.y : patch.y + skin.shape[0], patch.x : patch.x + skin.shape[1]]
    for spread in (1.0, 2.0):
        fine = [
            p[..., 0] - cv2.GaussianBlur(p[..., 0].astype(np.float32), (0, 0), spread) for p in (grained.rgb, below)
        ]
        assert 0.65 < fine[0][skin].std() / fine[1][skin].std() < 1.35


def test_grain_is_new_in_every_frame_and_the_same_when_a_frame_is_made_again() -> None:
    patch, picture = plain_patch(), skin_picture(3)
    skin = compose.skin_in_patch(patch, face, lips, to_crop)
    one, again, other = (GrainMatch().match(patch, picture, skin, i).rgb for i in (5, 5, 6))
    assert (one == again).all()
    assert np.abs(np.corrcoef((one - patch.rgb).ravel(), (other - patch.rgb).ravel())[0, 1]) < 0.1


def test_a_clean_picture_and_an_amount_of_none_get_no_grain() -> None:
    patch = plain_patch()
    skin = compose.skin_in_patch(patch, face, lips, to_crop)
    assert GrainMatch().match(patch, np.full((240, 320, 3), 150, np.uint8), skin, 1) is patch
    assert GrainMatch(0).match(patch, skin_picture(4), skin, 1) is patch


def test_a_bright_line_at_the_chin_is_drawn_to_the_source_and_the_mouth_stays() -> None:
    """The net's chin ends higher than the source's: its neck would shine as a line inside the mask's lower edge."""
    source = np.full((96, 96, 3), 120, np.uint8)
    drawn = source.astype(np.float32)
    drawn[76:] += 30
    unit = np.eye(2, 3) / 96
    alpha = compose.mask(face, unit, 0, 0, 96, 96)
    after = EdgeMatch().match(drawn, source, face, lips)
    edge = (alpha > 0.02) & (alpha < 0.5) & (np.arange(96)[:, None] > 78)
    assert np.abs(drawn - source)[edge].mean() > 25 > 10 > np.abs(after - source)[edge].mean()
    assert (after[60:70, 42:54] == drawn[60:70, 42:54]).all()
    before_seam, after_seam = (np.abs(alpha[..., None] * (x - source)).max(axis=2)[edge].mean() for x in (drawn, after))
    assert after_seam < 0.5 * before_seam


def test_an_outline_that_is_not_the_sources_is_no_bright_line_at_the_chin() -> None:
    """A warped reference brings the rim of light of its own chin, which then runs inside the source's."""
    source = np.full((192, 192, 3), 110, np.uint8)
    drawn = source.astype(np.float32)
    drawn[156:159] += 50
    after = EdgeMatch().match(drawn, source, face, lips)
    assert after[157, 80:112].mean() < 110 + 0.5 * 50
    lit = source.copy()
    lit[154:161] += 50
    kept = EdgeMatch().match(lit.astype(np.float32), lit, face, lips)
    assert np.abs(kept - lit).max() < 1, "a rim that the footage has stays"
    teeth = source.astype(np.float32)
    teeth[126:134, 84:108] = 220
    assert (EdgeMatch().match(teeth, source, face, lips)[126:134, 84:108] == 220).all()


def test_the_seam_measure_sees_a_seam_and_none_where_there_is_none() -> None:
    picture = skin_picture(2).astype(np.float32)
    alpha = compose.mask(face, to_crop, 0, 0, 320, 240)
    assert blend.seam_energy(picture, picture, alpha) == 0
    assert blend.seam_energy(picture, picture + 15 * alpha[..., None], alpha) > 0.2
    assert np.isnan(blend.seam_energy(picture, picture, np.zeros((240, 320))))
    left = np.arange(320) < 160
    torn = picture + 15 * (alpha * left)[..., None]
    assert blend.seam_energy(picture, torn, alpha, np.tile(left, (240, 1))) > 0.2
    assert blend.seam_energy(picture, torn, alpha, np.tile(~left, (240, 1))) < 0.05
    assert blend.bend(np.linspace(0, 50, 20)[:, None].repeat(3, 1)) < 1e-9 < blend.bend(np.eye(20)[:, :3])


@pytest.fixture
def frame_after(
    make_clip: Callable[..., Path], make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> Callable[..., tuple[np.ndarray, np.ndarray, Path]]:
    """A middle frame of the portrait before and after a job with some settings, and the output."""

    def run(**changes: object) -> tuple[np.ndarray, np.ndarray, Path]:
        clip = make_clip(8)
        output = tmp_path / f"out{len(list(tmp_path.glob('out*')))}.mkv"
        redub.run(
            RedubJob(
                video=str(clip),
                speech=str(make_speech(0.5)),
                output=str(output),
                model=str(tiny_model),
                quality="lossless",
                silence="off",
                **changes,  # type: ignore[arg-type]
            )
        )
        before, after = (list(media.read(media.probe(str(p)), 0, 8))[4].rgb() for p in (clip, output))
        return before.astype(float), after.astype(float), output

    return run


def test_the_settings_of_the_mask_do_what_they_say(frame_after) -> None:
    def area(**changes: object) -> tuple[int, float]:
        before, after, _ = frame_after(grain=0.0, sharpen=0.0, **changes)
        change = np.abs(after - before)
        return int((change.max(axis=2) > 1).sum()), float(change.sum())

    usual, mouth = area(), area(mask="mouth")
    smaller, hard, half = area(mask_padding=-0.3), area(mask_feather=0.005), area(strength=0.5)
    assert mouth[0] < 0.75 * usual[0]
    assert smaller[0] < 0.85 * usual[0]
    assert hard[1] > usual[1]
    assert 0.4 < half[1] / usual[1] < 0.6


def test_a_job_with_grain_done_twice_gives_the_same_bytes(frame_after) -> None:
    def digest(path: Path) -> list[str]:
        return [hashlib.sha256(p.rgb().tobytes()).hexdigest() for p in media.read(media.probe(str(path)), 0, 8)]

    first, again, other = (frame_after(grain=g)[2] for g in (2.0, 2.0, 0.0))
    assert digest(first) == digest(again)
    assert digest(first) != digest(other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask": "face"},
        {"in_front": "yes"},
        {"strength": 0.0},
        {"strength": 1.5},
        {"mask_padding": float("nan")},
        {"mask_feather": 0.0},
        {"sharpen": -1.0},
        {"grain": 3.0},
        {"liveliness": 0.0},
        {"turn_limit": 5.0},
        {"restore_weight": 2.0},
    ],
)
def test_a_setting_out_of_range_says_what_fits(wrong: dict[str, object]) -> None:
    with pytest.raises(JobError) as caught:
        RedubJob(video="a.mp4", speech="b.wav", output="c.mkv", **wrong)  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "speech"),
    [("GRID_id2_c8", "MultiVSR"), ("Vox2", "German"), ("MultiVSR", "SpkVid_range_side_5"), ("German", "Vox2")],
)
def test_real_footage_gets_no_seam_and_no_flicker(name: str, speech: str, footage: Path, tmp_path: Path) -> None:
    """With the bundled model: a seam shows as a line along the jaw, flicker as skin that pulses."""
    clip, sound = (next(footage.glob(f"{n}*")) for n in (name, speech))
    score = redubbed_score(clip, sound, 0, 60, tmp_path)
    assert abs(score.seam) <= 0.1
    assert score.flicker[1] <= score.flicker[0]
    assert 0.75 < score.noise[1] / score.noise[0] < 1.25


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("HDTF_WDA_EdMarkey0", 50),
        ("HDTF_WDA_KatieHill", 0),
        ("SpkVid_range_full_body_2", 100),
        ("SpkVid_range_side_2_b", 0),
    ],
)
def test_heads_that_turn_get_no_seam_and_no_flicker(name: str, start: int, footage: Path, tmp_path: Path) -> None:
    """The net's light changes with the head's turn: with one reference, or a slow correction, the skin would pulse."""
    clip, sound = next(footage.glob(f"{name}*")), next(footage.glob("German*"))
    score = redubbed_score(clip, sound, start, 90, tmp_path)
    assert abs(score.seam) <= 0.1
    assert score.flicker[1] <= score.flicker[0]


def redubbed_score(clip: Path, sound: Path, start: int, count: int, folder: Path) -> blend.BlendScore:
    job = RedubJob(
        video=str(clip),
        speech=str(sound),
        output=str(folder / "out.mkv"),
        quality="lossless",
        sound="none",
        start_frame=start,
        frame_count=count,
    )
    with blend.masks_kept() as masks:
        redub.run(job)
    info = media.probe(str(clip))
    before = [p.rgb() for p in media.read(info, start, count)]
    after = [p.rgb() for p in media.read(media.probe(job.output), 0, count)]
    return blend.blend_score(before, after, float(info.rate), masks)
