# SPDX-License-Identifier: GPL-3.0-or-later
"""One command at a time in a run's folder. The lock is the system's own and ends with its process, kill -9 or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

name = "lock"
"""Of the file that is locked. It stays, empty: who removed it could let two in at once."""


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is ours until the end. A file system that knows no locks keeps nobody out.

    Raises:
        OSError: the lock's file cannot be written.
    """
    with open(folder / name, "ab") as file:
        yield _taken(file)  # closing it gives it back


def _taken(file: IO[bytes]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        except OSError:
            return True
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # as some network folders answer
        return True
    return True
