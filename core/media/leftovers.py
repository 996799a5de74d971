# SPDX-License-Identifier: GPL-3.0-or-later
"""Temporary names of an output, and what a process that was killed has left under them."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

longest_token = 28
"""Characters of the longest `token`: a process number of ten digits, and the rest."""


def temporary_name(name: str, token: str, suffix: str) -> str:
    """What is not yet the file `name` is called beside it."""
    return f".{name}.{token}.part{suffix}"


def token() -> str:
    """New, for one output: the number of this process, the machine, and a random number.

    The process comes first, so that whoever clears away after it takes nobody else's (core.client.remove_leftovers).
    """
    return f"{os.getpid()}-{machine()}-{secrets.token_hex(4)}"


@cache
def machine() -> str:
    """Eight hexadecimal digits of the place in which a process number means one process.

    Folders are shared between machines, and machines between containers, which count their processes for themselves. In
    doubt two runs on one machine give different digits, and what one leaves the other lets lie.
    """
    cards = sorted(card.parent for card in Path("/sys/class/net").glob("*/device"))  # not what containers come with
    told = [platform.node()]
    for path in ("/etc/machine-id", *(card / "address" for card in cards)):
        with suppress(OSError):  # other systems have no such files
            told.append(Path(path).read_text(encoding="ascii", errors="replace"))
    with suppress(OSError):
        told.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\n".join(told).encode("utf-8", "replace")).hexdigest()[:8]


def remove_of_the_dead(output: str) -> None:
    """Removes what processes of this machine that have ended left on their way to `output`, as far as we may.

    Nothing is removed on Windows, where asking whether a process lives is not as simple.
    """
    folder, name = os.path.split(os.path.abspath(output))
    token = rf"(\d{{1,10}})-{machine()}-[0-9a-f]{{8}}"
    like = re.compile(rf"\.{re.escape(name)}\.{token}\.part(\.signed)?(\.\w{{3}})?(\.json)?")
    if os.name == "nt":
        return
    with suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            match = like.fullmatch(entry)
            if match and not _lives(int(match[1])):
                remove(os.path.join(folder, entry))


def _lives(process: int) -> bool:
    """Whether any process has this number now."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True


def remove(temporary: str) -> None:
    """Removes a file or a folder with all that is in it, as far as the system lets us."""
    if os.path.isdir(temporary) and not os.path.islink(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        with suppress(OSError):
            os.remove(temporary)
