# SPDX-License-Identifier: GPL-3.0-or-later
"""What a newcomer judges us by: the films and the sheet of `make demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import comparison
import demo
import numpy as np
import portrait
import pytest

from core import audio

speech = Path(__file__).parents[2] / "examples" / "speech.flac"
frames = 10


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shot") / "shot.mp4"
    portrait.write_clip(path, frames)
    return path


def packets(movie: Path) -> list[bytes]:
    with av.open(str(movie)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_a_film_shows_the_very_pictures_of_the_strip_with_the_speech_from_its_first_frame(
    shot: Path, tmp_path: Path
) -> None:
    film = comparison.add_speech(shot, speech, tmp_path / "film.mp4")
    assert film == tmp_path / "film.mp4"
    assert packets(film) == packets(shot)
    spoken, heard = audio.load(str(speech)), audio.load(str(film))
    assert len(heard) / audio.sample_rate == pytest.approx(frames / 25, abs=0.1)
    n = 6000  # AAC may ring before a sound and cut its end, but not move it
    lags = range(-400, 401, 20)
    likeness = [float(np.corrcoef(heard[500:n], spoken[500 - lag : n - lag])[0, 1]) for lag in lags]
    assert abs(lags[int(np.argmax(likeness))]) <= 40
    assert max(likeness) > 0.9


def test_a_codec_that_mp4_cannot_hold_gets_a_container_that_can(tmp_path: Path) -> None:
    source = tmp_path / "master.mov"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("prores_ks", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv422p10le"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    film = comparison.add_speech(source, speech, tmp_path / "film.mp4")
    assert film.suffix == ".mkv"
    assert packets(film) == packets(source)


def test_a_tag_that_is_not_utf8_does_not_stop_the_comparison(shot: Path, tmp_path: Path) -> None:
    """Old cameras and Windows programs write titles in Latin-1."""
    tagged = tmp_path / "tagged.mkv"
    with av.open(str(shot)) as source, av.open(str(tagged), "w") as container:
        container.metadata["title"] = "cafX"
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    tagged.write_bytes(tagged.read_bytes().replace(b"cafX", b"caf\xe9"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(tagged))
    assert packets(comparison.add_speech(tagged, speech, tmp_path / "film.mp4")) == packets(shot)


@pytest.mark.parametrize("name", ["after.mp4", "before.mkv"])
@pytest.mark.parametrize("option", ["--video", "--speech"])
def test_a_demonstration_of_its_own_result_is_refused_and_the_file_stays(
    shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    own = tmp_path / name
    own.write_bytes(shot.read_bytes())
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path), option, str(own)])
    with pytest.raises(SystemExit, match="is a file that the demonstration replaces"):
        demo.main()
    assert own.read_bytes() == shot.read_bytes() and list(tmp_path.iterdir()) == [own]


def test_the_sheet_shows_the_face_before_above_after(shot: Path) -> None:
    before = comparison.look(shot, [2, 7])
    assert 0.8 < before.size / 300 < 1.2
    assert np.all(before.opening > 0.03)  # the portrait smiles with open lips
    painted = {frame: np.zeros_like(picture) for frame, picture in before.stills.items()}
    after = comparison.Look(before.opening, before.middles, before.size, painted)
    sheet = comparison.sheet(before, after, portrait.rate)
    side = sheet.shape[0] // 2
    upper, lower = sheet[:side, 90:], sheet[side:, 90:]
    assert sheet.shape[1] == 90 + 2 * side
    assert np.ptp(upper) > 200 and not lower.any()
