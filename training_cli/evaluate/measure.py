# SPDX-License-Identifier: GPL-3.0-or-later
"""One clip's numbers: the footage, what a model draws to its own sound, and to another one's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from core import audio, faces, media, redub, reference
from core.errors import MediaError, NoFaceError, OutputError, SpeechError
from core.faces import Track, Tracker
from core.job import RedubJob
from core.nets.syncnet import SyncNet
from core.shot import Shot

from .. import sync
from ..losses import Lpips
from . import pictures, show, syncnet
from .clips import Pair
from .lips import lip_score, shift_seconds

View = Literal["auto", "whole", "face"]
expert_size = 96
"""Side of the crops that the expert sees."""
face_fills = 0.4
"""Part of the shorter side of a nearly square frame from which a face fills it; in LRS2 it is about 0.5."""


@dataclass(frozen=True)
class Judges:
    """What measures; None: its weights are not at hand."""

    device: torch.device
    lpips: Lpips
    syncnet: syncnet.SyncNetV2 | None
    expert: SyncNet | None
    fid: FrechetInceptionDistance | None


@dataclass(frozen=True)
class Model:
    """Whose pictures are measured."""

    path: str
    """As in RedubJob."""
    device: str
    image_size: int
    own_reference: bool
    """Its reference is the very frame that it paints."""


@dataclass(frozen=True)
class ClipScore:
    """What was measured of one pair of a clip and another sound."""

    clip: str
    sound: str
    """File of the other sound."""
    frames: int
    frames_other: int
    """Frames drawn to the clip's own sound, and to the other."""
    view: str
    """What SyncNet v2 sees of this clip: `whole` or `face`."""
    lse: dict[str, dict[str, float]]
    """SyncScore by `truth`, `own` and `other` sound; empty without SyncNet v2."""
    expert: dict[str, dict[str, float]]
    """The same by the expert."""
    own: dict[str, float | None]
    """PictureScore of what was drawn to the clip's own sound."""
    lip_r: float | None
    """The lip measure; None: not asked for, or the clip is too short."""


@dataclass(frozen=True)
class _Shot:
    info: media.SourceInfo
    wave: np.ndarray
    """float32, 16 kHz, from the first frame on."""
    count: int
    """Frames that are looked at."""
    track: Track
    view: str


class Measurer:
    """Measures clip after clip.

    Args:
        output: folder whose parts sheets/ and films/ exist; its part work/ is used and removed.
        shown: pairs of which a contact sheet and films are kept.
        view, lips, seconds: as in TableSettings.
    """

    def __init__(
        self, model: Model, judges: Judges, output: Path, *, view: View, lips: bool, seconds: float, shown: int
    ) -> None:
        self._model, self._judges, self._output = model, judges, output
        self._view, self._lips, self._seconds, self._shown = view, lips, seconds, shown
        self._known: dict[Path, ClipScore] = {}

    def measure(self, pair: Pair, number: int) -> ClipScore:
        """One pair; FID's sums grow only when all else went well.

        Raises:
            LipSyncError: it cannot be measured.
        """
        work = self._output / "work"
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
        except OSError as e:
            raise OutputError(f"{work} cannot be made: {e.strerror}.") from None
        try:
            return self._measure(pair, number, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _measure(self, pair: Pair, number: int, work: Path) -> ClipScore:
        shot = self._open(pair.video)
        other_sound, other_wave, other_count = _other_sound(pair, shot)
        other = self._draw(shot, other_wave, other_count, work / "other.mkv")
        known = self._known.get(pair.video)
        own = None
        if known is None or number < self._shown:
            own = self._draw(shot, shot.wave, shot.count, work / "own.mkv")
        if known is None:
            assert own
            known = self._with_own_sound(pair, shot, own)
            self._known[pair.video] = known
        lse, expert = self._sync(other, other_wave, other_count, shot)
        if number < self._shown:
            assert own
            self._show(f"{number:05}_{pair.video.stem}", shot, own, other, other_wave, other_count)
        if self._judges.fid:
            track = _first(shot.track, other_count)
            pictures.add_faces(self._judges.fid, shot.info, track, real=True)
            pictures.add_faces(self._judges.fid, other, track, real=False)
        return replace(
            known,
            sound=other_sound.name,
            frames_other=other_count,
            lse=known.lse | ({"other": asdict(lse)} if lse else {}),
            expert=known.expert | ({"other": asdict(expert)} if expert else {}),
        )

    def _open(self, video: Path) -> _Shot:
        info = media.probe(str(video))
        wave = audio.load(str(video), info.start)
        count = min(info.frames, floor(len(wave) * info.rate / audio.sample_rate))
        if self._seconds:
            count = min(count, floor(Fraction(self._seconds) * info.rate))
        if count < info.rate:
            raise MediaError(f"{video} is shorter than a second, or its sound is.", "Name longer clips.")
        track = _follow(info, count)
        missing = count - int(track.found.sum())
        if missing:
            raise NoFaceError(f"In {missing} of {count} frames of {video} no face is seen.")
        view = _view(info, track) if self._view == "auto" else self._view
        return _Shot(info, wave[: round(count / info.rate * audio.sample_rate)], count, track, view)

    def _draw(self, shot: _Shot, wave: np.ndarray, count: int, output: Path) -> media.SourceInfo:
        """The shot's first frames with lips for a sound, without loss."""
        speech = output.with_suffix(".wav")
        try:
            soundfile.write(speech, wave, audio.sample_rate, subtype="FLOAT")
        except (OSError, soundfile.LibsndfileError) as e:
            raise OutputError(f"{speech} cannot be written: {e}.") from None
        job = RedubJob(
            speech=str(speech),
            output=str(output),
            video=shot.info.path,
            frame_count=count,
            sound="none",
            model=self._model.path,
            device=self._model.device,
            quality="lossless",
        )
        redub.run(job)
        return media.probe(str(output))

    def _with_own_sound(self, pair: Pair, shot: _Shot, own: media.SourceInfo) -> ClipScore:
        """All that does not depend on the other sound."""
        judged = {
            "truth": self._sync(shot.info, shot.wave, shot.count, shot),
            "own": self._sync(own, shot.wave, shot.count, shot),
        }
        references = {}
        if not self._model.own_reference:
            source = Shot(str(pair.video), shot.info, 0, shot.count, shot.info.rate)
            references = reference.choose(source, shot.track, np.ones(shot.count, bool), self._model.image_size)
        score = pictures.compare(shot.info, own, shot.track, self._judges.lpips, references)
        return ClipScore(
            clip=pair.video.name,
            sound="",
            frames=shot.count,
            frames_other=0,
            view=shot.view,
            lse={name: asdict(lse) for name, (lse, _) in judged.items() if lse},
            expert={name: asdict(expert) for name, (_, expert) in judged.items() if expert},
            own=asdict(score),
            lip_r=self._lip_r(pair.video, shot),
        )

    def _sync(
        self, film: media.SourceInfo, wave: np.ndarray, count: int, shot: _Shot
    ) -> tuple[syncnet.SyncScore | None, syncnet.SyncScore | None]:
        """By SyncNet v2 and by the expert, as far as they are at hand."""
        lse = expert = None
        if self._judges.syncnet:
            boxes = syncnet.face_boxes(shot.track.points[:count])
            seen = (
                syncnet.whole_frame(rgb) if shot.view == "whole" else syncnet.face_square(rgb, boxes[frame])
                for frame, rgb in at_25(film, count)
            )
            lse = syncnet.lse(self._judges.syncnet, seen, wave)
        if self._judges.expert:
            crops = [faces.crop(rgb, shot.track.to_crop[frame], expert_size) for frame, rgb in at_25(film, count)]
            stack = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
            distances = sync.sync_distances(self._judges.expert, stack, audio.log_mel(wave), syncnet.rate)
            middle = (len(distances) - 1) // 2
            expert = syncnet.SyncScore(
                distance=float(np.nanmin(distances)),
                confidence=float(np.nanmedian(distances) - np.nanmin(distances)),
                offset=middle - int(np.nanargmin(distances)),
            )
        return lse, expert

    def _lip_r(self, video: Path, shot: _Shot) -> float | None:
        if not self._lips or shot.count < 2 * round(shift_seconds * shot.info.rate):
            return None
        try:
            return lip_score(video, self._model.path, self._model.device, frames=shot.count).r
        except MediaError:  # too few frames in which every version shows a face
            return None

    def _show(
        self,
        name: str,
        shot: _Shot,
        own: media.SourceInfo,
        other: media.SourceInfo,
        other_wave: np.ndarray,
        other_count: int,
    ) -> None:
        rows = {"footage": shot.info, "own": own, "other": other}
        sheet = show.contact_sheet(rows, shot.track, other_count)
        show.write_png(self._output / "sheets" / f"{name}.png", sheet)
        films = self._output / "films"
        show.side_by_side(shot.info, own, shot.count, shot.wave, show.fresh(films / f"{name}_own.mp4"))
        show.side_by_side(shot.info, other, other_count, other_wave, show.fresh(films / f"{name}_other.mp4"))


def at_25(film: media.SourceInfo, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frame number and picture (H, W, 3) uint8 shown in the middle of each 40 ms of a film's first `count` frames."""
    wanted = (floor((k + Fraction(1, 2)) * film.rate / syncnet.rate) for k in range(floor(count * 25 / film.rate)))
    frame = next(wanted, None)
    for number, picture in enumerate(media.read(film, 0, count)):
        rgb = picture.rgb() if number == frame else None
        while number == frame and rgb is not None:
            yield number, rgb
            frame = next(wanted, None)


def _follow(info: media.SourceInfo, count: int) -> Track:
    with Tracker(float(info.rate)) as tracker:
        for picture in media.read(info, 0, count):
            tracker.add(picture)
        return tracker.finish()


def _first(track: Track, count: int) -> Track:
    return Track(track.found[:count], track.shot[:count], track.to_crop[:count], track.points[:count])


def _view(info: media.SourceInfo, track: Track) -> str:
    """`whole` for a nearly square frame that a face fills, as in the corpora of the paper; else `face`."""
    short, long = sorted((info.width, info.height))
    fills = 2 * float(np.median(syncnet.face_boxes(track.points)[:, 2])) >= face_fills * short
    return "whole" if long <= 1.1 * short and fills else "face"


def _other_sound(pair: Pair, shot: _Shot) -> tuple[Path, np.ndarray, int]:
    """File, wave and the frames that have a whole mel window of it, as many as Wav2Lip's evaluation draws.

    Raises:
        SpeechError: no other clip has a sound.
        MediaError: the sound is too short, or too long for a line of a list.
    """
    wave, sound = None, pair.video
    for sound in pair.sounds:
        try:
            wave = audio.load(str(sound))
            break
        except SpeechError:
            if pair.listed:
                raise
    if wave is None:
        sound, wave = pair.video, np.roll(shot.wave, len(shot.wave) // 2)
    heard = floor(Fraction(len(wave) // audio.hop_length + 1 - 16) * shot.info.rate / 80) + 1
    if pair.listed and heard > shot.info.frames:
        raise MediaError(f"The sound of {sound} is longer than {pair.video}, which such a list leaves out.")
    count = min(heard, shot.count)
    if 2 * count < shot.info.rate:
        raise MediaError(f"The sound of {sound} is shorter than half a second.", "Name longer clips.")
    return sound, wave[: round(count / shot.info.rate * audio.sample_rate)], count
