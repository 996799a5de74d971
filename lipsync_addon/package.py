# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the extension's zip; needs neither Blender nor bpy: `python -m lipsync_addon.package OUT.zip`.

A zip has the manifest and an `__init__.py` at its root, `lipsync_addon/` and `core/` below. That `__init__.py` and the
list of the runtime's packages are made here: in a checkout the first would turn the whole repository into one
package, and the second stands in pyproject.toml already. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import tomllib
import zipfile
from pathlib import Path

root_module = """# SPDX-License-Identifier: GPL-3.0-or-later
from .lipsync_addon import register, unregister

__all__ = ["register", "unregister"]
"""


def build(output: Path, root: Path = Path(__file__).parent.parent) -> Path:
    """Writes the extension in the checkout `root` to `output` (replaced only when the new one is complete)."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    contents = {
        "__init__.py": root_module.encode(),
        "requirements.txt": "".join(f"{line}\n" for line in project["dependencies"]).encode(),
    }
    for name in ("blender_manifest.toml", "constraints.txt", "LICENSE"):
        contents[name] = (root / name).read_bytes()
    for package in ("core", "lipsync_addon"):
        for path in (root / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                contents[path.relative_to(root).as_posix()] = path.read_bytes()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name), contents[name], zipfile.ZIP_DEFLATED)
    os.replace(partial, output)
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m lipsync_addon.package", description="Builds the extension's zip.")
    parser.add_argument("output", type=Path, help="the zip to write")
    print(build(parser.parse_args().output))
