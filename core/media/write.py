# SPDX-License-Identifier: GPL-3.0-or-later
"""New media with the source's size, rate, tags and samples, complete or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
from av.container import OutputContainer
from av.error import FFmpegError

from ..errors import OutputError
from .along import tracks_along
from .encodings import Encoding, choose
from .fields import interlaced, setter
from .images import encode_image
from .label import Label, add_xmp, dressed_image, is_record, record_of, record_path
from .leftovers import longest_token, remove, remove_of_the_dead, temporary_name, token
from .picture import Picture, bt601, luma_weights
from .planes import carry_alpha, extended, repacked, requantised, smooth_flags
from .probe import SourceInfo
from .sound import Sound, Track, new_track, source_tracks
from .tags import later, needs_free_keys, write_tags

threads = 4
"""Encoder threads: fixed, because the bytes that most encoders give depend on their number."""
longest_wait = 3_000_000
"""Microseconds for which the muxer holds pictures back until a packet of a stream that has few, as subtitles, comes."""
static_hdr_encoders = ("libx264", "libx265")
"""Encoders that write the mastering display and the content light level."""
stream_tags = ("title", "language", "reel_name")
"""What the new picture stream says as the old one did; all else is about how the old one was coded."""


class Writer(Protocol):
    """Takes the pictures of one output, in order."""

    written: int
    """Pictures taken so far."""
    warnings: tuple[str, ...]
    """What of the source the output lacks, in sentences."""

    def add(self, picture: Picture) -> None:
        """Write the next picture.

        Raises:
            OutputError: the disk is full or the folder gone.
            MediaError: an image's pixels do not fit the kind of file it came from.
        """
        ...


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
    _refuse_long(folder, name)
    if info.kind == "movie":
        choose(info, quality, os.path.splitext(output)[1])
        _refuse_record(record_path(output, info.kind))


@contextmanager
def write(
    info: SourceInfo,
    output: str,
    *,
    quality: str = "high",
    sound: str = "source",
    start: int = 0,
    count: int,
    speech: Sound | None = None,
    label: Label | None = None,
    in_order: bool = True,
) -> Iterator[Writer]:
    """Write `count` pictures as a movie, or for an image sequence as a folder of images with the source's names.

    A movie gets the source's tags, timecode, chapters, subtitles, attachments and telemetry. An image that was not
    changed is the source's file again, byte for byte; one that was changed gets the source's metadata (PNG and JPEG).

    The output grows under a temporary name beside its place (`.NAME.TOKEN.part` and the ending) and is moved there
    at a clean end. On any exception the temporary is removed and nothing is left; what a killed process left of
    the same output is removed at the begin.

    Args:
        info: the source, whose size, rate, colour tags, field order, rotation and pixel aspect the movie gets.
        output: file (.mp4, .mov, .mkv) or folder that does not exist yet.
        quality: `high` (the source's codec if it is ProRes, DNxHR, HEVC or FFV1 and the container holds it, else
            H.264, or FFV1 for transparency; mean error well under half a level), `lossless` (none), `mezzanine`
            (ProRes) or `web` (H.264 of 8 bit 4:2:0 that plays while it loads; of an odd size the last column or row
            is there twice). Images are always written as well as their kind of file can.
        sound: `source` (the source's streams, cut to the pictures), `speech`, or `none`. Images have no sound.
        start: the source frame of the first picture; the sound is taken from there.
        count: pictures that will be added.
        speech: what is heard with the sound `speech`.
        label: what the output says of how it was made; its record comes into place with it.
        in_order: the pictures are those of the source from `start` on; else what is tied to its times (chapters,
            subtitles, telemetry) does not come along.

    Raises:
        OutputError: the output exists, its folder cannot be written, its container cannot hold the pictures, or
            fewer pictures came than announced.
    """
    check_output(info, output, quality)
    folder, name = os.path.split(os.path.abspath(output))
    suffix = "" if info.kind == "images" else os.path.splitext(name)[1].lower()
    remove_of_the_dead(output)
    temporary = os.path.join(folder, temporary_name(name, token(), suffix))
    record = record_path(os.path.abspath(output), info.kind)
    temporary_record = f"{temporary}.json"
    opened: AbstractContextManager[Writer]
    if info.kind == "images":
        opened = _image_writer(info, output, temporary, start, count, label)
    else:
        movie = _MovieWriter(info, output, temporary, quality, label, in_order)
        opened = movie.opened(sound, start, count, speech)
    try:
        with opened as writer:
            yield writer
            if writer.written != count:
                raise OutputError(f"{output} would have {writer.written} frames, not {count}.", "Report this as a bug.")
        with _output_errors(output):
            if label and info.kind == "images":
                with os.scandir(temporary) as images:
                    sizes = {one.name: one.stat().st_size for one in sorted(images, key=lambda one: one.name)}
                _write_new(os.path.join(temporary, os.path.basename(record)), record_of(label, sizes))
            elif label:
                _label_movie(temporary, info.path, label)
                _write_new(temporary_record, record_of(label, os.path.getsize(temporary)))
            _refuse_existing(output)
            if label and info.kind == "movie":
                _refuse_record(record)
                os.replace(temporary_record, record)  # first: no movie may be there without it
            try:
                os.replace(temporary, output)
            except OSError:
                if label and info.kind == "movie":
                    remove(record)
                raise
    finally:
        remove(temporary)
        remove(temporary_record)


class _MovieWriter:
    def __init__(
        self, info: SourceInfo, output: str, temporary: str, quality: str, label: Label | None, in_order: bool
    ) -> None:
        self.written = 0
        self.warnings: tuple[str, ...] = ()
        self._output = output
        self._info = info
        self._temporary = temporary
        self._quality = quality
        self._encoding = choose(info, quality, os.path.splitext(output)[1])
        self._label = label
        self._in_order = in_order
        self._fields = setter(info)
        self._container: OutputContainer | None = None
        self._tracks: list[Track] = []

    @contextmanager
    def opened(self, sound: str, start: int, count: int, speech: Sound | None) -> Iterator[Writer]:
        try:
            with _output_errors(self._output):
                self._open(sound, start, count, speech)
            yield self
            with _output_errors(self._output):
                self._finish()
        finally:
            self._close()

    def _open(self, sound: str, start: int, count: int, speech: Sound | None) -> None:
        info = self._info
        # bitexact: no library versions and no random numbers in the file.
        options = {"fflags": "+bitexact", "max_interleave_delta": str(longest_wait)}
        movflags = self._encoding.movflags + ("+use_metadata_tags" if needs_free_keys(info.tags) else "")
        if movflags and not self._temporary.endswith(".mkv"):
            options["movflags"] = movflags
        self._container = av.open(f"file:{self._temporary}", "w", container_options=options)
        self._video = _video_stream(self._container, info, self._encoding)
        length, begin = count / info.rate, info.start + start / info.rate
        tags = info.tags if self._in_order else replace(info.tags, chapters=())
        write_tags(self._container, tags, begin, length, later(tags.timecode, start, info.rate))
        if self._label and self._label.comment:
            _add_label(self._container, self._label)
        if sound == "source" and info.has_sound:
            self._tracks = source_tracks(info, self._container, begin, length, self._quality)
        elif sound == "speech" and speech is not None:
            self._tracks = [new_track(self._container, speech, length, self._quality)]
        left_out: list[str] = []
        if info.container and self._in_order:  # images have none
            along, left_out = tracks_along(info, self._container, begin, length)
            self._tracks += along
        reel = dict(info.tags.video).get("reel_name")
        if reel and self._container.format.name == "mp4":  # whose muxer knows no such box
            left_out.append(f"the reel name {reel}")
        self.warnings = _warnings(info, self._encoding, os.path.splitext(self._output)[1].lower(), left_out)
        self._waiting = [next(track, None) for track in self._tracks]

    def add(self, picture: Picture) -> None:
        frame = self._fields(_as_coded(picture.frame, self._info, self._encoding))
        frame.pts, frame.time_base = self.written, 1 / self._info.rate
        self.written += 1
        with _output_errors(self._output):
            assert self._container is not None
            self._container.mux(self._video.encode(frame))
            # The rest goes along with the pictures, or the muxer would hold all of one until the other comes.
            self._mux_rest(self.written / self._info.rate)

    def _finish(self) -> None:
        assert self._container is not None
        self._container.mux(self._video.encode(None))
        self._mux_rest(None)
        self._container.close()
        self._container = None
        with open(self._temporary, "rb+") as file:
            os.fsync(file.fileno())

    def _close(self) -> None:
        container, self._container = self._container, None
        for track in self._tracks:
            track.close()
        if container is not None:
            with suppress(FFmpegError, OSError, ValueError):
                container.close()

    def _mux_rest(self, until: Fraction | None) -> None:
        assert self._container is not None
        for i, track in enumerate(self._tracks):
            while (waiting := self._waiting[i]) is not None and (until is None or waiting[0] <= until):
                self._container.mux(waiting[1])
                self._waiting[i] = next(track, None)


class _ImageWriter:
    warnings = ()

    def __init__(self, output: str, temporary: str, names: list[str], codec: str, label: Label | None) -> None:
        self.written = 0
        self._output = output
        self._temporary = temporary
        self._names = names
        self._codec = codec
        self._label = label

    def add(self, picture: Picture) -> None:
        path = os.path.join(self._temporary, self._names[self.written])
        original = Path(picture.path).read_bytes() if picture.path else b""
        data = original
        if picture.changed or not original:
            xmp = self._label.xmp if self._label and picture.changed else b""
            data = dressed_image(encode_image(picture.frame, self._codec), original, self._codec, xmp)
        with _output_errors(self._output):
            _write_new(path, data)
            if picture.changed and self._label and self._label.sign:
                _sign(path, picture.path, self._label.sign)
        self.written += 1


@contextmanager
def _image_writer(
    info: SourceInfo, output: str, temporary: str, start: int, count: int, label: Label | None
) -> Iterator[Writer]:
    names = [os.path.basename(path) for path in info.paths[start : start + count]]
    if len(set(names)) != len(names):
        raise OutputError("Two images of the sequence have the same file name.", "Give the images different names.")
    with _output_errors(output):
        os.mkdir(temporary)
    yield _ImageWriter(output, temporary, names, info.codec, label)


def _as_coded(frame: av.VideoFrame, info: SourceInfo, encoding: Encoding) -> av.VideoFrame:
    """A new frame as the encoder takes it, with the tags that some encoders read there and not from the stream."""
    if encoding.keeps:
        new = requantised(frame, encoding.pixel_format)
    else:
        frame = extended(frame, *encoding.coded_size(info))
        known = frame.colorspace if frame.colorspace in luma_weights else bt601
        shown = frame.reformat(
            format=encoding.pixel_format,
            src_colorspace=known,
            dst_colorspace=encoding.colorspace or known,
            dst_color_range=encoding.color_range,
            interpolation=smooth_flags,
        )
        new = repacked(shown, encoding.pixel_format)
        carry_alpha(frame, new)
    new.color_range, new.colorspace = _range_and_matrix(info, encoding)
    new.color_primaries, new.color_trc = info.color_primaries, info.color_trc
    return new


def _range_and_matrix(info: SourceInfo, encoding: Encoding) -> tuple[int, int]:
    return encoding.color_range or info.color_range, encoding.colorspace or info.colorspace


def _video_stream(container: OutputContainer, info: SourceInfo, encoding: Encoding) -> av.VideoStream:
    width, height = encoding.coded_size(info)
    stream = container.add_stream(encoding.codec, rate=info.rate, options=encoding.options, width=width, height=height)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.pix_fmt = encoding.pixel_format
    context.time_base = 1 / info.rate
    context.thread_count = threads
    context.gop_size = max(1, round(info.rate * encoding.key_frames))
    context.color_range, context.colorspace = _range_and_matrix(info, encoding)
    context.color_primaries, context.color_trc = info.color_primaries, info.color_trc
    if encoding.tag and not container.format.name.startswith("matroska"):
        context.codec_tag = encoding.tag
    if interlaced(info):
        context.field_order = info.field_order
    stream.metadata.update({key: value for key, value in info.tags.video if key in stream_tags})
    if info.sample_aspect_ratio:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    if info.display_matrix:
        stream.set_display_matrix(info.display_matrix)
    return stream


def _warnings(info: SourceInfo, encoding: Encoding, suffix: str, left_out: Sequence[str]) -> tuple[str, ...]:
    tied = list(info.tied)
    if (info.mastering_display or info.content_light) and encoding.codec not in static_hdr_encoders:
        tied.append("the mastering display and light level of its HDR")
    said = []
    if encoding.codec == "ffv1" and suffix == ".mp4":
        clear = any(part.is_alpha for part in av.VideoFormat(info.pixel_format).components)
        kept = "transparency" if clear else f"{info.pixel_format} pixels unchanged"
        said.append(
            f"This .mp4 holds FFV1, which Blender plays and most players do not: nothing else in it keeps {kept}. "
            "For other programs choose the quality `mezzanine`, in .mov."
        )
    size = encoding.coded_size(info)
    if size != info.coded_size:
        wide, high = size[::-1] if info.rotation % 2 else size
        said.append(
            f"A web movie cannot have this size, so it is {wide}x{high} and not {info.width}x{info.height}: "
            "the line of pixels at an edge is repeated."
        )
    if left_out:
        said.append(f"A {suffix} file cannot hold all of the source, so this is left out: {', '.join(left_out)}.")
    if tied:
        said.append(f"The new pictures are whole, but what cannot be coded with them is left out: {', '.join(tied)}.")
    return tuple(said)


def _add_label(container: OutputContainer, label: Label) -> None:
    """The sentence after what the source says already, once."""
    old = container.metadata.get("comment", "")
    if label.comment not in old:
        container.metadata["comment"] = f"{old}\n{label.comment}" if old else label.comment
    container.metadata["digital_source_type"] = label.source_type


def _label_movie(path: str, original: str, label: Label) -> None:
    if label.xmp and not path.endswith(".mkv"):
        add_xmp(path, label.xmp)
    if label.xmp and label.sign:
        _sign(path, original, label.sign)


def _sign(path: str, original: str, sign: Callable[[str, str, str], None]) -> None:
    root, suffix = os.path.splitext(path)
    signed = f"{root}.signed{suffix}"
    try:
        sign(path, signed, original)
        os.replace(signed, path)
    finally:
        remove(signed)


def _write_new(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _output_errors(output: str) -> Iterator[None]:
    """Turn what the library or the disk says into an OutputError about `output`."""
    try:
        yield
    except (FFmpegError, OSError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise OutputError(f"{output} cannot be written: {reason}.") from e


def _refuse_long(folder: str, name: str) -> None:
    """The names of what is written on the way to the output are longer than its own."""
    try:
        os.lstat(os.path.join(folder, temporary_name(name, longest_token * "0", f".signed{os.path.splitext(name)[1]}")))
    except FileNotFoundError:
        return
    except OSError as e:
        if e.errno == errno.ENAMETOOLONG:
            raise OutputError(f"The name {name} is too long to be written.", "Choose a shorter name.") from None


def _refuse_existing(output: str) -> None:
    if os.path.lexists(output):
        raise OutputError(f"{output} exists already.", "Choose another name; nothing is ever overwritten.")


def _refuse_record(record: str) -> None:
    if os.path.lexists(record) and not is_record(record):
        raise OutputError(f"{record} exists already.", "Choose another name; nothing is ever overwritten.")
