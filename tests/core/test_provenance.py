# SPDX-License-Identifier: GPL-3.0-or-later
"""New media say that a machine made the lips, and from what: nobody downstream must take them for a recording."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import pytest
from portrait_clips import write_images, write_movie

from core import __version__, media, provenance, redub
from core.errors import Cancelled, JobError, OutputError
from core.job import RedubJob
from core.media import label
from core.nets.checkpoint import load_generator

rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
frames = 6


@pytest.fixture
def make_job(make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> Callable[..., RedubJob]:
    source = write_movie(tmp_path / "clip.mp4", frames, metadata={"comment": "Take 3"})
    speech = make_speech(1.2)

    def make(output: str, **fields: Any) -> RedubJob:
        defaults = {"video": str(source), "sound": "none", "device": "cpu", "silence": "off"}
        given = {"speech": str(speech), "model": str(tiny_model), "output": str(tmp_path / output)}
        return RedubJob(**{**defaults, **given, **fields})

    return make


def source_type(xmp: bytes) -> str:
    """The digital source type that a packet of XMP tells, read as XML."""
    found = ElementTree.fromstring(xmp.decode()).iter(f"{iptc}DigitalSourceType")
    return next(found).text or ""


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_movie_tells_it_in_xmp_and_in_an_ordinary_tag(make_job: Callable[..., RedubJob], suffix: str) -> None:
    job = make_job(f"new{suffix}")
    redub.run(job)
    with av.open(job.output, options={"export_xmp": "1"}) as container:
        assert source_type(container.metadata["xmp"].encode()) == provenance.source_type
        comment = container.metadata["comment"]
    assert comment.startswith("Take 3"), "the source's own comment stays"
    assert f"Lip Sync Redub {__version__}" in comment
    assert sha256(job.model)[:16] in comment
    assert media.probe(job.output).frames == frames


def test_matroska_tells_it_in_its_tags(make_job: Callable[..., RedubJob]) -> None:
    job = make_job("new.mkv")
    redub.run(job)
    with av.open(job.output) as container:
        assert container.metadata["DIGITAL_SOURCE_TYPE"] == provenance.source_type
        assert "synthesised" in container.metadata["COMMENT"]


@pytest.mark.parametrize(("codec", "layout", "ending"), [("png", "rgb24", "png"), ("mjpeg", "yuvj420p", "jpg")])
def test_each_changed_image_tells_it_and_no_other(
    make_job: Callable[..., RedubJob], tmp_path: Path, codec: str, layout: str, ending: str
) -> None:
    paths = write_images(tmp_path / "in", codec, layout, ending, frames)
    job = make_job("out", video="", images=tuple(paths), rate=Fraction(25), speech_start=Fraction(2, 25))
    redub.run(job)
    for number, path in enumerate(paths):
        data = (tmp_path / "out" / Path(path).name).read_bytes()
        begin, end = data.find(b"<x:xmpmeta"), data.find(b"</x:xmpmeta>")
        if number < 2:
            assert begin < 0
            continue
        assert source_type(data[begin : end + 12]) == provenance.source_type
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (240, 320, 3)
    record = json.loads((tmp_path / "out" / "out.lipsync.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in record["inputs"]["pictures"]] == [Path(path).name for path in paths]
    assert record["result"] == {"frames": 6, "changed": [[2, 5]], "untouched": [[0, 1, "before the speech"]]}


def test_the_record_says_from_what_and_how_but_not_from_where(make_job: Callable[..., RedubJob]) -> None:
    job = make_job("new.mp4", speech_start=Fraction(1, 25), debug="")
    redub.run(job)
    text = Path(f"{job.output}.lipsync.json").read_text(encoding="utf-8")
    record = json.loads(text)
    for told, path in ((record["inputs"]["pictures"][0], job.video), (record["inputs"]["speech"][0], job.speech)):
        assert told == {"name": Path(path).name, "bytes": os.path.getsize(path), "sha256": sha256(path)}
    assert record["model"]["file"]["sha256"] == sha256(job.model)
    assert record["model"]["name"] == "tiny", "a card without a name: the file's"
    assert record["settings"]["speech_start"] == "1/25"
    assert record["settings"]["quality"] == "high"
    assert (record["tool"], record["version"]) == ("Lip Sync Redub", __version__)
    assert record["digital_source_type"] == provenance.source_type
    assert record["result"] == {"frames": 6, "changed": [[1, 5]], "untouched": [[0, 0, "before the speech"]]}
    assert str(Path(job.output).parent) not in text, "a folder's name is nobody's business"


def test_everybodys_speech_is_an_input_with_its_hash(
    make_job: Callable[..., RedubJob], make_speech: Callable[..., Path]
) -> None:
    """A record that names the first voice only hides whose words the second person was given."""
    job = make_job("new.mp4")
    other = make_speech(0.5).rename(Path(job.speech).with_name("second.wav"))
    job = replace(job, speech=str(make_speech(1.2)), face="track:0", others=(("track:1", str(other), Fraction(1, 5)),))
    record = provenance.label(job, [job.video], {}, frames=1, changed=[], untouched=[]).record
    assert [(one["name"], one["sha256"]) for one in record["inputs"]["speech"]] == [
        (Path(path).name, sha256(path)) for path in (job.speech, other)
    ]
    assert (record["settings"]["face"], record["settings"]["others"]) == ("track:0", [["track:1", "1/5"]])


def test_the_bundled_models_card_is_named(make_job: Callable[..., RedubJob]) -> None:
    job = make_job("new.mp4", model="")
    _, card = load_generator(provenance.default_model)
    made = provenance.label(job, [job.video], card, frames=1, changed=[(0, 0)], untouched=[])
    assert card["name"] in made.comment
    assert made.record["model"]["licence"] == card.get("licence", "")


def test_where_no_lips_were_made_nothing_claims_it(make_job: Callable[..., RedubJob]) -> None:
    job = make_job("new.mp4", speech_start=Fraction(10))
    redub.run(job)
    assert b"trainedAlgorithmicMedia".lower() not in Path(job.output).read_bytes().lower()
    record = json.loads(Path(f"{job.output}.lipsync.json").read_bytes())
    assert (record["digital_source_type"], record["result"]["changed"]) == ("", [])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_job_run_twice_says_the_same_in_the_same_bytes(make_job: Callable[..., RedubJob], suffix: str) -> None:
    first, second = (make_job(f"{name}{suffix}") for name in ("one", "two"))
    for job in (first, second):
        redub.run(job)
    for ending in ("", ".lipsync.json"):
        assert sha256(first.output + ending) == sha256(second.output + ending)


def test_a_cancelled_job_leaves_neither_movie_nor_record(make_job: Callable[..., RedubJob], tmp_path: Path) -> None:
    there = sorted(p.name for p in tmp_path.iterdir())
    reached: list[int] = []
    with pytest.raises(Cancelled):
        redub.run(
            make_job("new.mp4"),
            lambda progress: reached.append(progress.done) if progress.stage == "lips" else None,
            lambda: len(reached) > 3,
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == there


def test_a_movie_that_cannot_come_into_place_leaves_no_record(
    make_job: Callable[..., RedubJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = sorted(p.name for p in tmp_path.iterdir())
    job, replace = make_job("new.mp4"), os.replace

    def refused(source: str, target: str) -> None:
        if target == job.output:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OutputError, match="No space left"):
        redub.run(job)
    assert sorted(p.name for p in tmp_path.iterdir()) == there


def test_another_file_with_the_records_name_is_kept_and_a_leftover_record_is_not_in_the_way(
    make_job: Callable[..., RedubJob],
) -> None:
    job = make_job("new.mp4")
    record = Path(f"{job.output}.lipsync.json")
    record.write_text('{"mine": 1}')
    with pytest.raises(OutputError, match="exists already"):
        redub.run(job)
    assert record.read_text() == '{"mine": 1}'
    record.unlink()
    redub.run(job)
    old = record.read_bytes()
    Path(job.output).unlink()  # as if the job had been killed between its two files
    redub.run(job)
    assert record.read_bytes() == old


def test_an_images_own_profile_and_notes_come_along(tmp_path: Path) -> None:
    """A colour profile that is lost changes how the picture looks on every other screen."""
    profile, notes = label._png_chunk(b"iCCP", b"name\0\0x"), label._png_chunk(b"tEXt", b"Author\0A. Person")
    (png,) = write_images(tmp_path / "png", "png", "rgb24", "png", 1)
    data = Path(png).read_bytes()
    Path(png).write_bytes(data[:33] + profile + notes + data[33:])
    exif, icc = b"\xff\xe1\x00\x0aExif\0\0ab", b"\xff\xe2\x00\x08ICC_12"
    (jpeg,) = write_images(tmp_path / "jpg", "mjpeg", "yuvj420p", "jpg", 1)
    data = Path(jpeg).read_bytes()
    Path(jpeg).write_bytes(data[:2] + exif + icc + data[2:])
    for path, carried in ((png, (profile, notes)), (jpeg, (exif, icc))):
        info = media.probe_images([path], Fraction(25))
        output = tmp_path / f"new {info.codec}"
        with media.write(info, str(output), count=1) as writer:
            (picture,) = media.read(info)
            picture.blend(100, 100, np.zeros((20, 20, 3), np.float32), np.ones((20, 20), np.float32))
            writer.add(picture)
        new = (output / Path(path).name).read_bytes()
        assert all(part in new for part in carried)
        assert cv2.imdecode(np.frombuffer(new, np.uint8), cv2.IMREAD_COLOR)[110, 110].max() < 10


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(JobError, match="certificate and its key"):
        RedubJob(video="a.mp4", speech="b.wav", output="c.mp4", c2pa_certificate="d.pem")
