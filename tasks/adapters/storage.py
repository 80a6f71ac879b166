"""Small files by URI: a local path or any fsspec address."""

from pathlib import PurePosixPath

import fsspec

from ranking.errors import StorageError


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole file, or nothing: readers never see half of it.

    Raises:
        StorageError: the place cannot be written or is full.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        folder = str(PurePosixPath(path).parent)
        filesystem.makedirs(folder, exist_ok=True)
        temporary = f"{path}.part"
        with filesystem.open(temporary, "wb") as stream:
            stream.write(content)
        filesystem.mv(temporary, path)
    except (OSError, ImportError) as error:
        raise StorageError(
            f"{uri} cannot be written: {error}. Check the setting `workspace` and its rights."
        ) from error
