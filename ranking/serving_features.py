"""Features at serving time: looked up in tables that the pipeline wrote, by the definitions of the training.

A table is made as of a moment T (:mod:`ranking.serving_tables`) and is a folder::

    history-0.parquet …   one per key of the specification: the key and its history
    users.parquet, items.parquet   the logged features of each user and item, as its latest row had them
    manifest.json         format, specification, T, and the sha256 of the files

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

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, NonNegativeInt, ValidationError

from ranking.cells import whole_number
from ranking.errors import FeaturesError
from ranking.features import FeatureSpec, HistoryKey, Kind, Owner
from ranking.times import Window
from ranking.values import Value, digest

FORMAT = 1
MANIFEST, USERS, ITEMS = "manifest.json", "users.parquet", "items.parquet"

Id = int | str | None
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000


class FeaturesManifest(Value):
    """What a folder of serving features says of itself (``manifest.json``)."""

    format: Literal[1] = 1
    spec: FeatureSpec
    as_of: AwareDatetime
    window: Window
    users: NonNegativeInt
    items: NonNegativeInt
    files: dict[str, str]


class ServingTable(Value):
    """Where one table of serving features is, and how to know it."""

    uri: str
    digest: str
    spec_digest: str
    as_of: AwareDatetime
    users: NonNegativeInt
    items: NonNegativeInt


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
            _History.of(tables[history_file(number)], key, self.spec, self._start)
            for number, key in enumerate(self.spec.history_keys)
        ]
        self._singles: dict[tuple[str, ...], _History] = {
            history.key.columns: history for history in self._histories if len(history.key.columns) == 1
        }
        self._pairs = {
            history.key.columns: _Pairs.of(tables[history_file(number)], history.key, self._singles)
            for number, history in enumerate(self._histories)
            if len(history.key.columns) > 1
        }
        self._types = _types(self.spec, tables)
        self._users = _Profiles.of(tables.get(USERS), self.spec.log.user)
        self._items = _Profiles.of(tables.get(ITEMS), self.spec.log.item)
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
        """Read a table, verifying every byte before any of it is parsed.

        Args:
            folder: a local folder.
            expected_digest: the digest it must have; without it, it is only checked against its own manifest.

        Raises:
            FeaturesError: there is none, a file is missing or differs from the manifest, or the manifest differs
                from ``expected_digest``; the message names the file.
        """
        folder = Path(folder)
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
        return cls(manifest, {name: _table(folder / name, own) for name, own in manifest.files.items()}, mark)

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
            log.user: _column(log.user, types[log.user], user, count),
            log.item: _array(log.item, types[log.item], items),
        }
        for feature in log.features:
            name = feature.name
            if name in given:
                columns[name] = _column(name, types[name], given[name], count)
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


class _Index:
    """Where a key is in its table: row 0…N-1, ``unseen`` (N) for any other, ``null`` (N + 1) for a missing one."""

    def __init__(self, values: list[Any]) -> None:
        self.unseen = len(values)
        self.null = self.unseen + 1
        self._place = {value: number for number, value in enumerate(values)}
        self._kind = type(values[0]) if values else str

    def rows(self, values: Iterable[Any]) -> np.ndarray:
        """Rows (N,) int64 of some keys."""
        listed = list(values)
        get = self._place.get
        found = [get(value, -1) for value in listed]
        if -1 in found:
            found = [self._other(value) if place < 0 else place for place, value in zip(found, listed, strict=True)]
        return np.array(found, dtype=np.int64)

    def _other(self, value: Any) -> int:
        """The key may be there in another spelling, as the encoder reads it: 3, 3.0 and "3" are one value."""
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return self.null
        other = _whole(value) if self._kind is int else _text(value)
        return self._place.get(other, self.unseen)


@dataclass(frozen=True, eq=False)
class _History:
    """One key's histories: ``values`` (N + 2, K) float64, where the last column is the instant of the last impression.

    Row N is what an unseen key gets, row N + 1 (all NaN) what a missing one gets.
    """

    key: HistoryKey
    names: tuple[str, ...]
    index: _Index
    values: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, key: HistoryKey, spec: FeatureSpec, start: int) -> "_History":
        names = spec.history_names(key)
        known, unseen = _known_and_unseen(table, key)
        values = np.full((known.num_rows + 2, len(names)), np.nan)
        for part, place in ((known, slice(0, known.num_rows)), (unseen, slice(known.num_rows, known.num_rows + 1))):
            for number, name in enumerate(names):
                values[place, number] = part[name].to_numpy()
        # The instant and not the hours since: it stays true, and gives the very number that training divides.
        values[:, -1] = start - np.rint(values[:, -1] * HOUR_US)
        keys = known[key.columns[0]].to_pylist() if len(key.columns) == 1 else []
        return cls(key, names, _Index(keys), values)

    def columns(self, places: np.ndarray, now: int) -> dict[str, pa.Array]:
        found = self.values[places].T
        arrays = [pa.array(column, from_pandas=True) for column in found[:-1]]
        arrays.append(pa.array((now - found[-1]) / HOUR_US, from_pandas=True))
        return dict(zip(self.names, arrays, strict=True))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Where a pair of keys is in its table, by the rows of the two keys in theirs: no dictionary of pairs."""

    first: _Index
    second: _Index
    codes: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, key: HistoryKey, singles: "Mapping[tuple[str, ...], _History]") -> "_Pairs":
        known, _ = _known_and_unseen(table, key)
        first, second = (singles[(column,)].index for column in key.columns)
        rows = [
            index.rows(known[column].to_pylist()) for index, column in zip((first, second), key.columns, strict=True)
        ]
        codes = rows[0] * (second.null + 1) + rows[1]
        order = np.argsort(codes)
        return cls(first, second, codes[order], order)

    def rows(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        wanted = first * (self.second.null + 1) + second
        unseen = len(self.codes)
        places = np.searchsorted(self.codes, wanted)
        near = np.minimum(places, unseen - 1)
        found = np.where(self.codes[near] == wanted, self.order[near], unseen) if unseen else np.zeros_like(wanted)
        missing = (first == self.first.null) | (second == self.second.null)
        return np.where(missing, unseen + 1, found)


@dataclass(frozen=True, eq=False)
class _Profiles:
    """The logged features of users or items, with two rows of nulls behind: for an unseen and for a missing id."""

    index: _Index
    columns: dict[str, pa.Array]

    @classmethod
    def of(cls, table: pa.Table | None, key: str) -> "_Profiles":
        if table is None:
            return cls(_Index([]), {})
        columns = {
            name: pa.concat_arrays([*table[name].chunks, pa.nulls(2, table[name].type)])
            for name in table.column_names
            if name != key
        }
        return cls(_Index(table[key].to_pylist()), columns)


def _types(spec: FeatureSpec, tables: Mapping[str, pa.Table]) -> dict[str, pa.DataType]:
    """One type per column, so that the rows of any two requests can be put into one batch."""
    found = {
        feature.name: pa.float64() if feature.kind is Kind.NUMERIC else pa.string() for feature in spec.log.features
    }
    for key in (spec.log.user, spec.log.item):
        kinds = [table[key].type for table in tables.values() if key in table.column_names]
        found[key] = pa.int64() if kinds and pa.types.is_integer(kinds[0]) else pa.string()
    return found


def _known_and_unseen(table: pa.Table, key: HistoryKey) -> tuple[pa.Table, pa.Table]:
    new = np.asarray(table[key.columns[0]].is_null())
    if int(new.sum()) != 1:
        raise FeaturesError(
            f"The history of {key.name} has {int(new.sum())} rows for unseen keys; it must have one. "
            "Write the features again with `feedloop features`."
        )
    return table.filter(pa.array(~new)), table.filter(pa.array(new))


def _instant(at: datetime, spec: FeatureSpec) -> int:
    """The moment from which a row at ``at`` looks, in microseconds; as ``ranking.history`` has it."""
    us: int = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)
    return us - us % DAY_US if spec.history.grain == "day" else us


def _column(name: str, kind: pa.DataType, value: Any, count: int) -> pa.Array:
    """A value for all rows, or one per row, in the column's type."""
    if isinstance(value, list | tuple | np.ndarray):
        return _array(name, kind, value.tolist() if isinstance(value, np.ndarray) else list(value))
    return pa.repeat(_array(name, kind, [value])[0], count)


def _array(name: str, kind: pa.DataType, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    # JSON may mix numbers and text in one column, or write 3 as 3.0; the encoder takes them for the same.
    spell = _text if pa.types.is_string(kind) else _whole if pa.types.is_int64(kind) else _number
    try:
        return pa.array([None if value is None else spell(value) for value in values], kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise FeaturesError(f"{name} holds what cannot be read as {kind}: {error}.") from error


def _text(value: Any) -> str:
    if isinstance(value, dict | list | tuple | set):
        raise TypeError(f"{value!r} is no single value")
    return (
        str(int(value)) if isinstance(value, bool | float | np.floating) and float(value).is_integer() else str(value)
    )


def _whole(value: Any) -> int | None:
    """An id as a whole number; None, which is as unknown to a model as any other new id, where it is none."""
    if isinstance(value, str):
        return whole_number(value)
    return int(value) if float(value).is_integer() else None


def _number(value: Any) -> float:
    return float(value)


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
