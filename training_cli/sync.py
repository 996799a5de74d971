# SPDX-License-Identifier: GPL-3.0-or-later
"""How well sound and lips of a clip fit at every shift between them, by the sync expert.

As the SyncNet protocol does it [Chung and Zisserman 2016]: the mean distance of the codes at each shift; the smallest
is the offset, and how far it lies below their median says how sure that is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from core import audio
from core.errors import MediaError
from core.nets.syncnet import SyncNet, sync_window_faces
from core.timing import mel_window_length, sync_window, sync_window_length

from . import shards

windows_at_once = 64
"""Windows that the expert sees in one go, which bounds the memory whatever a clip's length."""
least_pairs = 5
"""A shift that leaves fewer windows to compare is not measured."""


@dataclass(frozen=True)
class Offset:
    """By how much a clip's sound comes late."""

    frames: int
    """Frames by which the sound lags behind the lips; negative: it leads. `shards.moved(clip, frames)` mends it."""
    confidence: float
    """Median of the distances minus the smallest, 0 … 1.4. In footage of one who does not speak, near 0."""
    distances: np.ndarray
    """(2 most + 1,) mean distances for a sound that lags by -most … most frames; NaN where the clip is too short."""


def measure_offset(expert: SyncNet, clip: shards.Clip | shards.ClipFile, most: int = 15) -> Offset:
    """The offset of a prepared clip.

    Args:
        expert: in eval mode.
        most: frames searched on both sides.

    Raises:
        MediaError: the clip is too short, or what the expert says of it is no number.
    """
    if isinstance(clip, shards.ClipFile):
        mel, frames, crops = clip.mel.astype(np.float32), len(clip), clip.crops
    else:
        mel, frames = audio.log_mel(clip.wave.astype(np.float32) / 32768), len(clip.crops)
        crops = clip.crops.__getitem__
    margin = shards.margin(clip.info.size)
    inside = slice(margin, margin + clip.info.size)

    def read(part: slice) -> Tensor:
        pictures = crops(range(part.start, part.stop))[:, inside, inside]
        return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255

    distances = _distances(expert, read, frames, mel, clip.info.rate, most)
    if not np.isfinite(distances).any():
        raise MediaError(f"The sound and pictures of {clip.info.source} cannot be compared: they give no numbers.")
    confidence = np.nanmedian(distances) - np.nanmin(distances)
    return Offset(int(np.nanargmin(distances)) - most, float(confidence), distances)


def sync_distances(expert: SyncNet, faces: Tensor, mel: np.ndarray, rate: Fraction, most: int = 15) -> np.ndarray:
    """Mean distances (2 most + 1,) of lips and sound, for a sound that lags by -most … most frames.

    Each lies between 0 and sqrt(2), or is NaN where the shift leaves too few windows to compare.

    Args:
        expert: in eval mode.
        faces: (T, 3, S, S) in [0, 1] or uint8, RGB: consecutive aligned crops.
        mel: (80, M), core.audio.log_mel of a sound that starts with the first of them.
        rate: pictures a second.

    Raises:
        MediaError: there are too few pictures or too little sound.
    """

    def read(part: slice) -> Tensor:
        return faces[part] if faces.is_floating_point() else faces[part].float() / 255

    return _distances(expert, read, len(faces), mel, rate, most)


@torch.inference_mode()
def _distances(
    expert: SyncNet, read: Callable[[slice], Tensor], frames: int, mel: np.ndarray, rate: Fraction, most: int
) -> np.ndarray:
    """See sync_distances. `read` gives some of the frames, (n, 3, S, S)."""
    assert not expert.training, "the expert must be in eval mode"
    device = next(expert.parameters()).device
    windows = frames - sync_window_length + 1
    starts = [sync_window(frame, rate) for frame in range(max(0, windows) + most)]
    starts = [start for start in starts if start + mel_window_length <= mel.shape[1]]
    if min(windows, len(starts)) < least_pairs:
        raise MediaError(f"{frames} frames with {mel.shape[1] / 80:.1f} s of sound are too short to compare.")
    seen, heard = [], []
    for first in range(0, windows, windows_at_once):
        last = min(first + windows_at_once, windows)
        faces = read(slice(first, last + sync_window_length - 1)).to(device)
        seen.append(expert.embed_faces(sync_window_faces(faces.unfold(0, sync_window_length, 1).movedim(-1, 1))))
    for first in range(0, len(starts), windows_at_once):
        sound = audio.mel_windows(mel, starts[first : first + windows_at_once])
        heard.append(expert.embed_sound(torch.from_numpy(sound)[:, None].float().to(device)))
    face_codes, sound_codes = torch.cat(seen).float(), torch.cat(heard).float()
    distances = np.full(2 * most + 1, np.nan)
    for late in range(-most, most + 1):
        begin, end = max(0, -late), min(windows, len(starts) - late)
        if end - begin >= least_pairs:
            cosine = (face_codes[begin:end] * sound_codes[begin + late : end + late]).sum(1)
            distances[late + most] = float((2 - 2 * cosine).clamp(0).sqrt().mean())
    return distances
