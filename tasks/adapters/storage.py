"""Small files by URI: a local path or any fsspec address."""

import errno
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec

from ranking.errors import StorageError, StorageUnavailable

_PASSING = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""What a network says when it is away for a while; drivers of object stores pass these numbers on."""


def passes(error: BaseException) -> bool:
    """Whether what a storage driver raised may be gone by itself a little later."""
    return isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno in _PASSING)


def storage_error(message: str, error: BaseException) -> StorageError:
    """The error of feedloop for what a storage driver raised.

    Args:
        message: what happened and what to do.
        error: what was raised.
    """
    return StorageUnavailable(message) if passes(error) else StorageError(message)


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole file, or nothing: readers never see half of it.

    Raises:
        StorageError: the place cannot be written or is full.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        folder = str(PurePosixPath(path).parent)
        filesystem.makedirs(folder, exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.part"
        with filesystem.open(temporary, "wb") as stream:
            stream.write(content)
        filesystem.mv(temporary, path)
    except (OSError, ImportError) as error:
        raise storage_error(
            f"{uri} cannot be written: {error}. Check the setting `workspace` and its rights.", error
        ) from error


def read_bytes(uri: str) -> bytes | None:
    """A whole file; None if there is none.

    Raises:
        StorageError: the place cannot be read.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        with filesystem.open(path, "rb") as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None
    except (OSError, ImportError) as error:
        raise storage_error(
            f"{uri} cannot be read: {error}. Check the setting `workspace` and its rights.", error
        ) from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A local folder that is gone afterwards.

    Raises:
        StorageError: there is no room for one.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="feedloop-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(f"No temporary folder can be made: {error}. Free the disk, or set TMPDIR.") from error
    with folder as name:
        yield Path(name)


def published(folder: Path, uri: str) -> str:
    """Copy a local folder to a URI that is named after its content; an earlier copy is left as it is.

    Returns:
        The URI.

    Raises:
        StorageError: the place cannot be written or is full; then nothing is left there.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        if filesystem.exists(path):
            return uri
        half_written = f"{path}.{uuid.uuid4().hex}.part"
        try:
            filesystem.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            filesystem.put(str(folder), half_written, recursive=True)
            filesystem.mv(half_written, path, recursive=True)
        finally:
            if filesystem.exists(half_written):
                filesystem.rm(half_written, recursive=True)
    except (OSError, ImportError) as error:
        raise storage_error(
            f"{uri} cannot be written: {error}. Check the setting workspace and its rights.", error
        ) from error
    return uri


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A folder at a URI as a local folder: itself if it is local, otherwise a copy for the time of the block."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    if "file" in filesystem.protocol:
        yield Path(path)
        return
    with temporary_folder() as folder:
        filesystem.get(path, str(folder / "copy"), recursive=True)
        yield folder / "copy"
