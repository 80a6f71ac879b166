"""Columns to numbers: vocabularies and scalers, fitted on train rows only.

:mod:`ranking.encoder_fitting` learns an :class:`Encoder` from the train rows; :meth:`Encoder.encode` turns any
later rows into :class:`Columns`.  An encoder is plain JSON and travels inside the bundle, so a row is
encoded in production by the very numbers it was encoded by in training.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ranking.cells import Unreadable, as_numbers, canonical, whole_number
from ranking.errors import BundleError
from ranking.features import Owner

UNSEEN = 0
"""Slot of every value that train did not show often enough (``min_count``)."""

MISSING = 1
"""Slot of null, used only if train showed null often enough to learn from it."""

RESERVED = 2
"""Number of slots before the first known value."""


@dataclass(frozen=True)
class Columns:
    """Encoded rows: ``ids`` (N, F) int64, offset into one fused table, and ``numbers`` (N, K) float32."""

    ids: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The known values of one categorical column, most frequent first, ties in the order of the values.

    ``values`` (V,) is int64 for whole numbers and object for text; ``values[i]`` has slot ``2 + i``.
    """

    name: str
    owner: Owner
    sees_missing: bool
    values: np.ndarray

    @property
    def slots(self) -> int:
        """Rows of the embedding table that the column needs."""
        return RESERVED + len(self.values)

    @cached_property
    def index(self) -> pd.Index:
        """The values as a hash table, built at the first look-up and kept."""
        index: pd.Index = pd.Index(self.values)
        return index

    def encode(self, column: pa.ChunkedArray) -> np.ndarray:
        """Slots (N,) int64 of a column of any scalar type.

        3, 3.0 and "3" are one value: what parquet stores as a whole number comes back from JSON as a
        float, and must meet the same row of the table.
        """
        cells = canonical(column, self.name)
        if pa.types.is_int64(cells.type) and self.values.dtype == np.int64:
            slots = self._slots_of(cells.fill_null(0).to_numpy())
        else:
            # Only distinct values become Python objects: a million rows hold few of them.
            encoded = pc.cast(cells, pa.large_string()).dictionary_encode()
            per_value = np.append(self._slots_of_text(encoded.dictionary.to_pylist()), UNSEEN)
            slots = per_value[encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()]
        if cells.null_count:
            slots[cells.is_null().to_numpy(zero_copy_only=False)] = MISSING if self.sees_missing else UNSEEN
        return slots

    def _slots_of(self, keys: np.ndarray) -> np.ndarray:
        found = self.index.get_indexer(pd.Index(keys))
        return np.where(found < 0, UNSEEN, found + RESERVED).astype(np.int64, copy=False)

    def _slots_of_text(self, texts: list[str]) -> np.ndarray:
        if self.values.dtype != np.int64:
            return self._slots_of(np.array(texts, dtype=object))
        numbers = [whole_number(text) for text in texts]
        slots = self._slots_of(np.array([0 if number is None else number for number in numbers], dtype=np.int64))
        slots[[number is None for number in numbers]] = UNSEEN
        return slots


@dataclass(frozen=True)
class Scaler:
    """One numeric column: log(1 + x) if ``log``, then standardised by train's mean and deviation, then clipped.

    A missing value becomes 0 (train's mean), with an indicator beside it if train had missing values.
    """

    name: str
    owner: Owner
    log: bool
    mean: float
    deviation: float
    clip: float
    sees_missing: bool

    @property
    def width(self) -> int:
        """Numbers per row: the value, and the indicator if there is one."""
        return 1 + self.sees_missing

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) float64 with NaN for missing to (N, width) float32."""
        missing = ~np.isfinite(numbers)
        values = np.log1p(np.maximum(numbers, 0.0)) if self.log else numbers
        values = np.clip((values - self.mean) / self.deviation, -self.clip, self.clip)
        values[missing] = 0.0
        return np.column_stack([values, missing][: self.width]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Everything learnt about how to read a row.

    Columns stand grouped by owner (user, item, context), so that a model can cut its input with one
    split; within an owner the id comes first, then the features in the specification's order.
    """

    vocabularies: tuple[Vocabulary, ...]
    scalers: tuple[Scaler, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that :meth:`encode` reads."""
        return (*(part.name for part in self.vocabularies), *(part.name for part in self.scalers))

    @property
    def table_rows(self) -> int:
        """Rows of the fused embedding table."""
        return sum(vocabulary.slots for vocabulary in self.vocabularies)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First table row of each vocabulary (F,); it is also the row of its unseen slot."""
        ends = np.cumsum([0, *(vocabulary.slots for vocabulary in self.vocabularies)])
        return tuple(int(end) for end in ends[:-1])

    @property
    def id_owners(self) -> tuple[Owner, ...]:
        """Whom each column of ``Columns.ids`` describes (F,)."""
        return tuple(vocabulary.owner for vocabulary in self.vocabularies)

    @property
    def number_owners(self) -> tuple[Owner, ...]:
        """Whom each column of ``Columns.numbers`` describes (K,)."""
        return tuple(scaler.owner for scaler in self.scalers for _ in range(scaler.width))

    def encode(self, rows: pa.Table) -> Columns:
        """Encode rows in their order; columns the model does not read are ignored.

        Raises:
            BundleError: a column is not there, or holds what cannot be read as its kind.
        """
        missing = [name for name in self.columns if name not in rows.column_names]
        if missing:
            raise BundleError(
                f"The rows lack {len(missing)} of the {len(self.columns)} columns that the model reads: "
                f"{', '.join(missing)}. Send these columns too; a value that is not known may be null."
            )
        try:
            ids = np.empty((rows.num_rows, len(self.vocabularies)), dtype=np.int64)
            for place, (vocabulary, offset) in enumerate(zip(self.vocabularies, self.offsets, strict=True)):
                ids[:, place] = vocabulary.encode(rows[vocabulary.name]) + offset
            numbers = np.empty((rows.num_rows, len(self.number_owners)), dtype=np.float32)
            place = 0
            for scaler in self.scalers:
                numbers[:, place : place + scaler.width] = scaler.encode(as_numbers(rows[scaler.name], scaler.name))
                place += scaler.width
        except Unreadable as error:
            raise BundleError(str(error)) from error
        return Columns(ids=ids, numbers=numbers)

    def to_json(self) -> dict[str, Any]:
        """A plain value for ``json.dumps``; :meth:`from_json` is its inverse."""
        vocabularies = [
            {"name": part.name, "owner": part.owner, "sees_missing": part.sees_missing, "values": part.values.tolist()}
            for part in self.vocabularies
        ]
        return {"vocabularies": vocabularies, "scalers": [asdict(scaler) for scaler in self.scalers]}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """Rebuild an encoder from :meth:`to_json`.

        Raises:
            BundleError: the value does not describe an encoder.
        """
        try:
            vocabularies = tuple(
                Vocabulary(
                    name=part["name"],
                    owner=Owner(part["owner"]),
                    sees_missing=part["sees_missing"],
                    values=_as_values(part["values"]),
                )
                for part in plain["vocabularies"]
            )
            scalers = tuple(Scaler(**{**part, "owner": Owner(part["owner"])}) for part in plain["scalers"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"The encoder's JSON does not describe an encoder: {error!r}.") from error
        return cls(vocabularies=vocabularies, scalers=scalers)


def _as_values(values: Iterable[Any]) -> np.ndarray:
    listed = list(values)
    whole = all(type(value) is int for value in listed)
    return np.array(listed, dtype=np.int64 if whole else object)
