# SPDX-License-Identifier: GPL-3.0-or-later
"""A prepared clip in an eightieth of its bytes, for the way to another machine, and back.

What the nets are trained on is kept finely: the mel they hear, the landmarks, the colours of the pictures. The sound
itself, of which only offsets are measured, is kept at a telephone's quality.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import av
import cv2
import numpy as np
from av.error import FFmpegError

from core import audio
from core.errors import MediaError

from . import shards

pictures_name, mel_name, landmarks_name, sound_name = part_names = (".hevc", ".mel.png", ".landmarks", ".opus")
mel_steps = 32
"""Steps of the stored mel in a unit of it: a step is 0.39 dB, a thirtieth of what `data.augment_sound` adds."""
landmark_steps = 1024
"""Steps of the stored landmarks across a crop: a step is 0.094 pixels at size 96."""
sound_bit_rate = 12_000
"""Bits a second; at 8,000 Opus drops what lies above 4 kHz."""
slack = 1 << 16
"""Bytes by which a part may be larger than the raw data it stands for."""


@dataclass(frozen=True)
class Shape:
    """How large the arrays of a clip are."""

    frames: int
    side: int
    """Height and width of the crops with their margin."""
    samples: int
    """Of the sound, at 16 kHz."""

    def largest(self, name: str) -> int:
        """Bytes that a part may have at most, whoever has made it."""
        raw = {
            pictures_name: self.frames * self.side**2 * 3,
            mel_name: self.columns * audio.mel_bands,
            landmarks_name: self.frames * len(shards.points) * 4,
            sound_name: self.samples * 2,
        }
        return raw[name] + slack

    @property
    def columns(self) -> int:
        """Of the mel."""
        return 1 + self.samples // audio.hop_length


def encode(clip: shards.ClipFile, crf: int) -> tuple[Shape, dict[str, bytes]]:
    """The parts of a clip, by their names.

    Raises:
        MediaError: the clip is damaged.
    """
    crops, wave = clip.crops(range(len(clip))), clip.wave()
    try:
        parts = {
            pictures_name: _encoded_pictures(crops, crf),
            mel_name: _encoded_mel(clip.mel),
            landmarks_name: _encoded_landmarks(clip.landmarks),
            sound_name: _encoded_sound(wave),
        }
    except (FFmpegError, cv2.error, ValueError) as e:
        raise MediaError(f"{clip.path} cannot be packed: {e}.", shards.again) from None
    return Shape(len(crops), crops.shape[1], len(wave)), parts


def decode(shape: Shape, parts: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The arrays of a shard: crops (T, s, s, 3) uint8 RGB, landmarks (T, 85, 2) float32, mel (80, M) float16 and
    wave (samples,) int16.

    Raises:
        MediaError: a part is damaged, or is of another shape.
    """
    try:
        return {
            "crops": _decoded_pictures(parts[pictures_name], shape),
            "landmarks": _decoded_landmarks(parts[landmarks_name], shape),
            "mel": _decoded_mel(parts[mel_name], shape),
            "wave": _decoded_sound(parts[sound_name], shape),
        }
    except (FFmpegError, cv2.error, ValueError, IndexError) as e:
        raise MediaError(f"It cannot be decoded: {e}.") from None


def _encoded_pictures(crops: np.ndarray, crf: int) -> bytes:
    """H.265, with the colour at full resolution, since that is what tells lips from skin, and without what x265 does to
    please the eye. In 25 MB, 100,000 crops of 112 px have 39.0 dB; with that 38.4, with half the colour too 37.4."""
    side = crops.shape[1]
    blocks = 64 if side >= 64 else 32  # a picture has to hold one
    parameters = f"psy-rd=0:psy-rdoq=0:keyint=-1:ctu={blocks}:log-level=none:info=0:pools=none:frame-threads=1"
    options = {"preset": "slow", "crf": str(crf), "x265-params": parameters}
    file = io.BytesIO()
    with av.open(file, "w", format="hevc") as container:
        stream = container.add_stream("libx265", rate=25, options=options)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv444p"
        for crop in crops:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), "rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _decoded_pictures(code: bytes, shape: Shape) -> np.ndarray:
    crops = np.empty((shape.frames, shape.side, shape.side, 3), np.uint8)
    count = 0
    # the format is named, or FFmpeg would guess one, among them playlists of other files
    with av.open(io.BytesIO(code), "r", format="hevc") as container:
        container.streams.video[0].codec_context.thread_count = 1  # other clips keep the other cores busy
        for count, frame in enumerate(container.decode(video=0), 1):
            if count > shape.frames or (frame.width, frame.height) != (shape.side, shape.side):
                raise ValueError("its pictures are more, or others, than the index says")
            crops[count - 1] = frame.to_ndarray(format="rgb24")
    if count != shape.frames:
        raise ValueError(f"it has {count} pictures, not {shape.frames}")
    return crops


def _encoded_mel(mel: np.ndarray) -> bytes:
    """An 8-bit grey PNG, whose filters suit a spectrogram."""
    steps = np.round((mel.astype(np.float32) - audio.mel_floor) * mel_steps).clip(0, 255).astype(np.uint8)
    return cv2.imencode(".png", steps, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _decoded_mel(code: bytes, shape: Shape) -> np.ndarray:
    # before it is decoded, since its header alone decides how much memory that takes
    if (int.from_bytes(code[16:20]), int.from_bytes(code[20:24])) != (shape.columns, audio.mel_bands):
        raise ValueError("its mel has another size than its sound")
    steps = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_GRAYSCALE)
    if steps is None or steps.shape != (audio.mel_bands, shape.columns):
        raise ValueError("its mel is no picture")
    return (steps / np.float32(mel_steps) + audio.mel_floor).astype(np.float16)


def _encoded_landmarks(landmarks: np.ndarray) -> bytes:
    """Differences from frame to frame and from point to point, the sign in the lowest bit, low bytes after high ones:
    then nearly all of it is small or zero, and deflates to a sixth."""
    limits = np.iinfo(np.int16)
    steps = np.round(landmarks * landmark_steps).clip(limits.min, limits.max).astype(np.int16)
    change = np.diff(np.diff(steps, axis=0, prepend=np.int16(0)), axis=1, prepend=np.int16(0))
    change = np.ascontiguousarray(change.transpose(2, 1, 0))  # each point's way through time in one piece
    unsigned = ((change << 1) ^ (change >> 15)).astype("<u2")
    return unsigned.view(np.uint8).reshape(-1, 2).T[::-1].tobytes()


def _decoded_landmarks(code: bytes, shape: Shape) -> np.ndarray:
    high, low = np.frombuffer(code, np.uint8).reshape(2, -1).astype(np.uint16)
    unsigned = (high << 8 | low).reshape(2, len(shards.points), shape.frames)
    change = ((unsigned >> 1) ^ -(unsigned & 1)).astype(np.int16).transpose(2, 1, 0)
    steps = change.cumsum(1, dtype=np.int16).cumsum(0, dtype=np.int16)
    return steps.astype(np.float32) / landmark_steps


def _encoded_sound(wave: np.ndarray) -> bytes:
    """Opus in Ogg, which says how many samples to leave out at both ends."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=audio.sample_rate, layout="mono")
        stream.bit_rate = sound_bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="s16", layout="mono")
        frame.sample_rate, frame.pts = audio.sample_rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _decoded_sound(code: bytes, shape: Shape) -> np.ndarray:
    wave = np.zeros(shape.samples, np.int16)
    heard = 0
    resampler = av.AudioResampler(format="s16", layout="mono", rate=audio.sample_rate)
    with av.open(io.BytesIO(code), "r", format="ogg") as container:
        if container.streams.audio[0].codec_context.name not in ("opus", "libopus"):
            raise ValueError("its sound is no Opus")
        for frame in chain(container.decode(audio=0), (None,)):
            for part in resampler.resample(frame):
                samples = part.to_ndarray()[0][: shape.samples - heard]
                wave[heard : heard + len(samples)] = samples
                heard += len(samples)
            if heard == shape.samples:
                break
    if shape.samples - heard > audio.hop_length:
        raise ValueError(f"it has {heard} samples of sound, not {shape.samples}")
    return wave
