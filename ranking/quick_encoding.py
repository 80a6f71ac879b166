"""The encoder for a hundred rows at a time: the numbers of ``Encoder.encode``, without its cost per column.

``Encoder.encode`` is made for millions of rows: per column it builds an index of the cells and asks a hash
table, which takes 0.1 ms however few rows there are.  A request has one user and some hundred items; here a
cell is one look-up in a dictionary, and all numbers are scaled at once.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ranking.batches import predict
from ranking.bundle import Bundle
from ranking.cells import Unreadable, as_numbers, canonical, whole_number
from ranking.encoding import MISSING, RESERVED, UNSEEN, Columns, Encoder, Vocabulary
from ranking.errors import BundleError

MANY_ROWS = 5_000
"""Rows from which the other way is the quicker one."""


class QuickScorer:
    """Scores of a bundle for few rows.

    Args:
        bundle: the ranker; its own ``score`` gives the same to the last bit.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._encoder = QuickEncoder(bundle.encoder)

    def score(self, rows: pa.Table) -> np.ndarray:
        """Click probabilities (N,) float64, as :meth:`ranking.bundle.Bundle.score` gives them.

        Raises:
            BundleError: a column is missing, or holds what cannot be read as its kind.
        """
        if not 0 < rows.num_rows < MANY_ROWS:
            return self._bundle.score(rows)
        columns = self._encoder.encode(rows)
        return predict(self._bundle.net, torch.from_numpy(columns.ids), torch.from_numpy(columns.numbers))


class QuickEncoder:
    """An encoder's dictionaries and scales, laid out for few rows.

    Args:
        encoder: what was learnt.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._names = encoder.columns
        self._known = [
            _Known(vocabulary, offset) for vocabulary, offset in zip(encoder.vocabularies, encoder.offsets, strict=True)
        ]
        self._numeric = [scaler.name for scaler in encoder.scalers]
        self._log = np.array([scaler.log for scaler in encoder.scalers], dtype=bool)
        self._mean = np.array([scaler.mean for scaler in encoder.scalers])
        self._deviation = np.array([scaler.deviation for scaler in encoder.scalers])
        self._clip = np.array([scaler.clip for scaler in encoder.scalers])
        widths = [scaler.width for scaler in encoder.scalers]
        self._width = sum(widths)
        starts = np.cumsum([0, *widths[:-1]]) if widths else np.empty(0)
        self._values_at = starts.astype(np.int64)
        self._sees_missing = np.array([scaler.sees_missing for scaler in encoder.scalers], dtype=bool)

    def encode(self, rows: pa.Table) -> Columns:
        """Encode rows in their order; see :meth:`ranking.encoding.Encoder.encode`.

        Raises:
            BundleError: a column is not there, or holds what cannot be read as its kind.
        """
        # A table finds a column by its name in a search, every time anew.
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        missing = [name for name in self._names if name not in columns]
        if missing:
            raise BundleError(
                f"The rows lack {len(missing)} of the {len(self._names)} columns that the model reads: "
                f"{', '.join(missing)}. Send these columns too; a value that is not known may be null."
            )
        try:
            ids = np.empty((rows.num_rows, len(self._known)), dtype=np.int64)
            for place, known in enumerate(self._known):
                ids[:, place] = known.slots(columns[known.name])
            return Columns(ids=ids, numbers=self._scaled(columns, rows.num_rows))
        except Unreadable as error:
            raise BundleError(str(error)) from error

    def _scaled(self, columns: dict[str, pa.ChunkedArray], count: int) -> np.ndarray:
        numbers = np.zeros((count, self._width), dtype=np.float32)
        if not self._numeric:
            return numbers
        raw = np.column_stack([as_numbers(columns[name], name) for name in self._numeric])
        gone = ~np.isfinite(raw)
        if self._log.any():
            raw[:, self._log] = np.log1p(np.maximum(raw[:, self._log], 0.0))
        with np.errstate(invalid="ignore"):  # a missing number is infinite or no number until it is set below
            scaled = np.clip((raw - self._mean) / self._deviation, -self._clip, self._clip)
        scaled[gone] = 0.0
        numbers[:, self._values_at] = scaled
        numbers[:, self._values_at[self._sees_missing] + 1] = gone[:, self._sees_missing]
        return numbers


class _Known:
    """One vocabulary as a dictionary from value to row of the fused table; ``None`` has a row too."""

    def __init__(self, vocabulary: Vocabulary, offset: int) -> None:
        self.name = vocabulary.name
        self._whole = vocabulary.values.dtype == np.int64
        self._unseen = offset + UNSEEN
        slots = range(offset + RESERVED, offset + RESERVED + len(vocabulary.values))
        self._slot: dict[Any, int] = dict(zip(vocabulary.values.tolist(), slots, strict=True))
        self._slot[None] = offset + (MISSING if vocabulary.sees_missing else UNSEEN)

    def slots(self, column: pa.ChunkedArray) -> list[int]:
        cells = canonical(column, self.name)
        values = cells.to_pylist() if cells.null_count else cells.to_numpy(zero_copy_only=False).tolist()
        get, unseen = self._slot.get, self._unseen
        if pa.types.is_int64(cells.type) == self._whole:
            return [get(value, unseen) for value in values]
        if self._whole:
            return [get(None, unseen) if text is None else self._of_text(text) for text in values]
        return [get(None if number is None else str(number), unseen) for number in values]

    def _of_text(self, text: str) -> int:
        number = whole_number(text)
        return self._unseen if number is None else self._slot.get(number, self._unseen)
