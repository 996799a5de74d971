# SPDX-License-Identifier: GPL-3.0-or-later
"""Training steps per second: `lipsync-train generator` against Wav2Lip's own wav2lip_train.py, from a user's checkout.

Both train their networks at the paper's sizes on batches of 16 windows of 5 frames, read by worker processes from the
same clips, each prepared in its own way beforehand. Both run as they are in processes of their own, by turns, so that a
busy moment of the machine hits both, but never side by side: the memory of one makes the other's slower to get.

Wav2Lip's loop, its hyperparameters, its batch of 16 and its 16 workers are untouched. Around it:
- librosa.filters.mel takes positional arguments again, as in the librosa of its time (in_turns.py);
- it resumes from a checkpoint at step 1 with untrained weights, for a new run evaluates 701 batches after its first
  step; so neither evaluation, checkpoint nor sample pictures fall in the measured steps;
- its expert is untrained, and as in its first days of training it is not asked, since syncnet_wt is still 0;
- its list of clips repeats the few there are, as long as LRS2's, for its epochs end with the list;
- its faces are cut out with a fixed rectangle around the head; S3FD's weights are not needed for speed.
Ours is the config `paper` with LPIPS on an untrained trunk, and likewise a sync loss whose gate is still closed.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from types import TracebackType

import av
import cv2
import numpy as np
import portrait
import soundfile
import torch
from scipy.signal import resample_poly

from core import audio, media
from core.nets.checkpoint import save_net
from core.nets.syncnet import SyncNet

here = Path(__file__).resolve().parent
repository = here.parent
clips, clip_frames = 3, 88
"""Training clips of 3.5 s, the usual length in LRS2; one more is the dev set."""
width, height = 512, 288
"""Of the clips: the face is about 90 pixels wide, as in LRS2."""
head = (slice(66, 196), slice(180, 300))
"""Rows and columns of the rectangle around the head, wherever it moves."""
list_length = 45_839
"""Clips in LRS2's training list."""
rounds, turns = 2, 3
cpu_steps, gpu_steps = 1, 60
"""Of a turn, and to warm up. Where a step is quick, the loader has to be seen with its queue of 32 batches used up."""
longest_turn = 300
"""Seconds after which a trainer counts as stuck: Wav2Lip's data set tries for ever to read a clip that it cannot."""


@dataclass(frozen=True)
class Turn:
    """Steps that a trainer did without a break."""

    steps: int
    seconds: float
    waited: float
    """Seconds of it spent waiting for the DataLoader."""


class Trainer:
    """A training program in its own process, which does nothing but the turns it is asked for."""

    def __init__(self, name: str, folder: Path, device: str, command: list[str]) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        environment = os.environ | {"PYTHONPATH": str(repository)}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(here / "in_turns.py"), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, steps: int) -> Turn:
        """So many steps; the program stands still before and after."""
        assert self._process.stdin and self._process.stdout
        limit = threading.Timer(longest_turn, self._process.kill)
        limit.start()
        try:
            self._process.stdin.write(f"{steps}\n".encode())
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            limit.cancel()
        if not line:
            said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
            sys.exit("\n".join([*said, f"{self.name} ended, or did no {steps} steps in {longest_turn} s."]))
        return Turn(**json.loads(line))


def measure(checkout: Path | None, device: str, precision: str) -> dict[str, object]:
    """Seconds of a training step, and what of it is spent waiting for data.

    Args:
        checkout: Wav2Lip's; None, and elsewhere than on Linux, where alone its loader works: only ours is measured.
        device: cpu or cuda.
        precision: Fabric's, of our training. Theirs is float32.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        commands = {"ours": _our_command(folder, device, precision)}
        if checkout and sys.platform == "linux":
            commands["wav2lip"] = _their_command(folder, checkout.resolve())
        steps = cpu_steps if device == "cpu" else gpu_steps
        done: dict[str, list[Turn]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                with Trainer(name, folder, device, command) as trainer:
                    trainer.turn(steps)
                    done[name] += [trainer.turn(steps) for _ in range(turns)]
    step = {name: median(turn.seconds / turn.steps for turn in each) for name, each in done.items()}
    compute = {name: median((turn.seconds - turn.waited) / turn.steps for turn in each) for name, each in done.items()}
    waited = {name: sum(t.waited for t in each) / sum(t.seconds for t in each) for name, each in done.items()}
    result: dict[str, object] = {
        "conditions": (__doc__ or "").strip(),
        "batch": "16 windows of 5 frames of 96 x 96",
        "our_precision": precision,
        "steps_of_a_turn": steps,
        "seconds_of_each_turn": {name: [turn.seconds for turn in each] for name, each in done.items()},
        "seconds_of_a_step": step,
        "seconds_without_the_loader": compute,
        "loaders_share": waited,
    }
    if "wav2lip" in step:
        result["times_wav2lip"] = step["wav2lip"] / step["ours"]
        result["times_wav2lip_without_the_loader"] = compute["wav2lip"] / compute["ours"]
    return result


def prepare(folder: Path) -> None:
    """Writes folder/videos, and of them folder/prepared for us and folder/lrs2 for Wav2Lip."""
    videos, faces, samples = folder / "videos", folder / "lrs2", clip_frames * audio.sample_rate // 25
    videos.mkdir()
    portrait.write_clip(folder / "long.mp4", (clips + 1) * clip_frames)
    speech = np.resize(_speech(), (clips + 1) * samples)
    frames = media.read(media.probe(str(folder / "long.mp4")))
    rows = [("file", "identity", "split")]
    for number in range(clips + 1):
        wave = speech[number * samples : (number + 1) * samples]
        pictures = [
            cv2.resize(next(frames).rgb(), (width, height), interpolation=cv2.INTER_AREA) for _ in range(clip_frames)
        ]
        _write_video(videos / f"{number}.mp4", pictures, wave)
        own = faces / str(number)
        own.mkdir(parents=True)
        for index, picture in enumerate(pictures):
            cv2.imwrite(str(own / f"{index}.jpg"), picture[(*head, slice(None, None, -1))])
        soundfile.write(own / "audio.wav", wave, audio.sample_rate)  # as LRS2's: nothing is resampled
        rows.append((f"{number}.mp4", f"person {number}", "train" if number < clips else "dev"))
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    command = ["prepare", "--videos", str(videos), "--output", str(folder / "prepared")]
    command += ["--layout", "manifest", "--manifest", str(folder / "people.csv")]
    subprocess.run([sys.executable, "-m", "training_cli.cli", *command], cwd=repository, check=True)


def _write_video(path: Path, pictures: list[np.ndarray], wave: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "16"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=audio.sample_rate, layout="mono")
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        heard.sample_rate, heard.pts = audio.sample_rate, 0
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))


def _speech() -> np.ndarray:
    """The example's speech, int16 at 16 kHz."""
    wave, rate = soundfile.read(repository / "examples" / "speech.flac")
    return (np.clip(resample_poly(wave, audio.sample_rate, rate), -1, 1) * 32767).astype(np.int16)


def _our_command(folder: Path, device: str, precision: str) -> list[str]:
    save_net(folder / "expert.safetensors", SyncNet(), {"data": "none"})
    settings = {
        "data.folder": folder / "prepared",
        "output": folder / "ours",
        "expert": folder / "expert.safetensors",
        "loss.lpips_trunk": "untrained",
        "fit.accelerator": device,
        "fit.precision": precision,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["training_cli.cli", "generator", "--config", "paper", *words]


def _their_command(folder: Path, checkout: Path) -> list[str]:
    """Also writes what their program reads besides the clips: lists in its working folder, and two checkpoints."""
    lists = folder / "filelists"
    lists.mkdir()
    names = [str(number) for number in range(clips)]
    (lists / "train.txt").write_text("\n".join((names * list_length)[:list_length]), encoding="utf-8")
    (lists / "val.txt").write_text("\n".join(names), encoding="utf-8")
    sys.path.insert(0, str(checkout))
    try:
        models = importlib.import_module("models")
    finally:
        sys.path.pop(0)
    for name, net in (("generator", models.Wav2Lip()), ("expert", models.SyncNet_color())):
        state = {"state_dict": net.state_dict(), "optimizer": None, "global_step": 1, "global_epoch": 0}
        torch.save(state, folder / f"{name}.pth")
    command = ["--old-librosa", str(checkout / "wav2lip_train.py"), "--data_root", "lrs2"]
    command += ["--checkpoint_dir", "theirs", "--syncnet_checkpoint_path", "expert.pth"]
    return [*command, "--checkpoint_path", "generator.pth"]
