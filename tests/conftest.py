# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of all tests (what fails in the core is read first, real Blender comes last), and what they share:
footage, speech and a net for the whole pipeline, small, real, made here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

folders = ("core", "training", "examples", "addon")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return folders.index(folder) if folder in folders else -1

    items.sort(key=place)


ClipMaker = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the cache of the person who runs them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LIPSYNC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test looks for its faces itself."""
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def footage() -> Path:
    """The folder of real clips beside the project; a test that needs it is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/clips beside the project")
    return folder


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> ClipMaker:
    """make_clip(frames=30, faceless=range(0), rate=25, pixel_format="yuv420p", tone=True): a swaying portrait.

    FFV1 in Matroska with a tone as sound, 320x240: lossless, so that any change outside the mask shows. Frames in
    `faceless` show the same picture with the face covered.
    """
    skimage_data = pytest.importorskip("skimage.data")
    portrait = skimage_data.astronaut()[0:300, 60:460]
    made: dict[tuple[object, ...], Path] = {}

    def make(
        frames: int = 30, faceless: range = range(0), rate: int = 25, pixel_format: str = "yuv420p", tone: bool = True
    ) -> Path:
        key = (frames, faceless, rate, pixel_format, tone)
        if key not in made:
            path = tmp_path_factory.mktemp("clip") / "clip.mkv"
            write_movie(path, (_frame(portrait, i, i in faceless) for i in range(frames)), rate, pixel_format, tone)
            made[key] = path
        return made[key]

    return make


def _frame(portrait: np.ndarray, index: int, faceless: bool) -> np.ndarray:
    """The portrait swaying slowly, (240, 320, 3) uint8; its face is about 110 pixels high."""
    import cv2  # not above: a Python that has bpy need not have it

    angle, zoom = 4 * np.sin(index / 9), 0.95 + 0.05 * np.cos(index / 13)
    affine = cv2.getRotationMatrix2D((165, 120), angle, zoom)
    affine[:, 2] += (-5 + index * 0.13 % 12, 3 * np.sin(index / 7))
    frame = cv2.warpAffine(portrait, affine, (320, 240), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if faceless:
        frame = cv2.GaussianBlur(frame, (0, 0), 40)
    return frame


def write_movie(path: Path, frames: Iterable[np.ndarray], rate: int, pixel_format: str, tone: bool) -> None:
    with av.open(path, "w") as container:
        video = container.add_stream("ffv1", rate=rate)
        video.width, video.height, video.pix_fmt = 320, 240, pixel_format
        sound = container.add_stream("flac", rate=16000, layout="mono") if tone else None
        count = 0
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, rate)
            container.mux(video.encode(frame))
            count += 1
        container.mux(video.encode(None))
        if sound is not None:
            wave = (8000 * np.sin(np.arange(count * 16000 // rate) * 0.2)).astype(np.int16)
            part = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            part.sample_rate, part.pts = 16000, 0
            container.mux(sound.encode(part))
            container.mux(sound.encode(None))


@pytest.fixture(scope="session")
def make_speech(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """make_speech(seconds): bursts of noise like syllables, a WAV file of 16 kHz."""
    soundfile = pytest.importorskip("soundfile")

    def make(seconds: float = 1.2) -> Path:
        path = tmp_path_factory.mktemp("speech") / "speech.wav"
        times = np.arange(round(seconds * 16000)) / 16000
        noise = np.random.default_rng(1).normal(0, 0.2, len(times)) * (np.sin(2 * np.pi * 4 * times) > 0)
        soundfile.write(path, noise.astype(np.float32), 16000)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that was never trained, as narrow as it can be: it paints nonsense, quickly."""
    import torch

    from core.nets.checkpoint import save_net
    from core.nets.generator import Generator, GeneratorConfig

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_net(path, Generator(GeneratorConfig(width=0.25, align_blocks=1)), {"data": "none"})
    return path
