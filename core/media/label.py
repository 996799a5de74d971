# SPDX-License-Identifier: GPL-3.0-or-later
"""Where new media say that a machine made the lips: XMP inside the file, a record in JSON beside it."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

xmp_box = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
"""The UUID of a box of XMP in MP4 and QuickTime files [XMP specification part 3]."""
xmp_keyword = b"XML:com.adobe.xmp"
"""What the text chunk of XMP in a PNG is called [ibid.]."""
xmp_segment = b"http://ns.adobe.com/xap/1.0/\0"
"""How the segment of XMP in a JPEG begins [ibid.]."""
record_begin = b'{\n "tool": "Lip Sync Redub"'
"""How every record begins: no other file is ever replaced by one."""
png_of_samples = (b"tRNS", b"bKGD", b"hIST", b"sBIT", b"acTL", b"fcTL", b"fdAT")
"""Ancillary chunks of a PNG that fit its old samples only."""


@dataclass(frozen=True)
class Label:
    """What new media say of themselves."""

    comment: str
    """A sentence, for the ordinary tag; empty: nothing in the pictures was synthesised."""
    source_type: str
    """IPTC's address of how the pictures came to be, for containers with free tags; empty likewise."""
    xmp: bytes
    """An XMP packet; empty likewise."""
    record: dict[str, Any]
    """The JSON file's contents, but for the new media's sizes."""
    sign: Callable[[str, str, str], None] | None = None
    """Copies a file (first) to another (second) with Content Credentials; the third is the original, or empty.
    None: none are wanted."""


def record_of(label: Label, size: int | dict[str, int]) -> bytes:
    """The JSON file's contents.

    Args:
        size: of the movie in bytes, or of the images by name: what is cut short is known by it.
    """
    whole = {**label.record, "bytes": size}
    return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode(errors="replace")  # odd file names


def record_path(output: str, kind: str = "") -> str:
    """Where the record of an output lies: beside a movie, inside a folder of images.

    Args:
        kind: of the output, `movie` or `images`; empty: of that which is there.
    """
    name = f"{os.path.basename(os.path.normpath(output))}.lipsync.json"
    inside = kind == "images" or (not kind and os.path.isdir(output))
    return os.path.join(output, name) if inside else os.path.join(os.path.dirname(output), name)


def is_record(path: str) -> bool:
    """Whether a file is a record that this tool wrote."""
    try:
        with open(path, "rb") as file:
            return file.read(len(record_begin)) == record_begin
    except OSError:
        return False


def add_xmp(path: str, xmp: bytes) -> None:
    """Puts an XMP packet at the end of an .mp4 or .mov file."""
    with open(path, "ab") as file:
        file.write(struct.pack(">I4s", 8 + len(xmp_box) + len(xmp), b"uuid") + xmp_box + xmp)
        file.flush()
        os.fsync(file.fileno())


def dressed_image(data: bytes, original: bytes, codec: str, xmp: bytes) -> bytes:
    """A new image with the original's metadata (colour profile, Exif, resolution, text) and an XMP packet.

    PNG and JPEG only: images of other kinds come back as they are, and the record alone tells of them.

    Args:
        data, original: file contents of the new image and of the one it was made from.
        codec: as core.media.images names it.
        xmp: replaces the original's XMP; empty: the original's stays.
    """
    if codec == "png":
        return _dressed_png(data, original, xmp)
    if codec == "mjpeg":
        return _dressed_jpeg(data, original, xmp)
    return data


def _dressed_png(data: bytes, original: bytes, xmp: bytes) -> bytes:
    carried = [
        chunk
        for kind, chunk in _png_chunks(original)
        if kind[:1].islower() and kind not in png_of_samples and not (xmp and chunk[8:].startswith(xmp_keyword))
    ]
    if xmp:
        # Keyword, then: not compressed, no language, no translated keyword.
        carried.append(_png_chunk(b"iTXt", xmp_keyword + b"\0\0\0\0\0" + xmp))
    critical = [chunk for kind, chunk in _png_chunks(data) if kind[:1].isupper()]
    return data[:8] + b"".join([critical[0], *carried, *critical[1:]])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind of each chunk, and all its bytes. Stops where the file is cut off."""
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield kind, data[at : at + 12 + length]
        at += 12 + length


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _dressed_jpeg(data: bytes, original: bytes, xmp: bytes) -> bytes:
    # Not APP0 (JFIF) and APP14 (Adobe's colour transform): they tell how the samples are coded.
    carried = [
        segment
        for marker, segment in _jpeg_segments(original)
        if (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE
        if not (xmp and segment[4:].startswith(xmp_segment))
    ]
    if xmp:
        content = xmp_segment + xmp
        carried.append(b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content)
    jfif = next((segment for marker, segment in _jpeg_segments(data) if marker == 0xE0), b"")
    return data[:2] + jfif + b"".join(carried) + data[2 + len(jfif) :]


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker of each segment before the picture, and all its bytes."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA or at + length > len(data):
            return
        yield marker, data[at : at + length]
        at += length
