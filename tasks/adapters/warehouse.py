"""Where rows are read and prepared: the port, its engines, and the one place that opens one.

``duckdb://?memory_limit=2GB&threads=2&temp_directory=/fast/disk`` is DuckDB inside this process.  Another engine
is one class with the methods of :class:`Warehouse` and one ``case`` in :func:`open_warehouse`; the expressions of
``ranking.interactions`` and ``ranking.history`` stay as they are.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ranking.errors import SettingsError, StorageError, UnreadableData

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import ibis.expr.types as ir

ENGINES = ("duckdb",)
DUCKDB_OPTIONS = ("memory_limit", "threads", "temp_directory")
SUFFIXES = (".parquet", ".parq", ".pq")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""URI scheme to the extra of feedloop that installs its driver."""


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
            house = DuckDBWarehouse(_duckdb_options(url))
        case other:
            raise SettingsError(
                f"data.warehouse = {url!r} names the engine {other!r}, which is not known. "
                f"Known: {', '.join(f'{name}://' for name in ENGINES)}."
            )
    try:
        yield house
    finally:
        house.close()


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
        filesystem, path = _filesystem(uri)
        query = self._backend.compile(rows)
        with _written(filesystem, path, uri) as part:
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
                raise StorageError(_cannot_write(uri, _first_line(error))) from error
            raise

    @contextmanager
    def guard(self, uri: str) -> Iterator[None]:
        """See :meth:`Warehouse.guard`."""
        import duckdb

        try:
            # Remote files are opened while the engine runs.
            with _reading(uri):
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


@dataclass(frozen=True)
class ParquetFiles:
    """What a URI stands for.  ``filesystem`` is None for local files, which engines read by themselves."""

    files: tuple[str, ...]
    partitioned: bool
    filesystem: Any | None


def find_parquet(uri: str) -> ParquetFiles:
    """List the parquet files that a URI stands for, in a fixed order.

    Files and folders whose name begins with ``_`` or ``.`` are left out: writers keep unfinished work there.

    Raises:
        UnreadableData: there is nothing, or nothing that could be parquet, or no permission to look.
        SettingsError: the URI's driver is not installed.
    """
    filesystem, path = _filesystem(uri)
    with _reading(uri):
        is_glob = any(character in path for character in "*?[") and not filesystem.exists(path)
        if is_glob:
            root = str(PurePosixPath(*_until_wildcard(path)))
            found = [file for file in filesystem.glob(path) if filesystem.isfile(file)]
        elif filesystem.isdir(path):
            root, found = path, filesystem.find(path)
        elif filesystem.exists(path):
            return _listed(filesystem, [path], partitioned=False)
        else:
            raise UnreadableData(f"{uri} does not exist. Check data.uri.")
    below = {file: PurePosixPath(file.removeprefix(root).lstrip("/")) for file in found}
    files = sorted(file for file, name in below.items() if _is_data(name, by_suffix=not is_glob))
    if not files:
        raise UnreadableData(
            f"{uri} holds no parquet file ({len(found):,} other files; a name must end in {' or '.join(SUFFIXES)} and "
            "not begin with _ or a dot). Check data.uri."
        )
    partitioned = all(any("=" in part for part in below[file].parts[:-1]) for file in files)
    return _listed(filesystem, files, partitioned=partitioned)


@contextmanager
def _written(filesystem: Any, path: str, uri: str) -> Iterator[Path]:
    """A local file to write, which appears at ``path`` when the block ends well and vanishes otherwise."""
    local = isinstance(filesystem, LocalFileSystem)
    part = None
    try:
        if local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            part = Path(f"{path}.{uuid.uuid4().hex}.part")
        else:
            part = Path(tempfile.gettempdir()) / f"feedloop-{uuid.uuid4().hex}.part"
        part.touch()
        yield part
        if local:
            os.replace(part, path)
        else:
            # Object stores show an object only when it is complete.
            filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            filesystem.put_file(str(part), path)
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise StorageError(_cannot_write(uri, str(error))) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _filesystem(uri: str) -> tuple[Any, str]:
    scheme = urlsplit(uri).scheme if "://" in uri else "file"
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        extra = f": pip install 'feedloop[{EXTRAS[scheme]}]'" if scheme in EXTRAS else ""
        raise SettingsError(f"{uri} needs a driver for {scheme}:// that is not installed ({error}){extra}.") from error
    except ValueError as error:
        raise SettingsError(f"{uri}: {scheme}:// is no storage that fsspec knows ({error}).") from error
    return filesystem, str(path)


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Translate what storage drivers raise.  Lost connections pass: they are transient, and tasks retry them."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise UnreadableData(f"{uri} cannot be read: {error}. Check data.uri and its permissions.") from error


def _listed(filesystem: Any, files: list[str], *, partitioned: bool) -> ParquetFiles:
    if isinstance(filesystem, LocalFileSystem):
        return ParquetFiles(tuple(files), partitioned, None)
    return ParquetFiles(tuple(filesystem.unstrip_protocol(file) for file in files), partitioned, filesystem)


def _is_data(name: PurePosixPath, *, by_suffix: bool) -> bool:
    hidden = any(part.startswith(("_", ".")) for part in name.parts)
    return not hidden and (not by_suffix or name.suffix.lower() in SUFFIXES)


def _until_wildcard(path: str) -> list[str]:
    parts: list[str] = []
    for part in PurePosixPath(path).parts:
        if any(character in part for character in "*?["):
            break
        parts.append(part)
    return parts


def _duckdb_options(url: str) -> dict[str, str]:
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


def _cannot_write(uri: str, why: str) -> str:
    return f"{uri} cannot be written: {why}. Check its permissions and the free space, or the setting `workspace`."
