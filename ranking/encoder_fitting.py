"""Learning an :class:`ranking.encoding.Encoder` from the train rows and no others."""

import numpy as np
import pyarrow as pa

from ranking.cells import Unreadable, as_numbers, canonical
from ranking.encoding import Encoder, Scaler, Vocabulary
from ranking.errors import TrainingError
from ranking.features import FeatureSpec, Kind, Owner

SKEWNESS_FOR_LOG = 2.0
"""Skewness from which a non-negative column is read through log(1 + x); an exponential one has exactly 2."""

CLIP_DEVIATIONS = 6.0
"""Numbers further than this from train's mean are drawn in, so that one wild value cannot rule a logit."""


def fit_encoder(rows: pa.Table, spec: FeatureSpec, *, min_count: int = 2) -> Encoder:
    """Learn vocabularies and scalers.

    Args:
        rows: the TRAIN rows and no others; whatever is learnt here is what the model may know.
        spec: the roles and features to read.
        min_count: rows that a value (or null) needs for a slot of its own; rarer ones share, and
            thereby train, the slot of the unseen.

    Raises:
        TrainingError: there are no rows, or a column is missing or unreadable.
    """
    wanted = (spec.log.user, spec.log.item, *(feature.name for feature in spec.features))
    missing = [name for name in wanted if name not in rows.column_names]
    if missing:
        raise TrainingError(f"The train rows lack the columns {', '.join(missing)}, which the specification names.")
    if not rows.num_rows:
        raise TrainingError("There are 0 train rows to fit an encoder on. Widen the training window.")
    ids = [(spec.log.user, Owner.USER), (spec.log.item, Owner.ITEM)]
    ids += [(feature.name, feature.owner) for feature in spec.features if feature.kind == Kind.CATEGORICAL]
    numeric = [(feature.name, feature.owner) for feature in spec.features if feature.kind == Kind.NUMERIC]
    try:
        return Encoder(
            vocabularies=tuple(_fit_vocabulary(rows[name], name, owner, min_count) for name, owner in _grouped(ids)),
            scalers=tuple(
                _fit_scaler(as_numbers(rows[name], name), name, owner, min_count) for name, owner in _grouped(numeric)
            ),
        )
    except Unreadable as error:
        raise TrainingError(str(error)) from error


def _grouped(columns: list[tuple[str, Owner]]) -> list[tuple[str, Owner]]:
    order = list(Owner)
    return sorted(columns, key=lambda column: order.index(column[1]))


def _fit_vocabulary(column: pa.ChunkedArray, name: str, owner: Owner, min_count: int) -> Vocabulary:
    cells = canonical(column, name)
    known = cells.drop_null()
    if pa.types.is_int64(cells.type):
        values, counts = np.unique(known.to_numpy(), return_counts=True)
    else:
        counted = known.value_counts()
        values, counts = np.array(counted.field("values").to_pylist(), dtype=object), counted.field("counts").to_numpy()
        order = np.argsort(values, kind="stable")
        values, counts = values[order], counts[order]
    frequent = counts >= min_count
    values, counts = values[frequent], counts[frequent]
    # Most frequent first keeps the busy rows of the table close together in memory.
    values = values[np.argsort(-counts, kind="stable")]
    return Vocabulary(name, owner, sees_missing=cells.null_count >= min_count, values=values)


def _fit_scaler(numbers: np.ndarray, name: str, owner: Owner, min_count: int) -> Scaler:
    known = numbers[np.isfinite(numbers)]
    log = bool(len(known) and known.min() >= 0 and _skewness(known) >= SKEWNESS_FOR_LOG)
    known = np.log1p(known) if log else known
    deviation = float(known.std()) if len(known) else 0.0
    return Scaler(
        name=name,
        owner=owner,
        log=log,
        mean=float(known.mean()) if len(known) else 0.0,
        deviation=deviation or 1.0,
        # From a constant column nothing was learnt, so whatever it holds later must not count.
        clip=CLIP_DEVIATIONS if deviation else 0.0,
        sees_missing=bool(len(numbers) - len(known) >= min_count),
    )


def _skewness(numbers: np.ndarray) -> float:
    centred = numbers - numbers.mean()
    deviation = centred.std()
    return float((centred**3).mean() / deviation**3) if deviation > 0 else 0.0
