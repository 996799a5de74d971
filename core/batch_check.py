# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the lines of a batch could be done, told without making anything."""

from __future__ import annotations

import os
from dataclasses import replace

from .batch import job_of, place
from .errors import JobError, OutputError
from .job import RedubJob


class ListCheck:
    """Looks at the lines of one list in their order, and knows what the earlier ones make."""

    def __init__(self) -> None:
        self._makers: dict[str, tuple[int, RedubJob]] = {}
        """By place of an output: the first line that makes it, and its job."""

    def made_before(self, number: int, line: str) -> bool:
        """Whether the job of a line has been made already.

        Args:
            number: of the line, from 1.
            line: the job in JSON.

        Raises:
            LipSyncError: it has not, and could not be made.
            OSError: the system refuses a file.
        """
        job = job_of(line)
        self._refuse_chain(job)
        self._refuse_clash(number, job)
        from . import provenance, redub  # late: torch takes seconds, which `--help` should not

        if provenance.made_before(job):
            return True
        redub.check(job)
        return False

    def _refuse_clash(self, number: int, job: RedubJob) -> None:
        """The same job twice is no clash: a batch makes it once."""
        for path in filter(None, (job.output, job.debug)):
            first, other = self._makers.setdefault(place(path), (number, job))
            if first != number and (job.debug or replace(job, output="") != replace(other, output="")):
                raise OutputError(
                    f"{path} is where line {first} writes something else.", "Give each line an output of its own."
                )

    def _refuse_chain(self, job: RedubJob) -> None:
        for path in filter(None, (job.video, job.speech, job.mix, *(speech for _, speech, _ in job.others))):
            if place(path) in self._makers and not os.path.lexists(path):
                first, _ = self._makers[place(path)]
                raise JobError(
                    f"{path} is what line {first} is to make, so it cannot be looked at yet.",
                    "Put this line into a list of its own, for afterwards.",
                )
