# SPDX-License-Identifier: GPL-3.0-or-later
"""What `lipsync-train prepare` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["auto", "lrs2", "lrs3", "lrw", "grid", "voxceleb2", "folder", "manifest"]


@dataclass(frozen=True)
class PrepareSettings:
    """Which videos, and what of them is kept."""

    videos: str
    """Folder of the corpus, as it was unpacked. Empty, with an expert: only correct what is prepared."""
    output: str
    """Folder for the prepared clips. Run again with the same one, the command goes on where it was stopped or killed:
    a finished clip is never done twice. One run at a time in a folder."""
    layout: Layout = "auto"
    """How the folder names people and splits. `auto` looks at it. `lrs2`: main/<broadcast>/<clip>.mp4 and the corpus's
    lists. `lrs3`: trainval, pretrain and test/<video>/<clip>.mp4. `lrw`: <WORD>/<train, val or test>/<WORD>_00001.mp4.
    `grid`: s1 … s34, videos anywhere below. `voxceleb2`: …/id00012/<video>/00001.mp4, test where a folder above says
    so. `folder`: a video's folder names its person. `manifest`: a CSV names all of it."""
    lists: str = ""
    """Folder of LRS2's train.txt, val.txt and test.txt; empty: `videos` or the two folders above it."""
    manifest: str = ""
    """CSV with the columns file (below `videos`) and identity, and if you like split (train, dev or test) and
    licence_class."""
    pretrain: bool = False
    """Also prepare the pretrain part of LRS2 or LRS3, into the split train. The paper does not use LRS2's."""
    overlap: Literal["leave_out", "keep"] = "leave_out"
    """What to do with training clips of a person (LRS2: a broadcast) who is also in dev or test. `keep` follows a
    corpus's own lists to the letter, as published results do."""
    size: int = 96
    """Height and width of the crops, without their margin of a twelfth on every side. Training at a smaller size
    reduces them; at a larger one it refuses."""
    quality: int = 0
    """JPEG quality of the stored crops, 1 to 100; 0 stores the pixels themselves: read fastest, and the largest, 60 MB
    a minute at size 96 and 25 pictures a second; 95 takes about 12."""
    shortest: float = 0.6
    """Seconds a clip must last."""
    longest: float = 20.0
    """Seconds after which a shot is cut into another clip; what a worker holds in memory grows with it."""
    smallest: float = 0.6
    """Side of the face's crop in the video, in parts of `size`, below which a face is too small: its training pictures
    would be blown up."""
    turned: float = 1.2
    """How far a face may turn away. 0 looks into the camera; at 1 the tip of the nose reaches the outline of the cheek;
    from about 1.2 on the far corner of the mouth is hidden."""
    workers: int = 0
    """Processes; 0: as many as the machine has cores. Each takes about 0.5 GB."""
    again: bool = False
    """Try those videos again that were left out before, and with an expert those offsets that it was not sure of."""
    expert: str = ""
    """The expert's .safetensors. With it each clip's offset of sound to picture is measured and corrected, once. Run
    again with it on a prepared folder, only that is done, and no video is read. An offset of which one expert was not
    sure is measured again by another, or when the confidence falls below what was found."""
    device: str = "auto"
    """Where the expert runs: `auto`, `cpu` or `cuda`."""
    confidence: float = 0.1
    """Least confidence of an offset that is believed: how far the mean distance of the expert's codes at the best
    offset lies below the median of all, 0 to 1.4. (SyncNet v2 has another scale, on which 3 is usual.)"""
    largest_offset: int = 6
    """Frames of offset beyond which a clip is left out: such a sound is seldom of these pictures at all."""
    unsure: Literal["keep", "leave_out"] = "keep"
    """What to do with a clip whose offset cannot be believed. `keep` leaves its sound where it is."""
