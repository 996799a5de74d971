# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs along with the pictures comes along with them, or the user is told: nobody misses subtitles on air."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet
from clips import make_movie
from portrait_clips import write_movie

from core import redub
from core.job import RedubJob
from core.media import probe, read, write

milliseconds = Fraction(1, 1000)
ass_header = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Bold, Italic, Underline, Alignment
Style: Default,Arial,16,&Hffffff,0,0,0,2

[Events]
"""
spoken = [(100, 500, "Good evening"), (900, 1500, "two speak"), (1200, 1700, "at once"), (1800, 1900, "The end")]
"""Subtitles of a movie of two seconds: milliseconds from and to, and text."""
Stream = Any


def copy(source: Path, output: Path, start: int = 0, count: int | None = None, **options: Any) -> tuple[str, ...]:
    """Write frames of the source unchanged; what the writer warns of."""
    info = probe(str(source))
    count = info.frames - start if count is None else count
    with write(info, str(output), start=start, count=count, **options) as writer:
        for picture in read(info, start, count):
            writer.add(picture)
    assert probe(str(output)).frames == count, "other streams must not count as pictures"
    return writer.warnings


def remux(source: Path, output: Path, add: Callable[[OutputContainer], list[av.Packet]]) -> Path:
    """The source's pictures in another file; `add` adds streams and gives their packets."""
    with av.open(str(source)) as old, av.open(str(output), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        packets = add(new)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                packets.append(packet)
        for packet in sorted(packets, key=lambda one: (one.dts or 0) * one.time_base):
            new.mux(packet)
    return output


def timed(stream: Stream, data: bytes, begin: int, end: int) -> av.Packet:
    packet = av.Packet(data)
    packet.stream, packet.time_base = stream, milliseconds
    packet.pts = packet.dts = begin
    packet.duration = end - begin
    packet.is_keyframe = True
    return packet


def subtitles(
    codec: str, lines: Sequence[tuple[int, int, str]] = spoken, **told: str
) -> Callable[..., list[av.Packet]]:
    def add(new: OutputContainer) -> list[av.Packet]:
        stream = new.add_stream(codec)
        assert isinstance(stream, SubtitleStream)
        stream.time_base = stream.codec_context.time_base = milliseconds
        stream.codec_context.subtitle_header = ass_header
        stream.metadata.update(told)
        stream.disposition = Disposition.forced
        packets = []
        for number, (begin, end, text) in enumerate(lines):
            line = f"{number},0,Default,,0,0,0,,{{\\i1}}{text}{{\\i0}}".encode()
            packet = stream.codec_context.encode_subtitle(SubtitleSet.create(line, 0, end - begin))
            packets.append(timed(stream, bytes(packet), begin, end))
        return packets

    return add


def shown(path: Path) -> list[tuple[int, int, str]]:
    """What the first subtitle stream says, and when, in milliseconds after the first picture."""
    first = probe(str(path)).start
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        for packet in container.demux(stream):
            decoded = stream.codec_context.decode2(packet) if packet.size else None
            lines = [rect.dialogue.decode() for rect in decoded or () if isinstance(rect, AssSubtitle)]
            if any(lines):
                assert packet.pts is not None and packet.duration is not None
                begin = round((packet.pts * packet.time_base - first) * 1000)
                end = begin + round(packet.duration * packet.time_base * 1000)
                found.append((begin, end, re.sub("{.*?}", "", "/".join(lines))))
    return found


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return make_movie(tmp_path / "plain.mp4", 50)


@pytest.mark.parametrize("codec", ["subrip", "ass"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_subtitles_come_along_in_a_form_that_the_container_holds(
    plain: Path, tmp_path: Path, suffix: str, codec: str
) -> None:
    source = remux(plain, tmp_path / "source.mkv", subtitles(codec, spoken[:2], language="ger", title="For the deaf"))
    output = tmp_path / f"new{suffix}"
    assert copy(source, output) == ()
    assert shown(output) == spoken[:2]
    with av.open(str(output)) as container:
        stream = container.streams.subtitles[0]
        expected = "mov_text" if suffix != ".mkv" else codec
        assert stream.codec_context.codec.canonical_name == expected
        assert stream.metadata["language"] == "ger"
        assert stream.metadata["title" if suffix == ".mkv" else "handler_name"] == "For the deaf"
        assert Disposition.forced in stream.disposition or suffix == ".mov"  # which knows no such role
        styled = b"".join(bytes(packet) for packet in container.demux(stream) if packet.size)
        assert any(mark in styled for mark in (b"styl", rb"{\i1}", b"<i>")), "italics are lost"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("kind", [".mkv", ".mov"])
def test_a_part_has_the_subtitles_of_its_own_pictures(plain: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    lines = [spoken[0], spoken[1], spoken[3]]
    source = remux(plain, tmp_path / f"source{kind}", subtitles("subrip" if kind == ".mkv" else "mov_text", lines))
    output = tmp_path / f"part{suffix}"
    copy(source, output, start=30, count=16)  # 1.2 s to 1.84 s
    assert shown(output) == [(0, 300, "two speak"), (600, 640, "The end")]


def test_subtitles_of_a_quicktime_movie_keep_their_name(plain: Path, tmp_path: Path) -> None:
    """Without it a viewer cannot tell those for the deaf from the others."""
    source = remux(plain, tmp_path / "source.mov", subtitles("mov_text", spoken[:2], title="For the deaf"))
    copy(source, tmp_path / "new.mkv")
    with av.open(str(tmp_path / "new.mkv")) as container:
        assert container.streams.subtitles[0].metadata["title"] == "For the deaf"


def test_subtitles_that_overlap_are_not_lost_where_they_cannot(plain: Path, tmp_path: Path) -> None:
    """Two people speak at once; .mp4 knows only one subtitle at a time."""
    lines = [*spoken, (1800, 1950, "for good")]
    source = remux(plain, tmp_path / "source.mkv", subtitles("subrip", lines))
    copy(source, tmp_path / "new.mkv")
    assert shown(tmp_path / "new.mkv") == lines
    copy(source, tmp_path / "new.mp4")
    assert shown(tmp_path / "new.mp4") == [
        spoken[0], (900, 1200, "two speak"), (1200, 1700, "at once"), (1800, 1950, "The end\nfor good"),
    ]  # fmt: skip


def test_a_long_subtitle_from_before_the_part_is_still_there(tmp_path: Path) -> None:
    source = remux(
        make_movie(tmp_path / "long.mp4", 200), tmp_path / "source.mkv", subtitles("ass", [(0, 8000, "Oslo")])
    )
    copy(source, tmp_path / "part.mkv", start=150)
    assert shown(tmp_path / "part.mkv") == [(0, 2000, "Oslo")]


def test_a_damaged_subtitle_does_not_cost_the_others_or_the_job(plain: Path, tmp_path: Path) -> None:
    def add(new: OutputContainer) -> list[av.Packet]:
        packets = subtitles("ass")(new)
        packets.insert(1, timed(packets[0].stream, b"\xff\xfe", 600, 700))
        return packets

    source = remux(plain, tmp_path / "source.mkv", add)
    copy(source, tmp_path / "new.mp4")
    assert [text for _, _, text in shown(tmp_path / "new.mp4")] == [text for _, _, text in spoken]


def test_drawn_subtitles_go_where_they_can_and_else_the_user_reads_which(plain: Path, tmp_path: Path) -> None:
    def add(new: OutputContainer) -> list[av.Packet]:
        stream = new.add_mux_stream("hdmv_pgs_subtitle")
        stream.metadata["language"] = "fre"
        return [timed(stream, b"\x16\0\x0bdrawn words\x80\0\0", begin, begin + 100) for begin in (200, 1200)]

    source = remux(plain, tmp_path / "source.mkv", add)
    assert copy(source, tmp_path / "new.mkv", start=25) == ()
    with av.open(str(tmp_path / "new.mkv")) as container:
        packets = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.size]
        assert [(packet.pts, bytes(packet)[3:14]) for packet in packets] == [(200, b"drawn words")]
    for suffix in (".mp4", ".mov"):
        (warning,) = copy(source, tmp_path / f"new{suffix}")
        assert f"A {suffix} file cannot hold" in warning
        assert "subtitles 1 (hdmv_pgs_subtitle, fre)" in warning


def test_subtitles_that_nothing_here_can_decode_are_named(plain: Path, tmp_path: Path) -> None:
    def add(new: OutputContainer) -> list[av.Packet]:
        stream = new.add_mux_stream("ttml")
        return [timed(stream, b'<tt xmlns="http://www.w3.org/ns/ttml"/>', 0, 2000)]

    source = remux(plain, tmp_path / "source.mp4", add)
    for suffix in (".mp4", ".mkv"):
        (warning,) = copy(source, tmp_path / f"new{suffix}")
        assert "subtitles 1" in warning


def test_subtitles_that_go_back_in_time_do_not_end_the_job(plain: Path, tmp_path: Path) -> None:
    lines = [(100, 400, "one"), (900, 1500, "two"), (1600, 1700, "three")]
    source = remux(plain, tmp_path / "source.mkv", subtitles("subrip", lines))
    data = source.read_bytes()
    at = data.index(b"<i>two</i>") - 3  # the block's time, and its flags
    assert data[at : at + 2] == (900).to_bytes(2, "big")
    source.write_bytes(data[:at] + (50).to_bytes(2, "big") + data[at + 2 :])
    assert [begin for begin, _, _ in shown(source)] == [100, 50, 1600]
    for suffix in (".mp4", ".mkv"):
        copy(source, tmp_path / f"new{suffix}")
        assert "one" in shown(tmp_path / f"new{suffix}")[0][2] and shown(tmp_path / f"new{suffix}")[-1] == lines[-1]


def test_fonts_stay_attached_and_else_the_user_reads_which(plain: Path, tmp_path: Path) -> None:
    def add(new: OutputContainer) -> list[av.Packet]:
        new.add_attachment("Title.ttf", "application/x-truetype-font", b"a font" * 100)
        return []

    source = remux(plain, tmp_path / "source.mkv", add)
    assert copy(source, tmp_path / "new.mkv") == ()
    with av.open(str(tmp_path / "new.mkv")) as container:
        (font,) = container.streams.attachments
        assert (font.name, font.mimetype, font.data) == ("Title.ttf", "application/x-truetype-font", b"a font" * 100)
    (warning,) = copy(source, tmp_path / "new.mp4")
    assert "attachment 1 (Title.ttf)" in warning


def test_a_cover_picture_is_a_cover_again_and_not_the_movie(plain: Path, tmp_path: Path) -> None:
    encoder = av.VideoCodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 32, 32, "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8))
    frame.pts = 0
    png = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])

    def add(new: OutputContainer) -> list[av.Packet]:
        new.add_attachment("cover.png", "image/png", png)
        return []

    source = remux(plain, tmp_path / "source.mkv", add)
    for name in ("one.mp4", "two.mkv"):
        assert copy(source, tmp_path / name) == ()
        with av.open(str(tmp_path / name)) as container:
            cover = container.streams.video[1]
            assert Disposition.attached_pic in cover.disposition
            assert next(bytes(packet) for packet in container.demux(cover) if packet.size) == png
        source = tmp_path / name  # the second from the first
    (warning,) = copy(source, tmp_path / "new.mov")
    assert "cover picture 1 (png)" in warning


def test_a_cameras_telemetry_stays_in_time(plain: Path, tmp_path: Path) -> None:
    def add(new: OutputContainer) -> list[av.Packet]:
        new.metadata["timecode"] = "01:00:00:00"
        new.set_chapters([{"id": 1, "start": 0, "end": 2000, "time_base": milliseconds, "metadata": {"title": "all"}}])
        stream = new.add_data_stream("bin_data")
        return [timed(stream, b"DEVC %d" % begin, begin, begin + 500) for begin in (0, 500, 1000, 1500)]

    source = remux(plain, tmp_path / "source.mp4", add)
    for suffix in (".mp4", ".mov"):
        output = tmp_path / f"part{suffix}"
        assert copy(source, output, start=25) == (), "timecode and chapters are carried in their own way"
        with av.open(str(output)) as container:
            stream = next(s for s in container.streams.data if s.name == "bin_data" and not s.discard & 32)
            found = [((p.pts or 0) * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]
        assert found == [(0, b"DEVC 1000"), (Fraction(1, 2), b"DEVC 1500")]
    (warning,) = copy(source, tmp_path / "new.mkv")
    assert "data 1 (bin_data" in warning


def test_data_that_no_output_can_hold_are_named(plain: Path, tmp_path: Path) -> None:
    def add(new: OutputContainer) -> list[av.Packet]:
        stream = new.add_data_stream("klv")
        return [timed(stream, b"\x06\x0e\x2b\x34 where the drone is", begin, begin + 40) for begin in (0, 500)]

    source = remux(make_movie(tmp_path / "plain.ts", 50, codec="mpeg2video"), tmp_path / "source.ts", add)
    for suffix in (".mp4", ".mov", ".mkv"):
        (warning,) = copy(source, tmp_path / f"new{suffix}")
        assert "data 1 (klv)" in warning


def test_pictures_in_another_order_do_not_get_the_sources_times(plain: Path, tmp_path: Path) -> None:
    """A looped shot under the subtitles of the scene after it."""

    def add(new: OutputContainer) -> list[av.Packet]:
        new.set_chapters([{"id": 1, "start": 0, "end": 2000, "time_base": milliseconds, "metadata": {"title": "all"}}])
        return subtitles("subrip")(new)

    source = remux(plain, tmp_path / "source.mkv", add)
    for in_order, left in ((True, 1), (False, 0)):
        output = tmp_path / f"new{in_order}.mkv"
        copy(source, output, in_order=in_order)
        with av.open(str(output)) as container:
            assert (len(container.streams.subtitles), len(container.chapters())) == (left, left)


def with_unit(source: Path, output: Path, before: bytes = b"", after: bytes = b"") -> Path:
    """The source with one more NAL unit in each coded picture."""

    def sized(unit: bytes) -> bytes:
        return len(unit).to_bytes(4, "big") + unit if unit else b""

    with av.open(str(source)) as old, av.open(str(output), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                longer = av.Packet(sized(before) + bytes(packet) + sized(after))
                longer.stream, longer.time_base, longer.is_keyframe = video, packet.time_base, packet.is_keyframe
                longer.pts, longer.dts, longer.duration = packet.pts, packet.dts, packet.duration
                new.mux(longer)
    return output


def user_data(head: bytes, payload: bytes) -> bytes:
    """A message of registered user data [ITU-T H.274] as a NAL unit."""
    return head + bytes([4, len(payload)]) + payload + b"\x80"


def hdr10_plus() -> bytes:
    """One window's light [SMPTE ST 2094-40], without a curve; no zeros, which would have to be escaped."""
    fields = [(1, 2), (0x2AAAAAA, 27), (0, 1), *[(0xAAAA, 17)] * 4, (0, 4), (0x2AA, 10), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "1" * (-len(bits) % 8)
    return bytes.fromhex("b5003c00010401") + int(bits, 2).to_bytes(len(bits) // 8, "big")


captions = bytes.fromhex("b50031") + b"GA94" + bytes.fromhex("0341fffc942cff")
units = {
    "HDR10+": {"before": user_data(b"\x4e\x01", hdr10_plus())},
    "Dolby Vision": {"after": b"\x7c\x01" + b"\x19 not a real RPU"},
    "closed captions": {"before": user_data(b"\x06", captions)},
}


@pytest.mark.parametrize("kind", units)
def test_what_is_tied_to_the_coded_pictures_is_told_and_the_pictures_stay(
    make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    """A colourist who is not told takes the base layer for the graded picture; the base layer has to be there."""
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    hdr = f"log-level=error:info=0:master-display={display}:max-cll=1000,400"
    hevc: dict[str, Any] = {
        "codec": "libx265", "pixel_format": "yuv420p10le", "tags": (1, 9, 9, 16), "options": {"x265-params": hdr},
    }  # fmt: skip
    plain = write_movie(tmp_path / "plain.mp4", **({} if kind == "closed captions" else hevc))
    source = with_unit(plain, tmp_path / "source.mp4", **units[kind])
    result = redub.run(
        RedubJob(
            video=str(source), speech=str(make_speech(1.2)), output=str(tmp_path / "new.mp4"), sound="none",
            device="cpu", silence="off", model=str(tiny_model),
        )
    )  # fmt: skip
    (warning,) = [one for one in result.warnings if "cannot be coded" in one]
    assert kind in warning
    before, after = probe(str(plain)), probe(result.output)
    for fact in ("frames", "codec", "pixel_format", "colorspace", "color_trc", "mastering_display", "content_light"):
        assert getattr(after, fact) == getattr(before, fact), fact
    assert after.tied == ()


def test_a_master_that_cannot_say_its_hdr_values_is_told(tmp_path: Path) -> None:
    hdr = "log-level=error:info=0:max-cll=1000,400"
    source = write_movie(
        tmp_path / "hdr.mp4", codec="libx265", pixel_format="yuv420p10le", tags=(1, 9, 9, 16),
        options={"x265-params": hdr},
    )  # fmt: skip
    assert copy(source, tmp_path / "new.mp4") == ()
    (warning,) = copy(source, tmp_path / "master.mov", quality="mezzanine")
    assert "light level" in warning
    assert probe(str(tmp_path / "master.mov")).color_trc == 16


def test_a_movie_with_everything_is_the_same_bytes_again(plain: Path, tmp_path: Path) -> None:
    source = remux(plain, tmp_path / "source.mkv", subtitles("subrip"))
    for suffix in (".mp4", ".mkv"):
        outputs = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
        for output in outputs:
            copy(source, output)
        assert outputs[0].read_bytes() == outputs[1].read_bytes(), suffix
