# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound for a new movie: the source's packets as they are, the source re-encoded, or given speech."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Discard, Stream

from .probe import SourceInfo, open_movie
from .read import indexed_containers
from .tags import track_tags

Track = Generator[tuple[Fraction, av.Packet], None, None]
"""Packets of one stream of the new movie, each with its time in seconds after the first picture."""
Blocks = Iterator[tuple[int, np.ndarray]]
"""Sound, (channels, n) float32 each, with the position of its first sample after the first picture."""

usual_speakers = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Layouts by number of channels, for files that only say how many there are."""
web_codecs = ("aac", "mp3", "mp3float")
"""Sound that every browser plays, by FFmpeg's decoders."""
studio_encoders = ("prores_ks", "dnxhd", "png")
"""FFmpeg's encoders of pictures that are made to be worked on further."""
mixed_at_once = 1 << 16
"""Samples."""
loudest = 16.0
"""24 dB above full scale; samples beyond are damage, which encoders refuse and averages never get over."""
aac_rates = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


@dataclass(frozen=True)
class Sound:
    """Sound for a new movie in place of its source's."""

    parts: Sequence[Blocks]
    """What sounds together."""
    rate: int
    """Samples a second of all parts."""
    layout: str
    """FFmpeg's name of the speakers of all parts."""
    deep: bool = False
    """Whether one of them has more than 16 bits a sample."""


def source_tracks(
    info: SourceInfo, output: OutputContainer, begin: Fraction, length: Fraction, quality: str = "high"
) -> list[Track]:
    """Add every sound stream of the source to the output, cut to what belongs to its pictures.

    Packets are copied where the output's container takes the codec, for the web only what browsers play; else they
    are encoded again.

    Args:
        begin: time of the output's first picture on the source's clock.
        length: seconds of picture in the output.
        quality: as for core.media.write.
    """
    with open_movie(info.path) as source:
        known = [stream for stream in source.streams.audio if stream.codec_context is not None]
        return [_source_track(info, output, stream, begin, length, quality) for stream in known]


def new_track(output: OutputContainer, sound: Sound, length: Fraction, quality: str = "high") -> Track:
    """Add sound to the output, cut to its pictures.

    Args:
        length: seconds of picture; silence fills what the sound does not.
        quality: as for core.media.write.
    """
    stream = _new_stream(output, sound.rate, sound.layout, quality, sound.deep)
    samples = round(length * sound.rate)
    blocks = sound.parts[0]
    if len(sound.parts) > 1:
        blocks = _mixed(sound.parts, stream.codec_context.layout.nb_channels, samples)
    return _encoded(stream, blocks, sound.rate, samples)


def _mixed(parts: Sequence[Blocks], channels: int, length: int) -> Blocks:
    """The sum of all parts, kept from overflowing."""
    position = 0
    for together in zip(*(_even(_in_place(part, channels, length)) for part in parts), strict=True):
        mixed = np.clip(np.sum(together, axis=0), -1, 1)
        yield position, mixed
        position += mixed.shape[1]


def _even(blocks: Blocks) -> Iterator[np.ndarray]:
    """The samples of blocks without gaps, in pieces of one length but the last."""
    held: list[np.ndarray] = []
    count = 0
    for _, samples in blocks:
        held.append(samples)
        count += samples.shape[1]
        if count >= mixed_at_once:
            together = np.concatenate(held, axis=1)
            whole = count - count % mixed_at_once
            yield from np.split(together[:, :whole], whole // mixed_at_once, axis=1)
            held, count = [together[:, whole:]], count - whole
    if count:
        yield np.concatenate(held, axis=1)


def _source_track(
    info: SourceInfo,
    output: OutputContainer,
    template: av.AudioStream,
    begin: Fraction,
    length: Fraction,
    quality: str,
) -> Track:
    wanted = quality != "web" or template.codec_context.name in web_codecs
    if wanted and takes(output.format.name, template):
        stream = output.add_stream_from_template(template)
        track = _copied(info, template.index, stream, begin, length, keep_early=output.format.name != "matroska")
    else:
        rate = template.codec_context.sample_rate
        layout = _speakers(template.codec_context.layout)
        stream = _new_stream(output, rate, layout, quality, is_deep(template.codec_context))
        blocks = _decoded_blocks(info, template.index, begin, rate, layout)
        track = _encoded(stream, blocks, rate, round(length * rate))
    stream.metadata.update(track_tags(template.metadata))
    stream.disposition = template.disposition
    return track


def takes(container: str, template: Stream) -> bool:
    """Whether the container can hold packets of this stream: found by writing a header to nowhere."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(template)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def _copied(info: SourceInfo, index: int, stream: Stream, begin: Fraction, length: Fraction, keep_early: bool) -> Track:
    """Packets of the source from the first that sounds with the pictures to the last.

    keep_early: the container hides what lies before the first picture (an edit list), so the packet that the
        decoder needs to get going can come along. Elsewhere it would push the pictures back.
    """
    early = Fraction(0)
    for packet in packets(info, index, begin):
        assert packet.pts is not None
        duration = (packet.duration or 0) * packet.time_base
        time = packet.pts * packet.time_base - begin
        early = max(early, 2 * duration if keep_early else Fraction(0))
        if time + early <= 0 and (keep_early or time < 0):
            continue
        # Without a length of its own for each stream, a longer sound would count as more pictures.
        if time >= length or (not keep_early and time + duration > length + Fraction(2, 5) / info.rate):
            return
        shift = round(begin / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.dts - shift if packet.dts is not None else packet.pts
        packet.stream = stream
        yield time, packet


def audible(samples: np.ndarray) -> np.ndarray:
    """Samples as they are, but nothing that is no number, and none louder than `loudest`."""
    return np.nan_to_num(samples).clip(-loudest, loudest)


def _decoded_blocks(info: SourceInfo, index: int, begin: Fraction, rate: int, layout: str) -> Blocks:
    """The source's sound from about `begin` on."""
    resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)  # PyAV miscounts eight planes
    expected: int | None = None
    for packet in packets(info, index, begin):
        try:
            frames = [frame for frame in packet.decode() if isinstance(frame, av.AudioFrame)]
        except FFmpegError:
            continue
        for frame in frames:
            told = (
                round((frame.pts * (frame.time_base or 1) - begin) * rate) if frame.pts is not None else expected or 0
            )
            # Time stamps in milliseconds jitter by a few samples; only a real gap moves the sound.
            if expected is None or abs(told - expected) > rate // 50:
                expected = told
            for part in resampler.resample(frame):
                yield expected, audible(part.to_ndarray().reshape(part.samples, -1).T)
                expected += part.samples


def packets(info: SourceInfo, index: int, begin: Fraction, lead: Fraction = Fraction(1)) -> Iterator[av.Packet]:
    """Packets of a stream of the source from about `lead` seconds before `begin` on."""
    with open_movie(info.path) as source:
        ahead = begin - lead
        if info.container in indexed_containers and ahead > info.start:
            source.seek(int(ahead * av.time_base), backward=True)
        stream = source.streams[index]
        for other in source.streams:
            if other.index != index:
                other.discard = Discard.all
        try:
            for packet in source.demux(stream):
                if packet.pts is not None and packet.size:
                    yield packet
        except FFmpegError:
            return  # a damaged end: the stream stops where the file does


def _speakers(layout: av.AudioLayout) -> str:
    return usual_speakers.get(layout.nb_channels, "stereo") if layout.name.endswith("channels") else layout.name


def is_deep(sound: av.AudioCodecContext) -> bool:
    """Whether the sound has more than 16 bits a sample; floats of lossy codecs are no more than a way of decoding."""
    return sound.codec.lossless and sound.format.bytes > 2


def _new_stream(output: OutputContainer, rate: int, layout: str, quality: str, deep: bool) -> av.AudioStream:
    """A stream for sound we encode: AAC, but no worse than the pictures where these are lossless or for the studio.

    In Matroska always FLAC: its pictures would seem more by AAC's last block.
    """
    pictures = {stream.codec_context.name for stream in output.streams.video}
    kept = quality == "lossless" or bool(pictures & set(studio_encoders))
    if kept and output.format.name == "mov":
        return output.add_stream("pcm_s24le", rate=rate, layout=layout)
    if kept or output.format.name == "matroska":
        stream = output.add_stream("flac", rate=rate, layout=layout)
        stream.codec_context.format = "s32" if deep else "s16"  # s32 is coded as 24 bits
        return stream
    stream = output.add_stream("aac", rate=rate if rate in aac_rates else 48000, layout=layout)
    channels = stream.codec_context.layout.nb_channels
    stream.codec_context.bit_rate = channels * min(128_000, 4 * stream.codec_context.sample_rate)
    return stream


def _encoded(stream: av.AudioStream, blocks: Blocks, rate: int, length: int) -> Track:
    """Encode blocks, placed by their positions, cut and filled with silence to exactly `length` samples at `rate`."""
    layout = stream.codec_context.layout
    for position, samples in _in_place(blocks, layout.nb_channels, length):
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1), format="flt", layout=layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
        for packet in stream.encode(frame):
            yield (packet.pts or 0) * packet.time_base, packet
    for packet in stream.encode(None):
        yield (packet.pts or 0) * packet.time_base, packet


def _in_place(blocks: Blocks, channels: int, length: int) -> Blocks:
    """The blocks without overlap, cut to 0..length, with silence in the gaps: together exactly `length` samples."""
    written = 0
    for position, samples in blocks:
        while written < min(position, length):
            gap = min(position, length) - written
            yield written, np.zeros((channels, min(gap, 1 << 16)), np.float32)
            written += min(gap, 1 << 16)
        samples = samples[:, max(written - position, 0) :][:, : length - written]
        if samples.shape[1]:
            yield written, samples
            written += samples.shape[1]
        if written >= length:
            return
    while written < length:
        gap = min(length - written, 1 << 16)
        yield written, np.zeros((channels, gap), np.float32)
        written += gap
