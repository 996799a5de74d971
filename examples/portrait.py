# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage without a camera: a public-domain portrait under a slow pan, zoom and roll."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from skimage import data

width, height = 1280, 720
rate = Fraction(25)
face_centre = (226.0, 125.0)
"""Of the portrait, in its own 512 x 512 pixels."""
zoom = 2.45
"""The face, about 95 pixels wide in the portrait, becomes about 230 wide."""


def write_clip(path: Path, frames: int) -> None:
    """Writes `frames` pictures of the moved portrait as H.264, 1280 x 720 at 25 fps, tagged BT.709, without sound."""
    still = _still()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited
        reformatter = VideoReformatter()
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(_moved(still, index / float(rate)), format="rgb24")
            frame = reformatter.reformat(
                picture,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts = index
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _still() -> np.ndarray:
    """The portrait at `zoom`, its edges fading into a blurred copy of itself, with room on all sides to move about."""
    portrait = data.astronaut()
    enlarged = cv2.resize(portrait, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LANCZOS4)
    room = 200
    wide = cv2.copyMakeBorder(enlarged, room, room, room, room, cv2.BORDER_REFLECT_101)
    blurred = cv2.GaussianBlur(wide, (0, 0), 30)
    inside = np.zeros(wide.shape[:2], np.float32)
    inside[room - 60 : -room - 20, room + 40 : -room - 40] = 1  # the hair touches the upper edge: keep its reflection
    share = cv2.GaussianBlur(inside, (0, 0), 16)[..., None]
    return (wide * share + blurred * (1 - share)).round().astype(np.uint8)


def _moved(still: np.ndarray, seconds: float) -> np.ndarray:
    """The picture (720, 1280, 3) at a time: sines of unlike periods, so that nothing repeats within the clip."""
    pan = np.array([45 * np.sin(2 * np.pi * seconds / 6.1), 14 * np.sin(2 * np.pi * seconds / 3.7)])
    scale = 1 + 0.05 * np.sin(2 * np.pi * seconds / 7.3)
    roll = 3.0 * np.sin(2 * np.pi * seconds / 5.3)
    centre = np.array(face_centre) * zoom + 200
    to_frame = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), roll, scale)
    to_frame[:, 2] += np.array([width * 0.47, height * 0.42]) - centre + pan
    return cv2.warpAffine(still, to_frame, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
