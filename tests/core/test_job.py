# SPDX-License-Identifier: GPL-3.0-or-later
"""A job must arrive in the worker as Blender sent it, or be refused with a sentence."""

import json
from dataclasses import fields
from fractions import Fraction

import pytest

from core.errors import JobError
from core.job import Cancel, Failure, Hello, Message, Progress, RedubJob, Result, from_json, to_json

movie_job = RedubJob(
    speech="speech, “quoted” and\nbroken.wav",
    output="out.mp4",
    video="C:\\Filme\\Übung.mov",
    rate=Fraction(30000, 1001),
    start_frame=3,
    frame_count=7,
    speech_start=Fraction(-1, 3),
    face="at:12,300,200.5",
    others=(("track:2,5", "fr.wav", Fraction(1, 7)), ("speaking", "es.wav", Fraction(0))),
    detector="face-alignment:weights",
    cache=False,
    silence="keep",
    sync_mode="bounce",
    sound="speech",
    mix="finished mix.wav",
    model="m.safetensors",
    device="cuda:1",
    quality="lossless",
    batch_size=4,
    c2pa_certificate="chain.pem",
    c2pa_key="key.pem",
    mask="mouth",
    mask_padding=0.125,
    mask_feather=0.05,
    strength=0.5,
    sharpen=0.25,
    grain=1.5,
    liveliness=0.5,
    in_front="ignore",
    turn_limit=45.5,
    restore="gfpgan.onnx",
    restore_weight=0.75,
    debug="stages",
)
messages = [
    movie_job,
    RedubJob(speech="s.flac", output="take", images=("a 1.png", "a 2.png"), rate=Fraction(24)),
    Hello("1.2.3", "3.11.7"),
    Progress("faces", 3, 9),
    Result("o", 9, 5, ((0, 3, "no face"), (8, 8, "after the speech")), ("soft",), ("1.png",), 1.5),
    Failure("NoFaceError", "There is no face.", "Film one."),
    Cancel(),
]


@pytest.mark.parametrize("message", messages, ids=lambda m: m.type)
def test_every_message_survives_the_pipe_as_one_line(message: Message) -> None:
    line = to_json(message)
    assert line.isprintable(), "a line break or control character would tear the protocol's line"
    assert from_json(line) == message


def test_the_movie_job_above_leaves_no_field_at_its_default() -> None:
    """Else a field that gets lost on the way would go unnoticed."""
    same = [f.name for f in fields(RedubJob) if getattr(movie_job, f.name) == f.default]
    assert same == ["images"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("speech.wav", "JSON"),
        ("[1, 2]", "type"),
        ('{"type": "reboot"}', "type"),
        ('{"type": "redub", "speech": "s", "output": "o", "video": "v", "sped": 2}', "sped"),
        ('{"type": "redub", "speech": "s", "video": "v"}', "message lacks output"),
        ('{"type": "redub", "video": "v"}', "message lacks speech and output"),
        ('{"type": "redub", "speech": 5, "output": "o", "video": "v"}', "5"),
        ('{"type": "redub", "speech": "s", "output": "o", "video": "v", "batch_size": true}', "True"),
        ('{"type": "redub", "speech": "s", "output": "o", "video": "v", "rate": "1/0"}', "by 0"),
        ('{"type": "redub", "speech": "s", "output": "o", "video": "v", "rate": "fast"}', "fast"),
    ],
)
def test_a_damaged_line_is_refused_by_name(line: str, word: str) -> None:
    with pytest.raises(JobError, match=word) as refusal:
        from_json(line)
    assert refusal.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"video": ""},
        {"images": ["a.png"]},
        {"video": "", "images": ["a.png"], "rate": None},
        {"rate": "0"},
        {"rate": "-25"},
        {"start_frame": -1},
        {"frame_count": 0},
        {"silence": "golden"},
        {"sync_mode": "rubber"},
        {"sync_mode": "loop", "sound": "source"},
        {"sound": "loud"},
        {"quality": "ultra"},
        {"batch_size": 0},
        {"batch_size": 513},
    ],
    ids=str,
)
def test_a_job_that_cannot_mean_anything_is_refused_before_work_begins(change: dict[str, object]) -> None:
    data = json.loads(to_json(movie_job)) | change
    with pytest.raises(JobError) as refusal:
        from_json(json.dumps(data))
    assert refusal.value.hint
