"""DuckDB as a :class:`tasks.adapters.warehouse.Warehouse`."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from ranking.errors import SettingsError, StorageError, UnreadableData
from tasks.adapters.parquet_files import cannot_write, filesystem_of, find_parquet, reading, written

if TYPE_CHECKING:
    import ibis.expr.types as ir

DUCKDB_OPTIONS = ("memory_limit", "threads", "temp_directory")


class DuckDBWarehouse:
    """DuckDB in this process.  It never installs extensions: remote files come through fsspec."""

    def __init__(self, options: dict[str, str]) -> None:
        import duckdb
        import ibis

        # A folder of its own, so that close() can remove it; DuckDB's default is the working folder.
        self._scratch = _scratch_folder(options.get("temp_directory"))
        config: dict[str, Any] = {
            **options,
            "temp_directory": str(self._scratch),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            # Keeping the order of a scan costs memory; an order_by is kept all the same.
            "preserve_insertion_order": False,
        }
        try:
            self._backend = ibis.duckdb.connect(**config)
        except duckdb.Error as error:
            raise SettingsError(f"data.warehouse: DuckDB refuses {options}: {_first_line(error)}.") from error
        self._registered: set[str] = set()

    def read(self, uri: str) -> "ir.Table":
        """See :meth:`Warehouse.read`."""
        source = find_parquet(uri)
        if source.filesystem is not None:
            self._register(source.filesystem)
        files = ", ".join(_quoted(file) for file in source.files)
        name = f"source_{uuid.uuid4().hex}"
        hive = "true" if source.partitioned else "false"
        # Not Ibis's read_parquet: for s3:// it would install an extension over the network.
        query = f"SELECT * FROM read_parquet([{files}], union_by_name=true, hive_partitioning={hive})"  # noqa: S608 (quoted)
        with self.guard(uri):
            self._backend.raw_sql(f"CREATE TEMP VIEW {name} AS {query}")
            return self._backend.table(name)

    def write(self, rows: "ir.Table", uri: str) -> None:
        """See :meth:`Warehouse.write`."""
        filesystem, path = filesystem_of(uri)
        query = self._backend.compile(rows)
        with written(filesystem, path, uri) as part:
            self._copy(query, part, uri)

    def stage(self, rows: "ir.Table") -> "ir.Table":
        """See :meth:`Warehouse.stage`."""
        file = str(self._scratch / f"stage-{uuid.uuid4().hex}.parquet")
        self.write(rows, file)
        return self.read(file)

    def _copy(self, query: str, part: Path, uri: str) -> None:
        import duckdb

        try:
            # Without a temporary file of DuckDB's own: it stays behind when the query fails.
            how = "FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false"
            self._backend.raw_sql(f"COPY ({query}) TO {_quoted(str(part))} ({how})")
        except duckdb.IOException as error:
            # A corrupt source fails here as well; only what concerns the target is a failure to write.
            if str(part) in str(error):
                raise StorageError(cannot_write(uri, _first_line(error))) from error
            raise

    @contextmanager
    def guard(self, uri: str) -> Iterator[None]:
        """See :meth:`Warehouse.guard`."""
        import duckdb

        try:
            # Remote files are opened while the engine runs.
            with reading(uri):
                yield
        except duckdb.OutOfMemoryException as error:
            raise StorageError(
                f"DuckDB has too little memory for {uri}: {_first_line(error)}. Raise memory_limit or free the disk of "
                "temp_directory in data.warehouse, or read fewer days (data.window_days)."
            ) from error
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):
            # Not the data's fault.
            raise
        except duckdb.Error as error:
            if "No space left" in str(error) or str(self._scratch) in str(error):
                raise StorageError(
                    f"DuckDB cannot write its temporary files: {_first_line(error)}. Free the disk, or name another "
                    "temp_directory in data.warehouse."
                ) from error
            raise UnreadableData(
                f"{uri} cannot be read: {_first_line(error)}. Repair or remove that file, and try again."
            ) from error

    def close(self) -> None:
        """See :meth:`Warehouse.close`."""
        self._backend.disconnect()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _register(self, filesystem: Any) -> None:
        protocol = str(filesystem.protocol)
        if protocol not in self._registered:
            self._backend.register_filesystem(filesystem)
            self._registered.add(protocol)


def options_of(url: str) -> dict[str, str]:
    """What ``data.warehouse`` asks of DuckDB, such as ``duckdb://?memory_limit=2GB&threads=2``.

    Raises:
        SettingsError: an unknown option, or an address, which DuckDB in this process has none of.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(DUCKDB_OPTIONS))
    if unknown or parts.netloc or parts.path not in ("", "/"):
        what = f"the option {unknown[0]!r}" if unknown else f"the address {parts.netloc + parts.path!r}"
        raise SettingsError(
            f"data.warehouse = {url!r} has {what}, which DuckDB in this process does not take. "
            f"Options: {', '.join(DUCKDB_OPTIONS)}, as in duckdb://?memory_limit=2GB&threads=2."
        )
    return options


def _scratch_folder(base: str | None) -> Path:
    folder = Path(base or tempfile.gettempdir()) / f"feedloop-duckdb-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be made: {error}. Name another temp_directory in data.warehouse."
        ) from error
    return folder


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".: ")
