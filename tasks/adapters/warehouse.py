"""Where rows are read and prepared: the port, its engines, and the one place that opens one.

``duckdb://?memory_limit=2GB&threads=2&temp_directory=/fast/disk`` is DuckDB inside this process.  Another engine
is one class with the methods of :class:`Warehouse` and one ``case`` in :func:`open_warehouse`; the expressions of
``ranking.interactions`` and ``ranking.history`` stay as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from ranking.errors import SettingsError
from tasks.adapters.duckdb_warehouse import DuckDBWarehouse, options_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import ibis.expr.types as ir

ENGINES = ("duckdb",)


class Warehouse(Protocol):
    """An engine that reads parquet by URI, evaluates Ibis expressions, and writes parquet by URI."""

    def read(self, uri: str) -> "ir.Table":
        """The rows at a URI: a parquet file, a folder (with all below it), a partitioned data set, or a glob.

        Partition folders (``day=2026-01-31``) become columns.  Files with different columns are united by name.

        Raises:
            UnreadableData: nothing there, not parquet, not permitted, or files that do not fit together.
            SettingsError: the URI's driver is not installed.
        """

    def write(self, rows: "ir.Table", uri: str) -> None:
        """Evaluate an expression into one parquet file, whole or not at all.  An ``order_by`` is kept.

        Raises:
            StorageError: the place cannot be written or is full; then nothing is left there.
        """

    def stage(self, rows: "ir.Table") -> "ir.Table":
        """Evaluate an expression now and keep the result until the engine is closed, on disk rather than in memory.

        Raises:
            StorageError: there is no room for it.
        """

    def guard(self, uri: str) -> "AbstractContextManager[None]":
        """Translate the engine's errors while expressions over ``uri`` are evaluated in the block.

        Raises:
            UnreadableData: the data turned out to be corrupt or unreadable; the file is named.
            StorageError: the engine ran out of memory or of temporary space.
        """

    def close(self) -> None:
        """Give memory and temporary files back."""


@contextmanager
def open_warehouse(url: str) -> Iterator[Warehouse]:
    """Open the engine that a URL names, and close it after the block.

    Raises:
        SettingsError: an unknown engine or option, or a value the engine refuses.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "duckdb":
            house = DuckDBWarehouse(options_of(url))
        case other:
            raise SettingsError(
                f"data.warehouse = {url!r} names the engine {other!r}, which is not known. "
                f"Known: {', '.join(f'{name}://' for name in ENGINES)}."
            )
    try:
        yield house
    finally:
        house.close()
