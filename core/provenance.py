# SPDX-License-Identifier: GPL-3.0-or-later
"""What new media say of themselves: that a machine made the lips, with what, and from what."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from . import __version__, credentials, media
from .errors import MediaError
from .job import RedubJob, Result
from .nets.checkpoint import default_model

tool = "Lip Sync Redub"
source_type = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for what was partly made by a trained algorithm."""
not_told = ("output", "debug", "c2pa_certificate", "c2pa_key")
"""Fields of a job that say nothing of its result, or nobody's business."""

packet = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <xmp:CreatorTool>{tool}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
   <Iptc4xmpExt:AISystemUsed>{system}</Iptc4xmpExt:AISystemUsed>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{sentence}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
"""An XMP packet [ISO 16684-1] with the IPTC's fields for generated media."""


def label(
    job: RedubJob,
    pictures: Iterable[str],
    card: dict[str, Any],
    *,
    frames: int,
    changed: Iterable[tuple[int, int]],
    untouched: Iterable[tuple[int, int, str]],
    sign: credentials.Sign | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> media.Label:
    """What the output of a job says. The same job on the same files says the same, wherever they lie.

    Args:
        pictures: the movie, or the images of the range.
        card: the model's.
        frames: in the output.
        changed: ranges with new lips, (first, last) in output frames, both inclusive.
        untouched: the other ranges, with the reason, as in job.Result.
        sign: signs the new media; from `signer`.
        go_on: called after every megabyte of input that was read; may raise to end the work.
    """
    origin = _origin(job, pictures, go_on)
    weights = origin["weights"]
    name = str(card.get("name") or _model(job).stem)
    sentence = f"The lips were synthesised by {tool} {__version__} with the model {name} ({weights['sha256'][:16]})."
    ranges = [list(one) for one in changed]
    record = {
        "tool": tool,  # first: see media.is_record
        "version": __version__,
        "statement": sentence if ranges else "No frame was changed.",
        "digital_source_type": source_type if ranges else "",
        "inputs": origin["inputs"],
        "settings": origin["settings"],
        "model": {"name": name, "licence": str(card.get("licence", "")), "file": weights},
        "result": {"frames": frames, "changed": ranges, "untouched": [list(one) for one in untouched]},
    }
    xmp = packet.format(
        tool=escape(f"{tool} {__version__}"),
        source_type=source_type,
        system=escape(f"{tool} {__version__}, {name}"),
        sentence=escape(sentence),
    )
    return media.Label(
        comment=sentence if ranges else "",
        source_type=source_type if ranges else "",
        xmp=xmp.encode() if ranges else b"",
        record=record,
        sign=sign,
    )


def made_before(job: RedubJob) -> Result | None:
    """What an earlier run answered, if the job's output is there, whole, made of the same files with the same settings.

    The tool's version may have been another. None too where the record beside the output cannot be read, and for a job
    that wants debug pictures, which only a new run can make.
    """
    if job.debug or not os.path.lexists(job.output):
        return None
    last = None if job.frame_count is None else job.start_frame + job.frame_count
    pictures = job.images[job.start_frame : last] or (job.video,)
    try:
        record = json.loads(Path(media.record_path(job.output)).read_text(encoding="utf-8"))
        made = record["result"]
        said = {"inputs": record["inputs"], "settings": record["settings"], "weights": record["model"]["file"]}
        if said != _origin(job, pictures) or not _whole(job.output, record.get("bytes")):
            return None
        rate = job.rate if job.images and job.rate else media.probe(job.video).rate
        return Result(
            output=job.output,
            frames=int(made["frames"]),
            length=round(float(int(made["frames"]) / rate), 3),
            changed=sum(last - first + 1 for first, last in made["changed"]),
            untouched=tuple((int(first), int(last), str(why)) for first, last, why in made["untouched"]),
            made_before=True,
        )
    except (OSError, ValueError, LookupError, TypeError, MediaError):
        return None


def _whole(output: str, told: int | dict[str, int] | None) -> bool:
    """Whether a movie, or each image in a folder, has the bytes that its record tells; old records do not."""
    if isinstance(told, dict):
        return all(os.path.getsize(os.path.join(output, name)) == size for name, size in told.items())
    return os.path.exists(output) and told in (None, os.path.getsize(output))


def signer(job: RedubJob, endings: set[str]) -> credentials.Sign | None:
    """What signs the job's output; None where the job names no certificate.

    Raises:
        JobError: as credentials.signer.
    """
    if not job.c2pa_certificate:
        return None
    statement = {
        "name": tool,
        "version": __version__,
        "source_type": source_type,
        "description": "The lips were synthesised to follow other speech.",
    }
    return credentials.signer(job.c2pa_certificate, job.c2pa_key, endings, statement)


def _model(job: RedubJob) -> Path:
    return Path(job.model) if job.model else default_model


def _origin(job: RedubJob, pictures: Iterable[str], go_on: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """What decides a job's result: its files, its settings and the model's weights, as JSON has them."""
    return {
        "inputs": {
            "pictures": [told(path, go_on) for path in pictures],
            "speech": [told(path, go_on) for path in (job.speech, *(speech for _, speech, _ in job.others))],
            "mix": [told(job.mix, go_on)] if job.mix else [],
        },
        "settings": _settings(job, go_on),
        "weights": told(str(_model(job)), go_on),
    }


def told(path: str, go_on: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """A file's name, size and SHA-256. Not its folder, which is nobody's business and differs between machines."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
            go_on()
    return {"name": os.path.basename(path), "bytes": size, "sha256": digest.hexdigest()}


def _settings(job: RedubJob, go_on: Callable[[], None]) -> dict[str, Any]:
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    fields["others"] = [(face, start) for face, _, start in job.others]  # their speeches are inputs, in this order
    fields["signed"] = bool(job.c2pa_certificate)
    fields["detector"] = job.detector.partition(":")[0]  # without the folder of its weights
    inputs = ("video", "images", "speech", "mix", "model")
    return {name: _setting(value, go_on) for name, value in fields.items() if name not in (*inputs, *not_told)}


def _setting(value: Any, go_on: Callable[[], None]) -> Any:
    """A setting as JSON has it; of a file what `told` tells."""
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, str) and os.path.splitext(value)[1] and os.path.isfile(value):
        return told(value, go_on)
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _setting(one, go_on) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_setting(one, go_on) for one in value]
    return value
