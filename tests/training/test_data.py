# SPDX-License-Identifier: GPL-3.0-or-later
"""What training draws: the same samples whoever draws them, sound that fits, and files that can be trusted."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_faces import store, talking_clip
from torch.utils.data import DataLoader

from core import audio
from core.errors import MediaError
from core.timing import mel_window, sync_window
from training_cli import augment, data, lips, shards
from training_cli.data import DataSettings, PictureWindows, SoundWindows, Steps


def pictures(folder: Path, length: int = 5, size: int = 96, split: str = "train", **changes) -> PictureWindows:
    return PictureWindows(DataSettings(str(folder), **changes), split, length, size, 16, seed=3)


def test_a_sample_is_the_same_whichever_process_draws_it_and_whenever(talkers):
    """A resumed run, or one with more readers, would otherwise train on other data."""
    everything = pictures(talkers, augment_picture=True, augment_sound=True, erase_mouth=0.5, silence=0.2)
    alone = [everything[k] for k in range(6)]
    assert not torch.equal(alone[0]["true"], alone[1]["true"])
    read = DataLoader(everything, 2, sampler=Steps(1, 2), num_workers=2, multiprocessing_context="spawn")
    for number, batch in zip((2, 4), read, strict=False):
        for name, value in batch.items():
            assert torch.equal(value[0], alone[number][name]) and torch.equal(value[1], alone[number + 1][name]), name


def test_processes_share_the_samples_of_a_step_without_overlap():
    ranks = [list(itertools.islice(Steps(step=10, batch=4, rank=rank, world=2), 8)) for rank in (0, 1)]
    assert sorted(ranks[0][:4] + ranks[1][:4]) == list(range(80, 88))
    assert sorted(ranks[0] + ranks[1]) == list(range(80, 96))


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(30)])
def test_training_hears_at_a_frame_what_rendering_hears(tmp_path, rate):
    """Otherwise the lips come early or late by what the two rules differ."""
    clip = talking_clip(1)
    folder = store(tmp_path, replace(clip, info=replace(clip.info, rate=rate)))
    item = pictures(folder)[0]
    mel = audio.log_mel(clip.wave.astype(np.float32) / 32768)
    true = item["true"].numpy()
    start = next(s for s in range(36) if (clip.crops[s : s + 5, 8:104, 8:104] == true).all())
    expected = audio.mel_windows(mel, [mel_window(start + k, rate) for k in range(5)])
    assert np.abs(item["mel"][:, 0].numpy() - expected).max() < 0.01  # stored as float16
    assert np.abs(item["sync_mel"][0].numpy() - audio.mel_windows(mel, [sync_window(start, rate)])[0]).max() < 0.01


def test_samples_hide_nothing_but_take_their_reference_from_elsewhere(talkers):
    for number in range(30):
        item = pictures(talkers, length=1)[number]
        assert item["true"].shape == item["reference"].shape == (1, 96, 96, 3)
        assert item["landmarks"].shape == (1, 85, 2) and item["mel"].shape == (1, 1, 80, 16)
    clip = talking_clip(1)
    shapes = np.zeros((40, 8), np.float32)
    windows = pictures(talkers)
    for start in range(36):
        other = windows._reference(start, shapes, np.random.default_rng(start))
        assert abs(other - start) >= 5 and 0 <= other <= len(clip.crops) - 5


def test_a_dissimilar_reference_shows_another_mouth_than_the_target(talkers):
    def distance(share: float) -> float:
        windows = pictures(talkers, length=1, dissimilar_mouth=share)
        items = [windows[k] for k in range(40)]
        return float(np.mean([(i["true"].float() - i["reference"].float()).abs().mean() for i in items]))

    assert distance(1.0) > 1.2 * distance(0.0)


def test_an_erased_mouth_is_gone_and_the_rest_of_the_reference_stays(talkers):
    whole, erased = pictures(talkers, length=1)[0]["reference"], pictures(talkers, length=1, erase_mouth=1.0)[0]
    difference = (whole.float() - erased["reference"].float()).abs()[0].mean(-1)
    assert difference[:40].max() == 0 and difference[66:78, 38:58].mean() > 5


def test_silence_comes_with_a_closed_mouth(talkers):
    spoken, silent = pictures(talkers, length=1), pictures(talkers, length=1, silence=1.0)
    items = [silent[k] for k in range(20)]
    assert all((item["mel"] == audio.mel_floor).all() for item in items)
    opening = np.mean([float(item["shapes"][0, 0]) for item in items])
    assert opening < np.mean([float(spoken[k]["shapes"][0, 0]) for k in range(20)]) - 1


def test_silence_without_pictures_comes_with_a_closed_mouth_too(talkers):
    settings = DataSettings(str(talkers), silence=1.0)
    items = [SoundWindows(settings, "train", 8, 16, 0)[k] for k in range(5)]
    assert all((item["mel"] == audio.mel_floor).all() for item in items)
    spoken = [SoundWindows(DataSettings(str(talkers)), "train", 8, 16, 0)[k] for k in range(5)]
    opening, usual = (np.mean([float(item["shapes"][:, 0].mean()) for item in some]) for some in (items, spoken))
    assert opening < usual - 0.5


def test_a_stretched_sound_keeps_its_middle_and_its_unstretched_part():
    """Else tempo would move the sound against the lips it is learnt with."""
    moment = torch.full((40, 80, 32), -4.0)
    moment[:, :, 15:17] = 4.0  # the middle
    stretched = augment.stretch_mel(moment, torch.Generator().manual_seed(0))
    assert stretched.shape == (40, 80, 16)
    weight = (stretched[:, 0] + 4).double()
    middles = (weight * torch.arange(16)).sum(1) / weight.sum(1)
    assert torch.allclose(middles, torch.full_like(middles, 7.5), atol=1e-3)
    ramp = torch.linspace(-4, 4, 32).expand(40, 80, 32)
    slopes = augment.stretch_mel(ramp, torch.Generator().manual_seed(0)).diff(dim=2).mean((1, 2)) / (8 / 31)
    assert 0.85 < slopes.min() < 0.95 and 1.05 < slopes.max() < 1.16


def test_masked_moments_never_hide_what_is_spoken_at_the_frame():
    masked = augment.mask_frames(torch.zeros(200, 80, 32), torch.Generator().manual_seed(0))
    assert (masked[:, :, 12:20] == 0).all()
    assert 0.3 < float((masked == audio.mel_floor).any(2).any(1).float().mean()) < 1


def test_a_lively_and_a_quiet_speaker_are_levelled(talkers):
    lively = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32) * lips.usual_spread
    assert np.allclose((3 * lively / lips.liveliness(3 * lively)).std(0), lips.usual_spread, rtol=0.1)
    half = (3 * lively / lips.liveliness(3 * lively, 0.5)).std(0) / lips.usual_spread
    assert ((half > 1.3) & (half < 1.7)).all()
    assert np.allclose(lips.liveliness(lively, 0.0), 1)


def test_one_reference_serves_the_whole_window_as_at_render_time(talkers):
    reference = pictures(talkers, one_reference=True)[0]["reference"]
    assert (reference == reference[:1]).all()
    reference = pictures(talkers)[0]["reference"]
    assert not (reference == reference[:1]).all()


def test_a_mirrored_sample_mirrors_lips_and_shapes_too(talkers):
    """Else half of the data would teach a mouth that opens on the wrong side."""
    plain, varied = pictures(talkers, length=1), pictures(talkers, length=1, augment_picture=True)
    for number in range(20):
        item = varied[number]
        x, y = (item["landmarks"][0, :40].mean(0) * 96).round().int().tolist()
        assert 44 <= x <= 52 and item["true"][0, y, x].float().mean() < 140  # the drawn mouth is dark
    assert not torch.equal(plain[0]["true"], varied[0]["true"])


def test_turned_faces_keep_their_landmarks_on_them(talkers):
    """Else the flow would be taught to look beside the lips."""
    plain, varied = pictures(talkers, length=1), pictures(talkers, length=1, augment_turn=1.0)
    widths = []
    for number in range(20):
        item = varied[number]
        for pictured, key in (("true", "landmarks"), ("reference", "reference_landmarks")):
            lips = item[key][0, :40]
            x, y = (lips.mean(0) * 96).round().int().tolist()
            assert item[pictured][0, y, x].float().mean() < 140  # the drawn mouth is dark
        widths.append(float(lips[:, 0].max() - lips[:, 0].min()))
        moved = (item["landmarks"] - item["reference_landmarks"])[0, 40:].abs().amax()
        assert 0 < moved < 0.08, "the reference's head is turned almost as far"
    usual = plain[0]["reference_landmarks"][0, :40, 0]
    assert min(widths) < 0.9 * float(usual.max() - usual.min())
    assert pictures(talkers)[3]["landmarks"].equal(pictures(talkers, augment_turn=0.0)[3]["landmarks"])


def test_jpeg_shards_are_smaller_and_show_the_same(tmp_path):
    clip = talking_clip(2)
    raw, small = store(tmp_path / "raw", clip), store(tmp_path / "jpeg", clip, quality=95)
    a, b = (shards.load(folder / "clips" / "0.safetensors") for folder in (raw, small))
    assert (a.crops == clip.crops).all() and np.abs(a.crops.astype(int) - b.crops).mean() < 2
    sizes = [(folder / "clips" / "0.safetensors").stat().st_size for folder in (raw, small)]
    assert sizes[1] < sizes[0] / 3


def test_a_net_smaller_than_the_clips_sees_them_reduced_and_a_larger_one_is_told(talkers, tmp_path):
    clip = talking_clip(3)
    large = replace(clip, info=replace(clip.info, size=192), crops=clip.crops.repeat(2, 1).repeat(2, 2))
    item = pictures(store(tmp_path, large))[0]
    assert item["true"].shape == (5, 96, 96, 3)
    with pytest.raises(MediaError, match="96 pixels wide, the net 192") as caught:
        pictures(talkers, size=192)
    assert "--size 192" in caught.value.hint


def test_a_person_with_little_footage_is_not_drowned(tmp_path):
    long = talking_clip(0)
    folder = store(tmp_path, *(replace(long, info=replace(long.info, source=str(k))) for k in range(50)))
    short = talking_clip(1)
    shards.save(folder / "clips" / "x.safetensors", short)
    shards.append(folder, [shards.Verdict("x", "ok", "x.safetensors", "person 1", "train", 40)])
    shares = {}
    for balance in ("clips", "people"):
        index = data.Index(folder, "train", balance, 5)
        rng = np.random.default_rng(0)
        drawn = Counter(index.draw(rng).path.name for _ in range(1500))
        shares[balance] = drawn["x.safetensors"] / 1500
    assert shares["clips"] < 0.05 and 0.08 < shares["people"] < 0.17  # 1/51, and the root of a fiftieth


def test_a_damaged_clip_is_skipped_and_a_missing_one_is_named(talkers, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(talkers, folder)
    (folder / "clips" / "0.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="skipped"):
        assert len([pictures(folder)[k] for k in range(40)]) == 40
    (folder / "clips" / "1.safetensors").unlink()
    with pytest.raises(MediaError, match="missing") as caught:
        pictures(folder)
    assert "1.safetensors" in str(caught.value) and caught.value.hint
    with pytest.raises(MediaError, match="no prepared clip") as caught:
        pictures(tmp_path)
    assert "prepare" in caught.value.hint


def test_a_damaged_picture_is_skipped_too(tmp_path):
    """One bad sector in a thousand hours must not end a run of days."""
    folder = store(tmp_path, talking_clip(1), talking_clip(2), quality=90)
    path = folder / "clips" / "0.safetensors"
    content = path.read_bytes()
    begin = content.index(b"\xff\xd8\xff")
    path.write_bytes(content[:begin] + bytes(60_000) + content[begin + 60_000 :])
    with pytest.warns(UserWarning, match="damaged"):
        assert len([pictures(folder)[k] for k in range(20)]) == 20


def test_a_folder_of_damaged_clips_is_one_sentence_even_from_a_reading_process(talkers, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(talkers, folder)
    for path in (folder / "clips").glob("*"):
        if path.stem in "012345":
            path.write_bytes(b"damaged")
    words = ["generator", "--data.folder", str(folder), "--output", str(tmp_path / "run"), "--alpha=0", "--beta=0"]
    words += ["--width", "0.125", "--align-blocks", "1", "--workers", "1", "--dev-samples", "1", "--accelerator", "cpu"]
    done = subprocess.run([sys.executable, "-m", "training_cli.cli", *words], capture_output=True, text=True)
    assert done.returncode == 2 and "is no prepared clip" in done.stderr and "prepare" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_report_cut_off_in_the_middle_of_a_line_keeps_the_rest(talkers, tmp_path):
    """As after a power cut."""
    folder = tmp_path / "data"
    shutil.copytree(talkers, folder)
    with open(folder / "report.jsonl", "a") as file:
        file.write('{"source": "half')
    before = shards.read_report(folder)
    assert len(before) == 8
    shards.append(folder, [shards.Verdict("9.mp4", "no face")])
    assert len(shards.read_report(folder)) == 9


def test_a_report_cannot_send_training_out_of_its_folder(talkers, tmp_path):
    with pytest.raises(MediaError, match="no clip of its own"):
        shards.clip_path(tmp_path, shards.Verdict("x", "ok", "../../secret.safetensors"))


def test_sound_windows_are_frames_of_one_clip_with_their_shapes(talkers):
    item = SoundWindows(DataSettings(str(talkers)), "train", 8, 16, 0)[0]
    assert item["mel"].shape == (8, 1, 80, 16) and item["shapes"].shape == (8, 8)
    loudness = item["mel"].mean((1, 2, 3))
    assert torch.corrcoef(torch.stack([loudness, item["shapes"][:, 0]]))[0, 1] > 0.5


def test_moving_the_sound_keeps_pictures_and_sound_together():
    clip = talking_clip(4, late=3)
    back = shards.moved(clip, 3)
    straight = talking_clip(4)
    assert len(back.crops) == 37 and len(back.wave) == 37 * 640 and back.info.offset == 3
    loud = np.abs(back.wave.astype(float)).reshape(37, 640).mean(1)
    true = np.abs(straight.wave.astype(float)).reshape(40, 640).mean(1)[:37]
    assert np.corrcoef(loud, true)[0, 1] > 0.95 and (back.crops == clip.crops[:37]).all()


def test_augmented_sound_is_another_voice_within_the_mels_range():
    mel = torch.rand(64, 80, 16) * 8 - 4
    augmented = augment.augment_mel(mel, torch.Generator().manual_seed(0))
    assert augmented.shape == mel.shape and augmented.min() >= -4 and augmented.max() <= 4
    assert ((augmented - mel).abs().mean((1, 2)) > 0.05).all()


def test_a_shard_keeps_arrays_however_they_lie_in_memory(tmp_path):
    clip = talking_clip(5)
    turned = replace(clip, crops=clip.crops[::-1], landmarks=np.asfortranarray(clip.landmarks))
    shards.save(tmp_path / "x.safetensors", turned)
    again = shards.load(tmp_path / "x.safetensors")
    assert (again.crops == turned.crops).all() and (again.landmarks == turned.landmarks).all()
    assert again.info == clip.info


def test_a_file_that_is_no_shard_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("not tensors")
    with pytest.raises(MediaError, match="no prepared clip"):
        shards.load(path)
