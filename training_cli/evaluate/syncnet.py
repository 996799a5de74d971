# SPDX-License-Identifier: GPL-3.0-or-later
"""LSE-C and LSE-D: lips and sound compared by SyncNet v2 [Chung and Zisserman 2016], as Wav2Lip's evaluation does.

The network and the protocol are those of github.com/joonson/syncnet_python, so that numbers can stand beside published
ones:

- 25 pictures a second, 224x224, BGR, raw 0…255; the whole frame of corpora that show little else than a face (LRS2),
  otherwise a square around it (`face_square`);
- 13 MFCC of 16 bit sound at 16 kHz by python_speech_features with its defaults: 100 columns a second;
- 5 pictures against 20 columns, one pair of 1024 numbers each for every picture but the last five;
- the Euclidean distance of each picture to the sounds up to 15 pictures away, zeros beyond the ends, mean over time;
- LSE-D is the smallest of these 31 means, LSE-C their median minus it. A table's number is the mean over its clips.

What a user can check with the published weights and that repository's data/example.avi: an offset of 3 pictures, a
distance of 5.353 and a confidence of 10.021. It has not been checked here, where neither could be had.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import MediaError, ModelError
from core.faces.mesh import face_oval

from .weights import read_state

rate = Fraction(25)
"""Pictures a second that SyncNet v2 and Wav2Lip's expert learnt from."""
side = 224
window = 5
"""Pictures that are seen together."""
columns = 20
"""MFCC columns that are heard with them: 4 for each."""
samples_a_picture = 640
most_shift = 15
"""Pictures of offset that are tried on both sides: Wav2Lip's `--vshift`."""
at_once = 20
"""Windows that go through the network together."""
crop_scale = 0.4
"""Room around the face's box, in parts of half its side; twice that below [run_pipeline.py]."""
outside = 110
"""Grey level of what lies outside the frame."""
get_them = (
    "Name syncnet_v2.model, which download_model.sh of github.com/joonson/syncnet_python fetches, with --syncnet."
)


@dataclass(frozen=True)
class SyncScore:
    """How well the lips of a clip fit its sound."""

    distance: float
    """The smallest mean distance over all shifts: LSE-D by SyncNet v2. Smaller is better."""
    confidence: float
    """The median of the mean distances minus the smallest: LSE-C by SyncNet v2. Larger is better."""
    offset: int
    """Pictures by which the sound would have to come later to fit best."""


def _convolutions(kind: type[Any], *layers: tuple[Any, ...]) -> nn.Sequential:
    """Layers (in, out, kernel, stride, padding) with BatchNorm and ReLU; a layer (size, stride, padding) is a pool."""
    parts = {nn.Conv2d: (nn.BatchNorm2d, nn.MaxPool2d), nn.Conv3d: (nn.BatchNorm3d, nn.MaxPool3d)}
    norm, pool = parts[kind]
    modules: list[nn.Module] = []
    for layer in layers:
        modules += [pool(*layer)] if len(layer) == 3 else [kind(*layer), norm(layer[1]), nn.ReLU()]
    return nn.Sequential(*modules)


def _codes() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNetV2(nn.Module):
    """The network of syncnet_v2.model; the names of its parts are those in that file. 13.6 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _convolutions(
            nn.Conv2d,
            (1, 64, 3, 1, 1),
            (1, 1, 0),
            (64, 192, 3, 1, 1),
            (3, (1, 2), 0),
            (192, 384, 3, 1, 1),
            (384, 256, 3, 1, 1),
            (256, 256, 3, 1, 1),
            (3, 2, 0),
            (256, 512, (5, 4), 1, 0),
        )
        self.netfcaud = _codes()
        self.netcnnlip = _convolutions(
            nn.Conv3d,
            (3, 96, (5, 7, 7), (1, 2, 2), 0),
            ((1, 3, 3), (1, 2, 2), 0),
            (96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
            ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            (256, 256, (1, 3, 3), 1, (0, 1, 1)),
            (256, 256, (1, 3, 3), 1, (0, 1, 1)),
            (256, 256, (1, 3, 3), 1, (0, 1, 1)),
            ((1, 3, 3), (1, 2, 2), 0),
            (256, 512, (1, 6, 6), 1, 0),
        )
        self.netfclip = _codes()

    def embed_faces(self, pictures: Tensor) -> Tensor:
        """(3, T, 224, 224) BGR 0…255 → (T - 4, 1024), one row for each five pictures in succession.

        Only the first layer reaches over time, and by five: a run through T pictures gives what T - 4 windows would.
        """
        return self.netfclip(self.netcnnlip(pictures[None])[0, :, :, 0, 0].T)

    def embed_sound(self, mfcc: Tensor) -> Tensor:
        """(B, 1, 13, 20) → (B, 1024)."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))


def load_syncnet(path: Path, device: torch.device) -> SyncNetV2:
    """The published weights in our network, in eval mode.

    Raises:
        ModelError: the file is no state dict of SyncNet v2.
    """
    net = SyncNetV2()
    try:
        net.load_state_dict(read_state(path, get_them))
    except RuntimeError:
        raise ModelError(f"The weights in {path} are not SyncNet v2's.", get_them) from None
    return net.to(device).eval()


@torch.inference_mode()
def lse(net: SyncNetV2, pictures: Iterable[np.ndarray], wave: np.ndarray) -> SyncScore:
    """LSE of one clip.

    Args:
        pictures: (224, 224, 3) uint8 RGB each, 25 a second; only a few are held at a time.
        wave: float32 in [-1, 1], 16 kHz, beginning with the first picture.

    Raises:
        MediaError: fewer than six pictures, or less sound.
    """
    device = next(net.parameters()).device
    seen: list[Tensor] = []
    held: list[np.ndarray] = []

    def look() -> None:
        stack = torch.from_numpy(np.stack(held)[..., ::-1].copy()).to(device)
        seen.append(net.embed_faces(stack.permute(3, 0, 1, 2).float()))

    count = 0
    for picture in pictures:
        count += 1
        held.append(picture)
        if len(held) == at_once + window - 1:
            look()
            held = held[at_once:]
    windows = min(count, len(wave) // samples_a_picture) - window  # one fewer than there are: the protocol's own
    if windows < 1:
        raise MediaError(f"{count} pictures with {len(wave) / 16000:.2f} s of sound are too short to compare.")
    if len(held) >= window:
        look()
    return protocol_score(torch.cat(seen)[:windows], hear(net, wave, windows))


def hear(net: SyncNetV2, wave: np.ndarray, windows: int) -> Tensor:
    """The sound's codes (windows, 1024), one for each picture's window."""
    from python_speech_features import mfcc

    spoken = np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)
    heard = torch.from_numpy(mfcc(spoken, 16000).astype(np.float32)).T.unfold(1, columns, 4)[:, :windows]
    device = next(net.parameters()).device
    batches = heard.permute(1, 0, 2)[:, None].split(at_once)
    return torch.cat([net.embed_sound(batch.to(device)) for batch in batches])


def protocol_score(faces: Tensor, sounds: Tensor) -> SyncScore:
    """The protocol's numbers from the codes (n, d) of n windows of pictures and of the sounds at their times."""
    n = len(faces)
    padded = F.pad(sounds, (0, 0, most_shift, most_shift))
    means = torch.stack([F.pairwise_distance(faces, padded[k : k + n]).mean() for k in range(2 * most_shift + 1)])
    best = int(means.argmin())
    return SyncScore(float(means[best]), float(means.median() - means[best]), most_shift - best)


def whole_frame(rgb: np.ndarray) -> np.ndarray:
    """The frame as SyncNet v2 sees it, (224, 224, 3) uint8."""
    return cv2.resize(rgb, (side, side))


def face_boxes(points: np.ndarray) -> np.ndarray:
    """(n, 3) middle x and y and half side of the face's box in frame pixels, over mesh points (n, 478, 2).

    run_pipeline.py takes the box from S3FD; here the mesh's outline gives it. Steadied by its median filter over 13
    pictures.
    """
    outline = points[:, list(face_oval)].astype(np.float64)
    low, high = outline.min(1), outline.max(1)
    boxes = np.column_stack([(low + high) / 2, (high - low).max(1) / 2])
    return median_filter(boxes, (13, 1), mode="nearest")


def face_square(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What run_pipeline.py cuts out around a face's box (x, y, half side), (224, 224, 3) uint8."""
    x, y, half = (float(value) for value in box)
    room = int(half * (1 + 2 * crop_scale))
    padded = cv2.copyMakeBorder(rgb, room, room, room, room, cv2.BORDER_CONSTANT, value=(outside,) * 3)
    top, bottom = int(y + room - half), int(y + room + half * (1 + 2 * crop_scale))
    left, right = int(x + room - half * (1 + crop_scale)), int(x + room + half * (1 + crop_scale))
    return cv2.resize(padded[max(0, top) : bottom, max(0, left) : right], (side, side))
