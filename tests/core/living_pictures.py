# SPDX-License-Identifier: GPL-3.0-or-later
"""How many decoded pictures are in memory at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core import media


def most_living(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """From now on counts the pictures that `media.read` gives; tells the most that lived at one time."""
    living = most = 0
    read = media.read

    def die() -> None:
        nonlocal living
        living -= 1

    def counted(*arguments: Any) -> Iterator[media.Picture]:
        nonlocal living, most
        for picture in read(*arguments):
            weakref.finalize(picture, die)
            living += 1
            most = max(most, living)
            yield picture
            del picture

    monkeypatch.setattr(media, "read", counted)
    return lambda: most
