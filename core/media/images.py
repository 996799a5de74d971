# SPDX-License-Identifier: GPL-3.0-or-later
"""One image file to a frame and back, in its own depth."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import av
import cv2
from av.error import FFmpegError

from ..errors import MediaError
from .picture import Picture
from .planes import bit_depth, components, editable, repacked

signatures = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "mjpeg",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
    b"BM": "bmp",
    b"\x76\x2f\x31\x01": "exr",
}
"""How the files begin, and FFmpeg's name of the codec. WebP has its sign later in the file."""

formats = {
    "png": ("rgb24", "rgba", "rgb48be", "rgba64be", "gray", "ya8", "gray16be", "ya16be"),
    "tiff": ("rgb24", "rgba", "rgb48le", "rgba64le", "gray", "ya8", "gray16le", "ya16le"),
    "webp": ("yuv420p", "yuva420p", "bgra"),
    "bmp": ("bgr24", "bgra", "gray"),
    "exr": ("gbrpf32le", "gbrapf32le", "grayf32le"),  # half too: the writer rounds back what was half
}
"""Layouts each writer takes, as planes.repacked can make them."""

encoders = {"webp": "libwebp"}
spoken = {"mjpeg": "JPEG", "exr": "OpenEXR", "webp": "WebP"}
"""What people call a codec, where it is not its name in capitals."""

jpeg_sampling = {
    "yuvj420p": 0x221111, "yuvj422p": 0x211111, "yuvj440p": 0x121111, "yuvj411p": 0x411111, "yuvj444p": 0x111111,
    "gbrp": 0x111111, "gray": 0x111111,
}  # fmt: skip
"""How much chroma a JPEG of these layouts has, as libjpeg's sampling factors."""

orientation_entry = re.compile(
    rb"\x01\x12\x00\x03\x00\x00\x00\x01\x00([\x01-\x08])|\x12\x01\x03\x00\x01\x00\x00\x00([\x01-\x08])\x00", re.DOTALL
)
"""Exif's word [Exif 3.0, 4.6.5] of how the camera was held, in the file's bytes, big or little endian."""
upright_turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}
"""Quarter turns counter-clockwise that bring the picture upright; 2, 4, 5 and 7 are mirrored too, and stay so."""


def decode_image(path: str) -> tuple[av.VideoFrame, str, int]:
    """An image file's frame as it lies there, in a layout of core.media.planes, and FFmpeg's name of its codec.

    The number is the quarter turns counter-clockwise that bring it upright, as a phone's portraits need.

    Raises:
        MediaError: cannot be read, or is not a PNG, JPEG, TIFF, WebP, BMP or OpenEXR file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as e:
        raise MediaError(f"{path} cannot be read: {e.strerror}.") from None
    codec = _codec(path, data)
    try:
        decoder = av.VideoCodecContext.create(codec, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except FFmpegError:
        frames = []
    if not frames:
        raise MediaError(f"{path} is damaged: no picture can be decoded.", "Render or export the image again.")
    return editable(frames[0]), codec, _turns(frames[0], data)


def opaque(paths: Sequence[str]) -> bool:
    """Whether no pixel of any of the images is see-through, though they may have an alpha channel, as renders do.

    One that cannot be read is passed over: that is for who shows it to say.
    """
    return _opaque(tuple((path, os.stat(path).st_mtime_ns if os.path.isfile(path) else 0) for path in paths))


@lru_cache(maxsize=4)
def _opaque(versions: tuple[tuple[str, int], ...]) -> bool:
    for path, _ in dict.fromkeys(versions):
        try:
            frame, _, _ = decode_image(path)
        except MediaError:
            continue
        alpha = components(frame).get("a")
        top = 1 if alpha is not None and alpha.dtype.kind == "f" else (1 << bit_depth(frame)) - 1
        if alpha is not None and alpha.min() < top:
            return False
    return True


def turned_point(x: float, y: float, size: tuple[int, int], turns: int) -> tuple[float, float]:
    """Where a point of a picture of `size` (width, height) lies after quarter turns counter-clockwise."""
    width, height = size
    for _ in range(turns % 4):
        x, y, width, height = y, width - x, height, width
    return x, y


def _turns(frame: av.VideoFrame, data: bytes) -> int:
    """FFmpeg knows where the word stands, but tells a mirrored picture from a turned one only in a way PyAV hides."""
    entry = orientation_entry.search(data) if frame.rotation else None
    if entry is None:
        return round(frame.rotation / 90) % 4
    return upright_turns[(entry[1] or entry[2])[0]]


def check_kinds(paths: Sequence[str], alike: bool) -> None:
    """Looks at how the files begin.

    Args:
        alike: all must be of one kind, as those must that are written back.

    Raises:
        MediaError: one cannot be read, is no image of a known kind, or is of another kind than the first.
    """
    kinds: dict[str, str] = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                kinds.setdefault(_codec(path, file.read(12)), path)
        except OSError as e:
            raise MediaError(f"{path} cannot be read: {e.strerror}.") from None
        if alike and len(kinds) > 1:
            (one, _), (other, _) = kinds.items()
            raise MediaError(
                f"{path} is {spoken.get(other, other.upper())} inside, the first image {spoken.get(one, one.upper())}.",
                "Save the images in one format, or let the output be a movie.",
            )


def _codec(path: str, data: bytes) -> str:
    """FFmpeg's name of the codec of a file that begins with `data`, twelve bytes or more."""
    codec = next((name for sign, name in signatures.items() if data.startswith(sign)), "")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        codec = "webp"
    if not codec:
        raise MediaError(f"{path} is no image of a known kind.", "Use PNG, JPEG, TIFF, WebP, BMP or OpenEXR images.")
    return codec


def encode_image(frame: av.VideoFrame, codec: str) -> bytes:
    """The file contents of an image.

    JPEG and lossy WebP are written at their best quality; everything else keeps each sample.

    Args:
        frame: in a layout of core.media.planes.
        codec: as decode_image named it.

    Raises:
        MediaError: the codec has no layout for these samples.
    """
    if codec == "mjpeg":
        return _jpeg(frame)
    encoder = av.VideoCodecContext.create(encoders.get(codec, codec), "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.time_base = frame.width, frame.height, Fraction(1, 25)
    encoder.pix_fmt = _layout(frame, codec)
    encoder.color_range, encoder.colorspace = frame.color_range, frame.colorspace
    encoder.color_primaries, encoder.color_trc = frame.color_primaries, frame.color_trc
    encoder.thread_count = 1
    encoder.options = _options(encoder.pix_fmt, codec, half="f16" in frame.format.name)
    packed = repacked(frame, encoder.pix_fmt)
    packed.pts, packed.time_base = 0, Fraction(1, 25)
    return b"".join(bytes(packet) for packet in [*encoder.encode(packed), *encoder.encode(None)])


def _options(layout: str, codec: str, half: bool) -> dict[str, str]:
    return {
        "png": {"pred": "mixed"},
        "tiff": {"compression_algo": "deflate"},
        "webp": {"lossless": "1"} if layout == "bgra" else {"quality": "100"},
        "exr": {"compression": "zip16", "format": "half" if half else "float"},
    }.get(codec, {})


def _layout(frame: av.VideoFrame, codec: str) -> str:
    """The writer's layout with the same components, depth and chroma as the frame."""
    parts = [_signature(av.VideoFormat(name)) for name in formats[codec]]
    own = _signature(frame.format)
    if own not in parts:
        raise _unwritable(frame, codec)
    return formats[codec][parts.index(own)]


def _jpeg(frame: av.VideoFrame) -> bytes:
    """By libjpeg at its best quality: FFmpeg's own writer stops at 0.8 levels of mean error, this one at 0.1."""
    if frame.format.name not in jpeg_sampling:
        raise _unwritable(frame, "jpeg")
    rgb = Picture(0, frame).rgb()
    image = rgb[..., 0] if frame.format.name == "gray" else rgb[..., ::-1]
    factors = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, jpeg_sampling[frame.format.name]]
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100, *factors])
    return data.tobytes()


def _unwritable(frame: av.VideoFrame, codec: str) -> MediaError:
    return MediaError(
        f"{frame.format.name} pixels cannot be written back to a {codec.upper()} file.",
        "Convert the images to PNG (8 or 16 bit) or OpenEXR first.",
    )


def _signature(pixel_format: av.VideoFormat) -> tuple:
    parts = pixel_format.components
    chroma = pixel_format.chroma_width(8), pixel_format.chroma_height(8)
    bits = 32 if "f16" in pixel_format.name else parts[0].bits  # half fits into float
    return pixel_format.is_rgb, len(parts), bits, chroma, pixel_format.name.startswith("yuvj")
