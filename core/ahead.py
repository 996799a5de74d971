# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages of the pipeline at the same time: what decodes, draws or encodes leaves Python's lock to the others."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def ahead(items: Generator[T, None, None], most: int = 1) -> Iterator[Iterator[T]]:
    """`items`, which a thread of their own makes while those before are used.

    What making them raises is raised where they are used. At the end of the `with` block no more are made, and `items`
    are closed.

    Args:
        most: how many may be made or wait while another is used.
    """
    room, made, ended = Semaphore(most), SimpleQueue[tuple[T | None, BaseException | None]](), False

    def make() -> None:
        try:
            while room.acquire() and not ended:
                made.put((next(items), None))
        except BaseException as error:
            made.put((None, error))
        finally:
            items.close()

    def use() -> Iterator[T]:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item  # pyright: ignore[reportReturnType] (None only beside an error)
            del item

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        yield use()
    finally:
        ended = True
        room.release()
        thread.join()
