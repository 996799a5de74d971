# SPDX-License-Identifier: GPL-3.0-or-later
"""Content Credentials (C2PA): a signed statement in the file itself of what was done to it and by what."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import JobError

algorithms = (b"es256", b"es384", b"es512", b"ps256", b"ps384", b"ps512", b"ed25519")
"""Signatures that C2PA knows, the usual one first: the key tells which is its own."""
media_types = {
    ".mp4": "video/mp4", ".mov": "video/quicktime", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
    ".tif": "image/tiff", ".tiff": "image/tiff", ".webp": "image/webp",
}  # fmt: skip
"""Files that can hold Content Credentials."""

Sign = Callable[[str, str, str], None]
"""Copies the first file to the second, signed; the third is the original that it was made from, or empty."""


def signer(certificate: str, key: str, endings: set[str], statement: dict[str, Any]) -> Sign:
    """What signs new media in the user's name.

    Args:
        certificate: PEM file of the certificate and those above it, without the root.
        key: PEM file of its private key, without a passphrase.
        endings: of the file names that will be signed.
        statement: `name`, `version`, `description` and `source_type` (an IPTC address) of what was done.

    Raises:
        JobError: a file cannot be read or used, a kind of file cannot hold credentials, or c2pa-python is missing.
    """
    unfit = sorted(endings - set(media_types))
    if unfit:
        raise JobError(
            f"A {unfit[0]} file cannot hold Content Credentials.",
            "Make a .mp4 or .mov, or PNG, JPEG, TIFF or WebP images; or leave the certificate out.",
        )
    chain, secret = _read(certificate, "certificate"), _read(key, "key")
    try:
        c2pa: Any = importlib.import_module("c2pa")
    except ImportError:
        raise JobError(
            "Content Credentials need the package c2pa-python, which is not installed.",
            "Install it into the same Python: pip install c2pa-python; or leave the certificate out.",
        ) from None
    own = _signer(c2pa, chain, secret, certificate)

    def sign(source: str, output: str, original: str) -> None:
        name = os.path.basename(original) or "footage"
        manifest = _manifest(statement, os.path.basename(output))
        kind = media_types.get(os.path.splitext(original)[1].lower(), "")
        try:
            if kind and os.path.isfile(original):
                builder = c2pa.Builder(json.dumps(manifest))
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                with open(original, "rb") as file:  # what it says of its own origin comes along
                    builder.add_ingredient(json.dumps({"title": name, "relationship": "parentOf"}), kind, file)
            else:
                builder = c2pa.Builder(json.dumps(_from_unread(manifest, name)))
            builder.sign_file(source, output, own)
        except c2pa.C2paError as e:
            raise JobError(
                f"The Content Credentials cannot be signed: {_said(e)}.",
                "Check that the certificate is valid today and made for signing documents or e-mail.",
            ) from None

    return sign


def _signer(c2pa: Any, chain: bytes, secret: bytes, certificate: str) -> Any:
    refusals = []
    for algorithm in algorithms:
        try:
            return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, secret, None))
        except c2pa.C2paError as e:
            refusals.append(_said(e))
    raise JobError(
        f"The certificate {certificate} and its key cannot be used: {refusals[0]}.",
        "Give a PEM file with the certificate and those above it, and one with its unencrypted PKCS #8 key.",
    )


def _manifest(statement: dict[str, Any], title: str) -> dict[str, Any]:
    agent = {"name": statement["name"], "version": statement["version"]}
    action = {
        "action": "c2pa.edited",
        "softwareAgent": agent,
        "digitalSourceType": statement["source_type"],
        "description": statement["description"],
    }
    actions = {"label": "c2pa.actions", "data": {"actions": [action]}}
    return {"claim_generator_info": [agent], "title": title, "assertions": [actions]}


def _from_unread(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """The manifest of something made from a file that C2PA cannot look into."""
    reference = "xmp:iid:original"
    opened = {"action": "c2pa.opened", "parameters": {"org.cai.ingredientIds": [reference]}}
    manifest["assertions"][0]["data"]["actions"].insert(0, opened)
    original = {"title": name, "format": "application/octet-stream", "relationship": "parentOf"}
    return {**manifest, "ingredients": [{**original, "instance_id": reference}]}


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise JobError(f"The {what} {path} cannot be read: {e.strerror}.", "Check the path.") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
