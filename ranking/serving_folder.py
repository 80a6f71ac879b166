"""A folder of serving features: what it holds, and how it is read.

::

    history-0.parquet …   one per key of the specification: the key and its history
    users.parquet, items.parquet   the logged features of each user and item, as its latest row had them
    manifest.json         format, specification, T, and the sha256 of the files

T is the moment that it was made as of (:mod:`ranking.serving_tables`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, NonNegativeInt, ValidationError

from ranking.errors import FeaturesError
from ranking.features import FeatureSpec, Owner
from ranking.times import Window
from ranking.values import Value, digest

FORMAT = 1
MANIFEST, USERS, ITEMS = "manifest.json", "users.parquet", "items.parquet"


class FeaturesManifest(Value):
    """What a folder of serving features says of itself (``manifest.json``)."""

    format: Literal[1] = 1
    spec: FeatureSpec
    as_of: AwareDatetime
    window: Window
    users: NonNegativeInt
    items: NonNegativeInt
    files: dict[str, str]


def specification_key(spec: FeatureSpec) -> str:
    """Which tables a specification reads, as a hex sha256.

    Fields at their defaults are left out, so that a version of feedloop that knows a field more finds the tables of
    the version before.
    """
    return digest(spec.model_dump(mode="json", exclude_defaults=True))


def history_file(number: int) -> str:
    """File of the key with this number in ``spec.history_keys``."""
    return f"history-{number}.parquet"


def file_names(spec: FeatureSpec) -> tuple[str, ...]:
    """The files that a table for this specification has, without the manifest."""
    owners = {feature.owner for feature in spec.log.features}
    profiles = [name for owner, name in ((Owner.USER, USERS), (Owner.ITEM, ITEMS)) if owner in owners]
    return (*(history_file(number) for number in range(len(spec.history_keys))), *profiles)


@dataclass(frozen=True)
class Folder:
    """What was read: the manifest, its tables by file, and the digest that names this content."""

    manifest: FeaturesManifest
    tables: dict[str, pa.Table]
    digest: str


def read_folder(folder: Path, expected_digest: str | None = None) -> Folder:
    """Read a folder, verifying every byte before any of it is parsed.

    Args:
        folder: a local folder.
        expected_digest: the digest it must have; without it, it is only checked against its own manifest.

    Raises:
        FeaturesError: there is none, a file is missing or differs from the manifest, or the manifest differs
            from ``expected_digest``; the message names the file.
    """
    content = _read(folder / MANIFEST)
    # Of the bytes: read again by a version that knows more fields, the manifest would be another text.
    mark = hashlib.sha256(content).hexdigest()
    try:
        manifest = FeaturesManifest.model_validate_json(content)
    except ValidationError as error:
        raise FeaturesError(
            f"{folder / MANIFEST} cannot be used by this version, which reads format {FORMAT}: {error}"
        ) from error
    if expected_digest is not None and mark != expected_digest:
        raise FeaturesError(
            f"{folder / MANIFEST} has the digest {mark}, and {expected_digest} was expected. "
            "These are other features, or changed ones; write them again with `feedloop features`."
        )
    missing = [name for name in file_names(manifest.spec) if name not in manifest.files]
    if missing:
        raise FeaturesError(f"{folder / MANIFEST} lists no {missing[0]}. Write it again with `feedloop features`.")
    return Folder(manifest, {name: _table(folder / name, own) for name, own in manifest.files.items()}, mark)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FeaturesError(
            f"{path} cannot be read: {error.strerror or error}. Write the features again with `feedloop features`."
        ) from error


def _table(path: Path, expected: str) -> pa.Table:
    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise FeaturesError(
            f"{path} has the sha256 {found}, and its manifest says {expected}: the file was changed after it was "
            "written, or did not arrive whole. Do not serve it; write the features again with `feedloop features`."
        )
    return pq.read_table(pa.BufferReader(content))
