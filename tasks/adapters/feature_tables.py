"""Where tables of serving features lie, and how a server gets the newest one.  No Prefect here.

::

    <workspace>/serving/features/<specification>/<as of>-<digest>/   one table, never changed again
    <workspace>/serving/features/<specification>/latest.json         which of them to serve

A table is complete before the pointer names it, and the pointer is replaced whole: a torn write never shows.  Its
readers verify the digest that the pointer says.
"""

import hashlib
from datetime import UTC
from pathlib import Path

import fsspec
from pydantic import ValidationError

from ranking.errors import FeaturesError, StorageError
from ranking.features import FeatureSpec
from ranking.serving_features import ServingFeatures, ServingTable
from ranking.serving_folder import MANIFEST, FeaturesManifest, specification_key
from ranking.values import canonical_json, digest
from tasks.adapters.storage import local_copy, published, read_bytes, storage_error, write_bytes

POINTER = "latest.json"
KEPT = 3
"""Tables kept per specification: the one that is served, and what a slow reader may still be loading."""


def place(workspace: str, spec_digest: str) -> str:
    """Folder of all tables for one specification."""
    return f"{workspace}/serving/features/{spec_digest[:16]}"


def latest(workspace: str, spec_digest: str) -> ServingTable | None:
    """The table to serve; None if there never was one.

    Args:
        workspace: folder or URI.
        spec_digest: ``ranking.serving_folder.specification_key(bundle.facts.spec)``.

    Raises:
        StorageError: the place cannot be read.
        FeaturesError: the pointer is not one.
    """
    uri = f"{place(workspace, spec_digest)}/{POINTER}"
    content = read_bytes(uri)
    if content is None:
        return None
    try:
        return ServingTable.model_validate_json(content)
    except ValidationError as error:
        raise FeaturesError(f"{uri} names no table of features: {error}. Run `feedloop features`.") from error


def fetch(table: ServingTable) -> ServingFeatures:
    """Load a table into memory, verified.

    Raises:
        FeaturesError: it is gone or was changed; a newer one may have taken its place, so ask :func:`latest` again.
        StorageError: the place does not answer.
    """
    try:
        with local_copy(table.uri) as folder:
            return ServingFeatures.load(folder, expected_digest=table.digest)
    except FileNotFoundError as error:
        raise FeaturesError(f"{table.uri} is gone. A newer table may have taken its place; look again.") from error
    except (OSError, ImportError) as error:
        raise storage_error(f"{table.uri} cannot be read: {error}. Check the setting `workspace`.", error) from error


def load_latest(workspace: str, spec: FeatureSpec) -> ServingFeatures | None:
    """The newest features for a specification, verified and in memory; None if there are none.

    Raises:
        FeaturesError: they were changed.
        StorageError: the place cannot be read.
    """
    table = latest(workspace, specification_key(spec))
    return None if table is None else fetch(table)


def publish(folder: Path, manifest: FeaturesManifest, workspace: str) -> ServingTable:
    """Give the files of a table, and its manifest, their place, then let the pointer name it.

    The pointer never goes back in time: a table older than the one that is served is kept, and not served.

    Args:
        folder: local folder with the files; the manifest is added.
        manifest: of these files.
        workspace: where to.

    Returns:
        The table that is served now.

    Raises:
        StorageError: the place cannot be written; then the earlier table is served on.
    """
    spec_digest, mark = specification_key(manifest.spec), digest(manifest)
    try:
        (folder / MANIFEST).write_text(canonical_json(manifest), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder / MANIFEST} cannot be written: {error.strerror}. Free the disk.") from error
    as_of = manifest.as_of.astimezone(UTC)
    name = f"{as_of:%Y%m%dT%H%M%S%fZ}-{mark[:12]}"
    table = ServingTable(
        uri=published(folder, f"{place(workspace, spec_digest)}/{name}"),
        digest=mark,
        spec_digest=spec_digest,
        as_of=as_of,
        users=manifest.users,
        items=manifest.items,
    )
    served = latest(workspace, spec_digest)
    if served is not None and served.as_of > table.as_of:
        return served
    write_bytes(f"{place(workspace, spec_digest)}/{POINTER}", table.model_dump_json(indent=2).encode())
    _prune(workspace, table)
    return table


def checksum(file: Path) -> str:
    """Hex sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _prune(workspace: str, served: ServingTable) -> None:
    """Remove all but the newest tables.  Their names begin with their moment, so the order of names is that of time."""
    filesystem, folder = fsspec.core.url_to_fs(place(workspace, served.spec_digest))
    try:
        tables = sorted(entry for entry in filesystem.ls(folder, detail=False) if not _is_other(entry))
        for old in tables[:-KEPT]:
            if not served.uri.endswith(old.rsplit("/", 1)[-1]):
                filesystem.rm(old, recursive=True)
    except OSError as error:
        raise storage_error(
            f"Old tables of features cannot be removed: {error}. Check the rights there.", error
        ) from error


def _is_other(entry: str) -> bool:
    name = entry.rstrip("/").rsplit("/", 1)[-1]
    return name == POINTER or name.endswith(".part")
