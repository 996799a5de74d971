# SPDX-License-Identifier: GPL-3.0-or-later
"""What an editor would see at the border of the new lips: a box, a seam, a colour step, a swimming mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from core import compose
from core.colour import ColourMatch, to_ycc
from core.detail import DetailMatch
from core.faces import Track

shape = (240, 320, 3)
angles = np.linspace(0, 2 * np.pi, 22, endpoint=False)
face = np.column_stack([0.5 + 0.36 * np.cos(angles), 0.62 + 0.25 * np.sin(angles)]).astype(np.float32)
lips = np.column_stack([0.5 + 0.1 * np.cos(angles), 0.68 + 0.06 * np.sin(angles)]).astype(np.float32)


def placed(x: float, y: float, side: float, degrees: float = 0.0) -> np.ndarray:
    """The affine of a square crop of `side` frame pixels around (x, y), turned."""
    turn = np.radians(degrees)
    linear = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / side
    return np.column_stack([linear, 0.5 - linear @ (x, y)])


def full_mask(to_crop: np.ndarray) -> np.ndarray:
    return compose.mask(face, to_crop, 0, 0, shape[1], shape[0])


def crop_coordinates(to_crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    across, down = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    u, v = np.einsum("ij,jhw->ihw", to_crop[:, :2], np.stack([across, down])) + to_crop[:, 2, None, None]
    return u, v


@pytest.mark.parametrize("degrees", [0, 17, -35])
def test_nothing_changes_above_the_nose_outside_the_jaw_or_outside_the_crop(degrees: float) -> None:
    to_crop = placed(160.3, 110.7, 120, degrees)
    u, v = crop_coordinates(to_crop)
    outside_ellipse = ((u - 0.5) / 0.36) ** 2 + ((v - 0.62) / 0.25) ** 2 > 1.03
    alpha = full_mask(to_crop)
    assert not alpha[v < compose.generated_top].any()
    assert not alpha[outside_ellipse].any()
    wide = compose.mask(face * 3 - 1, to_crop, 0, 0, shape[1], shape[0])
    assert wide.max() == 1
    assert not wide[(u < 0) | (u > 1) | (v > 1)].any()


def test_the_mouth_gets_all_of_the_new_picture() -> None:
    to_crop = placed(160, 120, 120, 10)
    u, v = crop_coordinates(to_crop)
    at_mouth = ((u - 0.5) / 0.14) ** 2 + ((v - 0.68) / 0.09) ** 2 < 1
    assert full_mask(to_crop)[at_mouth].min() > 0.99


def test_a_jaw_that_folds_back_over_the_mouth_hides_no_part_of_the_mask() -> None:
    """In profile the far side of the jaw lies behind the lips: a mask with a hole would leave the old mouth."""
    to_crop = placed(160, 120, 120)
    folded = face[np.random.default_rng(1).permutation(len(face))]
    assert (compose.mask(folded, to_crop, 0, 0, shape[1], shape[0]) == full_mask(to_crop)).all()


@pytest.mark.parametrize("side", [60, 120, 220])
def test_the_border_is_soft_in_proportion_to_the_face(side: float) -> None:
    """A hard border is a visible cut-out; one of fixed width is hard on a close-up and eats a small face's lips."""
    alpha = full_mask(placed(160, 120, side))
    down, across = np.gradient(alpha)
    steepest = np.hypot(down, across).max()
    assert 0.5 < steepest * side * 2 * compose.feather < 2.5


def test_the_mask_moves_with_the_face_by_parts_of_a_pixel() -> None:
    """A mask on whole pixels would swim on a slow move."""
    still = np.array(center_of_mass(full_mask(placed(160, 120, 90))))
    for step in (0.25, 0.5, 0.75):
        moved = np.array(center_of_mass(full_mask(placed(160 + step, 120 - step, 90))))
        assert moved - still == pytest.approx((-step, step), abs=0.03)


def test_a_patch_is_no_larger_than_its_mask_and_is_cut_at_the_frame() -> None:
    crop = np.full((96, 96, 3), 200, np.uint8)
    patch = compose.patch(crop, face, placed(160, 120, 100), shape)
    assert patch is not None
    assert patch.rgb.shape[:2] == patch.alpha.shape
    for edge in (patch.alpha[0], patch.alpha[-1], patch.alpha[:, 0], patch.alpha[:, -1]):
        assert edge.any()
    cut = compose.patch(crop, face, placed(5, 215, 100), shape)
    assert cut is not None
    assert cut.x == 0
    assert cut.y + cut.alpha.shape[0] == shape[0]
    assert compose.patch(crop, face, placed(-300, 120, 100), shape) is None
    assert compose.patch(crop, face, placed(160, 120, 100), shape, strength=0) is None


def test_half_strength_is_half_the_mask() -> None:
    crop = np.full((96, 96, 3), 200, np.uint8)
    whole, half = (compose.patch(crop, face, placed(160, 120, 100), shape, s) for s in (1.0, 0.5))
    assert whole is not None
    assert half is not None
    assert half.alpha == pytest.approx(whole.alpha / 2)


def portrait() -> np.ndarray:
    """A skin-coloured crop with some modelling, (96, 96, 3) uint8."""
    rows, columns = np.mgrid[:96, :96] / 96
    light = 0.8 + 0.3 * np.sin(3 * columns) * np.cos(2 * rows)
    return np.clip(light[..., None] * (190, 140, 115), 0, 255).astype(np.uint8)


def test_a_pale_dim_mouth_gets_the_light_and_tint_of_its_face() -> None:
    source = portrait()
    skin = compose.skin(face, lips, 96)
    generated = np.clip(source.astype(float) * 0.9 + (2, 6, 9), 0, 255).astype(np.uint8)
    before = np.abs(generated.astype(float) - source)[skin].mean()
    after = np.abs(ColourMatch().match(generated, source, skin) - source)[skin].mean()
    assert before > 7
    assert after < 1


def test_a_cheek_of_another_tint_gets_its_own_back_and_the_rest_does_not_pay_for_it() -> None:
    """A net that has seen one cheek only paints the other in its light: one mean for both made blue lips of it."""
    source, skin = portrait(), compose.skin(face, lips, 96)
    orange = np.zeros((96, 96, 3))
    orange[:, 48:] = (14, 2, -22)
    generated = np.clip(source + cv2.GaussianBlur(orange, (0, 0), 5), 0, 255).astype(np.uint8)
    match = ColourMatch()
    for _ in range(12):
        matched = match.match(generated, source, skin)
    for side in (np.s_[:, :40], np.s_[:, 56:]):
        before, after = (
            np.abs(((p.astype(float) - source) @ to_ycc[1:].T)[side][skin[side]].mean(axis=0)).max()
            for p in (generated, matched)
        )
        assert after < 2 and after <= max(before / 4, 2)
    left_lips = np.s_[60:72, 40:46]
    assert np.abs(((matched - source) @ to_ycc[1:].T)[left_lips].mean((0, 1))).max() < 3


def test_what_the_mouth_does_has_no_say_in_the_colour_of_the_skin() -> None:
    """Else the cheeks would darken whenever the mouth opens."""
    source = portrait()
    skin = compose.skin(face, lips, 96)
    opened = source.copy()
    opened[60:72, 40:57] = (40, 5, 10)
    assert not skin[60:72, 40:57].any()
    assert np.abs(ColourMatch().match(opened, source, skin) - opened).max() < 0.01


def test_a_ruined_crop_is_not_pulled_beyond_the_limits() -> None:
    source, skin = portrait(), compose.skin(face, lips, 96)
    black = np.zeros_like(source)
    luma = (ColourMatch().match(black, source, skin) @ to_ycc[0])[skin]
    assert luma.max() <= 60


def test_the_skin_does_not_flicker_with_the_net() -> None:
    """A net's light jumps with the mouth's shape; the head's own light stands still."""
    source, skin = portrait(), compose.skin(face, lips, 96)
    match = ColourMatch()
    colours = []
    for i in range(20):
        generated = np.clip(source.astype(int) + (6 if i % 2 else -6), 0, 255).astype(np.uint8)
        colours.append(match.match(generated, source, skin)[skin].mean(axis=0))
    assert np.abs(np.diff(colours, axis=0)).max() < 0.5
    match.restart()
    assert np.abs(match.match(source, source, skin) - source).max() < 0.01, "the last shot's light leaks into the next"


def test_a_light_that_changes_in_the_footage_is_followed() -> None:
    """A lamp that goes on: a patch that stays dark for a moment would show as a beard."""
    source, skin = portrait(), compose.skin(face, lips, 96)
    match = ColourMatch()
    behind = []
    for i in range(16):
        lit = np.clip(source.astype(int) + (12 if i >= 8 else 0), 0, 255).astype(np.uint8)
        behind.append(float((lit - match.match(source, lit, skin))[skin].mean()))
    assert np.abs(behind[:8]).max() < 0.5
    assert behind[8] < 9
    assert np.abs(behind[12:]).max() < 2


def test_the_old_mouths_trembling_cheeks_tremble_less_in_the_new_picture() -> None:
    source, skin = portrait(), compose.skin(face, lips, 96)
    match = ColourMatch()
    trembling = [np.clip(source.astype(int) + (4 if i % 2 else -4), 0, 255).astype(np.uint8) for i in range(20)]
    after = [match.match(source, picture, skin)[skin].mean() for picture in trembling]
    assert np.abs(np.diff(after[4:])).max() < 4 < np.abs(np.diff([p[skin].mean() for p in trembling])).min()


def track(jitter: float, lost: int | None = None) -> Track:
    """A still face of 40 frames with trembling landmarks; a cut to another place after 20."""
    random = np.random.default_rng(3)
    to_crop = np.stack([placed(100, 100, 100) if i < 20 else placed(200, 120, 140) for i in range(40)])
    inside = random.uniform(0.1, 0.9, (478, 2))
    linear = np.linalg.inv(to_crop[:, :, :2])
    points = np.einsum("nij,nkj->nki", linear, inside - to_crop[:, None, :, 2])
    points += random.normal(0, jitter, points.shape)
    if lost is not None:
        points[lost] = to_crop[lost] = np.nan
    shot = np.repeat([0, 1], 20).astype(np.int32)
    return Track(np.arange(40) != lost, shot, to_crop, points.astype(np.float32))


def test_the_masks_border_does_not_tremble_with_the_landmarks() -> None:
    trembling = compose.outline(track(1.0)).face * 100
    steps = np.abs(np.diff(trembling[:20], axis=0)).mean()
    raw_steps = 2 / np.sqrt(np.pi)  # mean of |a - b| for a and b of standard deviation 1
    assert steps < raw_steps / 3


def test_a_cut_does_not_drag_the_mask_along() -> None:
    calm = compose.outline(track(0.0))
    assert np.abs(calm.face - calm.face[0]).max() < 1e-4


def test_a_lost_face_does_not_spoil_the_frames_around_it() -> None:
    outline = compose.outline(track(0.0, lost=7))
    assert np.isnan(outline.face[7]).all()
    assert np.isfinite(np.delete(outline.face, 7, axis=0)).all()


def soft_and_sharp() -> tuple[compose.Patch, np.ndarray]:
    """A patch without the detail of the picture it will lie over."""
    rng = np.random.default_rng(0)
    sharp = np.clip(cv2.GaussianBlur(rng.normal(128, 160, (240, 320)), (0, 0), 1.2), 0, 255)[..., None].repeat(3, 2)
    crop = cv2.GaussianBlur(sharp, (0, 0), 1.5)
    found = compose.patch(crop[70:170, 110:210], face, placed(160, 120, 100), (240, 320, 3))
    assert found is not None
    return found, sharp.astype(np.uint8)


def fineness(rgb: np.ndarray) -> float:
    return float(np.square(rgb[..., 0] - cv2.GaussianBlur(rgb[..., 0], (0, 0), 1.0)).mean())


def test_a_soft_mouth_gets_the_fineness_of_its_picture_and_a_sharp_one_stays() -> None:
    soft, picture = soft_and_sharp()
    below = picture[soft.y : soft.y + soft.alpha.shape[0], soft.x : soft.x + soft.alpha.shape[1]].astype(np.float32)
    matched = DetailMatch().match(soft, picture, lips, placed(160, 120, 100), 96)
    assert fineness(soft.rgb) * 2 < fineness(matched.rgb) < 1.2 * fineness(below)
    assert (matched.alpha == soft.alpha).all() and matched.rgb.min() >= 0 and matched.rgb.max() <= 255
    sharp = compose.Patch(soft.x, soft.y, below, soft.alpha)
    assert DetailMatch().match(sharp, picture, lips, placed(160, 120, 100), 96) is sharp


def test_skin_that_is_fine_enough_is_not_sharpened_with_a_soft_mouth() -> None:
    """What the lips lack is too much for the skin around them: it gets coarse and noisy."""
    soft, picture = soft_and_sharp()
    below = picture[soft.y : soft.y + soft.alpha.shape[0], soft.x : soft.x + soft.alpha.shape[1]].astype(np.float32)
    skin = compose.skin_in_patch(soft, face, lips, placed(160, 120, 100))
    fine_skin = compose.Patch(soft.x, soft.y, np.where(skin[..., None], below, soft.rgb), soft.alpha)
    matched = DetailMatch().match(fine_skin, picture, lips, placed(160, 120, 100), 96, skin)
    change = np.abs(matched.rgb - fine_skin.rgb).mean(axis=2)
    mouth = (soft.alpha > 0.99) & ~skin
    far = skin & (cv2.distanceTransform(1 - mouth.astype(np.uint8), cv2.DIST_L2, 5) > 8)
    assert far.sum() > 100 and mouth.sum() > 100
    assert change[far].mean() < 0.2 * change[mouth].mean()


def test_sharpening_does_not_flicker_with_one_noisy_frame() -> None:
    soft, picture = soft_and_sharp()
    plain = np.full_like(picture, 128)
    match = DetailMatch()
    before = match.match(soft, plain, lips, placed(160, 120, 100), 96)
    assert before is soft  # a smooth picture asks for nothing
    after = match.match(soft, picture, lips, placed(160, 120, 100), 96)
    whole = DetailMatch().match(soft, picture, lips, placed(160, 120, 100), 96)
    assert fineness(after.rgb) - fineness(soft.rgb) < 0.5 * (fineness(whole.rgb) - fineness(soft.rgb))
