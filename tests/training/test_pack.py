# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs: what comes out trains like what went in, and a damaged or hostile file costs a sentence and no file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_faces import store, talking_clip

from core.errors import JobError, LipSyncError, MediaError, OutputError
from core.nets.generator import GeneratorConfig
from training_cli import clip_codec, shards
from training_cli.data import DataSettings, Index
from training_cli.fit import FitSettings
from training_cli.generator import GeneratorSettings, LossSettings, train_generator
from training_cli.pack import PackSettings, UnpackSettings, pack, unpack

repository = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Clips of several rates, sizes, people and splits, and a video that gave none."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "clips").mkdir()
    rates = (Fraction(25), Fraction(30000, 1001), Fraction(24))
    for number, (rate, size, split) in enumerate(zip(rates, (96, 48, 192), ("train", "dev", "test"), strict=True)):
        clip = talking_clip(number, frames=30 + number, split=split)
        side = size + 2 * shards.margin(size)
        crops = np.stack([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in clip.crops])
        info = replace(clip.info, rate=rate, size=size, licence="permissive", offset=number or None)
        name = f"ä {number}.safetensors"
        shards.save(folder / "clips" / name, replace(clip, info=info, crops=crops))
        row = shards.Verdict(info.source, "ok", name, info.identity, split, len(crops), str(rate), size, info.offset)
        shards.append(folder, [replace(row, confidence=0.3, licence=info.licence)])
    shards.append(folder, [shards.Verdict("x.mp4", "no face")])
    return folder


@pytest.fixture(scope="module")
def packed(prepared, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "clips.pack"
    summary = pack(PackSettings(str(prepared), str(path), workers=1))
    assert summary.clips == 3 and summary.frames == 93 and summary.size == path.stat().st_size
    assert "3 clips, 93 frames" in str(summary) and sum(summary.parts.values()) == summary.size
    return path


def unpacked(file: Path, folder: Path) -> Path:
    unpack(UnpackSettings(str(file), str(folder), workers=1))
    return folder


def remade(file: Path, path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A pack with other members, whose checksums are right."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def refused(file: Path, folder: Path) -> LipSyncError:
    with pytest.raises(LipSyncError) as caught:
        unpacked(file, folder)
    assert caught.value.hint and not (folder / "report.jsonl").exists()
    return caught.value


# --- what comes out


def test_what_training_reads_comes_out_as_it_went_in(prepared, packed, tmp_path):
    folder = unpacked(packed, tmp_path / "new")
    assert shards.read_report(folder) == shards.read_report(prepared)
    assert not list(folder.rglob("*.part"))
    for path in sorted((prepared / "clips").iterdir()):
        before, after = shards.ClipFile(path), shards.ClipFile(folder / "clips" / path.name)
        assert after.info == before.info and len(after) == len(before)
        crops = [clip.crops(range(len(clip))).astype(float) for clip in (before, after)]
        assert 10 * np.log10(255**2 / np.square(crops[0] - crops[1]).mean()) > 38
        assert np.abs(crops[0].mean((0, 1, 2)) - crops[1].mean((0, 1, 2))).max() < 1  # what 8-bit YUV rounds
        assert after.mel.shape == before.mel.shape and after.mel.dtype == np.float16
        assert np.abs(after.mel.astype(float) - before.mel).max() <= 0.5 / 32 + 1e-3
        assert after.landmarks.shape == before.landmarks.shape and after.landmarks.dtype == np.float32
        assert np.abs(after.landmarks - before.landmarks).max() * 96 < 0.05  # pixels
        assert len(after.wave()) == len(before.wave())
        assert np.corrcoef(after.wave(), before.wave())[0, 1] > 0.6  # a drawn face's noise is no speech
    whole = sum(path.stat().st_size for path in (prepared / "clips").iterdir())
    assert packed.stat().st_size < whole / 20


def test_the_order_of_the_frames_survives(tmp_path):
    """H.265 reorders pictures; a frame in another's place would teach wrong lips."""
    clip = talking_clip(1)
    crops = np.zeros_like(clip.crops)
    for number, crop in enumerate(crops):
        crop[:] = 30 + 5 * (number * 17 % 40)
    folder = store(tmp_path, replace(clip, crops=crops))
    shape, parts = clip_codec.encode(shards.ClipFile(folder / "clips" / "0.safetensors"), 24)
    assert np.abs(clip_codec.decode(shape, parts)["crops"].astype(int) - crops).max() <= 4


def test_landmarks_far_outside_of_the_crop_come_back():
    """Such as of a face that turns away: their differences do not fit into 8 bits."""
    landmarks = np.random.default_rng(0).uniform(-9, 9, (12, 85, 2)).astype(np.float32)
    shape = clip_codec.Shape(12, 112, 7680)
    found = clip_codec._decoded_landmarks(clip_codec._encoded_landmarks(landmarks), shape)
    assert np.abs(found - landmarks).max() <= 0.5 / 1024 + 1e-6


def test_the_generator_trains_on_what_was_unpacked(talkers, tmp_path):
    pack(PackSettings(str(talkers), str(tmp_path / "p.pack"), workers=2))
    unpack(UnpackSettings(str(tmp_path / "p.pack"), str(tmp_path / "new"), workers=2))
    names = [path.name for path in Index(talkers, "train", "clips", 14).paths]
    assert [path.name for path in Index(tmp_path / "new", "train", "clips", 14).paths] == names
    fit = FitSettings(steps=1, batch=2, workers=0, dev_samples=2, log_every=1, evaluate_every=1, accelerator="cpu")
    net, loss = GeneratorConfig(width=0.125, align_blocks=1), LossSettings(alpha=0.0, beta=0.0)
    data = DataSettings(str(tmp_path / "new"))
    train_generator(GeneratorSettings(str(tmp_path / "run"), data, "", model=net, loss=loss, fit=fit))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses and np.isfinite(losses).all()


# --- files that are not what they should be


def test_a_damaged_file_is_told_in_a_sentence(packed, tmp_path):
    content = packed.read_bytes()
    damaged = {"cut": content[: len(content) * 2 // 3], "empty": b"", "other": b"no pack at all" * 99}
    for place in (0.02, 0.3, 0.6, 0.9, 0.99):
        at = int(len(content) * place)
        damaged[f"at {place}"] = content[:at] + bytes(b ^ 0x5A for b in content[at : at + 40]) + content[at + 40 :]
    for name, bad in damaged.items():
        path = tmp_path / name
        path.write_bytes(bad)
        error = refused(path, tmp_path / "out")
        assert isinstance(error, MediaError) and str(path) in str(error) and "pack" in error.hint
    assert isinstance(refused(tmp_path / "nowhere", tmp_path / "out"), MediaError)


@pytest.mark.parametrize(
    "name",
    ["../../evil.safetensors", "/tmp/evil.safetensors", "..", "", "a\\b.safetensors", "a\0b.safetensors", "a.py", 7],
)
def test_no_name_leads_out_of_the_folder(packed, tmp_path, name):
    def change(members: dict[str, bytes]) -> None:
        first, *rest = members["index.jsonl"].decode().splitlines()
        row = json.loads(first)
        row["verdict"]["clip"] = name
        members["index.jsonl"] = "\n".join([json.dumps(row), *rest]).encode()

    error = refused(remade(packed, tmp_path / "bad.pack", change), tmp_path / "deep" / "out")
    assert isinstance(error, MediaError)
    assert [path.name for path in tmp_path.rglob("*")] == ["bad.pack"]


@pytest.mark.parametrize(
    "place, value",
    [
        (("shape", "frames"), 10**9),
        (("shape", "frames"), 31),
        (("shape", "samples"), -1),
        (("shape", "side"), 10**5),
        (("info", "rate"), "1/0"),
        (("info", "rate"), "nan"),
        (("info", "size"), "96"),
        (("verdict", "frames"), None),
        (("verdict", "more"), 1),
        (("number",), 1),
        (("number",), "x"),
        (("info",), None),
        (("shape",), []),
    ],
)
def test_an_index_that_makes_no_sense_is_told(packed, tmp_path, place, value):
    def change(members: dict[str, bytes]) -> None:
        first, *rest = members["index.jsonl"].decode().splitlines()
        row = json.loads(first)
        inner = row
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        members["index.jsonl"] = "\n".join([json.dumps(row), *rest]).encode()

    assert isinstance(refused(remade(packed, tmp_path / "bad.pack", change), tmp_path / "out"), MediaError)


def test_parts_that_cannot_be_decoded_are_told(prepared):
    paths = sorted((prepared / "clips").iterdir())[:2]
    (shape, parts), (_, other) = (clip_codec.encode(shards.ClipFile(path), 24) for path in paths)
    noise = np.random.default_rng(0).bytes(3000)
    png = cv2.imencode(".png", np.zeros((80, 9), np.uint8))[1].tobytes()
    bad = [{name: content} for name in clip_codec.part_names for content in (noise, b"", other[name][:-9])]
    bad += [{".hevc": other[".hevc"]}, {".mel.png": png}, {".opus": parts[".hevc"]}]
    bad += [{".hevc": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"}]
    for change in bad:
        with pytest.raises(MediaError, match="cannot be decoded"):
            clip_codec.decode(shape, {**parts, **change})


def test_a_clip_that_cannot_be_decoded_is_named(packed, tmp_path):
    def change(members: dict[str, bytes]) -> None:
        members["000000.hevc"] = members["000001.hevc"]

    error = refused(remade(packed, tmp_path / "bad.pack", change), tmp_path / "out")
    assert isinstance(error, MediaError) and "ä 0.safetensors" in str(error)
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_part_that_would_fill_the_memory_is_refused_unread(packed, tmp_path):
    def change(members: dict[str, bytes]) -> None:
        members["000000.landmarks"] = bytes(10**7)

    error = refused(remade(packed, tmp_path / "bad.pack", change), tmp_path / "out")
    assert "too large" in str(error)


def test_nothing_of_the_users_is_overwritten(prepared, packed, talkers, tmp_path):
    (tmp_path / "there.pack").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        pack(PackSettings(str(prepared), str(tmp_path / "there.pack")))
    assert (tmp_path / "there.pack").read_text() == "mine"
    report = (talkers / "report.jsonl").read_bytes()
    with pytest.raises(JobError, match="other clips"):
        unpacked(packed, talkers)
    assert (talkers / "report.jsonl").read_bytes() == report
    folder = tmp_path / "new"
    (folder / "clips").mkdir(parents=True)
    shards.save(folder / "clips" / "ä 0.safetensors", talking_clip(9))
    assert "another clip" in str(refused(packed, folder))
    assert shards.ClipFile(folder / "clips" / "ä 0.safetensors").info.source == "9.mp4"


def test_mistakes_are_one_sentence(prepared, tmp_path):
    with pytest.raises(JobError, match="crf 60"):
        pack(PackSettings(str(prepared), str(tmp_path / "x"), crf=60))
    with pytest.raises(MediaError, match="no prepared clip"):
        pack(PackSettings(str(tmp_path), str(tmp_path / "x")))
    with pytest.raises(OutputError, match="cannot be written"):
        pack(PackSettings(str(prepared), str(tmp_path / "no" / "x")))
    folder = store(tmp_path / "damaged", talking_clip(0), talking_clip(1))
    (folder / "clips" / "1.safetensors").write_bytes(b"damaged")
    with pytest.raises(MediaError, match="no prepared clip"):
        pack(PackSettings(str(folder), str(tmp_path / "x"), workers=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged"]


# --- killed


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    return store(tmp_path_factory.mktemp("many"), *(talking_clip(seed, frames=25) for seed in range(24)))


def killed(words: list[str], ready: Callable[[], bool]) -> None:
    """Runs a command and kills it, with its workers, as soon as `ready`."""
    words = [sys.executable, "-m", "training_cli.cli", *words, "--workers", "1"]
    process = subprocess.Popen(words, cwd=repository, start_new_session=True)
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() != 0, "it ended before it was killed"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to kill")
def test_killed_in_the_middle_there_is_no_half_pack_and_no_half_folder(many, tmp_path):
    file, folder = tmp_path / "p.pack", tmp_path / "new"
    part = tmp_path / "p.pack.part"
    killed(["pack", "--folder", str(many), "--output", str(file)], lambda: part.exists() and part.stat().st_size > 9000)
    assert not file.exists()
    pack(PackSettings(str(many), str(file), workers=1))
    assert [path.name for path in tmp_path.iterdir()] == ["p.pack"]

    def finished() -> list[Path]:
        return sorted((folder / "clips").glob("*.safetensors")) if folder.exists() else []

    killed(["unpack", "--file", str(file), "--output", str(folder)], lambda: len(finished()) > 3)
    with pytest.raises(MediaError, match="no prepared clip"):
        Index(folder, "train", "clips", 5)  # nobody trains on a part
    before = {path: path.stat().st_mtime_ns for path in finished()}
    assert 3 < len(before) < 24
    finished()[0].write_bytes(b"cut off by a power failure")
    unpacked(file, folder)
    assert shards.read_report(folder) == shards.read_report(many) and len(finished()) == 24
    assert all(path.stat().st_mtime_ns == made for path, made in list(before.items())[1:])
    assert len(shards.load(finished()[0]).crops) == 25 and not list(folder.rglob("*.part"))
