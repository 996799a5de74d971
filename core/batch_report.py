# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a batch, as a table for people: a CSV file [RFC 4180] with a row for each job."""

from __future__ import annotations

import csv
import io
import os
import secrets
from contextlib import suppress
from pathlib import Path

from .errors import OutputError
from .job import Failure, Result

columns = (
    "line",
    "output",
    "state",
    "seconds of footage",
    "frames changed",
    "seconds taken",
    "warnings",
    "error",
    "hint",
)
of_the_making = columns[3:7]
"""What a job that is made before no longer tells, and the row of the run that made it does."""
formula_signs = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins with one of these is a formula to some spreadsheets."""


class Report:
    """A batch's table, written anew and whole after each job, so that a crash leaves what is done.

    A table that is there already goes on: a job's row takes the place of its output's earlier one, a job that was made
    before keeps what the earlier row tells of the making, and rows of outputs that are not in the list stay. Earlier
    rows that name no output go: they are of lines that were no jobs.

    UTF-8 with a byte order mark, which spreadsheets need. Text that a spreadsheet could take for a formula gets an
    apostrophe before it.

    Args:
        path: the file; its folder must exist.

    Raises:
        OutputError: what is there is no report, or the file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        rows = [row for row in self._read() if row["output"]]
        self._made = {row["output"]: row for row in sorted(rows, key=_is_made)}
        """By output: its latest row that tells of a making, or one of an earlier run."""
        self._ours: dict[int, dict[str, str]] = {}
        """By line: the rows of this run."""
        self._write()

    def add(self, line: int, output: str, answer: Result | Failure, taken: float) -> None:
        """Puts a job into the table.

        Args:
            line: of the list, from 1.
            output: as the job names it; empty: the line is no job.
            taken: seconds that the job took.

        Raises:
            OutputError: the table cannot be written; its next writing has this job too.
        """
        row: dict[str, str] = dict.fromkeys(columns, "")
        row.update({"line": str(line), "output": _text(output), "seconds taken": f"{taken:.1f}"})
        if isinstance(answer, Failure):
            row.update({"state": "failed", "error": _text(answer.message), "hint": _text(answer.hint)})
        else:
            row.update(
                {
                    "state": "made before" if answer.made_before else "made",
                    "seconds of footage": f"{answer.length:.3f}",
                    "frames changed": str(answer.changed),
                    "warnings": _text(" ".join(answer.warnings)),
                }
            )
        earlier = self._made.get(row["output"], row)
        if row["state"] == "made before" and _is_made(earlier):
            row.update({name: earlier[name] for name in of_the_making})
        if row["state"] != "failed":
            self._made[row["output"]] = row
        self._ours[line] = row
        self._write()

    def _read(self) -> list[dict[str, str]]:
        if not os.path.lexists(self._path):
            return []
        try:
            text = self._path.read_bytes().decode("utf-8-sig")
            head, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        except (OSError, UnicodeDecodeError, csv.Error):
            head, rows = [], []
        if tuple(head) != columns or any(len(row) != len(columns) for row in rows):
            raise OutputError(
                f"{self._path} is there already and no report of a batch, or one that was changed.",
                "Choose another name; nothing is ever overwritten.",
            )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def _write(self) -> None:
        told = {row["output"] for row in self._ours.values()}
        rows = [*self._ours.values(), *(row for output, row in self._made.items() if output not in told)]
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(columns)
        table.writerows(row.values() for row in sorted(rows, key=_line))
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            with open(temporary, "xb") as file:
                file.write(text.getvalue().encode("utf-8-sig"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as e:
            raise OutputError(
                f"The report {self._path} cannot be written: {e.strerror or e}.",
                "Close it in other programs, and look at the rights to its folder and the free space there.",
            ) from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _text(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()  # a path may hold what is no character
    return f"'{text}" if text.startswith(formula_signs) else text


def _is_made(row: dict[str, str]) -> bool:
    return row["state"].startswith("made")


def _line(row: dict[str, str]) -> int:
    return int(row["line"]) if row["line"].isdecimal() else 0
