# SPDX-License-Identifier: GPL-3.0-or-later
"""How the drawn pictures look: FID of faces, and LPIPS, SSIM, PSNR, LMD and the reference-copy score against footage.

All look at the face's aligned crop, placed by the footage (core.faces.place_aligned) whatever crop the model itself was
trained on, so that models of unlike crops and sizes are measured alike.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.image.fid import FrechetInceptionDistance

from core import faces, media, reference
from core.errors import ModelError
from core.faces import Track, Tracker
from core.faces.mesh import lips, rigid, rigid_in_crop

from ..losses import Lpips
from .weights import read_state

crop_size = 192
"""Side in pixels of the crops that are compared."""
at_once = 16
fid_needs = 2048
"""Pictures below which the covariance of Inception's 2048 features has not full rank."""
get_inception = (
    "Name Inception's weights with --inception: pt_inception-2015-12-05-6726825d.pth of the releases of "
    "github.com/mseitzer/pytorch-fid, or weights-inception-2015-12-05-6726825d.pth of those of "
    "github.com/toshas/torch-fidelity."
)
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class PictureScore:
    """One clip, drawn to its own sound, against the footage: means over its frames."""

    lpips: float
    """LPIPS on AlexNet, 0 for the same picture."""
    ssim: float
    """Structural similarity with torchmetrics' defaults (Gaussian window, sigma 1.5), at most 1."""
    psnr: float
    """Peak signal to noise ratio in dB, of the mean squared error over all frames; infinite for the same pictures. A
    mean over frames would be infinite as soon as one is the same."""
    lmd: float | None
    """Mean distance of the 40 lip landmarks, both faces aligned by eyes and nose, in parts of the distance of the outer
    eye corners; None where no drawn frame shows a face."""
    copy: float | None
    """Reference-copy score: d(drawn, footage) / (d(drawn, footage) + d(drawn, reference)), d the sum over the frames of
    LPIPS on the lower half of the crop at the net's own size. 0: the footage itself, 0.5: as far from both, 1: the
    reference itself. None for nets whose reference is the very frame they paint."""


def compare(
    footage: media.SourceInfo,
    drawn: media.SourceInfo,
    track: Track,
    lpips: Lpips,
    references: dict[int, reference.References],
) -> PictureScore:
    """Compares the frames of a track with the same frames as they were drawn.

    Args:
        footage, drawn: movies that begin with the same frame.
        track: the face in the footage, found in every frame.
        lpips: on the device that does the work.
        references: for each number in `track.shot` what the net saw, at its own size; none for nets that see the very
            frame they paint.
    """
    device = next(lpips.parameters()).device
    sums: dict[str, list[float]] = {name: [] for name in ("lpips", "ssim", "from_footage", "from_reference")}
    noise = PeakSignalNoiseRatio(data_range=1.0).to(device)
    shares = reference.weights(track, references, float(footage.rate))
    with Tracker(float(footage.rate)) as tracker:

        def seen() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
            """Frame number, footage and drawn picture."""
            count = len(track.found)
            films = zip(media.read(footage, 0, count), media.read(drawn, 0, count), strict=True)
            for frame, (true, made) in enumerate(films):
                rgb = made.rgb()
                tracker.add(rgb)
                yield frame, true.rgb(), rgb

        for batch in _batches(seen(), at_once):
            true, made = _crops(track, batch, crop_size, device)
            with torch.inference_mode():
                sums["lpips"].append(float(lpips(made, true)) * len(batch))
                similarity = structural_similarity_index_measure(made, true, data_range=1.0, reduction="none")
                assert isinstance(similarity, Tensor)
                sums["ssim"].append(float(similarity.sum()))
                noise.update(made, true)
                if references:
                    used = ((references[int(track.shot[i])].crops, int(shares[i].argmax())) for i, _, _ in batch)
                    shown = np.stack([crops[place] for crops, place in used])
                    size = shown.shape[1]
                    true, made = _crops(track, batch, size, device)
                    lower = np.s_[:, :, size // 2 :]
                    sums["from_footage"].append(float(lpips(made[lower], true[lower])) * len(batch))
                    seen_there = _tensor(shown).to(device)
                    sums["from_reference"].append(float(lpips(made[lower], seen_there[lower])) * len(batch))
        drawn_points = tracker.finish().points
    count = len(track.found)
    footage_part, reference_part = sum(sums["from_footage"]), sum(sums["from_reference"])
    both = footage_part + reference_part
    return PictureScore(
        lpips=sum(sums["lpips"]) / count,
        ssim=sum(sums["ssim"]) / count,
        psnr=float(noise.compute()),
        lmd=lip_distance(track.points, drawn_points),
        copy=footage_part / both if references and both else None,
    )


def lip_distance(points: np.ndarray, others: np.ndarray) -> float | None:
    """LMD of two faces' mesh points (n, 478, 2) through the same frames, see PictureScore.lmd."""
    seen = np.isfinite(points[:, 0, 0]) & np.isfinite(others[:, 0, 0])
    if not seen.any():
        return None
    aligned = []
    for mesh in (points[seen], others[seen]):
        to_crop = faces.fit(mesh)
        aligned.append(np.einsum("nij,nkj->nki", to_crop[:, :, :2], mesh[:, list(lips)]) + to_crop[:, None, :, 2])
    corners = rigid_in_crop[[rigid.index(33), rigid.index(263)]]
    return float(np.linalg.norm(aligned[0] - aligned[1], axis=-1).mean() / np.linalg.norm(corners[0] - corners[1]))


def load_fid(weights: Path, device: torch.device) -> FrechetInceptionDistance:
    """FID on the 2048 features of the original Inception by torchmetrics, resized to 299 as TensorFlow did it.

    The library unpickles whatever file it is given, and downloads one where it is given none. So it gets a file that
    was read here as nothing but tensors and written again.

    Raises:
        ModelError: the file does not hold that Inception.
    """
    with tempfile.TemporaryDirectory() as folder:
        safe = Path(folder) / "inception.pth"
        torch.save(read_state(weights, get_inception), safe)
        try:
            fid = FrechetInceptionDistance(feature_extractor_weights_path=str(safe), antialias=False)
        except RuntimeError:
            raise ModelError(f"The weights in {weights} are not those of FID's Inception.", get_inception) from None
    return fid.to(device)


def add_faces(fid: FrechetInceptionDistance, film: media.SourceInfo, track: Track, real: bool) -> None:
    """Counts the face of every frame of a track, in the film that shows it, among the real or the drawn ones."""
    pictures = media.read(film, 0, len(track.found))
    seen = ((frame, picture.rgb()) for frame, picture in enumerate(pictures))
    for batch in _batches(seen, at_once):
        crops = np.stack([faces.crop(rgb, track.to_crop[frame], crop_size) for frame, rgb in batch])
        with torch.inference_mode():
            fid.update(torch.from_numpy(crops).permute(0, 3, 1, 2).to(fid.device), real=real)


def fid_value(fid: FrechetInceptionDistance) -> float:
    """FID of all faces counted so far, those of a run that went on among them."""
    fid.orig_dtype = torch.float64  # of the result; known to the library only once it has counted faces itself
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method", UserWarning)
        return max(0.0, float(fid.compute()))


def _batches(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    iterator = iter(things)
    while batch := list(islice(iterator, size)):
        yield batch


def _crops(
    track: Track, batch: list[tuple[int, np.ndarray, np.ndarray]], size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The faces of the footage and of what was drawn, (n, 3, size, size) each."""
    true = np.stack([faces.crop(rgb, track.to_crop[frame], size) for frame, rgb, _ in batch])
    made = np.stack([faces.crop(rgb, track.to_crop[frame], size) for frame, _, rgb in batch])
    return _tensor(true).to(device), _tensor(made).to(device)


def _tensor(pictures: np.ndarray) -> Tensor:
    """(n, s, s, 3) uint8 → (n, 3, s, s) in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
