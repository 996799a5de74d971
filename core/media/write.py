# SPDX-License-Identifier: GPL-3.0-or-later
"""New media with the source's size, rate, tags and samples, complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError

from ..errors import OutputError
from .images import encode_image
from .picture import Picture
from .planes import repacked
from .probe import SourceInfo
from .sound import Track, source_tracks, speech_track

h264_layouts = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
ffv1_layouts = {
    "gbrap": "bgra", "rgba": "bgra", "argb": "bgra", "abgr": "bgra",
    "rgb48le": "gbrp16le", "rgb48be": "gbrp16le", "bgr48le": "gbrp16le", "bgr48be": "gbrp16le",
    "rgba64le": "gbrap16le", "rgba64be": "gbrap16le", "bgra64le": "gbrap16le", "bgra64be": "gbrap16le",
    "gray16be": "gray16le",
}  # fmt: skip
"""Layouts FFV1 holds under another name, sample by sample."""
threads = 4
"""Encoder threads: fixed, because the bytes H.264 and FFV1 give depend on their number."""


@dataclass(frozen=True)
class _Encoding:
    codec: str
    pixel_format: str
    options: dict[str, str]


class Writer(Protocol):
    """Takes the pictures of one output, in order."""

    written: int
    """Pictures taken so far."""

    def add(self, picture: Picture) -> None:
        """Write the next picture.

        Raises:
            OutputError: the disk is full or the folder gone.
            MediaError: an image's pixels do not fit the kind of file it came from.
        """
        ...


def suffixes(info: SourceInfo) -> tuple[str, ...]:
    """File name endings whose containers hold this movie's pictures unchanged, the best one first."""
    return _suffixes_of(_encoding(info, "high").codec)


def check_output(info: SourceInfo, output: str, quality: str = "high") -> None:
    """Refuse, before any work is done, an output that `write` could not make.

    Raises:
        OutputError: it exists, its folder does not or cannot be written, or its container cannot hold the pictures.
    """
    _refuse_existing(output)
    folder, name = os.path.split(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise OutputError(f"There is no folder {folder}.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"The folder {folder} cannot be written to.")
    if info.kind == "movie":
        _encoding_for(info, quality, os.path.splitext(name)[1])


@contextmanager
def write(
    info: SourceInfo,
    output: str,
    *,
    quality: str = "high",
    sound: str = "source",
    start: int = 0,
    count: int,
    speech: tuple[np.ndarray, int, Fraction] | None = None,
) -> Iterator[Writer]:
    """Write `count` pictures as a movie, or for an image sequence as a folder of images with the source's names.

    The output grows under a temporary name beside its place (`.NAME.TOKEN.part` and the ending) and is moved there
    at a clean end. On any exception the temporary is removed and nothing is left.

    Args:
        info: the source, whose size, rate, colour tags, rotation and pixel aspect the movie gets.
        output: file (.mp4, .mov, .mkv) or folder that does not exist yet.
        quality: `high` (H.264, mean error well under half a level) or `lossless` (none). Images are always written
            as well as their kind of file can.
        sound: `source` (the source's streams, cut to the pictures), `speech`, or `none`. Images have no sound.
        start: the source frame of the first picture; the sound is taken from there.
        count: pictures that will be added.
        speech: (mono float32 samples, sample rate, seconds from the first picture to the first sample).

    Raises:
        OutputError: the output exists, its folder cannot be written, its container cannot hold the pictures, or
            fewer pictures came than announced.
    """
    check_output(info, output, quality)
    folder, name = os.path.split(os.path.abspath(output))
    suffix = "" if info.kind == "images" else os.path.splitext(name)[1]
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.part{suffix}")
    opened: AbstractContextManager[Writer]
    if info.kind == "images":
        opened = _image_writer(info, output, temporary, start, count)
    else:
        movie = _MovieWriter(info, output, temporary, _encoding_for(info, quality, suffix))
        opened = movie.opened(sound, start, count, speech)
    try:
        with opened as writer:
            yield writer
            if writer.written != count:
                raise OutputError(f"{output} would have {writer.written} frames, not {count}.", "Report this as a bug.")
        with _output_errors(output):
            _refuse_existing(output)
            os.replace(temporary, output)
    finally:
        _remove(temporary)


class _MovieWriter:
    def __init__(self, info: SourceInfo, output: str, temporary: str, encoding: _Encoding) -> None:
        self.written = 0
        self._output = output
        self._info = info
        self._temporary = temporary
        self._encoding = encoding
        self._container: OutputContainer | None = None
        self._tracks: list[Track] = []

    @contextmanager
    def opened(
        self, sound: str, start: int, count: int, speech: tuple[np.ndarray, int, Fraction] | None
    ) -> Iterator[Writer]:
        try:
            with _output_errors(self._output):
                self._open(sound, start, count, speech)
            yield self
            with _output_errors(self._output):
                self._finish()
        finally:
            self._close()

    def _open(self, sound: str, start: int, count: int, speech: tuple[np.ndarray, int, Fraction] | None) -> None:
        info = self._info
        # bitexact: no library versions and no random numbers in the file.
        self._container = av.open(f"file:{self._temporary}", "w", container_options={"fflags": "+bitexact"})
        self._video = _video_stream(self._container, info, self._encoding)
        length = count / info.rate
        if sound == "source" and info.has_sound:
            self._tracks = source_tracks(info, self._container, info.start + start / info.rate, length)
        elif sound == "speech" and speech is not None:
            self._tracks = [speech_track(self._container, *speech, length)]
        self._waiting = [next(track, None) for track in self._tracks]

    def add(self, picture: Picture) -> None:
        frame = repacked(picture.frame, self._encoding.pixel_format)
        frame.pts, frame.time_base = self.written, 1 / self._info.rate
        self.written += 1
        with _output_errors(self._output):
            assert self._container is not None
            self._container.mux(self._video.encode(frame))
            # Sound goes along with the pictures, or the muxer would hold all of one until the other comes.
            self._mux_sound(self.written / self._info.rate)

    def _finish(self) -> None:
        assert self._container is not None
        self._container.mux(self._video.encode(None))
        self._mux_sound(None)
        self._container.close()
        self._container = None
        with open(self._temporary, "rb+") as file:
            os.fsync(file.fileno())

    def _close(self) -> None:
        container, self._container = self._container, None
        for track in self._tracks:
            track.close()  # type: ignore[attr-defined]
        if container is not None:
            with suppress(FFmpegError, OSError, ValueError):
                container.close()

    def _mux_sound(self, until: Fraction | None) -> None:
        assert self._container is not None
        for i, track in enumerate(self._tracks):
            while (waiting := self._waiting[i]) is not None and (until is None or waiting[0] <= until):
                self._container.mux(waiting[1])
                self._waiting[i] = next(track, None)


class _ImageWriter:
    def __init__(self, output: str, temporary: str, names: list[str], codec: str) -> None:
        self.written = 0
        self._output = output
        self._temporary = temporary
        self._names = names
        self._codec = codec

    def add(self, picture: Picture) -> None:
        data = encode_image(picture.frame, self._codec)
        path = os.path.join(self._temporary, self._names[self.written])
        with _output_errors(self._output), open(path, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.written += 1


@contextmanager
def _image_writer(info: SourceInfo, output: str, temporary: str, start: int, count: int) -> Iterator[Writer]:
    names = [os.path.basename(path) for path in info.paths[start : start + count]]
    if len(set(names)) != len(names):
        raise OutputError("Two images of the sequence have the same file name.", "Give the images different names.")
    with _output_errors(output):
        os.mkdir(temporary)
    yield _ImageWriter(output, temporary, names, info.codec)


def _encoding(info: SourceInfo, quality: str) -> _Encoding:
    """The codec and layout that keep this movie's samples: H.264 where it can, else FFV1."""
    lossless = quality == "lossless"
    own = info.pixel_format.replace("yuvj", "yuv")
    if own in ("gbrp", "rgb24", "bgr24"):
        return _Encoding("libx264rgb", "rgb24", _h264_options(lossless))
    if own in h264_layouts and _even_enough(info, av.VideoFormat(own)):
        # x264 spends less on chroma where there is one for every pixel; here it is worth as much.
        fine_chroma = {"x264-params": "chroma-qp-offset=-6"} if own.startswith("yuv444") and not lossless else {}
        return _Encoding("libx264", own, {**_h264_options(lossless), **fine_chroma})
    layout = ffv1_layouts.get(own, own)
    known = [f.name for f in av.Codec("ffv1", "w").video_formats or []]
    if layout not in known:
        raise OutputError(f"No codec keeps {own} pixels unchanged in a movie.", "Render the strip to PNG images first.")
    return _Encoding("ffv1", layout, {"level": "3", "slicecrc": "1"})


def _even_enough(info: SourceInfo, pixel_format: av.VideoFormat) -> bool:
    """Whether the size is in whole chroma samples: H.264 knows no other."""
    width, height = _coded_size(info)
    across, down = 2 // pixel_format.chroma_width(2), 2 // pixel_format.chroma_height(2)
    return width % across == 0 and height % down == 0


def _coded_size(info: SourceInfo) -> tuple[int, int]:
    return (info.height, info.width) if info.rotation % 2 else (info.width, info.height)


def _h264_options(lossless: bool) -> dict[str, str]:
    # At this rate even the grainiest frame keeps its RGB within half a level on average, also with a quick preset.
    # B-frames would only slow down a sequencer that seeks all the time.
    return {"preset": "superfast", "bf": "0", **({"qp": "0"} if lossless else {"crf": "2"})}


def _encoding_for(info: SourceInfo, quality: str, suffix: str) -> _Encoding:
    """The encoding, once it is clear that the container of this file name ending takes it."""
    if suffix.lower() not in (".mp4", ".mov", ".mkv"):
        kind = suffix or "a file without an ending"
        raise OutputError(f"Movies cannot be written as {kind}.", "Name the output .mp4, .mov or .mkv.")
    encoding = _encoding(info, quality)
    fitting = _suffixes_of(encoding.codec)
    if suffix.lower() not in fitting:
        raise OutputError(
            f"A {suffix} file cannot hold {info.pixel_format} pixels unchanged.", f"Name it {' or '.join(fitting)}."
        )
    return encoding


def _suffixes_of(codec: str) -> tuple[str, ...]:
    return (".mkv", ".mp4") if codec == "ffv1" else (".mp4", ".mov", ".mkv")


def _video_stream(container: OutputContainer, info: SourceInfo, encoding: _Encoding) -> av.VideoStream:
    width, height = _coded_size(info)
    stream = container.add_stream(encoding.codec, rate=info.rate, options=encoding.options, width=width, height=height)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.pix_fmt = encoding.pixel_format
    context.time_base = 1 / info.rate
    context.thread_count = threads
    # A key frame at least every half second keeps scrubbing quick.
    context.gop_size = 1 if encoding.codec == "ffv1" else max(1, round(info.rate / 2))
    context.color_range, context.colorspace = info.color_range, info.colorspace
    context.color_primaries, context.color_trc = info.color_primaries, info.color_trc
    if info.sample_aspect_ratio:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    if info.display_matrix:
        stream.set_display_matrix(info.display_matrix)
    return stream


@contextmanager
def _output_errors(output: str) -> Iterator[None]:
    """Turn what the library or the disk says into an OutputError about `output`."""
    try:
        yield
    except (FFmpegError, OSError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise OutputError(f"{output} cannot be written: {reason}.") from e


def _refuse_existing(output: str) -> None:
    if os.path.lexists(output):
        raise OutputError(f"{output} exists already.", "Choose another name; nothing is ever overwritten.")


def _remove(temporary: str) -> None:
    if os.path.isdir(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        with suppress(OSError):
            os.remove(temporary)
