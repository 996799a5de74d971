# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole pipeline on a moving portrait: what comes out, what stays as it was, and what a bad job leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from living_pictures import most_living

from core import compose, faces, media, redub, reference
from core.errors import Cancelled, JobError, LipSyncError, MediaError, ModelError, NoFaceError, OutputError, SpeechError
from core.faces import Track
from core.job import Progress, RedubJob
from core.plan import plan_effect

MakeJob = Callable[..., RedubJob]
frames = 30


@pytest.fixture
def make_job(
    make_clip: Callable[..., Path], make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> MakeJob:
    def make(**changes: object) -> RedubJob:
        job = RedubJob(
            video=str(make_clip(frames)),
            speech=str(make_speech(1.2)),
            output=str(tmp_path / "out.mkv"),
            model=str(tiny_model),
            device="cpu",
            quality="lossless",
        )
        return replace(job, **changes)  # type: ignore[arg-type]

    return make


def planes(path: str) -> list[list[np.ndarray]]:
    """The samples of every frame, plane by plane, as they were decoded."""
    return [[np.array(plane) for plane in _cropped(picture)] for picture in media.read(media.probe(path))]


def _cropped(picture: media.Picture) -> list[np.ndarray]:
    from core.media.planes import components

    return list(components(picture.frame).values())


def changed(before: str, after: str) -> np.ndarray:
    """(n,) bool: the frames of which any sample differs."""
    pairs = zip(planes(before), planes(after), strict=True)
    return np.array([any((a != b).any() for a, b in zip(old, new, strict=True)) for old, new in pairs])


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_shot_keeps_its_frames_and_only_the_lower_face_changes(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    told: list[Progress] = []
    masks: list[np.ndarray] = []
    patch = compose.patch

    def watched(*arguments: Any) -> compose.Patch | None:
        made = patch(*arguments)
        assert made is not None
        mask = np.zeros((240, 320), bool)
        mask[made.y : made.y + made.alpha.shape[0], made.x : made.x + made.alpha.shape[1]] = made.alpha > 0
        masks.append(mask)
        return made

    monkeypatch.setattr(compose, "patch", watched)
    result = redub.run(job, told.append)
    assert (result.frames, result.changed, result.untouched) == (frames, frames, ())
    before, after = media.probe(job.video), media.probe(job.output)
    for name in ("frames", "rate", "width", "height", "pixel_format", "colorspace", "color_range", "has_sound"):
        assert getattr(after, name) == getattr(before, name), name
    for mask, old, new in zip(masks, planes(job.video), planes(job.output), strict=True):
        rows, columns = np.nonzero(mask)
        assert rows.min() > 90, "the mask reaches above the nose"
        assert np.ptp(columns) < 110, "the mask is wider than the face"
        assert (old[0] != new[0])[mask].mean() > 0.5, "no new lips in this frame"
        assert (old[0] == new[0])[~mask].all(), "the picture changes outside the mask"
        blocks = mask.reshape(120, 2, 160, 2).any(axis=(1, 3))
        for full, sampled in zip(old[1:], new[1:], strict=True):
            assert (full == sampled)[~blocks].all(), "colour spills out of the mask"
    stages = [(p.stage, p.done) for p in told]
    assert stages == [("faces", i) for i in range(frames + 1)] + [("lips", i) for i in range(frames + 1)]


def test_the_same_job_gives_the_same_bytes(make_job: MakeJob, tmp_path: Path) -> None:
    digests = set()
    for name in ("first.mp4", "second.mp4"):
        output = tmp_path / name
        redub.run(make_job(output=str(output), quality="high", sound="speech", frame_count=12))
        digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_range_of_the_shot_is_that_range(make_job: MakeJob) -> None:
    job = make_job(start_frame=11, frame_count=9, sound="none", speech_start=Fraction(10))
    result = redub.run(job)
    assert result.untouched == ((0, 8, "before the speech"),)
    assert result.warnings
    source, output = planes(job.video)[11:20], planes(job.output)
    assert all((a == b).all() for old, new in zip(source, output, strict=True) for a, b in zip(old, new, strict=True))
    assert not media.probe(job.output).has_sound


def test_frames_without_a_face_or_speech_are_the_sources_bit_for_bit(
    make_job: MakeJob, make_clip: Callable[..., Path], make_speech: Callable[..., Path]
) -> None:
    """Footage in which the speaker turns away must come through, told and unharmed."""
    clip = make_clip(40, faceless=range(12, 20))
    job = make_job(video=str(clip), speech=str(make_speech(1.0)), speech_start=Fraction(1, 5))
    result = redub.run(job)
    assert result.untouched == ((0, 4, "before the speech"), (12, 19, "no face"), (30, 39, "after the speech"))
    differs = changed(job.video, job.output)
    for first, last, _ in result.untouched:
        assert not differs[first : last + 1].any()
    assert differs[5:12].all()
    assert differs[20:30].all()
    assert result.changed == differs.sum()


def test_the_effect_fades_where_it_begins_and_ends_but_not_at_a_cut() -> None:
    n = 40
    found, shot = np.ones(n, bool), np.zeros(n, np.int32)
    found[10:14] = False
    shot[25:] = 1
    found[25:30] = False
    track = Track(found, shot, np.zeros((n, 2, 3)), np.zeros((n, 478, 2), np.float32))
    plan = plan_effect(track, Fraction(10), Fraction(0), Fraction(100))
    assert plan.untouched == ((10, 13, "no face"), (25, 29, "no face"))
    assert plan.strength[:6] == pytest.approx(1)  # nothing before it that it could jump from
    assert plan.strength[6:10] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert plan.strength[14:18] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert plan.strength[18:25] == pytest.approx(1)  # the cut hides the change
    assert plan.strength[30:34] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert np.abs(np.diff(plan.strength[:25])).max() < 0.21


def test_speech_covers_the_frames_in_whose_middle_it_sounds() -> None:
    track = Track(np.ones(10, bool), np.zeros(10, np.int32), np.zeros((10, 2, 3)), np.zeros((10, 478, 2), np.float32))
    plan = plan_effect(track, Fraction(25), Fraction(1, 25), Fraction(3, 25))
    assert plan.untouched == ((0, 0, "before the speech"), (4, 9, "after the speech"))


def test_an_image_sequence_becomes_one_with_the_same_names(make_job: MakeJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = []
    for picture in media.read(media.probe(make_job().video), 0, 8):
        names.append(f"shot_{picture.index + 101}.png")
        cv2.imwrite(str(folder / names[-1]), picture.rgb()[..., ::-1])
    output = tmp_path / "take 1"
    job = make_job(
        video="", images=tuple(str(folder / n) for n in names), rate=Fraction(24), output=str(output), start_frame=1
    )
    result = redub.run(job)
    assert result.images == tuple(names[1:])
    assert left_in(output) == [*names[1:], "take 1.lipsync.json"]
    assert left_in(tmp_path) == ["in", "take 1"]
    before, after = (cv2.imread(str(f / names[3])) for f in (folder, output))
    assert (before[:90] == after[:90]).all()
    assert (before != after).any()


def test_no_face_anywhere_is_said_before_anything_is_written(
    make_job: MakeJob, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(NoFaceError) as failure:
        redub.run(make_job(video=str(make_clip(10, faceless=range(10))), debug=str(tmp_path / "stages")))
    assert failure.value.hint
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("stage", ["faces", "lips"])
def test_a_cancelled_job_leaves_nothing(make_job: MakeJob, tmp_path: Path, stage: str) -> None:
    reached: list[str] = []

    def watch(progress: Progress) -> None:
        if progress.stage == stage and progress.done == 20:
            reached.append(stage)

    with pytest.raises(Cancelled):
        redub.run(make_job(), watch, lambda: bool(reached))
    assert reached == [stage]
    assert left_in(tmp_path) == []


def test_the_movies_own_rate_may_be_said_and_another_only_without_the_speech_as_sound(
    make_job: MakeJob, tmp_path: Path
) -> None:
    for name, rate, sound in (("own.mkv", 25, "speech"), ("other.mkv", 24, "none")):
        job = make_job(output=str(tmp_path / name), rate=Fraction(rate), sound=sound, frame_count=2)
        assert redub.run(job).frames == 2


@pytest.fixture
def many_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The face is followed as ever, but every ten frames count as a shot of their own."""
    follow = redub._follow_faces

    def cut(*arguments: Any) -> list[Track]:
        tracks = follow(*arguments)
        return [replace(track, shot=np.arange(len(track.found), dtype=np.int32) // 10) for track in tracks]

    monkeypatch.setattr(redub, "_follow_faces", cut)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each read of the footage has handed out."""
    counts: list[int] = []
    read = media.read

    def counted(*arguments: Any) -> Iterator[media.Picture]:
        counts.append(0)
        this = len(counts) - 1
        for picture in read(*arguments):
            counts[this] += 1
            yield picture

    monkeypatch.setattr(media, "read", counted)
    return counts


@pytest.mark.usefixtures("many_shots")
def test_footage_with_many_cuts_is_read_four_times_not_once_a_cut(make_job: MakeJob, reads: list[int]) -> None:
    """Most containers are decoded from their beginning: a read for each reference would take hours of an hour."""
    redub.run(make_job())
    assert len(reads) == 4
    assert max(reads) == frames


@pytest.mark.usefixtures("many_shots")
def test_a_job_can_be_cancelled_while_references_are_looked_for(
    make_job: MakeJob, reads: list[int], tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        redub.run(make_job(), cancelled=lambda: len(reads) == 2 and reads[1] == 2)
    assert reads == [frames, 2]
    assert left_in(tmp_path) == []


@pytest.mark.usefixtures("many_shots")
@pytest.mark.parametrize("kind", ["movie", "images"])
def test_each_shot_gets_the_sharpest_of_its_own_candidates(make_job: MakeJob, tmp_path: Path, kind: str) -> None:
    """A reference of another shot would paint another person's mouth."""
    job = make_job(start_frame=3, sound="none")
    if kind == "images":
        names = [str(tmp_path / f"{i:02}.png") for i in range(frames)]
        for name, picture in zip(names, media.read(media.probe(job.video)), strict=True):
            cv2.imwrite(name, picture.rgb()[..., ::-1])
        job = replace(job, video="", images=tuple(names), rate=Fraction(25))
    shot = redub._open(job)
    speeches = [redub._hear(job, job.face, job.speech, job.speech_start)]
    [track] = redub._follow_faces(job, shot, speeches, redub._engine(job.model, job.device), lambda frame: None)
    plan = plan_effect(track, shot.rate, Fraction(0), Fraction(17, 25))  # the third shot keeps its lips
    chosen = reference.choose(shot, track, plan.strength > 0, 96)
    pictures = [picture.rgb() for picture in shot.pictures()]
    assert sorted(chosen) == [0, 1]
    for number, references in chosen.items():
        [[candidates]], [crop] = reference.candidates(track, number), references.crops
        assert len(candidates) == 5
        assert all(track.shot[frame] == number for frame in candidates)
        crops = [faces.crop(pictures[frame], track.to_crop[frame], 96) for frame in candidates]
        assert (crop == max(crops, key=reference.sharpness)).all()


def _wrong_inputs(tmp_path: Path) -> dict[str, tuple[dict[str, object], type[LipSyncError]]]:
    import pickle

    import torch
    from safetensors.torch import save_file

    text = tmp_path / "notes.mp4"
    text.write_text("Dear editor,\n" * 100)
    pickled = tmp_path / "pickle.safetensors"
    pickled.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    shape = tmp_path / "shape.safetensors"
    save_file({"conv.weight": torch.zeros(3, 3)}, shape, {"format": "lipsync-redub generator 1", "config": "{}"})
    existing = tmp_path / "existing.mkv"
    existing.write_bytes(b"precious")
    return {
        "a text file named .mp4": ({"video": str(text)}, MediaError),
        "missing footage": ({"video": str(tmp_path / "gone.mp4")}, MediaError),
        "missing speech": ({"speech": str(tmp_path / "gone.wav")}, SpeechError),
        "text for speech": ({"speech": str(text)}, SpeechError),
        "missing model": ({"model": str(tmp_path / "gone.safetensors")}, ModelError),
        "a pickle named .safetensors": ({"model": str(pickled)}, ModelError),
        "a checkpoint of another shape": ({"model": str(shape)}, ModelError),
        "a range past the end": ({"start_frame": 20, "frame_count": 11}, JobError),
        "a start past the end": ({"start_frame": frames}, JobError),
        "speech at another rate than the movie's": ({"rate": Fraction(24), "sound": "speech"}, JobError),
        "an existing output": ({"output": str(existing)}, OutputError),
        "no such folder": ({"output": str(tmp_path / "gone" / "out.mkv")}, OutputError),
        "a container that cannot hold it": ({"output": str(tmp_path / "out.txt")}, OutputError),
    }


wrong = (
    "a text file named .mp4",
    "missing footage",
    "missing speech",
    "text for speech",
    "missing model",
    "a pickle named .safetensors",
    "a checkpoint of another shape",
    "a range past the end",
    "a start past the end",
    "speech at another rate than the movie's",
    "an existing output",
    "no such folder",
    "a container that cannot hold it",
)


@pytest.mark.parametrize("case", wrong)
def test_a_wrong_input_is_one_sentence_before_the_work_and_leaves_nothing(
    make_job: MakeJob, tmp_path: Path, case: str
) -> None:
    changes, kind = _wrong_inputs(tmp_path)[case]
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    told: list[Progress] = []
    with pytest.raises(kind) as failure:
        redub.run(make_job(**changes), told.append)
    message = str(failure.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert failure.value.hint
    assert not told, "the user waited for the faces to hear of this"
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_footage_is_never_the_output(make_job: MakeJob) -> None:
    video = make_job().video
    before = Path(video).read_bytes()
    with pytest.raises(OutputError, match="input"):
        redub.run(make_job(output=str(Path(video).parent / "." / Path(video).name)))
    assert Path(video).read_bytes() == before


def test_speech_without_sound_is_refused_and_silent_speech_is_not(
    make_job: MakeJob, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(SpeechError):
        redub.run(make_job(speech=str(make_clip(10, tone=False))))
    import soundfile

    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16000, np.float32), 16000)
    result = redub.run(make_job(speech=str(silence), frame_count=6))
    assert result.changed == 6


def test_memory_does_not_grow_with_the_shot(
    make_job: MakeJob, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of footage must not end in a full memory: one batch is drawn while another is pasted and encoded."""
    most = most_living(monkeypatch)
    redub.run(make_job(video=str(make_clip(60)), batch_size=4))
    assert 4 <= most() <= 2 * 4 + 4


def test_of_a_large_picture_only_the_face_is_turned_into_rgb(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 4K shot with a face of a tenth of its height would take many times as long as the face is worth."""
    width, height, count = 1280, 720, 12
    still = next(media.read(media.probe(make_job().video))).rgb()
    names = [str(tmp_path / f"{i:04d}.png") for i in range(count)]
    for i, name in enumerate(names):
        large = cv2.copyMakeBorder(np.roll(still, i, 1), 200, 280, 500, 460, cv2.BORDER_REFLECT)
        cv2.imwrite(name, large[..., ::-1])
    read = media.Picture.__getitem__
    converted = 0

    def counted(picture: media.Picture, part: tuple[slice, slice]) -> np.ndarray:
        nonlocal converted
        pixels = read(picture, part)
        converted += pixels.shape[0] * pixels.shape[1]
        return pixels

    monkeypatch.setattr(media.Picture, "__getitem__", counted)
    job = make_job(video="", images=tuple(names), rate=Fraction(25), output=str(tmp_path / "new"), cache=False)
    assert redub.run(job).changed == count
    assert 0.05 * count < converted / (width * height) < 0.6 * count, "all passes together"


def test_debug_shows_the_stages(make_job: MakeJob, tmp_path: Path) -> None:
    redub.run(make_job(frame_count=6, debug=str(tmp_path / "stages")))
    written = {p.name for p in (tmp_path / "stages").iterdir()}
    assert {
        f"000003_{stage}.png" for stage in ("before", "crop", "mouth", "matched", "skin", "mask", "after")
    } <= written


def test_a_second_job_uses_the_loaded_model_again(make_job: MakeJob, tmp_path: Path) -> None:
    """Loading takes longer than a short shot; but a model that was trained on must be read anew."""
    job = make_job(frame_count=2)
    first = redub._engine(job.model, "cpu")
    assert redub._engine(job.model, "cpu") is first
    model = tmp_path / "copy.safetensors"
    model.write_bytes(Path(job.model).read_bytes())
    copied = redub._engine(str(model), "cpu")
    import os

    os.utime(model, ns=(1, 1))
    assert redub._engine(str(model), "cpu") is not copied
