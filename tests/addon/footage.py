# SPDX-License-Identifier: GPL-3.0-or-later
"""Media whose pictures carry a number, and Blender's own pictures of a timeline read back as numbers."""

from __future__ import annotations

import os
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

width, height = 320, 96
bits = 12
dubbed = 1 << 11
"""The test worker sets this bit in every picture it has been asked to make."""


def picture(number: int) -> np.ndarray:
    """(96, 320, 3) uint8: twelve light or dark bars."""
    rgb = np.full((height, width, 3), 90, np.uint8)
    for bit in range(bits):
        rgb[16:80, 8 + bit * 24 : 28 + bit * 24] = 235 if number >> bit & 1 else 16
    return rgb


def number(rgb: np.ndarray) -> int:
    """The number of a picture of any size."""
    rows, columns = rgb.shape[:2]
    bars = [rgb[rows // 2, (18 + bit * 24) * columns // width].mean() > 127 for bit in range(bits)]
    return sum(1 << bit for bit, light in enumerate(bars) if light)


def encode(path: Path, numbers: list[int], rate: Fraction) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(n), format="rgb24")))
        container.mux(stream.encode(None))


def movie(path: Path, frames: int, rate: Fraction | int = 25) -> Path:
    """An H.264 movie whose pictures are numbered from 0."""
    encode(path, list(range(frames)), Fraction(rate))
    return path


def recording(path: Path, frames: int) -> Path:
    """A .mkv of numbered pictures at 25 a second with AAC sound, which begins a little before them."""
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=48000)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        for n in range(frames):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture(n), format="rgb24")))
        container.mux(pictures.encode(None))
        for begin in range(0, frames * 480, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 48000, begin
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def images(folder: Path, frames: int) -> list[Path]:
    """PNG files numbered from 0."""
    folder.mkdir()
    paths = [folder / f"shot_{i:04d}.png" for i in range(frames)]
    for i, path in enumerate(paths):
        write_image(path, i)
    return paths


def write_image(path: Path, n: int) -> None:
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "rgb24", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(picture(n), format="rgb24")
    frame.pts = 0
    path.write_bytes(b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)]))


def read_numbers(path: Path) -> list[int]:
    """The numbers of a movie's or image's pictures, in order."""
    with av.open(str(path)) as container:
        return [number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def sound(path: Path, seconds: float, clicks: tuple[float, ...] = (), level: int = 3000) -> Path:
    """A 16 kHz mono WAV file: a tone, and a full-scale click at each of the given seconds."""
    t = np.arange(round(seconds * 16000))
    samples = (level * np.sin(t * 0.1)).astype("<i2")
    for click in clicks:
        samples[round(click * 16000) : round(click * 16000) + 8] = 32000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return path


def samples(path: Path | str) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def shown(scene, first: int, last: int, folder: Path) -> list[int]:
    """The numbers Blender shows at the timeline frames first … last, by rendering them."""
    import bpy

    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.compression = 0
    if hasattr(scene.sequence_editor, "use_cache_raw"):  # its key is a rounded frame: another picture the second time
        scene.sequence_editor.use_cache_raw = False
    folder.mkdir(exist_ok=True)
    kept = scene.frame_start, scene.frame_end
    scene.frame_start, scene.frame_end = first, last
    scene.render.filepath = os.path.join(folder, "####")
    bpy.ops.render.render(animation=True, scene=scene.name)
    scene.frame_start, scene.frame_end = kept
    return [read_numbers(folder / f"{frame:04d}.png")[0] for frame in range(first, last + 1)]
