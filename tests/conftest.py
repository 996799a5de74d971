# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of all tests: what fails in the core is read first, real Blender comes last."""

from __future__ import annotations

from pathlib import Path

import pytest

folders = ("core", "training", "examples", "addon")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return folders.index(folder) if folder in folders else -1

    items.sort(key=place)
