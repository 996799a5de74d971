# SPDX-License-Identifier: GPL-3.0-or-later
"""A table of methods as Markdown and JSON, and rows of earlier tables beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import JobError

table_format = "lipsync-redub table 1"
truth = "Ground truth"
"""The row of the footage itself."""


@dataclass(frozen=True)
class Column:
    """A metric as a column of the table."""

    key: str
    """Its name in the JSON. Metrics of other nets or weights have other names."""
    title: str
    up: bool
    """Larger is better."""
    digits: int = 3

    @property
    def head(self) -> str:
        return f"{self.title} {'↑' if self.up else '↓'}"


columns = (
    Column("lse_c", "LSE-C", True),
    Column("lse_d", "LSE-D", False),
    Column("fid", "FID", False),
    Column("expert_confidence", "Expert confidence", True),
    Column("expert_distance", "Expert distance", False),
    Column("lpips", "LPIPS", False),
    Column("lpips_untrained", "LPIPS (untrained trunk)", False),
    Column("ssim", "SSIM", True),
    Column("psnr", "PSNR", True, 2),
    Column("lmd", "LMD", False),
    Column("lip_r", "Lip r", True),
    Column("reference_copy", "Reference copy", False),
)


@dataclass(frozen=True)
class Row:
    """A method and what was measured of it."""

    method: str
    values: Mapping[str, float | None]
    """By the columns' keys; None: not measured."""


@dataclass(frozen=True)
class Table:
    """What table.json says of a run's method rows."""

    rows: tuple[Row, ...]
    clips: int
    basis: str
    """Hash of what was measured and how: rows of tables with the same one can be compared."""


def markdown(rows: Sequence[Row], notes: Sequence[str] = (), always: Sequence[str] = (), first: str = "Method") -> str:
    """The rows as a Markdown table, as the paper's Table 1: the best method of several in bold, then the notes.

    Args:
        always: keys of columns that are shown even if no row has them.
        first: what the rows are; only methods compete.
    """
    shown = [c for c in columns if c.key in always or any(row.values.get(c.key) is not None for row in rows)]
    methods = [row for row in rows if not row.method.startswith(truth)]
    best = {}
    for column in shown if first == "Method" else ():
        values = [v for row in methods if (v := row.values.get(column.key)) is not None]
        if len(values) > 1:
            best[column.key] = (max if column.up else min)(values)
    lines = [[first, *(column.head for column in shown)], ["---"] * (1 + len(shown))]
    for row in rows:
        cells = [row.method.replace("|", "\\|")]
        for column in shown:
            value = row.values.get(column.key)
            bold = row in methods and value is not None and value == best.get(column.key)
            cells.append(f"**{_cell(value, column)}**" if bold else _cell(value, column))
        lines.append(cells)
    text = ["\n".join("| " + " | ".join(line) + " |" for line in lines)]
    text += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(text) + "\n"


def _cell(value: float | None, column: Column) -> str:
    if value is None:
        return "not measured"
    return "∞" if math.isinf(value) else f"{value:.{column.digits}f}"


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows for JSON, which knows no infinity."""
    return [{"method": row.method, "values": finite(dict(row.values))} for row in rows]


def finite(value: Any) -> Any:
    """A value as JSON can hold it: what is infinite as a word, what is no number as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "infinity"
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def read_table(path: Path) -> Table:
    """The rows of an earlier table.json.

    Raises:
        JobError: no such file, or no table of ours.
    """
    hint = "Name the table.json of an earlier `lipsync-train evaluate table`."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != table_format:
            raise ValueError
        rows = []
        for row in content["rows"]:
            values = {str(k): None if v is None else float(v) for k, v in row["values"].items()}
            rows.append(Row(str(row["method"]), values))
        return Table(tuple(rows), int(content["clips"]), str(content["basis"]))
    except OSError as e:
        raise JobError(f"{path} cannot be read: {e.strerror}.", hint) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise JobError(f"{path} is no table of `lipsync-train evaluate table`.", hint) from None


def joined(tables: Mapping[str, Table]) -> tuple[list[Row], list[str]]:
    """The rows of several tables, by their names for the user, as one, and what must be said of it.

    The footage's row is given once for all tables that measured the same; methods of one name are told apart by their
    table's.
    """
    footage: dict[str, tuple[str, dict[str, float | None]]] = {}
    methods: list[Row] = []
    for name, table in tables.items():
        for row in table.rows:
            if row.method == truth:
                measured = {key: value for key, value in row.values.items() if value is not None}
                first, known = footage.setdefault(table.basis, (name, {}))
                footage[table.basis] = first, measured | known
            else:
                taken = any(row.method == other.method for other in methods)
                methods.append(Row(f"{row.method} ({name})" if taken else row.method, row.values))
    several = len(footage) > 1
    above = [Row(f"{truth} ({name})" if several else truth, values) for name, values in footage.values()]
    rows = [*above, *methods]
    notes = []
    if len({table.basis for table in tables.values()}) > 1:
        counts = ", ".join(f"{name}: {table.clips}" for name, table in tables.items())
        notes.append(
            "These rows come from other clips, settings or weights of the metrics and cannot be compared number by "
            f"number (clips measured: {counts})."
        )
    return rows, notes
