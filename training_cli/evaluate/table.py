# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train evaluate table`: a model's row of the paper's Table 1, and more columns.

Every clip is re-dubbed twice by core.redub.run, which hides the mouth it replaces from the net: with its own sound, to
compare with the footage picture by picture, and with that of another clip, to see whether the lips follow a sound that
is not theirs. The second is what LSE and FID are taken of, as in Wav2Lip's evaluation.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from core import __version__
from core.engine import choose_device
from core.errors import JobError, MediaError, NoFaceError, OutputError, SpeechError
from core.nets.checkpoint import default_model, load_expert, load_generator

from ..config import dump, resolved
from ..losses import Lpips, untrained_trunk
from . import pictures, report, syncnet
from .clips import find_videos, listed, next_to_each_other, read_pairs
from .files import digest, sha256, write_text
from .measure import ClipScore, Judges, Measurer, Model, View
from .report import Row, Table, truth
from .run import Run

packages = (
    "av", "lpips", "mediapipe", "numpy", "opencv-contrib-python", "python_speech_features", "scipy", "torch",
    "torch-fidelity", "torchmetrics", "torchvision",
)  # fmt: skip
protocol = {
    "frames": "The frames of a clip that have sound. A clip with a frame without a face is left out, as in Wav2Lip's "
    "evaluation. A sound longer than the footage ends with it; of a list, such a line is left out, as there.",
    "lse": "SyncNet v2 as in joonson/syncnet_python and Wav2Lip's evaluation: 25 pictures a second (those shown in the "
    "middle of each 40 ms), 224x224, BGR 0…255; 13 MFCC at 100 Hz; 5 pictures against 20 columns; 31 shifts; LSE-D is "
    "the smallest mean distance, LSE-C the median minus it; mean over clips. Drawn to another clip's sound and judged "
    "before any lossy encoding.",
    "expert": "The same with our sync expert: distances of its codes of length 1, 96x96 aligned crops, no padding "
    "beyond the ends; mean over clips. Not LSE.",
    "fid": "torchmetrics, 2048 pool features of the original Inception, TensorFlow's resize to 299; the face's aligned "
    f"crop at {pictures.crop_size} of every frame drawn to another clip's sound, against the same frames of the "
    "footage.",
    "lpips_ssim_psnr": f"The face's aligned crop at {pictures.crop_size} of every frame drawn to its own sound, "
    "against the footage: LPIPS 0.1 on AlexNet and SSIM of torchmetrics, mean over a clip's frames, PSNR of a "
    "clip's mean squared error; then mean over clips.",
    "lmd": "Mean distance of 40 lip landmarks of MediaPipe, both faces aligned by eyes and nose, in parts of the "
    "distance of the outer eye corners; drawn to its own sound.",
    "lip_r": "As `lipsync-train evaluate lips`: correlation of the inner lips' opening with the true one's; clips of "
    "four seconds and more.",
    "reference_copy": "LPIPS to the footage over the sum of LPIPS to the footage and LPIPS to the reference, lower "
    "half of the crop at the net's size, drawn to its own sound: 0 the footage, 0.5 as far from both, 1 the reference.",
}


@dataclass(frozen=True)
class TableSettings:
    """What is measured, and with which weights."""

    output: str
    """Folder for table.md, table.json, contact sheets and films. Given again with the same settings, the run goes on
    where it was stopped or killed."""
    videos: str | list[str] = field(default_factory=list)
    """Videos with their own sound, one second and longer, or folders of them: FILE, or `--videos+ FILE` for each of
    several. The other sound of a clip is that of the next one; a clip alone gets its own from the middle on."""
    pairs: str = ""
    """Instead of `videos`: a list of Wav2Lip's evaluation, each line `sound video`, both paths below `root`, with or
    without the ending .mp4. Its lists for LRS2, LRS3 and LRW are in its folder evaluation/test_filelists."""
    root: str = ""
    """Folder that the paths in `pairs` begin at; empty: the list's own."""
    model: str = ""
    """The generator's .safetensors, also one of `lipsync-train import`; empty: the bundled one."""
    name: str = ""
    """What the table calls the model; empty: as its card does, or its file."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    syncnet: str = ""
    """SyncNet v2's published weights, syncnet_v2.model, for LSE-C and LSE-D. Nothing in the file is executed."""
    expert: str = ""
    """A sync expert's .safetensors, for the same protocol without those weights. Its columns have other names: its
    numbers compare models with one another, but never with published ones."""
    inception: str = ""
    """Inception's published weights for FID, of pytorch-fid or torch-fidelity. Nothing in the file is executed."""
    lpips_trunk: str = ""
    """As in `generator`: torchvision's AlexNet weights, alexnet-owt-7be5be79.pth; empty: torchvision's download or its
    cache; `untrained`: random weights, which the column's name then says."""
    view: View = "auto"
    """What SyncNet v2 sees. `whole`: the frame, as for LRS2 in Wav2Lip's evaluation. `face`: a square around the face,
    as for videos that show more. `auto`: the whole of a nearly square frame that a face fills, else the face."""
    lips: bool = True
    """Also the lip measure of `evaluate lips`, which re-dubs every clip of four seconds and more a third time."""
    limit: int = 0
    """Clips to measure, from the first on; 0: all."""
    seconds: float = 0.0
    """Seconds of a clip to measure, from its begin; 0: all."""
    shown: int = 8
    """Clips of which a contact sheet and two films, footage beside result, are kept."""
    compare: str | list[str] = field(default_factory=list)
    """table.json of earlier runs, whose rows come along: FILE, or `--compare+ FILE` for each of several. Without
    videos only their rows are put together, as for an ablation's table."""

    def __post_init__(self) -> None:
        if listed(self.videos) and self.pairs:
            raise JobError("Both `videos` and `pairs` are given.", "Name one of them.")
        if (self.seconds and self.seconds < 1) or min(self.limit, self.shown) < 0:
            raise JobError("A clip needs a second, and `limit` and `shown` are no smaller than 0.", "0 means all.")


def evaluate_table(settings: TableSettings) -> str:
    """Measures a model; leaves table.md, table.json, config.toml, sheets/ and films/ in the output folder.

    Returns:
        The table as Markdown.

    Raises:
        MediaError: no clip could be measured.
        LipSyncError: the settings, a file of weights or the output do not fit.
    """
    earlier = {path: report.read_table(Path(path)) for path in listed(settings.compare)}
    if not listed(settings.videos) and not settings.pairs:
        return _put_together(earlier, settings)
    pairs = read_pairs(Path(settings.pairs), settings.root) if settings.pairs else None
    pairs = pairs or next_to_each_other(find_videos(settings.videos))
    pairs = pairs[: settings.limit] if settings.limit else pairs

    model_path = Path(settings.model) if settings.model else default_model
    net, card = load_generator(model_path)
    model = Model(settings.model, settings.device, net.config.image_size, net.rules.own_reference)
    judges = _judges(settings)
    files = {
        name: sha256(Path(path))
        for name in ("syncnet", "expert", "inception", "lpips_trunk")
        if (path := getattr(settings, name)) and path != untrained_trunk
    }
    chosen = {name: getattr(settings, name) for name in ("view", "lips", "seconds", "lpips_trunk")}
    if "lpips_trunk" in files:
        del chosen["lpips_trunk"]  # the file says it better than its name
    clips = [[pair.video.name, *([s.name for s in pair.sounds] if pair.listed else [])] for pair in pairs]
    basis = digest(chosen, files, clips, protocol)
    model_hash = sha256(model_path)

    output = Path(settings.output)
    run = Run(output, digest(basis, model_hash), judges.fid)
    dump(settings, output / "config.toml")
    measurer = Measurer(
        model,
        judges,
        output,
        view=settings.view,
        lips=settings.lips,
        seconds=settings.seconds,
        shown=settings.shown,
    )
    for number, pair in enumerate(tqdm(pairs, "clips", unit="clip", disable=None)):
        if number < run.done:
            continue
        try:
            run.add(measurer.measure(pair, number))
        except (MediaError, NoFaceError, SpeechError) as e:
            run.leave_out(pair.video.name, str(e))
            tqdm.write(f"{pair.video.name}: left out: {e}", file=sys.stderr)
    run.save()
    if not run.scores:
        run.forget()
        raise MediaError(
            f"No clip could be measured. Of the first: {run.left_out[0][1]}",
            "Name videos of a talking face with their own sound.",
        )
    name = settings.name or str(card.get("name") or model_path.stem)
    frames = int(judges.fid.fake_features_num_samples) if judges.fid else 0
    fid = pictures.fid_value(judges.fid) if judges.fid else None
    rows = method_rows(run.scores, name, fid, lpips_key(settings))
    notes = _notes(settings, run, model, frames)
    content = {
        "format": report.table_format,
        "rows": report.as_json(rows),
        "clips": len(run.scores),
        "basis": basis,
        "notes": notes,
        "protocol": protocol,
        "model": {"file": model_path.name, "sha256": model_hash, "network": vars(net.config), "card": card},
        "weights": files,
        "settings": resolved(settings),
        "versions": _versions(),
        "own_sound": _means_of(run.scores, "own"),
        "per_clip": [vars(score) for score in run.scores],
        "left_out": [{"clip": clip, "why": why} for clip, why in run.left_out],
    }
    write_text(output / "table.json", json.dumps(report.finite(content), indent=1, allow_nan=False) + "\n")
    shown_rows, more = report.joined({"this run": Table(tuple(rows), len(run.scores), basis), **earlier})
    text = report.markdown(shown_rows, [*notes, *more], always=("lse_c", "lse_d", "fid"))
    clip_rows = [Row(s.clip, _clip_values(s, lpips_key(settings))) for s in run.scores]
    per_clip = report.markdown(clip_rows, first="Clip")
    write_text(output / "table.md", f"{text}\n## Clip by clip\n\n{per_clip}")
    return text


def method_rows(scores: list[ClipScore], name: str, fid: float | None, lpips: str) -> list[Row]:
    """The footage's row and the model's: means over clips.

    What compares with the footage is known of the footage itself, and set only where it was measured of the model.
    """
    model = _mean([_clip_values(score, lpips) for score in scores]) | {"fid": fid}
    perfect = {"fid": 0.0, lpips: 0.0, "ssim": 1.0, "psnr": math.inf, "lmd": 0.0, "lip_r": 1.0, "reference_copy": 0.0}
    known = {key: value for key, value in perfect.items() if model.get(key) is not None}
    return [Row(truth, _means_of(scores, "truth") | known), Row(name, model)]


def lpips_key(settings: TableSettings) -> str:
    """LPIPS on a trunk that was never trained is another metric."""
    return "lpips_untrained" if settings.lpips_trunk == untrained_trunk else "lpips"


def _clip_values(score: ClipScore, lpips: str) -> dict[str, float | None]:
    """One clip's values by the columns' keys."""
    own = score.own
    pictured = {lpips: own["lpips"], "ssim": own["ssim"], "psnr": own["psnr"], "lmd": own["lmd"]}
    return _sync_values(score, "other") | pictured | {"lip_r": score.lip_r, "reference_copy": own["copy"]}


def _sync_values(score: ClipScore, kind: str) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for judged, confidence, distance in (
        (score.lse, "lse_c", "lse_d"),
        (score.expert, "expert_confidence", "expert_distance"),
    ):
        values |= {confidence: judged[kind]["confidence"], distance: judged[kind]["distance"]} if judged else {}
    return values


def _means_of(scores: Iterable[ClipScore], kind: str) -> dict[str, float | None]:
    """The mean sync values of `truth`, `own` or `other`."""
    return _mean([_sync_values(score, kind) for score in scores])


def _mean(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each key over the rows that have it."""
    having = {key: [v for row in rows if (v := row[key]) is not None] for key in rows[0]}
    return {key: statistics.fmean(values) if values else None for key, values in having.items()}


def _judges(settings: TableSettings) -> Judges:
    device = choose_device(settings.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # an untrained trunk is the same one every time
        lpips = Lpips(settings.lpips_trunk).to(device)
    return Judges(
        device=device,
        lpips=lpips,
        syncnet=syncnet.load_syncnet(Path(settings.syncnet), device) if settings.syncnet else None,
        expert=load_expert(Path(settings.expert))[0].to(device) if settings.expert else None,
        fid=pictures.load_fid(Path(settings.inception), device) if settings.inception else None,
    )


def _notes(settings: TableSettings, run: Run, model: Model, fid_frames: int) -> list[str]:
    """What a reader of the table must know."""
    scores = run.scores
    notes = [
        f"Clips measured: {len(scores)}; frames drawn to another clip's sound (LSE, FID, expert): "
        f"{sum(score.frames_other for score in scores)}, to their own (the rest): "
        f"{sum(score.frames for score in scores)}. {truth}: what compares with the footage is so by definition."
    ]
    if not settings.syncnet:
        notes.append(f"LSE-C and LSE-D are not measured. {syncnet.get_them}")
        if not settings.expert:
            notes.append("Or train a sync expert, `lipsync-train expert`, and name it with --expert.")
    if settings.expert:
        notes.append("Expert confidence and distance are our own expert's and no LSE.")
    if not settings.inception:
        notes.append(f"FID is not measured. {pictures.get_inception}")
    elif fid_frames < pictures.fid_needs:
        notes.append(
            f"FID of {fid_frames} frames is biased, with covariances of less than full rank: it needs "
            f"{pictures.fid_needs}, and many more to compare with published numbers."
        )
    if settings.lpips_trunk == untrained_trunk:
        notes.append("LPIPS on an untrained trunk compares edges and texture; it is not what people were asked about.")
    if model.own_reference:
        notes.append("The net's reference is the very frame it paints: there is no reference to copy.")
    measured = sum(score.lip_r is not None for score in scores)
    if settings.lips and measured < len(scores):
        notes.append(f"Lip r: {measured} of {len(scores)} clips are long enough for it.")
    if run.left_out:
        notes.append(f"Clips left out: {len(run.left_out)}; table.json says why.")
    return notes


def _put_together(tables: dict[str, Table], settings: TableSettings) -> str:
    output = Path(settings.output)
    if not tables:
        raise JobError("There is nothing to measure.", "Name `videos`, `pairs`, or tables to `compare`.")
    if (output / "table.md").exists():
        raise OutputError(f"{output} holds another table.", "Choose another folder: nothing is overwritten.")
    text = report.markdown(*report.joined(tables))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"The folder {output} cannot be made: {e.strerror}.") from None
    dump(settings, output / "config.toml")
    write_text(output / "table.md", text)
    return text


def _versions() -> dict[str, Any]:
    own = {"lip_sync_redub": __version__, "python": platform.python_version(), "system": platform.platform()}
    return own | {name: metadata.version(name) for name in packages}
