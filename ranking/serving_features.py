"""Features at serving time: looked up in tables that the pipeline wrote, by the definitions of the training.

A table is a folder (:mod:`ranking.serving_folder`) made as of a moment T (:mod:`ranking.serving_tables`).

What is exact, and what is as old as the table:

- grain ``day``: a training row looks from its day's UTC midnight, and so does the table of that day.  Rows of the day
  T lies in get exactly what a training computes for them.  On a later day counts and click rates are those of the
  table; recency goes on from midnight to midnight.
- grain ``event``: counts and click rates are as of T, whatever happened since.  Recency runs on to the request's
  time, exactly so if its key was not shown after T.
- logged features of users and items are those of their latest row before T.  What changes from hour to hour (the age
  of an item) should come with the request.

A key that the log has never seen gets what training gives to it: no impressions, the prior as click rate, no recency.
No engine and no Prefect here: pyarrow, numpy, and one dictionary per key.  Values are immutable, so threads may share
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, NonNegativeInt

from ranking.errors import FeaturesError
from ranking.features import FeatureSpec, Kind, Owner
from ranking.serving_cells import array_of, column_of
from ranking.serving_folder import (
    ITEMS,
    USERS,
    FeaturesManifest,
    history_file,
    read_folder,
    specification_key,
)
from ranking.serving_index import History, Pairs, Profiles
from ranking.values import Value, digest

Id = int | str | None
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000


class ServingTable(Value):
    """Where one table of serving features is, and how to know it."""

    uri: str
    digest: str
    spec_digest: str
    as_of: AwareDatetime
    users: NonNegativeInt
    items: NonNegativeInt


@dataclass(frozen=True)
class LookedUp:
    """Rows that a bundle can score, and how many of the looked-up keys the table knew.

    A pair of a user and an attribute that have not met yet is no gap: "never" is the answer.  So only single keys
    are counted: the user, the items, and the values of the attributes.
    """

    rows: pa.Table
    unknown_by_key: dict[str, int]

    @property
    def cells(self) -> int:
        """Keys that were looked up."""
        count: int = self.rows.num_rows
        return len(self.unknown_by_key) * count

    @property
    def unknown(self) -> int:
        """Of those, the ones that the table does not have."""
        return sum(self.unknown_by_key.values())

    @property
    def known(self) -> dict[str, float]:
        """Per column, the share of rows that are not null; a key that was never seen has no recency."""
        count = max(self.rows.num_rows, 1)
        return {name: 1.0 - self.rows[name].null_count / count for name in self.rows.column_names}


class ServingFeatures:
    """A table of serving features in memory."""

    def __init__(self, manifest: FeaturesManifest, tables: Mapping[str, pa.Table], mark: str | None = None) -> None:
        self.manifest = manifest
        self.digest = mark or digest(manifest)
        """The sha256 of the manifest: the name of this content."""
        self.spec = manifest.spec
        self._start = _instant(manifest.as_of, self.spec)
        self._histories = [
            History.of(tables[history_file(number)], key, self.spec, self._start)
            for number, key in enumerate(self.spec.history_keys)
        ]
        self._singles: dict[tuple[str, ...], History] = {
            history.key.columns: history for history in self._histories if len(history.key.columns) == 1
        }
        self._pairs = {
            history.key.columns: Pairs.of(tables[history_file(number)], history.key, self._singles)
            for number, history in enumerate(self._histories)
            if len(history.key.columns) > 1
        }
        self._types = _types(self.spec, tables)
        self._users = Profiles.of(tables.get(USERS), self.spec.log.user)
        self._items = Profiles.of(tables.get(ITEMS), self.spec.log.item)
        # An item's attributes are looked up once, here, and not in every request.
        self._attribute_of_item = {
            column: self._singles[(column,)].index.rows(self._items.columns[column].to_pylist())
            for column in self.spec.history.item_attributes
            if self.spec.history.enabled and column in self._items.columns
        }

    @property
    def as_of(self) -> datetime:
        """The moment T that the table answers for."""
        return self.manifest.as_of

    @cached_property
    def spec_digest(self) -> str:
        """Which specification it is for: :func:`specification_key`."""
        return specification_key(self.spec)

    @classmethod
    def load(cls, folder: str | Path, expected_digest: str | None = None) -> Self:
        """Read a table, verifying every byte before any of it is parsed; see :func:`read_folder`."""
        found = read_folder(Path(folder), expected_digest)
        return cls(found.manifest, found.tables, found.digest)

    def rows(
        self,
        user: Id,
        items: Sequence[Id] | np.ndarray,
        context: Mapping[str, Any],
        at: datetime,
        overrides: Mapping[str, Any] | None = None,
        item_features: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> pa.Table:
        """The rows to score, one per item in their order; see :meth:`look_up`."""
        return self.look_up(user, items, context, at, overrides, item_features).rows

    def look_up(
        self,
        user: Id,
        items: Sequence[Id] | np.ndarray,
        context: Mapping[str, Any],
        at: datetime,
        overrides: Mapping[str, Any] | None = None,
        item_features: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> LookedUp:
        """Everything that a model of this specification reads about a user and some items.

        Args:
            user: its id; 3, 3.0 and "3" are one id.
            items: (N,) ids of the candidates.
            context: a value for every context feature of the log; None is "not known".
            at: time of the request (UTC if it names no zone).  A time before ``as_of`` counts as ``as_of``.
            overrides: other logged features that the request knows better, such as those of the user.  A scalar
                holds for all rows, a list has one value per item, None included.
            item_features: (N,) per item the features that the request knows better; what an item does not name is
                looked up.  The history of an attribute follows the value that was sent.

        Returns:
            (N) rows with both ids, every logged feature and every history column: all of ``encoder.columns``.

        Raises:
            FeaturesError: a context feature is missing, a name is no logged feature, a value cannot be read as its
                column's type, or a list has another length.
        """
        listed = items.tolist() if isinstance(items, np.ndarray) else list(items)
        user_place, item_places = self._users.index.rows([user]), self._items.index.rows(listed)
        given = {**context, **(overrides or {}), **self._sent_with(item_features or (), item_places)}
        self._check(given, len(listed))
        columns = self._logged(user, listed, given, user_place[0], item_places)
        places = self._places(user, listed, columns, given, item_places)
        now = max(_instant(at, self.spec), self._start)
        for history in self._histories:
            columns |= history.columns(places[history.key.columns], now)
        found = {history.key.name: (places[key], history.index) for key, history in self._singles.items()}
        if not found:
            profiles = (("user", user_place.repeat(len(listed)), self._users), ("item", item_places, self._items))
            found = {name: (rows, profile.index) for name, rows, profile in profiles if profile.columns}
        unknown = {name: int(np.count_nonzero(rows == index.unseen)) for name, (rows, index) in found.items()}
        return LookedUp(pa.table(columns), unknown)

    def _logged(
        self, user: Id, items: list[Id], given: Mapping[str, Any], user_place: int, item_places: np.ndarray
    ) -> dict[str, pa.Array]:
        """Ids and logged features: what was sent, or what was logged last."""
        log, types, count, at = self.spec.log, self._types, len(items), pa.array(item_places)
        columns = {
            log.user: column_of(log.user, types[log.user], user, count),
            log.item: array_of(log.item, types[log.item], items),
        }
        for feature in log.features:
            name = feature.name
            if name in given:
                columns[name] = column_of(name, types[name], given[name], count)
            elif feature.owner is Owner.USER:
                columns[name] = pa.repeat(self._users.columns[name][user_place], count)
            else:
                columns[name] = self._items.columns[name].take(at)
        return columns

    def _sent_with(self, sent: Sequence[Mapping[str, Any] | None], places: np.ndarray) -> dict[str, list[Any]]:
        """Per feature that came with some item, a value for every item."""
        if sent and len(sent) != len(places):
            raise FeaturesError(f"There are features of {len(sent):,} items for {len(places):,} items.")
        columns: dict[str, list[Any]] = {}
        for name in {name for one in sent if one for name in one}:
            own = self._items.columns.get(name)
            columns[name] = [None] * len(places) if own is None else own.take(pa.array(places)).to_pylist()
            for number, one in enumerate(sent):
                if one and name in one:
                    columns[name][number] = one[name]
        return columns

    def _places(
        self,
        user: Id,
        items: list[Id],
        columns: Mapping[str, Any],
        given: Mapping[str, Any],
        profiles: np.ndarray,
    ) -> dict[tuple[str, ...], np.ndarray]:
        """Per key, the rows of its table (N,)."""
        found: dict[tuple[str, ...], np.ndarray] = {}
        for history in self._histories:
            key = history.key.columns
            if key == (self.spec.log.user,):
                found[key] = np.full(len(items), history.index.rows([user])[0])
            elif key == (self.spec.log.item,):
                found[key] = history.index.rows(items)
            elif len(key) > 1:
                found[key] = self._pairs[key].rows(*(found[(column,)] for column in key))
            elif key[0] in self._attribute_of_item and key[0] not in given:
                found[key] = self._attribute_of_item[key[0]][profiles]
            else:
                found[key] = history.index.rows(columns[key[0]].to_pylist())
        return found

    def _check(self, given: Mapping[str, Any], count: int) -> None:
        features = self.spec.log.features
        missing = [f.name for f in features if f.owner is Owner.CONTEXT and f.name not in given]
        if missing:
            raise FeaturesError(
                f"The request lacks the context {', '.join(missing)}. Send it; null is allowed where it is not known."
            )
        if len(given) > len(features) or not given.keys() <= {feature.name for feature in features}:
            strange = sorted(given.keys() - {feature.name for feature in features})
            raise FeaturesError(
                f"The request sends {', '.join(strange)}, which the model does not read from the log. "
                f"It reads: {', '.join(feature.name for feature in features)}."
            )
        for name, value in given.items():
            if isinstance(value, list | tuple | np.ndarray) and len(value) != count:
                raise FeaturesError(f"{name} has {len(value):,} values for {count:,} items. Send one per item, or one.")


def _types(spec: FeatureSpec, tables: Mapping[str, pa.Table]) -> dict[str, pa.DataType]:
    """One type per column, so that the rows of any two requests can be put into one batch."""
    found = {
        feature.name: pa.float64() if feature.kind is Kind.NUMERIC else pa.string() for feature in spec.log.features
    }
    for key in (spec.log.user, spec.log.item):
        kinds = [table[key].type for table in tables.values() if key in table.column_names]
        found[key] = pa.int64() if kinds and pa.types.is_integer(kinds[0]) else pa.string()
    return found


def _instant(at: datetime, spec: FeatureSpec) -> int:
    """The moment from which a row at ``at`` looks, in microseconds; as ``ranking.history`` has it."""
    us: int = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)
    return us - us % DAY_US if spec.history.grain == "day" else us
