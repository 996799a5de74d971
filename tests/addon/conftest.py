# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests inside a real Blender: each runs in a process of its own that has bpy, with the built extension installed.

A test marked `blender` is run twice: here it starts that process, there it is the test. The process has its own
user folder (BLENDER_USER_RESOURCES) and ends by os._exit, because some Blenders hang when they are taken down after
undo steps. LIPSYNC_BPY_PYTHON names another Python whose bpy is to be tested (it needs av and pytest too).
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

here = Path(__file__).parent
repository = here.parent.parent
inside = "LIPSYNC_TEST_EXTENSION" in os.environ
if str(here) not in sys.path:
    sys.path.insert(0, str(here))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "blender: runs in a process of its own that has bpy")


def pytest_unconfigure(config: pytest.Config) -> None:
    if inside:
        sys.stdout.flush()
        sys.stderr.flush()
        import bpy  # only in here

        shutil.rmtree(bpy.app.tempdir, ignore_errors=True)  # which bpy leaves when it is not unloaded
        os._exit(getattr(config, "lipsync_status", 3))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.lipsync_status = int(exitstatus)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built zip."""
    if inside:
        return Path(os.environ["LIPSYNC_TEST_EXTENSION"])
    output = tmp_path_factory.mktemp("extension") / "lip_sync_redub.zip"
    subprocess.run([sys.executable, "-m", "lipsync_addon.package", str(output)], cwd=repository, check=True)
    return output


def pytest_itemcollected(item: pytest.Item) -> None:
    if not inside and isinstance(item, pytest.Function) and item.get_closest_marker("blender"):
        item.fixturenames[:] = ["extension", "tmp_path"]  # its own ones are for the other process


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if inside or not pyfuncitem.get_closest_marker("blender"):
        return None
    temporary = Path(str(pyfuncitem.funcargs["tmp_path"]))
    environment = {
        **os.environ,
        "LIPSYNC_TEST_EXTENSION": str(pyfuncitem.funcargs["extension"]),
        "LIPSYNC_TEST_PYTHON": sys.executable,
        "BLENDER_USER_RESOURCES": str(temporary / "blender"),
    }
    environment.pop("LIPSYNC_PYTHON", None)
    python = os.environ.get("LIPSYNC_BPY_PYTHON", sys.executable)
    options = ["-q", "-rs", "--no-header", "-p", "no:cacheprovider", "--basetemp", str(temporary / "inside")]
    run = subprocess.run(
        [python, "-m", "pytest", pyfuncitem.nodeid, "--rootdir", str(pyfuncitem.config.rootpath), *options],
        cwd=pyfuncitem.config.rootpath,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    skipped = re.search(r"^SKIPPED .*?: (.*)$", run.stdout, re.MULTILINE)
    if run.returncode == 0 and skipped:
        pytest.skip(skipped[1])
    if run.returncode != 0 or " passed" not in run.stdout:
        pytest.fail(f"exit status {run.returncode}\n{run.stdout}\n{run.stderr}", pytrace=False)
    return True


@pytest.fixture
def addon(extension: Path) -> SimpleNamespace:
    """The installed and enabled extension's modules; its worker is the test's own (echo_worker.py)."""
    addon = install(extension)
    shutil.copy(here / "echo_worker.py", Path(addon.runtime.core_folder) / "worker.py")
    return addon


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """Folder in which the test worker leaves its jobs."""
    folder = tmp_path / "echo"
    folder.mkdir()
    monkeypatch.setenv("ECHO_FOLDER", str(folder))
    monkeypatch.setenv("ECHO_HELPERS", str(here))
    return folder


@pytest.fixture
def cut(addon, tmp_path):
    """An empty 25 fps timeline and helpers to put strips on it."""
    from timeline import Cut

    return Cut(addon, tmp_path)


@pytest.fixture
def real_addon(extension: Path) -> SimpleNamespace:
    """The installed and enabled extension's modules, with the real worker."""
    return install(extension)


def install(extension: Path) -> SimpleNamespace:
    import bpy

    bpy.ops.extensions.package_install_files(filepath=str(extension), repo="user_default", enable_on_install=True)
    root = "bl_ext.user_default.lip_sync_redub"
    bpy.context.preferences.addons[root].preferences.python = os.environ["LIPSYNC_TEST_PYTHON"]
    names = (
        "batch",
        "headless",
        "operators",
        "panels",
        "people",
        "preferences",
        "properties",
        "runtime",
        "shared",
        "speech",
        "strips",
        "trial",
    )
    return SimpleNamespace(
        root=root, **{name: importlib.import_module(f"{root}.lipsync_addon.{name}") for name in names}
    )
