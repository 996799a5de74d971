# SPDX-License-Identifier: GPL-3.0-or-later
"""Speeds on this machine, in one run. Ratios only against a rival that is named and measured beside us.

make bench                                  our own numbers, and the mel against librosa's
make bench WAV2LIP=/path/to/its/checkout    also generator and training against Wav2Lip's, from its own source
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import json
import os
import platform
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median
from unittest import mock

import librosa
import numpy as np
import torch

from core import audio, mouth, redub
from core.engine import Engine
from core.job import RedubJob
from core.nets.checkpoint import save_net
from core.nets.generator import Generator

repository = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(repository / "examples"))
import portrait  # noqa: E402 (an example, not a package)
import training  # noqa: E402 (beside this file)

batch_size = 16
rounds = 7


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures speeds on this machine.")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="where the numbers go as JSON")
    parser.add_argument("--wav2lip", type=Path, help="checkout of Wav2Lip, whose own code is run as the rival")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all but the mel")
    parser.add_argument("--precision", default="bf16-mixed", help="of our training: bf16-mixed or 32-true")
    arguments = parser.parse_args()
    for name in ("models/wav2lip.py", "wav2lip_train.py"):
        if arguments.wav2lip and not (arguments.wav2lip / name).is_file():
            sys.exit(f"{arguments.wav2lip} is no checkout of Wav2Lip: it has no {name}.")

    os.environ.setdefault("GLOG_minloglevel", "2")  # MediaPipe's start-up notes are no news to the user
    report = {"machine": _machine(arguments.device)}
    report["generator"] = _generators(arguments.wav2lip, torch.device(arguments.device))
    report["training"] = training.measure(arguments.wav2lip, arguments.device, arguments.precision)
    report["mel"] = _mels()
    report["redub"] = _redub(arguments.device)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print(report)
    print(f"\nwritten to {arguments.out}")


def _machine(device: str) -> dict[str, object]:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _side_by_side(contestants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of a call of each; they take turns, so that a busy moment of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()  # warm up
    for _ in range(rounds):
        for name, call in contestants.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in seconds.items()}


@contextmanager
def _in_turn(items: Iterator[object], most: int = 1) -> Iterator[Iterator[object]]:
    """core.ahead in the thread that is profiled."""
    yield items


def _generators(wav2lip: Path | None, device: torch.device) -> dict[str, object]:
    """A batch through untrained nets, whose speed does not depend on their weights, and through the bundled model.

    Ours are the paper's network at full size: alone in fp32, and as the tool runs it (core.engine: from bytes to bytes,
    in the precision that the device is good at). Wav2Lip's inference.py runs its net in fp32.
    """
    face = torch.rand(batch_size, 6, 96, 96, device=device)
    mel = torch.rand(batch_size, 1, 80, 16, device=device) * 8 - 4
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, 96, 96, 3), np.uint8)
    net = Generator().eval()
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "untrained.safetensors"
        save_net(saved, net, {})
        engine = Engine(str(saved), str(device))
    bundled = Engine(device=str(device))
    shapes = np.zeros((batch_size, mouth.shape_size), np.float32)
    windows = mel[:, 0].cpu().numpy()
    rival = _wav2lip_generator(wav2lip).to(device).eval() if wav2lip else None
    net.to(device)

    def run(forward: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            with torch.inference_mode():
                forward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return call

    contestants = {
        "ours, fp32": run(lambda: net(face, mel)),
        "ours, as the tool runs it": run(lambda: engine.generate(pixels, pixels, windows)),
        "bundled model, as the tool runs it": run(lambda: bundled.generate(pixels, pixels, shapes)),
    }
    if rival is not None:
        contestants["Wav2Lip, fp32"] = run(lambda: rival(mel, face))
    seconds = _side_by_side(contestants)
    result: dict[str, object] = {
        "batch": batch_size,
        "frames_per_second": {name: batch_size / value for name, value in seconds.items()},
        "parameters": {"ours": _parameters(net)} | ({"Wav2Lip": _parameters(rival)} if rival is not None else {}),
    }
    if rival is not None:
        theirs = seconds.pop("Wav2Lip, fp32")
        result["times_wav2lip"] = {name: theirs / value for name, value in seconds.items()}
    return result


def _wav2lip_generator(checkout: Path) -> torch.nn.Module:
    """Wav2Lip's own class, from the user's checkout; nothing of it is kept here."""
    sys.path.insert(0, str(checkout.resolve()))
    try:
        return importlib.import_module("models.wav2lip").Wav2Lip()
    finally:
        sys.path.pop(0)


def _parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _mels() -> dict[str, object]:
    """Ten minutes of noise through our log-mel and through librosa's with the same settings, on one thread each."""
    minutes = 10
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, minutes * 60 * audio.sample_rate).astype(np.float32)

    def of_librosa() -> np.ndarray:
        emphasised = librosa.effects.preemphasis(wave, coef=audio.preemphasis, zi=[0.0])
        mel = librosa.feature.melspectrogram(
            y=emphasised,
            sr=audio.sample_rate,
            n_fft=audio.n_fft,
            hop_length=audio.hop_length,
            power=1,
            n_mels=audio.mel_bands,
            fmin=audio.lowest_frequency,
            fmax=audio.highest_frequency,
            pad_mode="reflect",
        )
        return np.clip(8 * (20 * np.log10(np.maximum(1e-5, mel)) + 80) / 100 - 4, -4, 4)

    difference = float(np.abs(audio.log_mel(wave) - of_librosa()).max())
    seconds = _side_by_side({"ours": lambda: audio.log_mel(wave), "librosa": of_librosa})
    return {
        "minutes_of_speech": minutes,
        "seconds": seconds,
        "times_librosa": seconds["librosa"] / seconds["ours"],
        "librosa": metadata.version("librosa"),
        "largest_difference": difference,
    }


def _redub(device: str) -> dict[str, object]:
    """A whole re-dub of 4 s of 1280 x 720 with the bundled model, and where the time goes."""
    frames = 100
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        portrait.write_clip(clip, frames)

        def job(name: str) -> RedubJob:
            speech = str(repository / "examples" / "speech.flac")
            output = str(Path(folder) / name)
            return RedubJob(speech=speech, output=output, video=str(clip), device=device, cache=False)

        redub.run(job("warm.mp4"))  # loads the libraries and the model
        result = redub.run(job("timed.mp4"))
        shares = shares_of(job("profiled.mp4"))
    return {
        "frames": frames,
        "seconds": result.seconds,
        "frames_per_second": frames / result.seconds,
        "shares": shares,
    }


def shares_of(job: RedubJob) -> dict[str, float]:
    """Does a job, one stage after another, and tells the parts of the time that the stages take.

    They overlap nowhere. Who reads a picture turns that part into RGB. `other` is the model, the speech, the plan, and
    the crops for the search for hands, the references and the net.
    """
    profile = cProfile.Profile()
    with mock.patch.object(redub, "ahead", _in_turn):
        profile.runcall(redub.run, job)
    stats = vars(pstats.Stats(profile))
    cumulative = {(file.replace("\\", "/"), name): ct for (file, _, name), (_, _, _, ct, _) in stats["stats"].items()}
    stages = {
        "decode": ("core/media", "read"),
        "faces": ("core/faces", "add", "finish"),
        "net": ("core/engine", "generate"),
        "compose": ("core/paint", "paste"),
        "encode": ("core/media", "add"),
    }
    shares = {}
    for stage, (folder, *names) in stages.items():
        spent = [ct for (file, name), ct in cumulative.items() if folder in file and name in names]
        if not spent:
            sys.exit(f"No function {names[0]} of {folder} was seen: the benchmark no longer fits the pipeline.")
        shares[stage] = sum(spent) / stats["total_tt"]
    shares["other"] = 1 - sum(shares.values())
    return shares


def _print(report: dict[str, dict]) -> None:
    machine, generator, mel, whole = (report[name] for name in ("machine", "generator", "mel", "redub"))
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['device']}, torch {machine['torch']}", end=", ")
    print(f"{machine['torch_threads']} threads, load at the start {machine['load']}")
    rows = [(f"generator, {name}", f"{speed:.1f} frames/s") for name, speed in generator["frames_per_second"].items()]
    if "times_wav2lip" in generator:
        rows += [(f"  {name}", f"{times:.2f} times Wav2Lip's") for name, times in generator["times_wav2lip"].items()]
    else:
        rows.append(("  against Wav2Lip's", "not measured: give WAV2LIP=/path/to/its/checkout"))
    rows += _training_rows(report["training"])
    minutes = mel["minutes_of_speech"]
    rows += [(f"log-mel of {minutes} min, {name}", f"{seconds:.2f} s") for name, seconds in mel["seconds"].items()]
    rows.append((f"  ours against librosa {mel['librosa']}", f"{mel['times_librosa']:.2f} times as fast"))
    rows.append(("whole re-dub, 1280 x 720, bundled model", f"{whole['frames_per_second']:.1f} frames/s"))
    rows += [(f"  {stage}", f"{share:.0%}") for stage, share in whole["shares"].items()]
    for name, value in rows:
        print(f"{name:<48}{value}")


def _training_rows(result: dict) -> list[tuple[str, str]]:
    rows = [
        (
            f"training step, {name}, {result['our_precision'] if name == 'ours' else '32-true'}",
            f"{seconds:.2f} s, waiting for data {result['loaders_share'][name]:.1%}",
        )
        for name, seconds in result["seconds_of_a_step"].items()
    ]
    if "times_wav2lip" in result:
        rows.append(("  steps a second, ours against Wav2Lip's", f"{result['times_wav2lip']:.2f} times"))
        rows.append(("    without the wait for data", f"{result['times_wav2lip_without_the_loader']:.2f} times"))
    return rows


if __name__ == "__main__":
    main()
