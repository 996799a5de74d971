# SPDX-License-Identifier: GPL-3.0-or-later
"""What a movie or an image sequence is: Blender's frame count and rate, and what a writer must keep."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.stream import Disposition, Stream

from ..errors import MediaError
from .images import decode_image
from .planes import editable
from .tags import Tags, no_tags, tags_of

tied_kinds = {
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "A53_CC": "closed captions inside the pictures",
}
"""FFmpeg's names of what a coded picture can hold beside its samples that our encoders are not given, and people's."""

untagged = 0, 2, 2, 2
"""Range, matrix, primaries and transfer of what does not tell its colours [ITU-T H.273]."""


@dataclass(frozen=True)
class SourceInfo:
    """Facts about footage, as Blender counts and shows it."""

    kind: str
    """`movie` or `images`."""
    width: int
    height: int
    """Pixels of the upright picture, after rotation metadata (which Blender heeds in movies, from 4.5 on)."""
    rate: Fraction
    """Frames per second."""
    frames: int
    """Blender's frame count."""
    pixel_format: str
    """FFmpeg's name of the samples' layout as core.media.read hands them out."""
    has_sound: bool
    paths: tuple[str, ...]
    """The movie, or the images in order."""
    codec: str = ""
    container: str = ""
    """FFmpeg's names of the source's codec and container."""
    stream: int = 0
    """Index of the video stream."""
    rotation: int = 0
    """Quarter turns counter-clockwise that bring a coded frame upright. Of images: as Exif tells. Blender does not turn
    those, so new images lie as the old ones do."""
    display_matrix: tuple[int, ...] = ()
    """The rotation as the container said it (nine integers), or empty."""
    time_base: Fraction = Fraction(1)
    first_pts: int = 0
    """Presentation time of Blender's frame 0, in units of the time base."""
    sample_aspect_ratio: Fraction | None = None
    color_range: int = 0
    colorspace: int = 2
    color_primaries: int = 2
    color_trc: int = 2
    """Colour tags as FFmpeg numbers them [ITU-T H.273]; 0 (range) and 2 mean untagged."""
    profile: str = ""
    """FFmpeg's name of the codec's profile; empty: it has none."""
    field_order: int = 0
    """2 to 5 as FFmpeg numbers the orders of interlaced fields; below: progressive."""
    mastering_display: str = ""
    """Of HDR footage, as x264 and x265 take it: G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min) [SMPTE ST 2086]; empty: untold."""
    content_light: str = ""
    """Of HDR footage: MaxCLL,MaxFALL [CTA-861.3]; empty: untold."""
    tied: tuple[str, ...] = ()
    """What is tied to each coded picture, and so is lost when it is coded again."""
    tags: Tags = no_tags

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height of a frame before it is turned upright."""
        return (self.height, self.width) if self.rotation % 2 else (self.width, self.height)

    @property
    def path(self) -> str:
        """The movie file, or the first image."""
        return self.paths[0]

    @property
    def start(self) -> Fraction:
        """When Blender's frame 0 is shown, in seconds of the container's clock."""
        return self.first_pts * self.time_base


def probe(path: str) -> SourceInfo:
    """Look at a movie.

    Raises:
        MediaError: missing, empty, no movie, or nothing in it can be decoded.
    """
    with open_movie(path) as container:
        video = movie_stream(container, path)
        told = _color_tags(video.codec_context)
        frame = next(decoded(container, video), None)
        if frame is None:
            raise MediaError(f"No picture of {path} can be decoded.")
        rate = video.guessed_rate or video.average_rate
        if not rate:
            raise MediaError(f"{path} does not say its frame rate.", "Convert it to .mp4 or .mov first.")
        frames = _frame_count(container, video, rate)
        if frames < 1:
            raise MediaError(f"{path} does not say how long it is.", "Convert it to .mp4 or .mov first.")
        side = _side_data(frame)
        matrix = side.get("DISPLAYMATRIX")
        rotation = round(frame.rotation / 90) % 4 if matrix is not None else 0
        size = (frame.height, frame.width) if rotation % 2 else (frame.width, frame.height)
        own = _color_tags(frame)
        tags = [one if one != silent else other for one, silent, other in zip(own, untagged, told, strict=True)]
        return SourceInfo(
            kind="movie",
            width=size[0],
            height=size[1],
            rate=Fraction(rate),
            frames=frames,
            pixel_format=editable(frame).format.name,
            has_sound=len(container.streams.audio) > 0,
            paths=(path,),
            codec=video.codec_context.name,
            container=container.format.name,
            stream=video.index,
            rotation=rotation,
            display_matrix=tuple(int(v) for v in np.frombuffer(matrix, np.int32)) if matrix is not None else (),
            time_base=video.time_base or Fraction(1),
            first_pts=video.start_time if video.start_time is not None else (frame.pts or 0),
            sample_aspect_ratio=video.sample_aspect_ratio or None,
            color_range=tags[0],
            colorspace=tags[1],
            color_primaries=tags[2],
            color_trc=tags[3],
            profile=video.profile or "",
            field_order=_field_order(frame, video),
            mastering_display=_mastering_display(side),
            content_light=_content_light(side),
            tied=tuple(name for kind, name in tied_kinds.items() if side.get(kind) is not None),
            tags=tags_of(container, video),
        )


def probe_images(paths: Sequence[str], rate: Fraction) -> SourceInfo:
    """Look at an image sequence: decodes the first image, and sees that the others exist.

    Args:
        paths: image files in the order of their frames.
        rate: frames per second at which they are shown.

    Raises:
        MediaError: no images, one is missing, or the first cannot be decoded.
    """
    if not paths:
        raise MediaError("An image sequence needs at least one image.", "Name the image files of the strip.")
    for path in paths:
        if not os.path.isfile(path):
            raise MediaError(f"There is no file {path}.", "Check the path, or reload the strip in Blender.")
    frame, codec, rotation = decode_image(paths[0])
    size = (frame.height, frame.width) if rotation % 2 else (frame.width, frame.height)
    return SourceInfo(
        kind="images",
        width=size[0],
        height=size[1],
        rate=rate,
        frames=len(paths),
        pixel_format=frame.format.name,
        has_sound=False,
        paths=tuple(paths),
        codec=codec,
        rotation=rotation,
        time_base=1 / rate,
        color_range=frame.color_range,
        colorspace=frame.colorspace,
        color_primaries=frame.color_primaries,
        color_trc=frame.color_trc,
    )


def open_movie(path: str) -> InputContainer:
    """The container of a movie, or of a sound file.

    Raises:
        MediaError: no such file, or nothing FFmpeg knows as a movie or sound; a list of other files.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise MediaError(f"There is no file {path}.", "Check the path, or reload the strip in Blender.") from None
    except OSError as e:
        raise MediaError(f"{path} cannot be read: {e.strerror}.", "Check the path and the rights to it.") from None
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{path} is no file but a folder or a device.", "Name the movie or sound file itself.")
    if found.st_size == 0:
        raise MediaError(f"{path} is empty.", "Copy or export it again.")
    try:
        # Playlists are text that can name other files and hosts: only this file may be read.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    except PermissionError as e:
        raise MediaError(f"{path} cannot be read: {e.strerror}.", "Check the rights to it.") from None
    except (FFmpegError, OSError, ValueError):
        raise MediaError(f"{path} is not a movie or sound file that can be read.") from None
    name = container.format.name
    if name.endswith("_pipe") or name in ("image2", "tty", "hls", "dash", "sdp", "concat"):
        container.close()
        raise MediaError(
            f"{path} is not a movie or sound file but {name.removesuffix('_pipe')}.", "Name the movie or sound itself."
        )
    return container


def movie_stream(container: InputContainer, path: str) -> av.VideoStream:
    """The stream Blender shows: the first video stream that is no cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or streams[0].codec_context is None:
        raise MediaError(f"{path} has no picture.", "Choose a movie; a sound file alone has no lips to change.")
    return streams[0]


def decoded(
    container: InputContainer, video: av.VideoStream, trouble: deque[int] | None = None
) -> Iterator[av.VideoFrame]:
    """Frames in presentation order from where the container stands. Damaged packets are passed over.

    Args:
        trouble: gets the times, in units of the time base, at which something was damaged. They are those of what goes
            into the decoder, which is some frames ahead of what comes out.
    """
    time = 0
    decoder = video.codec_context
    if video.metadata.get("alpha_mode") == "1" and decoder.name in ("vp8", "vp9"):
        # FFmpeg's own VP8 and VP9 decoders do not see the alpha channel; libvpx does, and Blender uses it too.
        other = av.VideoCodecContext.create("libvpx" if decoder.name == "vp8" else "libvpx-vp9", "r")
        assert isinstance(other, av.VideoCodecContext)
        decoder = other
    packets = container.demux(video)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            packet = None
        if packet is not None:
            time = packet.pts if packet.pts is not None else time
            if packet.is_corrupt and trouble is not None:
                trouble.append(time)
        try:
            yield from decoder.decode(packet if packet is not None and packet.size else None)
        except EndOfFile:
            return
        except FFmpegError:
            if trouble is not None:
                trouble.append(time)
            if packet is not None:
                continue
        if packet is None or not packet.size:
            return


def _color_tags(told: av.VideoFrame | av.VideoCodecContext) -> tuple[int, int, int, int]:
    """Range, matrix, primaries and transfer: of a picture, or before the first one is decoded of its container.

    A decoder forgets the container's where the pictures are silent, as ProRes of many cameras is.
    """
    return told.color_range, told.colorspace, told.color_primaries, told.color_trc


def _field_order(frame: av.VideoFrame, video: av.VideoStream) -> int:
    """The order of an interlaced frame's fields; DV's is bottom first, all else without a word is top first."""
    if not frame.interlaced_frame:
        return 0
    told = video.codec_context.field_order
    return told if told > 1 else 3 if video.codec_context.name == "dvvideo" else 2


def _side_data(frame: av.VideoFrame) -> Mapping[str, Any]:
    """By FFmpeg's names, what a decoded picture holds beside its samples.

    Of a picture with a kind that PyAV does not know yet, such as the Exif of a motion JPEG, none can be asked for.
    """
    try:
        return frame.side_data
    except ValueError:
        return {}


def _mastering_display(side: Mapping[str, Any]) -> str:
    data = side.get("MASTERING_DISPLAY_METADATA")
    if data is None:
        return ""
    # AVMasteringDisplayMetadata: red, green, blue, white (x, y each), darkest, brightest; then what of it is there.
    values = np.frombuffer(data, np.int32)
    fractions = values[:20].reshape(10, 2)
    if not (values[20] and values[21] and fractions[:, 1].all()):
        return ""
    part = [Fraction(int(over), int(under)) for over, under in fractions]
    red, green, blue, white = (
        f"({_rounded(x * 50000)},{_rounded(y * 50000)})" for x, y in zip(part[:8:2], part[1:8:2], strict=True)
    )
    return f"G{green}B{blue}R{red}WP{white}L({_rounded(part[9] * 10000)},{_rounded(part[8] * 10000)})"


def _content_light(side: Mapping[str, Any]) -> str:
    data = side.get("CONTENT_LIGHT_LEVEL")
    return "" if data is None else ",".join(str(v) for v in np.frombuffer(data, np.uint32)[:2])


def _frame_count(container: InputContainer, video: av.VideoStream, rate: Fraction) -> int:
    """Blender's count: the stream's length times the rate, or the container's where the stream does not say."""
    if video.duration is not None:
        return _rounded(video.duration * (video.time_base or 1) * rate)
    if container.duration is not None:
        sound = container.streams.audio[0] if container.streams.audio else None
        late = _start(video) - (_start(sound) if sound is not None else 0)
        return _rounded((Fraction(container.duration, av.time_base) - max(late, Fraction(0))) * rate)
    return video.frames


def _start(stream: Stream) -> Fraction:
    return stream.start_time * (stream.time_base or Fraction(1)) if stream.start_time is not None else Fraction(0)


def _rounded(value: Fraction) -> int:
    """Halves go up, as in C's lround; Python's round would make 74 of 74.5."""
    return floor(value + Fraction(1, 2))
