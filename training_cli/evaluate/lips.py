# SPDX-License-Identifier: GPL-3.0-or-later
"""`lipsync-train evaluate lips`: do the lips follow the speech? Measured on the rendered footage, landmark by landmark.

A clip's pictures from two seconds on are re-dubbed with its sound from the beginning. The true lips for that sound are
known: they are those of the pictures two seconds earlier. Untouched footage scores about 0, the truth 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import soundfile

from core import audio, heard, media, redub
from core.engine import Engine
from core.errors import MediaError, NoFaceError, SpeechError
from core.faces import Pixels, Track, Tracker, crop, lip_opening
from core.faces.mesh import lips
from core.job import RedubJob
from core.nets.checkpoint import default_model, load_generator

from ..config import dump
from .clips import find_videos
from .files import digest, sha256, write_text
from .lip_run import LipRun, LipScore

shift_seconds = 2
most_lag = 8
"""Frames to either side among which the best lag is sought."""


@dataclass(frozen=True)
class LipSettings:
    """Which clips, and which model."""

    videos: str | list[str]
    """Videos with their own sound, or folders of them: FILE, or `--videos+ FILE` for each of several."""
    model: str = ""
    """The generator's .safetensors; empty: the bundled one."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    shortest: float = 6.0
    """Leave out clips shorter than this many seconds: a correlation over few frames says little."""
    output: str = ""
    """Folder for lips.md, lips.json and the re-dubbed clips; empty: the table is only printed. Given again with the
    same settings, finished clips are not measured again, and new ones are added."""


def evaluate_lips(settings: LipSettings) -> str:
    """Measures clips one by one; those that cannot be measured are left out with a sentence.

    Returns:
        The table as Markdown.

    Raises:
        MediaError: no clip could be measured.
        LipSyncError: the settings, the model or the output do not fit.
    """
    clips = list({clip.resolve(): clip for clip in find_videos(settings.videos)}.values())
    model = Path(settings.model) if settings.model else default_model
    load_generator(model)  # whose mistake is told before any work
    run = None
    if settings.output:
        output = Path(settings.output)
        measured = [field.name for field in fields(LipScore)]
        run = LipRun(output, digest(sha256(model), settings.shortest, shift_seconds, most_lag, measured), clips)
        dump(settings, output / "config.toml")
    scores: list[LipScore] = []
    reasons: list[str] = []
    for clip in clips:
        entry = run.done(clip) if run else None
        if entry:
            score, why = entry.score, entry.left_out
        elif _too_short(clip, settings.shortest):
            continue
        else:
            score, why = _measured(clip, settings, run)
        if score:
            scores.append(score)
            print(f"{clip.name}: r {score.r:.3f}", file=sys.stderr)
        else:
            reasons.append(why)
            print(f"{clip.name}: left out: {why}", file=sys.stderr)
    if not scores:
        first = f" Of the first: {reasons[0]}" if reasons else ""
        needed = max(settings.shortest, 2 * shift_seconds)
        hint = f"Name videos of {needed:g} seconds and more with their own sound."
        raise MediaError(f"No clip could be measured.{first}", hint)
    table = lip_table(scores)
    if settings.output:
        output = Path(settings.output)
        rows = json.dumps([asdict(score) for score in scores], indent=1)
        write_text(output / "lips.json", rows + "\n")
        write_text(output / "lips.md", table + "\n")
    return table


def _too_short(clip: Path, shortest: float) -> bool:
    try:
        info = media.probe(str(clip))
    except MediaError:  # which measuring says again
        return False
    return info.frames / info.rate < shortest


def _measured(clip: Path, settings: LipSettings, run: LipRun | None) -> tuple[LipScore | None, str]:
    """A clip's score, or why it has none; the run knows it from then on."""
    score, why = None, ""
    film = run.begin(clip) if run else None
    try:
        score = lip_score(clip, settings.model, settings.device, film)
    except (MediaError, NoFaceError, SpeechError) as e:
        why = str(e)
    if run:
        run.finish(clip, score, why)
    return score, why


def lip_score(
    clip: Path, model: str = "", device: str = "auto", keep: Path | None = None, frames: int | None = None
) -> LipScore:
    """Re-dubs one clip against its own sound shifted by two seconds and measures the lips.

    Args:
        clip: a video with its own sound, longer than four seconds.
        model, device: as in RedubJob.
        keep: where to leave the re-dubbed video (.mkv); None: nowhere.
        frames: look at so many frames from the clip's begin; None: all.

    Raises:
        LipSyncError: the clip cannot be re-dubbed, or is too short.
    """
    info = media.probe(str(clip))
    shift = round(shift_seconds * info.rate)
    length = info.frames if frames is None else min(info.frames, frames)
    count = length - shift
    if count < shift:
        raise MediaError(f"{clip} is shorter than {2 * shift_seconds} seconds.", "Name longer clips.")
    with tempfile.TemporaryDirectory() as folder:
        speech, output = Path(folder) / "speech.wav", keep or Path(folder) / "output.mkv"
        wave = audio.load(str(clip), info.start)[: round(count / info.rate * audio.sample_rate)]
        soundfile.write(speech, wave, audio.sample_rate)
        job = RedubJob(
            speech=str(speech),
            output=str(output),
            video=str(clip),
            start_frame=shift,
            frame_count=count,
            sound="speech" if keep else "none",
            model=model,
            device=device,
            quality="lossless",
        )
        redub.run(job)
        source, source_mouth = _look(media.read(info, 0, length), info.rate)
        drawn, drawn_mouth = _look(media.read(media.probe(str(output))), info.rate)
    true, replaced = lip_opening(source.points[:count]), lip_opening(source.points[shift:])
    opening = lip_opening(drawn.points[:count])
    seen = np.isfinite(opening) & np.isfinite(true) & np.isfinite(replaced)
    if seen.sum() < 2 * most_lag + 3:
        raise MediaError(f"The face is seen in only {seen.sum()} frames of {clip}.")
    by_lag = {lag: _lagged(opening, true, seen, lag) for lag in range(-most_lag, most_lag + 1)}
    return LipScore(
        clip=clip.name,
        frames=int(seen.sum()),
        r=_correlation(opening[seen], true[seen]),
        lag=max(by_lag, key=lambda lag: by_lag[lag]),
        r_at_lag=max(by_lag.values()),
        late=_late(clip, info, source, device),
        r_untouched=_correlation(replaced[seen], true[seen]),
        r_replaced=_correlation(opening[seen], replaced[seen]),
        sharpness=float(np.median(drawn_mouth[:count][seen]) / np.median(source_mouth[shift:][seen])),
        jitter=_jitter(drawn, slice(0, count)) / _jitter(source, slice(shift, None)),
        opening_range=_range(opening[seen]) / _range(true[seen]),
    )


def lip_table(scores: list[LipScore]) -> str:
    """The scores and their mean as a Markdown table."""
    names = list(asdict(scores[0]))
    rows = [[_cell(value) for value in asdict(score).values()] for score in scores]
    means = [np.mean([getattr(score, field) for score in scores]) for field in names[1:]]
    rows.append(["**mean**", *(_cell(float(value)) for value in means)])
    lines = ["| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *rows]]
    near = sum(abs(score.lag) <= 1 for score in scores)
    in_step = sum(abs(score.lag - score.late) <= 1 for score in scores)
    lines += [
        "",
        f"The best lag is within a frame of the true lips on {near} of {len(scores)} clips, and within a frame of the "
        f"clips' own sound, which is `late` against those, on {in_step}.",
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _look(pictures: Iterable[media.Picture], rate: Fraction) -> tuple[Track, np.ndarray]:
    """The face through a clip, and its mouth's sharpness in each frame (nan without a face).

    Sharpness is the Laplacian's variance around the lips, seen 96 pixels wide whatever the size of the face.
    """
    mouths: list[np.ndarray | None] = []
    with Tracker(float(rate)) as tracker:
        for picture in pictures:
            points = tracker.add(picture)
            mouths.append(None if points is None else _mouth(picture, points))
        track = tracker.finish()
    sharpness = [np.nan if m is None else cv2.Laplacian(m, cv2.CV_32F).var() for m in mouths]
    return track, np.array(sharpness)


def _mouth(frame: Pixels, points: np.ndarray) -> np.ndarray:
    """The lips' surroundings, (48, 96) float32 grey."""
    box = points[list(lips)]
    middle, width = (box.min(0) + box.max(0)) / 2, 1.3 * np.ptp(box[:, 0])
    to_crop = np.array([[1, 0, 0.5 * width - middle[0]], [0, 1, 0.5 * width - middle[1]]]) / width
    square = crop(frame, to_crop, 96)
    return cv2.cvtColor(square, cv2.COLOR_RGB2GRAY)[24:72].astype(np.float32)


def _lagged(later: np.ndarray, earlier: np.ndarray, seen: np.ndarray, lag: int) -> float:
    """Correlation of later[i + lag] with earlier[i], over the frames that every lag has."""
    frames = np.arange(most_lag, len(seen) - most_lag)
    frames = frames[seen[frames] & seen[frames + lag]]
    return _correlation(later[frames + lag], earlier[frames])


def _late(clip: Path, info: media.SourceInfo, track: Track, device: str) -> int:
    """Frames by which a clip's own sound is late; LipScore.late. core.offset tells it finer, or that it cannot."""
    sound = heard.hear(str(clip), info.start, Engine("", device))
    frames = np.flatnonzero(track.found)
    frames = frames[(frames >= most_lag) & (frames < len(track.found) - most_lag)]
    lags = np.arange(-most_lag, most_lag + 1)
    seconds = (frames + 0.5) / float(info.rate)
    return int(lags[heard.fits(sound, lip_opening(track.points[frames]), seconds, lags / float(info.rate)).argmax()])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if min(a.std(), b.std()) > 1e-9 else 0.0


def _range(opening: np.ndarray) -> float:
    low, high = np.quantile(opening, (0.1, 0.9))
    return float(high - low)


def _jitter(track: Track, frames: slice) -> float:
    """Mean second difference of the lips' landmarks, in face units (the eyes' distance)."""
    points = track.points[frames]
    size = np.linalg.norm(points[:, 33] - points[:, 263], axis=1)[:, None, None]
    shape = (points[:, list(lips)] - points[:, [2]]) / size
    return float(np.nanmean(np.abs(shape[2:] - 2 * shape[1:-1] + shape[:-2])))
