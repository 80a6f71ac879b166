"""A trained ranker as files: weights, encoder and facts, with a sha256 of each.

A bundle is a folder of four files and no pickle::

    model.safetensors   the weights
    encoder.json        vocabularies and scalers
    ranker.json         architecture, specification, what it learnt from
    manifest.json       format and the sha256 of the three files above

The digest of a bundle is the sha256 of its canonical manifest.  It depends on the content alone (no
time, no host, no path), so equal training gives an equal digest, and a digest names exactly one model.
Light to import: a bundle scores in a serving process that has none of the training libraries.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors
from torch import nn

from ranking.batches import predict
from ranking.encoding import Encoder
from ranking.errors import BundleError, StorageError, TamperedBundle
from ranking.features import FeatureSpec
from ranking.models import ModelKnobs, build_ranker
from ranking.times import Window
from ranking.values import Value, canonical_json, digest

FORMAT = 1
"""Version of the layout below.  A reader refuses any other."""

WEIGHTS, ENCODER, FACTS, MANIFEST = "model.safetensors", "encoder.json", "ranker.json", "manifest.json"

SCORE_ROWS = 65_536
"""Rows that are encoded and scored at once; it bounds the memory of scoring any number of rows."""


class Facts(Value):
    """What a bundle says of itself besides weights and encoder (``ranker.json``)."""

    architecture: ModelKnobs
    spec: FeatureSpec
    learnt: Window
    seed: int


class Manifest(Value):
    """Which bytes make up a bundle (``manifest.json``)."""

    format: Literal[1] = 1
    files: dict[str, str]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A ranker that can score, be saved, and say what it is."""

    net: nn.Module
    encoder: Encoder
    facts: Facts

    @property
    def digest(self) -> str:
        """What :meth:`save` would return: the name of this content."""
        return digest(_manifest(self._contents()))

    def score(self, rows: pa.Table | pd.DataFrame) -> np.ndarray:
        """Click probabilities (N,) float64 in (0, 1), one per row in the order of the rows.

        A row's score does not depend on its neighbours (to 1e-6), and memory is bounded for any N.

        Args:
            rows: every column of ``encoder.columns``; others are ignored; a null is an unknown value.

        Raises:
            BundleError: a column is missing, or holds what cannot be read as its kind.
        """
        scores = [np.empty(0)]
        for start in range(0, len(rows), SCORE_ROWS):
            some = (
                rows.slice(start, SCORE_ROWS) if isinstance(rows, pa.Table) else rows.iloc[start : start + SCORE_ROWS]
            )
            columns = self.encoder.encode(_as_table(some, self.encoder.columns))
            scores.append(predict(self.net, torch.from_numpy(columns.ids), torch.from_numpy(columns.numbers)))
        return np.concatenate(scores)

    def save(self, folder: str | Path) -> str:
        """Write the bundle to a folder, whole or not at all, and return its digest.

        Raises:
            StorageError: the folder exists and is not empty, or cannot be written.
        """
        folder = Path(folder)
        contents = self._contents()
        manifest = _manifest(contents)
        contents[MANIFEST] = canonical_json(manifest).encode()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            half_written = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
            try:
                half_written.mkdir()
                for name, content in contents.items():
                    (half_written / name).write_bytes(content)
                # A rename is the only step that shows: before it there is no bundle, after it a whole one.
                half_written.rename(folder)
            finally:
                rmtree(half_written, ignore_errors=True)
        except OSError as error:
            raise StorageError(
                f"The bundle could not be written to {folder}: {error.strerror or error}. Nothing was left there; "
                "free the disk, allow writing, or choose a folder that does not exist yet."
            ) from error
        return digest(manifest)

    @classmethod
    def load(cls, folder: str | Path, expected_digest: str | None = None) -> Self:
        """Read a bundle, verifying every byte before any of it is parsed.

        Args:
            folder: what :meth:`save` wrote.
            expected_digest: the digest it must have, from the ledger; without it a bundle is only
                checked against its own manifest.

        Raises:
            TamperedBundle: a file is missing, surplus, or differs from the manifest, or the manifest
                differs from ``expected_digest``; the message names the file.
            BundleError: there is no bundle, it has another format, or its parts do not fit together.
        """
        contents = _verified(Path(folder), expected_digest)
        with _explaining(folder, FACTS):
            facts = Facts.model_validate_json(contents[FACTS])
        with _explaining(folder, ENCODER):
            encoder = Encoder.from_json(json.loads(contents[ENCODER]))
        with _explaining(folder, WEIGHTS), torch.random.fork_rng(devices=[]):
            net = build_ranker(facts.architecture, encoder)
            net.load_state_dict(parse_tensors(contents[WEIGHTS]))
        return cls(net=net.eval(), encoder=encoder, facts=facts)

    def _contents(self) -> dict[str, bytes]:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.net.state_dict().items()}
        return {
            WEIGHTS: format_tensors(weights),
            ENCODER: canonical_json(self.encoder.to_json()).encode(),
            FACTS: canonical_json(self.facts).encode(),
        }


def _manifest(contents: dict[str, bytes]) -> Manifest:
    return Manifest(files={name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())})


def _verified(folder: Path, expected_digest: str | None) -> dict[str, bytes]:
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}.")
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    contents = {name: _read(folder / name) for name in (MANIFEST, *sorted(present & {WEIGHTS, ENCODER, FACTS}))}
    with _explaining(folder, MANIFEST):
        manifest = Manifest.model_validate_json(contents.pop(MANIFEST))
    if expected_digest is not None and digest(manifest) != expected_digest:
        raise TamperedBundle(
            f"{folder / MANIFEST} has the digest {digest(manifest)}, and {expected_digest} was expected: "
            "this is another model, or one that was changed. Restore the recorded bytes; do not serve it."
        )
    for name in sorted({WEIGHTS, ENCODER, FACTS} | set(manifest.files) | present):
        if name not in manifest.files or name not in contents:
            what = "is not in the manifest" if name in present else "is missing"
            raise TamperedBundle(f"{folder / name} {what}; a bundle is exactly the files it was saved with.")
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != manifest.files[name]:
            raise TamperedBundle(
                f"{folder / name} has the sha256 {found}, and its manifest says {manifest.files[name]}: "
                "the file was changed after it was saved. Restore the recorded bytes; do not serve it."
            )
    return contents


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}.") from error


@contextmanager
def _explaining(folder: str | Path, name: str) -> Iterator[None]:
    """Translate what the parsers raise: the bytes are as saved, and still this version cannot use them."""
    try:
        yield
    except (ValidationError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{Path(folder) / name} cannot be used by this version, which reads bundles of format {FORMAT}: {error}"
        ) from error


def _as_table(rows: pa.Table | pd.DataFrame, columns: tuple[str, ...]) -> pa.Table:
    wanted = [name for name in columns if name in (rows.column_names if isinstance(rows, pa.Table) else rows.columns)]
    if isinstance(rows, pa.Table):
        return rows.select(wanted)
    return pa.table({name: _as_array(rows[name]) for name in wanted})


def _as_array(column: "pd.Series[Any]") -> pa.Array:
    try:
        return pa.Array.from_pandas(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # Rows from JSON may mix numbers and text in one column; their text is what both are known by.
        return pa.array([None if pd.isna(cell) else _as_text(cell) for cell in column], type=pa.large_string())


def _as_text(cell: object) -> str:
    return str(int(cell)) if isinstance(cell, bool | float | np.floating) and float(cell).is_integer() else str(cell)
