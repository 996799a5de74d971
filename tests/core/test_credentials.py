# SPDX-License-Identifier: GPL-3.0-or-later
# pyright: reportMissingImports=none
"""Content Credentials: what the user signs is signed and holds; what cannot be is said before any work."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from portrait_clips import write_images, write_movie

from core import media, provenance, redub
from core.errors import JobError
from core.job import Progress, RedubJob


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for signing, its issuer's after it, and its key: made here, trusted by nobody."""
    pytest.importorskip("cryptography", reason="certificates are made with cryptography, which c2pa-python brings")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "T")]
        )

    issuer_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)

    def made(name: str, public: Any, issuer: bool) -> x509.Certificate:
        usage = x509.KeyUsage(True, False, False, False, False, issuer, issuer, False, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("Issuer"))
            .public_key(public)
            .serial_number(1 if issuer else 2)
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(issuer, None), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
        )
        if not issuer:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), True)
        return builder.sign(issuer_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    folder = tmp_path_factory.mktemp("certificate")
    chain = [made("Signer", key.public_key(), False), made("Issuer", issuer_key.public_key(), True)]
    (folder / "chain.pem").write_bytes(b"".join(one.public_bytes(pem) for one in chain))
    pkcs8 = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return str(folder / "chain.pem"), str(folder / "key.pem")


@pytest.fixture
def c2pa() -> Any:
    return pytest.importorskip("c2pa", reason="c2pa-python, an optional package, is not installed")


@pytest.fixture
def make_job(make_speech: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> Callable[..., RedubJob]:
    def make(output: str, signed_with: tuple[str, str], **fields: Any) -> RedubJob:
        defaults = {"sound": "none", "device": "cpu", "silence": "off"}
        given = {"speech": str(make_speech(1.2)), "model": str(tiny_model), "output": str(tmp_path / output)}
        return RedubJob(**{**defaults, **given, **fields}, c2pa_certificate=signed_with[0], c2pa_key=signed_with[1])

    return make


def statement(c2pa: Any, path: str) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """How a file's credentials hold, the actions they tell of, and what it was made from."""
    with c2pa.Reader(path) as reader:
        told = json.loads(reader.json())
    manifest = told["manifests"][told["active_manifest"]]
    actions = next(a["data"]["actions"] for a in manifest["assertions"] if a["label"].startswith("c2pa.actions"))
    return told["validation_state"], actions, manifest["ingredients"]


@pytest.mark.parametrize(("name", "output"), [("clip.mp4", "new.mp4"), ("clip.mkv", "new.mov")])
def test_a_signed_movie_holds_and_tells_what_was_done(
    c2pa: Any, certificate: tuple[str, str], make_job: Callable[..., RedubJob], tmp_path: Path, name: str, output: str
) -> None:
    source = write_movie(tmp_path / name, 6)
    job = make_job(output, certificate, video=str(source))
    redub.run(job)
    state, actions, ingredients = statement(c2pa, job.output)
    assert state == "Valid"
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.edited"]
    assert actions[1]["digitalSourceType"] == provenance.source_type
    assert [(one["title"], one["relationship"]) for one in ingredients] == [(name, "parentOf")]
    assert media.probe(job.output).frames == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, output, f"{output}.lipsync.json"])
    data = bytearray(Path(job.output).read_bytes())
    data[data.index(b"mdat") + 200] ^= 1
    Path(job.output).write_bytes(data)
    assert statement(c2pa, job.output)[0] == "Invalid", "a picture that was changed later must show"


def test_each_changed_image_is_signed(
    c2pa: Any, certificate: tuple[str, str], make_job: Callable[..., RedubJob], tmp_path: Path
) -> None:
    paths = write_images(tmp_path / "in", "png", "rgb24", "png", 3)
    redub.run(make_job("out", certificate, images=tuple(paths), rate=Fraction(25), speech_start=Fraction(1, 25)))
    new = [tmp_path / "out" / Path(path).name for path in paths]
    assert [statement(c2pa, str(path))[0] for path in new[1:]] == ["Valid", "Valid"]
    assert new[0].read_bytes() == Path(paths[0]).read_bytes()


def refused(job: RedubJob, folder: Path) -> JobError:
    there, told = sorted(p.name for p in folder.iterdir()), list[Progress]()
    with pytest.raises(JobError) as caught:
        redub.run(job, told.append)
    assert not told, "the user waited for the faces to hear of this"
    assert sorted(p.name for p in folder.iterdir()) == there
    assert caught.value.hint
    return caught.value


def test_without_the_package_one_sentence_names_it(
    make_job: Callable[..., RedubJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    for name in ("chain.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----")
    source = write_movie(tmp_path / "clip.mp4", 2)
    job = make_job("new.mp4", (str(tmp_path / "chain.pem"), str(tmp_path / "key.pem")), video=str(source))
    error = refused(job, tmp_path)
    assert "c2pa-python" in str(error)
    assert "pip install" in error.hint


def test_a_kind_of_file_that_holds_no_credentials_is_refused(make_job: Callable[..., RedubJob], tmp_path: Path) -> None:
    source = write_movie(tmp_path / "clip.mkv", 2)
    shutil.copy(source, tmp_path / "chain.pem")
    error = refused(make_job("new.mkv", (str(tmp_path / "chain.pem"),) * 2, video=str(source)), tmp_path)
    assert ".mkv" in str(error)


def test_a_missing_certificate_is_named(make_job: Callable[..., RedubJob], tmp_path: Path) -> None:
    source = write_movie(tmp_path / "clip.mp4", 2)
    error = refused(make_job("new.mp4", (str(tmp_path / "gone.pem"), str(source)), video=str(source)), tmp_path)
    assert "gone.pem" in str(error)


def test_a_key_that_is_none_is_one_sentence(
    c2pa: Any, certificate: tuple[str, str], make_job: Callable[..., RedubJob], tmp_path: Path
) -> None:
    source = write_movie(tmp_path / "clip.mp4", 2)
    error = refused(make_job("new.mp4", (certificate[0], str(source)), video=str(source)), tmp_path)
    assert certificate[0] in str(error)
    assert "\n" not in str(error)
