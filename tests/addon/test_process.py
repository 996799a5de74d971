# SPDX-License-Identifier: GPL-3.0-or-later
"""What needs no Blender: the zip, the choice of the runtime, and the talk with a process."""

from __future__ import annotations

import sys
import time
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from core import __version__, client, errors, job
from lipsync_addon import package, runtime

repository = Path(__file__).parent.parent.parent


def test_the_zip_is_complete_and_the_same_twice(tmp_path):
    first, second = package.build(tmp_path / "a" / "1.zip"), package.build(tmp_path / "2.zip")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
        wanted = archive.read("requirements.txt").decode()
    assert {
        "__init__.py",
        "LICENSE",
        "constraints.txt",
        "core/worker.py",
        "core/job.py",
        "lipsync_addon/strips.py",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "training_cli"))]
    assert {f.relative_to(repository).as_posix() for f in (repository / "core" / "weights").iterdir()} <= names
    assert manifest["version"] == __version__
    assert "torch" in wanted and "bpy" not in wanted
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["1.zip"]


def test_a_runtime_is_looked_for_in_order(tmp_path, monkeypatch):
    preferred, named, folder = tmp_path / "preferred", tmp_path / "named", tmp_path / "runtime"
    own = runtime.own_python(folder)
    monkeypatch.delenv("LIPSYNC_PYTHON", raising=False)
    with pytest.raises(errors.LipSyncError, match="no runtime yet"):
        runtime.find("", folder)
    own.parent.mkdir(parents=True)
    own.touch()
    with pytest.raises(errors.LipSyncError, match="no runtime yet"):
        runtime.find("", folder)  # half-made: its packages are still being installed
    (folder / runtime.ready_mark).touch()
    assert runtime.find("", folder) == own
    monkeypatch.setenv("LIPSYNC_PYTHON", str(named))
    with pytest.raises(errors.LipSyncError, match="named in LIPSYNC_PYTHON does not exist"):
        runtime.find("", folder)
    named.touch()
    assert runtime.find("", folder) == named
    with pytest.raises(errors.LipSyncError, match="preferences does not exist"):
        runtime.find(str(preferred), folder)
    preferred.touch()
    assert runtime.find(str(preferred), folder) == preferred


def test_a_runtime_is_checked_before_it_is_used(tmp_path):
    assert "with all packages" in runtime.check(Path(sys.executable))
    text = tmp_path / "text"
    text.write_text("no program")
    with pytest.raises(errors.LipSyncError, match="does not answer as a Python"):
        runtime.check(text)
    venv.create(tmp_path / "bare", with_pip=False)
    missing = "has no av, cv2, mediapipe, numpy, onnxruntime, platformdirs, safetensors, scipy, silero_vad, torch"
    with pytest.raises(errors.LipSyncError, match=missing):
        runtime.check(runtime.own_python(tmp_path / "bare"))


def test_a_runtime_that_cannot_be_made_is_not_used(tmp_path, monkeypatch):
    """pip fails without the network; what it leaves must not look like a runtime."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr(runtime, "core_folder", tmp_path / "extension" / "core")
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "requirements.txt").write_text("no-such-package-of-lipsync\n")
    (tmp_path / "extension" / "constraints.txt").write_text("")
    folder, log = tmp_path / "runtime", tmp_path / "logs" / "install.log"
    said = set()
    with pytest.raises(errors.LipSyncError, match="Installing the packages failed"):
        for text in runtime.create(Path(sys.executable), folder, log):
            said.add(text)
    assert said == {"Making the environment", "Installing the packages"}
    assert "no-such-package-of-lipsync" in log.read_text()
    monkeypatch.delenv("LIPSYNC_PYTHON", raising=False)
    with pytest.raises(errors.LipSyncError, match="no runtime yet"):
        runtime.find("", folder)


def test_a_runtime_is_made_and_used(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "core_folder", tmp_path / "core")
    monkeypatch.setattr(runtime, "needed_modules", ("pip",))
    monkeypatch.setattr(runtime.check, "__defaults__", (("pip",),))
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "constraints.txt").write_text("")
    for _ in runtime.create(Path(sys.executable), tmp_path / "runtime", tmp_path / "install.log"):
        pass
    monkeypatch.delenv("LIPSYNC_PYTHON", raising=False)
    assert runtime.find("", tmp_path / "runtime") == runtime.own_python(tmp_path / "runtime")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(3)", "ended unexpectedly (exit status 3)"),
        ("print('Loading model…', flush=True); input()", "an answer of the wrong kind"),
        ("import sys; sys.stdin.close(); sys.exit('no torch')", "ended unexpectedly (exit status 1)"),
    ],
)
def test_a_process_that_is_no_worker_becomes_one_sentence(tmp_path, code, words):
    worker = client.Worker([sys.executable, "-c", code], tmp_path / "logs" / "worker.log")
    try:
        worker.send(job.Cancel())
        answer = worker.receive(60)
        assert isinstance(answer, job.Failure) and answer.kind == "Crash"
        assert words in answer.message and str(worker.log) in answer.hint
    finally:
        worker.close()


def test_a_runtime_without_its_packages_says_which_one_it_lacks(tmp_path):
    """The commonest mistake: some Python is named in the preferences. "Try again" would not help."""
    venv.create(tmp_path / "bare", with_pip=False)
    worker = client.Worker(runtime.command(runtime.own_python(tmp_path / "bare")), tmp_path / "worker.log")
    try:
        worker.send(job.RedubJob(speech="a.wav", output="b.mp4", video="c.mp4"))
        assert isinstance(worker.receive(60), job.Hello)
        answer = worker.receive(60)
        assert isinstance(answer, job.Failure) and answer.kind != "Crash"
        assert "cannot be loaded: No module named" in answer.message and "Check Runtime" in answer.hint
    finally:
        worker.close()


def test_a_program_that_cannot_be_started_is_one_sentence(tmp_path):
    with pytest.raises(errors.LipSyncError, match="cannot be started"):
        client.Worker([str(tmp_path / "nothing")], tmp_path / "worker.log")


def test_a_worker_that_does_not_listen_is_ended_by_force(tmp_path, monkeypatch):
    """Quitting Blender must not leave a process behind that holds the graphics card."""
    monkeypatch.setattr(client, "grace", 0.2)
    worker = client.Worker(
        [sys.executable, "-c", f"print({job.to_json(job.Hello('0', '3'))!r}, flush=True)\nwhile True: pass"],
        tmp_path / "worker.log",
    )
    assert isinstance(worker.receive(60), job.Hello)
    worker.close()
    assert worker._process.returncode not in (None, 0)


def test_several_workers_that_do_not_listen_are_waited_for_together(tmp_path, monkeypatch):
    """Quitting Blender with eight of them would take most of a minute."""
    monkeypatch.setattr(client, "grace", 2.0)
    program = f"print({job.to_json(job.Hello('0', '3'))!r}, flush=True)\nwhile True: __import__('time').sleep(1)"
    workers = [client.Worker([sys.executable, "-c", program], tmp_path / f"{n}.log") for n in range(4)]
    for worker in workers:
        assert isinstance(worker.receive(60), job.Hello)
    begun = time.monotonic()
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.close()
    assert 2 <= time.monotonic() - begun < 6
    assert all(worker._process.returncode not in (None, 0) for worker in workers)


def test_the_real_worker_greets_and_refuses_bad_media(tmp_path):
    """The command Blender uses, with nothing but the extension's unpacked core beside it."""
    with zipfile.ZipFile(package.build(tmp_path / "x.zip")) as archive:
        archive.extractall(tmp_path / "extension")
    command = runtime.command(Path(sys.executable))
    command[-1] = str(tmp_path / "extension" / "core" / "worker.py")
    (tmp_path / "text.mp4").write_text("no movie")
    worker = client.Worker(command, tmp_path / "worker.log")
    try:
        hello = worker.receive(60)
        assert isinstance(hello, job.Hello) and hello.version == __version__
        worker.send(job.RedubJob(speech="none.wav", output=str(tmp_path / "out.mp4"), video=str(tmp_path / "text.mp4")))
        answer = worker.receive(120)
        assert isinstance(answer, job.Failure) and answer.kind == "MediaError" and answer.hint
    finally:
        worker.close()
    assert not (tmp_path / "out.mp4").exists()
