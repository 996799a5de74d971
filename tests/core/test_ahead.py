# SPDX-License-Identifier: GPL-3.0-or-later
"""core/ahead.py: stages at the same time must not lose, reorder or hoard pictures, nor outlive their job."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from core.ahead import ahead


class Source:
    """Numbers, with a record of what became of them."""

    def __init__(self, count: int, fails_at: int = -1) -> None:
        self.made, self.closed, self.thread = 0, threading.Event(), threading.get_ident()
        self._count, self._fails_at = count, fails_at

    def items(self) -> Generator[int, None, None]:
        try:
            for number in range(self._count):
                if number == self._fails_at:
                    raise OSError("the disk is gone")
                self.thread = threading.get_ident()
                self.made = number + 1
                yield number
        finally:
            self.closed.set()


def wait_for(source: Source, made: int) -> None:
    for _ in range(500):
        if source.made == made:
            return
        time.sleep(0.01)
    pytest.fail(f"{source.made} were made, not {made}")


def test_every_item_comes_in_order_from_another_thread() -> None:
    source = Source(100)
    with ahead(source.items()) as items:
        assert list(items) == list(range(100))
    assert source.thread != threading.get_ident()
    assert source.closed.is_set()


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_are_made_ahead_than_memory_was_planned_for(most: int) -> None:
    source = Source(100)
    with ahead(source.items(), most) as items:
        for number in items:
            wait_for(source, min(number + 1 + most, 100))
            time.sleep(0.002)
            assert source.made == min(number + 1 + most, 100)


def test_an_error_comes_after_the_items_before_it() -> None:
    """A job's own error classes say what the user can do: they must reach who reports them."""
    got = []
    with pytest.raises(OSError, match="the disk is gone"), ahead(Source(9, fails_at=5).items()) as items:
        got.extend(items)
    assert got == [0, 1, 2, 3, 4]


def test_a_job_that_is_cancelled_leaves_no_thread_and_no_open_file() -> None:
    """Also through two stages: else a cancelled job would go on decoding beside the next."""
    before, source = threading.active_count(), Source(1000)

    def doubled() -> Generator[int, None, None]:
        with ahead(source.items()) as items:
            for number in items:
                yield 2 * number

    with pytest.raises(KeyboardInterrupt), ahead(doubled(), 2) as items:
        assert next(items) == 0
        raise KeyboardInterrupt
    assert source.closed.is_set()
    assert source.made < 10
    assert threading.active_count() == before
