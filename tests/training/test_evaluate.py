# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's table: a number that a researcher prints has to be the one that everybody means by its name."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.linalg
import torch
from python_speech_features import mfcc
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from core import audio, faces, media, reference
from core.errors import JobError, MediaError, ModelError, OutputError
from core.faces import Track, Tracker
from core.faces.mesh import lips_inner, lips_outer, rigid, rigid_in_crop
from core.nets.checkpoint import load_expert, save_net
from core.nets.syncnet import SyncNet, SyncNetConfig
from training_cli import cli
from training_cli.config import parse
from training_cli.evaluate import pictures, report, show, syncnet
from training_cli.evaluate.clips import find_videos, next_to_each_other, read_pairs
from training_cli.evaluate.files import sha256
from training_cli.evaluate.measure import ClipScore, Measurer, at_25
from training_cli.evaluate.report import Row, Table
from training_cli.evaluate.run import Run
from training_cli.evaluate.table import TableSettings, evaluate_table
from training_cli.losses import Lpips
from training_cli.sync import sync_distances

published = {
    "netcnnaud": {0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3),
                  14: (256, 256, 3, 3), 18: (512, 256, 5, 4)},
    "netcnnlip": {0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3),
                  14: (256, 256, 1, 3, 3), 18: (512, 256, 1, 6, 6)},
    "netfcaud": {0: (512, 512), 3: (1024, 512)},
    "netfclip": {0: (512, 512), 3: (1024, 512)},
}  # fmt: skip
"""The convolutions and linear layers of syncnet_v2.model; a BatchNorm follows all but the last linear ones."""


def published_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of the published file, which PyTorch 0.4 wrote."""
    torch.manual_seed(seed)
    state = {}
    for part, layers in published.items():
        for number, shape in layers.items():
            state[f"{part}.{number}.weight"] = torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))
            state[f"{part}.{number}.bias"] = torch.randn(shape[0]) * 0.1
            if shape[0] != 1024:
                norm = f"{part}.{number + 1}"
                state |= {f"{norm}.{name}": torch.rand(shape[0]) + 0.5 for name in ("weight", "running_var")}
                state |= {f"{norm}.{name}": torch.randn(shape[0]) * 0.1 for name in ("bias", "running_mean")}
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(published_state(), path)
    return path


class Danger:
    """A pickle that makes a file when it is read."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return Path.touch, (self.made,)


def test_the_published_weights_of_syncnet_fit_our_network(weights):
    net = syncnet.load_syncnet(weights, torch.device("cpu"))
    assert not net.training
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(13.6e6, rel=0.01)
    for name, tensor in published_state().items():
        assert torch.equal(net.state_dict()[name], tensor), name


@pytest.mark.parametrize("load", [syncnet.load_syncnet, pictures.load_fid])
def test_a_file_of_weights_runs_no_program_and_another_net_is_refused(load, tmp_path):
    made = tmp_path / "made"
    (tmp_path / "danger").write_bytes(pickle.dumps(Danger(made)))
    torch.save({"net": Danger(made)}, tmp_path / "danger.pth")
    torch.save({"netcnnaud.0.weight": torch.zeros(3)}, tmp_path / "other")
    torch.save(torch.zeros(3), tmp_path / "tensor")
    (tmp_path / "text").write_text("not weights")
    for name in ("danger", "danger.pth", "other", "tensor", "text", "missing"):
        with pytest.raises(ModelError) as caught:
            load(tmp_path / name, torch.device("cpu"))
        assert name in str(caught.value) and "--" in caught.value.hint
    assert not made.exists()


def test_lse_is_what_the_protocol_says_step_by_step(weights, monkeypatch):
    """Window by window and shift by shift, as the public evaluation counts; ours runs through the film at once."""
    monkeypatch.setattr(syncnet, "at_once", 3)
    net = syncnet.load_syncnet(weights, torch.device("cpu"))
    random = np.random.default_rng(3)
    film = random.integers(0, 256, (12, 224, 224, 3), np.uint8)
    wave = random.normal(0, 0.2, 12 * 640).astype(np.float32)
    heard = mfcc(np.rint(wave.clip(-1, 32767 / 32768) * 32768).astype(np.int16), 16000)

    windows = 12 - 5
    with torch.no_grad():
        seen, spoken = [], []
        for first in range(windows):
            five = torch.from_numpy(film[first : first + 5, :, :, ::-1].astype(np.float32)).permute(3, 0, 1, 2)[None]
            seen.append(net.netfclip(net.netcnnlip(five).flatten(1))[0].numpy())
            part = torch.from_numpy(heard[4 * first : 4 * first + 20].T.astype(np.float32).copy())[None, None]
            spoken.append(net.netfcaud(net.netcnnaud(part).flatten(1))[0].numpy())
    means = []
    for shift in range(-15, 16):
        at = [first + shift for first in range(windows)]
        sounds = [spoken[i] if 0 <= i < windows else np.zeros(1024) for i in at]
        means.append(np.mean([np.linalg.norm(a - b) for a, b in zip(seen, sounds, strict=True)]))

    score = syncnet.lse(net, film, wave)
    assert score.distance == pytest.approx(min(means), rel=1e-3)
    assert score.confidence == pytest.approx(np.median(means) - min(means), rel=1e-2, abs=1e-3)
    assert score.offset == 15 - int(np.argmin(means))
    assert score == syncnet.lse(net, iter(film), np.append(wave, wave))  # a longer sound changes nothing
    with pytest.raises(MediaError, match="too short"):
        syncnet.lse(net, film[:5], wave)


@pytest.mark.parametrize("offset", [-7, 0, 3])
def test_the_offset_of_a_shifted_sound_is_found(offset):
    codes = torch.from_numpy(np.random.default_rng(1).normal(size=(80, 16)).astype(np.float32))
    score = syncnet.protocol_score(codes[20:60], codes[20 + offset : 60 + offset])
    assert score.offset == offset
    # offset pictures at one end meet the zeros beyond the sound
    outside = codes[20 : 20 + offset] if offset > 0 else codes[60 + offset : 60]
    assert score.distance == pytest.approx(float(outside.norm(dim=1).sum()) / 40, abs=1e-3)
    assert score.confidence > 3


def test_the_square_around_a_face_is_the_pipelines():
    """0.4 of room on three sides, more below, grey outside the frame."""
    rgb = np.zeros((200, 300, 3), np.uint8)
    rgb[:, :, 0], rgb[:, :, 1] = np.arange(300)[None] % 256, np.arange(200)[:, None]
    square = syncnet.face_square(rgb, np.array([150.0, 100.0, 40.0])).astype(int)
    assert square.shape == (224, 224, 3)
    assert abs(square[112, 2, 0] - (150 - 56)) <= 1 and abs(square[112, -3, 0] - (150 + 55)) <= 1
    assert abs(square[2, 112, 1] - (100 - 40)) <= 1 and abs(square[-3, 112, 1] - (100 + 71)) <= 1
    corner = syncnet.face_square(rgb, np.array([10.0, 10.0, 40.0]))
    assert (corner[:40, :40] == 110).all() and (corner[-20:, -20:, 2] == 0).all()


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [(25, list(range(12))), (50, list(range(1, 12, 2))), (30, [0, 1, 3, 4, 5, 6, 7, 9, 10, 11])],
)
def test_other_rates_are_judged_at_25_pictures_a_second(make_clip, rate, wanted):
    """Each picture is the one that is shown in the middle of its 40 ms, so no rate moves the lips against the sound."""
    film = media.probe(str(make_clip(frames=12, rate=rate)))
    seen = list(at_25(film, 12))
    assert [frame for frame, _ in seen] == wanted
    own = [picture.rgb() for picture in media.read(film)]
    assert all(np.array_equal(rgb, own[frame]) for frame, rgb in seen)


class Colours(nn.Module):
    """Pictures' mean colours as features: Gaussians whose distance is known."""

    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.double().mean((2, 3))


def track_of(movie: media.SourceInfo, frames: int) -> Track:
    with Tracker(float(movie.rate)) as tracker:
        for picture in media.read(movie, 0, frames):
            tracker.add(picture.rgb())
        return tracker.finish()


def test_fid_is_the_frechet_distance_of_the_faces_crops(make_clip):
    first, second = (media.probe(str(make_clip(frames=20, faceless=gap))) for gap in (range(0), range(10, 20)))
    track = track_of(first, 20)
    fid = FrechetInceptionDistance(feature=Colours())
    pictures.add_faces(fid, first, track, real=True)
    pictures.add_faces(fid, first, track, real=False)
    assert float(fid.compute()) == pytest.approx(0, abs=1e-6)

    fid = FrechetInceptionDistance(feature=Colours())
    pictures.add_faces(fid, first, track, real=True)
    pictures.add_faces(fid, second, track, real=False)
    features = [
        np.array([faces.crop(p.rgb(), track.to_crop[i], 192).mean((0, 1)) for i, p in enumerate(media.read(film))])
        for film in (first, second)
    ]
    (m1, m2), (c1, c2) = [f.mean(0) for f in features], [np.cov(f.T) for f in features]
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * np.real(scipy.linalg.sqrtm(c1 @ c2)))
    assert float(fid.compute()) == pytest.approx(float(expected), rel=1e-4) and expected > 10


def test_inceptions_published_names_fit_and_nothing_is_downloaded(tmp_path, monkeypatch):
    """Both projects' files have torchvision's names, with 1008 classes."""
    from torchvision.models import inception_v3

    def download(*_: object, **__: object) -> None:
        raise AssertionError("a download behind the user's back")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", download)
    net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False, transform_input=False)
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    fid = pictures.load_fid(tmp_path / "inception.pth", torch.device("cpu"))
    loaded = fid.inception.state_dict()
    assert torch.equal(loaded["Mixed_7c.branch1x1.conv.weight"], net.state_dict()["Mixed_7c.branch1x1.conv.weight"])
    assert fid.real_features_sum.shape == (2048,)


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    torch.manual_seed(0)
    return Lpips("untrained")


def only(crop: np.ndarray) -> dict[int, reference.References]:
    shapes, lips = np.zeros((1, 8), np.float32), np.zeros((1, 2, 2))
    return {0: reference.References(crop[None], np.zeros(1, int), np.zeros((1, 3)), shapes, lips)}


def test_the_footage_itself_scores_as_well_as_can_be_and_a_copied_reference_shows(make_clip, lpips, tmp_path):
    """Whoever draws the footage has nothing to improve; whoever draws the reference in every frame has copied it."""
    film = media.probe(str(make_clip(frames=12)))
    track = track_of(film, 12)
    shown = list(media.read(film))
    own = pictures.compare(film, film, track, lpips, only(faces.crop(shown[0].rgb(), track.to_crop[0], 96)))
    assert own.lpips == pytest.approx(0, abs=1e-6) and own.ssim == pytest.approx(1, abs=1e-5)
    assert math.isinf(own.psnr) and own.lmd == 0 and own.copy == pytest.approx(0, abs=1e-6)

    still = tmp_path / "still.mkv"
    with media.write(film, str(still), quality="lossless", sound="none", count=12) as writer:
        for _ in range(12):
            writer.add(shown[11])
    in_one_place = replace(track, to_crop=np.repeat(track.to_crop[11:], 12, 0))
    seen = faces.crop(shown[11].rgb(), track.to_crop[11], 96)
    copied = pictures.compare(film, media.probe(str(still)), in_one_place, lpips, only(seen))
    assert copied.copy is not None and copied.copy > 0.99
    assert copied.lpips > own.lpips and copied.ssim < 0.99 and copied.psnr < 50
    assert pictures.compare(film, film, track, lpips, {}).copy is None


def test_lmd_counts_lips_that_moved_and_not_a_head_that_did():
    random = np.random.default_rng(0)
    mesh = random.uniform(50, 150, (5, 478, 2)).astype(np.float32)
    mesh[:, list(rigid)] = rigid_in_crop * 100 + 50
    turned = mesh @ np.array([[0.8, 0.6], [-0.6, 0.8]], np.float32) * 2 + np.float32(30)
    assert pictures.lip_distance(mesh, turned) == pytest.approx(0, abs=1e-5)
    eyes = 100 * float(rigid_in_crop[3][0] - rigid_in_crop[0][0])
    lower = mesh.copy()
    lower[:, list(lips_outer + lips_inner)] += (0, 0.1 * eyes)
    lower[0] = np.nan  # a frame without a face does not count
    assert pictures.lip_distance(mesh, lower) == pytest.approx(0.1, rel=1e-3)
    assert pictures.lip_distance(mesh, np.full_like(mesh, np.nan)) is None


@pytest.fixture(scope="module")
def clips(make_clip, tmp_path_factory) -> Path:
    """A folder of one clip that can be measured and three that cannot, and a text that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for name, path in {
        "a_talk.mkv": make_clip(frames=26),
        "b_faceless.mkv": make_clip(faceless=range(30)),
        "c_silent.mkv": make_clip(tone=False),
        "d_short.mkv": make_clip(frames=12),
    }.items():
        shutil.copy(path, folder / name)
    (folder / "notes.txt").write_text("no film")
    return folder


@pytest.fixture(scope="module")
def measured(clips, tiny_model, weights, tmp_path_factory) -> tuple[Path, TableSettings, str]:
    """A run with all that can be had: its folder, settings and table. FID by mean colours, for Inception is slow."""
    folder = tmp_path_factory.mktemp("table")
    torch.manual_seed(1)
    save_net(folder / "expert.safetensors", SyncNet(SyncNetConfig(width=0.125)), {})
    settings = TableSettings(
        output=str(folder / "run"),
        videos=str(clips),
        model=str(tiny_model),
        device="cpu",
        syncnet=str(weights),
        expert=str(folder / "expert.safetensors"),
        inception=str(weights),
        lpips_trunk="untrained",
        lips=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "load_fid", lambda path, device: FrechetInceptionDistance(feature=Colours()))
        return folder / "run", settings, evaluate_table(settings)


def test_the_table_is_shaped_like_the_papers_with_the_footage_above_the_model(measured):
    folder, _, text = measured
    lines = text.splitlines()
    assert lines[0].startswith("| Method | LSE-C ↑ | LSE-D ↓ | FID ↓ | Expert confidence ↑ | Expert distance ↓ |")
    assert lines[2].startswith("| Ground truth |") and lines[3].startswith("| tiny |")
    assert "not measured" not in "".join(lines[:4])
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    true, model = (row["values"] for row in table["rows"])
    assert (true["lpips_untrained"], true["ssim"], true["psnr"], true["lmd"], true["fid"]) == (0, 1, "infinity", 0, 0)
    for column in report.columns:
        if column.key in true and not column.key.startswith(("lse", "expert")):
            better, worse = float(true[column.key]), float(model[column.key])
            assert better > worse if column.up else better < worse, column.key
    assert (folder / "table.md").read_text(encoding="utf-8").startswith(text)


def test_the_json_says_all_that_is_needed_to_repeat_the_numbers(measured, tiny_model, weights):
    folder, settings, _ = measured
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    assert table["clips"] == 1 and table["model"]["sha256"] == sha256(tiny_model)
    assert table["weights"]["syncnet"] == sha256(weights) and "lse" in table["protocol"]
    assert {"torch", "torchmetrics", "mediapipe", "python_speech_features"} <= table["versions"].keys()
    assert table["settings"]["videos"] == settings.videos
    clip = table["per_clip"][0]
    assert (clip["clip"], clip["sound"], clip["frames"], clip["view"]) == ("a_talk.mkv", "b_faceless.mkv", 26, "face")
    assert clip["lse"].keys() == clip["expert"].keys() == {"truth", "own", "other"}
    left_out = {entry["clip"]: entry["why"] for entry in table["left_out"]}
    assert left_out.keys() == {"b_faceless.mkv", "c_silent.mkv", "d_short.mkv"}
    assert "no face" in left_out["b_faceless.mkv"] and "no sound" in left_out["c_silent.mkv"]
    assert "shorter than a second" in left_out["d_short.mkv"]
    assert parse(TableSettings, ["--config", str(folder / "config.toml")], "", "") == settings


def test_the_footage_is_judged_by_its_own_pictures_and_sound(measured, clips, weights):
    """The right film, the right sound and the right part of the picture reach SyncNet and the expert."""
    folder, settings, _ = measured
    film = media.probe(str(clips / "a_talk.mkv"))
    track, wave = track_of(film, 26), audio.load(film.path, film.start)
    boxes = syncnet.face_boxes(track.points)
    seen = [syncnet.face_square(picture.rgb(), boxes[i]) for i, picture in enumerate(media.read(film, 0, 26))]
    net = syncnet.load_syncnet(weights, torch.device("cpu"))
    score = syncnet.lse(net, seen, wave)
    told = json.loads((folder / "table.json").read_text(encoding="utf-8"))["per_clip"][0]
    lse, expert = told["lse"]["truth"], told["expert"]["truth"]
    assert lse["distance"] == pytest.approx(score.distance, rel=1e-4) and lse["offset"] == score.offset

    crops = [faces.crop(p.rgb(), track.to_crop[i], 96) for i, p in enumerate(media.read(film, 0, 26))]
    stack = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    distances = sync_distances(load_expert(Path(settings.expert))[0], stack, audio.log_mel(wave), Fraction(25))
    assert expert["distance"] == pytest.approx(float(np.nanmin(distances)), rel=1e-4)
    assert expert["confidence"] == pytest.approx(float(np.nanmedian(distances) - np.nanmin(distances)), abs=1e-4)


def test_sheets_and_films_show_footage_and_result_and_nothing_half_made_is_left(measured):
    folder, _, _ = measured
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {
        "config.toml", "run.safetensors", "table.json", "table.md",
        "films/00000_a_talk_other.mp4", "films/00000_a_talk_own.mp4", "sheets/00000_a_talk.png",
    }  # fmt: skip
    sheet = cv2.imread(str(folder / "sheets" / "00000_a_talk.png"))
    assert sheet is not None and sheet.shape == (6 * show.tile, show.name_width + 8 * show.tile, 3)
    row = sheet[:, show.name_width :].reshape(6, show.tile, -1).astype(int)
    assert np.abs(row[0] - row[1]).mean() > 1 and np.abs(row[3] - row[4]).mean() > 5
    film = media.probe(str(folder / "films" / "00000_a_talk_own.mp4"))
    assert (film.width, film.height, film.frames) == (640, 240, 26)
    assert len(audio.load(film.path)) / 16000 == pytest.approx(26 / 25, abs=0.1)
    halves = next(media.read(film)).rgb().astype(int)
    top = np.abs(halves[:60, :320] - halves[:60, 320:])
    assert top.mean() < 1.5 < np.abs(halves[:, :320] - halves[:, 320:]).max()


def test_a_finished_run_is_not_measured_again_and_another_one_does_not_overwrite_it(measured, monkeypatch):
    folder, settings, text = measured
    monkeypatch.setattr(pictures, "load_fid", lambda path, device: FrechetInceptionDistance(feature=Colours()))

    def measure(*_: object) -> None:
        raise AssertionError("a clip was measured twice")

    monkeypatch.setattr(Measurer, "measure", measure)
    assert evaluate_table(replace(settings, shown=0)) == text
    with pytest.raises(OutputError, match="other settings"):
        evaluate_table(replace(settings, seconds=1.0))
    (folder / "run.safetensors").rename(folder / "kept")
    with pytest.raises(OutputError, match="another table"):
        evaluate_table(settings)
    (folder / "kept").rename(folder / "run.safetensors")


def test_a_killed_run_goes_on_with_its_scores_and_sums(measured, tmp_path):
    folder, _, _ = measured
    score = ClipScore(**json.loads((folder / "table.json").read_text(encoding="utf-8"))["per_clip"][0])
    faces_of = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    fid = FrechetInceptionDistance(feature=Colours())
    run = Run(tmp_path / "run", "key", fid)
    fid.update(faces_of, real=True)
    run.add(score)
    run.leave_out("b.mp4", "No face.")
    run.save()
    again = FrechetInceptionDistance(feature=Colours())
    resumed = Run(tmp_path / "run", "key", again)
    assert resumed.done == 2 and resumed.scores == [score] and resumed.left_out == [("b.mp4", "No face.")]
    fid.update(faces_of, real=False)
    again.update(faces_of, real=False)
    assert pictures.fid_value(again) == pictures.fid_value(fid)
    assert torch.equal(again.real_features_cov_sum, fid.real_features_cov_sum) and again.real_features_num_samples == 5
    with pytest.raises(OutputError, match="other settings"):
        Run(tmp_path / "run", "another key", again)
    (tmp_path / "run" / "run.safetensors").write_bytes(b"torn")
    with pytest.raises(OutputError, match="damaged"):
        Run(tmp_path / "run", "key", again)


def test_without_weights_the_cells_and_the_notes_say_what_is_missing(clips, tiny_model, tmp_path):
    """Nobody shall take our expert, or nothing, for LSE. A clip alone takes its own sound from the middle on."""
    video = str(clips / "a_talk.mkv")
    text = evaluate_table(
        TableSettings(str(tmp_path), video, model=str(tiny_model), device="cpu", lpips_trunk="untrained", shown=0)
    )
    head, _, _, model = text.splitlines()[:4]
    assert head.startswith("| Method | LSE-C ↑ | LSE-D ↓ | FID ↓ | LPIPS (untrained trunk) ↓ |")
    assert model.startswith("| tiny | not measured | not measured | not measured |")
    for word in ("--syncnet", "syncnet_v2.model", "--expert", "--inception", "untrained trunk", "0 of 1 clips"):
        assert word in text
    assert not list((tmp_path / "sheets").iterdir())


def test_a_list_of_wav2lips_evaluation_says_which_sound_goes_with_which_video(clips, tiny_model, make_clip, tmp_path):
    for name, path in {"one": make_clip(frames=30), "two": make_clip(frames=40), "three": make_clip(frames=26)}.items():
        (tmp_path / "main" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "main" / name / "00001.mkv")
    (tmp_path / "list.txt").write_text(
        "main/one/00001.mkv main/two/00001.mkv\nmain/two/00001.mkv main/three/00001.mkv\n"
    )
    evaluate_table(
        TableSettings(
            str(tmp_path / "out"),
            pairs=str(tmp_path / "list.txt"),
            model=str(tiny_model),
            device="cpu",
            lpips_trunk="untrained",
            shown=0,
        )
    )
    table = json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))
    (clip,) = table["per_clip"]
    assert clip["frames"] == 40 and clip["frames_other"] == 26  # the windows of 16 columns that 1.2 s of sound has
    assert "longer" in table["left_out"][0]["why"]


def test_lists_and_folders_are_read_as_they_are_meant(tmp_path):
    (tmp_path / "list.txt").write_text("a/1 b/2\n\nc/3.mp4 d/4.mp4\n")
    first, second = read_pairs(tmp_path / "list.txt", "root")
    assert (first.video, first.sounds) == (Path("root/b/2.mp4"), (Path("root/a/1.mp4"),)) and first.listed
    assert (second.video, second.sounds) == (Path("root/d/4.mp4"), (Path("root/c/3.mp4"),))
    for text in ("a/1 b/2 c/3\n", "\n"):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(JobError, match=r"list\.txt"):
            read_pairs(tmp_path / "list.txt")
    with pytest.raises(JobError, match="cannot be read"):
        read_pairs(tmp_path / "none.txt")

    for name in ("b.mp4", "a.mkv", "deep/c.mov", "a.txt", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos([str(tmp_path), str(tmp_path / "a.txt")])
    assert [path.name for path in found] == ["a.mkv", "b.mp4", "c.mov", "a.txt"]
    pairs = next_to_each_other(found)
    assert [pair.sounds[0].name for pair in pairs] == ["b.mp4", "c.mov", "a.txt", "a.mkv"]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(MediaError):
            find_videos(str(path))


def test_rows_of_several_runs_make_one_table_with_the_best_in_bold(tmp_path):
    """An ablation's table; rows that cannot be compared say so."""
    footage = Row("Ground truth", {"lse_c": 9.0, "lse_d": 6.0, "psnr": math.inf})
    ours = {"run": Table((footage, Row("Align x9", {"lse_c": 7.0, "lse_d": 6.8, "psnr": 30.0})), 5, "same")}
    for name, basis, clarity in (("one", "same", 7.5), ("none", "same", 6.5), ("other", "else", 6.6)):
        less = Row("Ground truth", {"lse_c": 9.0, "lse_d": 6.0, "psnr": None})
        rows = [less, Row(f"Align {name}", {"lse_c": clarity, "lse_d": 7.1, "psnr": None})]
        content = {"format": report.table_format, "rows": report.as_json(rows), "clips": 5, "basis": basis}
        (tmp_path / f"{name}.json").write_text(json.dumps(content, allow_nan=False))
    same = [str(tmp_path / f"{name}.json") for name in ("one", "none")]
    rows, notes = report.joined(ours | {path: report.read_table(Path(path)) for path in same})
    lines = report.markdown(rows, notes).splitlines()
    assert not notes and lines[2:] == [
        "| Ground truth | 9.000 | 6.000 | ∞ |",
        "| Align x9 | 7.000 | **6.800** | 30.00 |",
        "| Align one | **7.500** | 7.100 | not measured |",
        "| Align none | 6.500 | 7.100 | not measured |",
    ]
    text = evaluate_table(TableSettings(str(tmp_path / "out"), compare=[*same, str(tmp_path / "other.json")]))
    assert "cannot be compared" in text and text.count("| Ground truth (") == 2
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == text
    told = parse(TableSettings, ["--config", str(tmp_path / "out" / "config.toml")], "", "")
    assert told.compare == [*same, str(tmp_path / "other.json")] and told.output == str(tmp_path / "out")
    with pytest.raises(OutputError, match="another table"):
        evaluate_table(TableSettings(str(tmp_path / "out"), compare=same))
    for content in ("{", "[]", '{"format": "lipsync-redub table 1", "rows": [{"values": {"lse_c": "high"}}]}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(JobError, match="is no table"):
            report.read_table(tmp_path / "bad.json")


def test_mistakes_get_a_sentence_and_a_hint_before_any_work(clips, tmp_path, capsys):
    video, out = str(clips / "a_talk.mkv"), str(tmp_path / "out")
    for arguments in (
        ["table"],
        ["table", "--output", out],
        ["table", "--output", out, "--videos", str(tmp_path / "none")],
        ["table", "--output", out, "--videos", video, "--pairs", "list.txt"],
        ["table", "--output", out, "--videos", video, "--seconds", "0.5"],
        ["table", "--output", out, "--videos", video, "--model", str(clips / "notes.txt")],
        ["table", "--output", out, "--videos", video, "--lpips_trunk", str(clips / "notes.txt")],
        ["table", "--output", out, "--videos", video, "--compare", str(clips / "notes.txt")],
        ["lips", "--videos", str(clips / "notes.txt")],
    ):
        assert cli.main(["evaluate", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert "lipsync-train: error: " in said and "hint: " in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_where_no_clip_can_be_measured_the_first_reason_is_told(clips, tiny_model, tmp_path):
    with pytest.raises(MediaError, match="no face") as caught:
        evaluate_table(
            TableSettings(
                str(tmp_path / "out"), str(clips / "b_faceless.mkv"), model=str(tiny_model), lpips_trunk="untrained"
            )
        )
    assert caught.value.hint
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"config.toml"}  # the mended clip will be measured
