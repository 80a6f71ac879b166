"""Parquet files by URI: which ones a URI stands for, and one that is written whole or not at all."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ranking.errors import SettingsError, StorageUnavailable, UnreadableData
from tasks.adapters.storage import passes, storage_error

SUFFIXES = (".parquet", ".parq", ".pq")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""URI scheme to the extra of feedloop that installs its driver."""


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
    filesystem, path = filesystem_of(uri)
    with reading(uri):
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
def written(filesystem: Any, path: str, uri: str) -> Iterator[Path]:
    """A local file to write, which appears at ``path`` when the block ends well and vanishes otherwise.

    Raises:
        StorageError: the place cannot be written or is full.
    """
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
    except OSError as error:
        raise storage_error(cannot_write(uri, str(error)), error) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Raises:
        SettingsError: the URI's driver is not installed, or nobody knows its scheme.
    """
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
def reading(uri: str) -> Iterator[None]:
    """Translate what storage drivers raise.

    Raises:
        StorageUnavailable: the storage did not answer.
        UnreadableData: anything else went wrong while ``uri`` was read.
    """
    try:
        yield
    except OSError as error:
        if passes(error):
            raise StorageUnavailable(f"{uri} did not answer: {error}. Repeating is safe.") from error
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


def cannot_write(uri: str, why: str) -> str:
    """The message of a StorageError about a place that cannot be written."""
    return f"{uri} cannot be written: {why}. Check its permissions and the free space, or the setting `workspace`."
