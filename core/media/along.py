# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs along with the pictures and the sound of a movie: subtitles, a camera's telemetry, fonts and covers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import AttachmentStream, DataStream, Discard, Disposition, Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from .probe import SourceInfo, open_movie
from .sound import Track, packets, takes
from .tags import track_tags

longest_shown = Fraction(60)
"""Seconds before the first picture from which a subtitle may still be shown with it."""
quicktime = "mov,mp4,m4a,3gp,3g2,mj2"
"""FFmpeg's name of the container of .mp4 and .mov sources."""
telemetry = "bin_data"
"""FFmpeg's name of the one kind of data that it both reads from and writes to .mp4 and .mov (GoPro's gpmd)."""
image_kinds = {"png": "image/png", "mjpeg": "image/jpeg"}
"""Covers that Matroska takes, and what they are called there."""

Event = tuple[Fraction, Fraction, bytes]
"""A subtitle: when it comes and goes, in seconds after the first picture, and a line of ASS without these times."""


def tracks_along(
    info: SourceInfo, output: OutputContainer, begin: Fraction, length: Fraction
) -> tuple[list[Track], list[str]]:
    """Add the source's other streams to the output, cut to its pictures.

    Packets are copied where the output's container takes them. Text subtitles are else written as mov_text (.mp4,
    .mov) or SubRip (.mkv).

    Args:
        begin: time of the output's first picture on the source's clock.
        length: seconds of picture in the output.

    Returns:
        The new streams, and what the container cannot hold, each as people call it.
    """
    tracks: list[Track] = []
    left_out: list[str] = []
    with open_movie(info.path) as source:
        for stream in source.streams:
            if stream.type == "audio" or stream.index == info.stream or _told_otherwise(stream):
                continue
            added = _add_along(info, stream, output, begin, length)
            if added is None:
                left_out.append(_called(stream))
            else:
                tracks += added
    return tracks, left_out


def _told_otherwise(stream: Stream) -> bool:
    """Whether the stream is the file's own form of its timecode or its chapters, which core.media.tags carries."""
    return stream.type == "data" and ("timecode" in stream.metadata or stream.discard == Discard.all)


def _add_along(
    info: SourceInfo, stream: Stream, output: OutputContainer, begin: Fraction, length: Fraction
) -> list[Track] | None:
    """The new stream, if it has packets; None: the container cannot hold it."""
    container = output.format.name
    if isinstance(stream, AttachmentStream):
        if container != "matroska" or not stream.name:
            return None
        output.add_attachment(stream.name, stream.mimetype or "application/octet-stream", stream.data)
        return []
    if isinstance(stream, av.VideoStream) and stream.disposition & Disposition.attached_pic:
        return _cover(stream, output)
    if isinstance(stream, SubtitleStream) and stream.codec_context is not None:
        return _subtitles(info, stream, output, begin, length)
    measured = isinstance(stream, DataStream) and info.container == quicktime and stream.name == telemetry
    if measured and takes(container, stream):
        return [_copied(info, stream.index, output.add_stream_from_template(stream), begin, length)]
    return None


def _cover(stream: av.VideoStream, output: OutputContainer) -> list[Track] | None:
    container, kind = output.format.name, image_kinds.get(stream.codec_context.name)
    if not kind or container not in ("matroska", "mp4"):
        return None
    source = stream.container
    assert isinstance(source, InputContainer)
    data = next((bytes(packet) for packet in source.demux(stream) if packet.size), b"")
    if not data:
        return None
    if container == "matroska":
        ending = stream.codec_context.name.replace("mjpeg", "jpg")
        output.add_attachment(stream.metadata.get("filename", f"cover.{ending}"), kind, data)
        return []
    new = output.add_stream_from_template(stream)
    new.disposition = Disposition.attached_pic
    packet = av.Packet(data)
    packet.stream, packet.pts, packet.dts, packet.time_base = new, 0, 0, Fraction(1)
    packet.is_keyframe = True
    return [(each for each in [(Fraction(0), packet)])]


def _subtitles(
    info: SourceInfo, stream: SubtitleStream, output: OutputContainer, begin: Fraction, length: Fraction
) -> list[Track] | None:
    container = output.format.name
    if takes(container, stream):
        new = output.add_stream_from_template(stream)
        track = _copied(info, stream.index, new, begin, length)
    elif header := _styles(stream):
        new = output.add_stream("subrip" if container == "matroska" else "mov_text")
        new.time_base = new.codec_context.time_base = Fraction(1, 1000)
        new.codec_context.subtitle_header = header
        events = _events(info, stream.index, begin, length)
        track = _written(new, events if container == "matroska" else _one_at_a_time(events))
    else:
        return None
    new.metadata.update(track_tags(stream.metadata))
    new.disposition = stream.disposition
    return [track]


def _styles(stream: SubtitleStream) -> bytes | None:
    """The head of ASS that text subtitles are decoded with; None: they are drawn, or cannot be decoded."""
    if not stream.codec_context.codec.text_sub:
        return None
    with suppress(FFmpegError):
        stream.codec_context.open(strict=False)
    return stream.codec_context.subtitle_header


def _copied(info: SourceInfo, index: int, new: Stream, begin: Fraction, length: Fraction) -> Track:
    for start, end, packet in _shown(info, index, begin, length):
        packet.pts = packet.dts = round(start / packet.time_base)
        packet.duration = round((end - start) / packet.time_base)
        packet.stream = new
        yield start, packet


def _events(info: SourceInfo, index: int, begin: Fraction, length: Fraction) -> Iterator[Event]:
    for start, end, packet in _shown(info, index, begin, length):
        try:
            decoded = packet.stream.codec_context.decode2(packet)
        except FFmpegError:
            continue  # a damaged one is no reason to lose the others
        for line in (rect.ass for rect in decoded or () if isinstance(rect, AssSubtitle)):
            yield start, end, line


def _one_at_a_time(events: Iterator[Event]) -> Iterator[Event]:
    """The events for a container whose subtitles cannot overlap: one ends where the next begins, or is one with it."""
    held: Event | None = None
    for start, end, line in events:
        if held and start <= held[0]:
            # The ninth field of a line of ASS is its text.
            held = held[0], max(end, held[1]), held[2] + rb"\N" + line.split(b",", 8)[-1]
            continue
        if held:
            yield held[0], min(held[1], start), held[2]
        held = start, end, line
    if held:
        yield held


def _written(new: SubtitleStream, events: Iterator[Event]) -> Track:
    unit = Fraction(1, 1000)
    for start, end, line in events:
        milliseconds = round((end - start) / unit)
        try:
            packet = new.codec_context.encode_subtitle(SubtitleSet.create(line, 0, milliseconds))
        except (FFmpegError, ValueError):
            continue  # likewise
        packet.stream, packet.time_base = new, unit
        packet.pts = packet.dts = round(start / unit)
        packet.duration = milliseconds
        yield start, packet


def _shown(
    info: SourceInfo, index: int, begin: Fraction, length: Fraction
) -> Iterator[tuple[Fraction, Fraction, av.Packet]]:
    """Packets of a stream that belong to the pictures: when each comes and goes, cut to them."""
    latest = Fraction(0)  # no muxer takes packets that go back in time, as those of a damaged file do
    for packet in packets(info, index, begin, longest_shown):
        assert packet.pts is not None
        start = packet.pts * packet.time_base - begin
        end = start + (packet.duration or 0) * packet.time_base
        if start >= length:
            return
        # How .mp4 writes a pause between subtitles; the muxer makes its own.
        pause = packet.stream.type == "subtitle" and bytes(packet) == b"\0\0"
        if not pause and (end > latest or start >= latest):
            latest = max(start, latest)
            yield latest, min(end, length), packet


def _called(stream: Stream) -> str:
    kind = {"subtitle": "subtitles", "video": "video stream", "data": "data"}.get(stream.type, stream.type or "stream")
    if stream.disposition & Disposition.attached_pic:
        kind = "cover picture"
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else getattr(stream, "name", "")
    told = [codec or stream.metadata.get("handler_name", ""), stream.metadata.get("language", "und").replace("und", "")]
    return f"{kind} {stream.index} ({', '.join(filter(None, told))})".replace(" ()", "")
