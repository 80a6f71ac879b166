"""One line of a benchmark, ours beside theirs, and how lines are printed."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Two measurements of the same run.  ``ratio`` is how many times better ours is."""

    name: str
    ours: float
    theirs: float
    ratio: float
    unit: str
    note: str = ""


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print the rows as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("measured", "ours", "theirs", "ratio", "unit", "note", title=title)
    for row in rows:
        table.add_row(row.name, f"{row.ours:,.4g}", f"{row.theirs:,.4g}", f"{row.ratio:.2f}x", row.unit, row.note)
    Console().print(table)
