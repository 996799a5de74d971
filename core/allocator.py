# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps glibc from giving every freed tensor back to the system, which costs more than computing with it."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_trim_threshold, _top_pad, _mmap_threshold, _arena_max = -1, -2, -3, -8  # M_… of malloc.h


def keep_freed_memory() -> None:
    """Lets large blocks be reused within this process. On Linux with glibc; elsewhere nothing happens.

    Six batches of 16 faces through the bundled model's network took 0.21 s of system time without it, page faults
    mostly, and 0.005 s with it. The process keeps its peak memory until it ends, as a worker and a training run do.
    """
    mallopt = _of_glibc("mallopt")
    if not mallopt:
        return
    mallopt(_mmap_threshold, 1 << 30)
    mallopt(_trim_threshold, (1 << 31) - 1)
    mallopt(_top_pad, 64 << 20)
    mallopt(_arena_max, 2)  # else each thread keeps freed memory of its own: 50 MiB more for 1080p


def give_back_freed_memory() -> None:
    """Returns what is free now to the system, where one stage's large blocks are of no use to the next one's threads.

    Planning 10,000 frames leaves free memory that the threads which draw and paste would not use.
    """
    trim = _of_glibc("malloc_trim")
    if trim:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where that is another one."""
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # such as musl's
        return None
