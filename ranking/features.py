"""Which columns a model reads: roles, logged features and history features.

Light on purpose (pydantic only): a specification travels inside every bundle.
"""

from collections.abc import Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ranking.errors import MissingColumn, SettingsError
from ranking.values import Knobs, Value


class Kind(StrEnum):
    """How a column is read."""

    CATEGORICAL = "categorical"
    NUMERIC = "numeric"


class Owner(StrEnum):
    """Whom a feature describes; a two-tower model sends it to that tower."""

    USER = "user"
    ITEM = "item"
    CONTEXT = "context"


class Feature(Value):
    """One column that a model reads besides the ids."""

    name: str
    owner: Owner
    kind: Kind


class FeatureGroup(Knobs):
    """Columns of one owner, by name or by pattern (``user_*``).  An exact name beats a pattern."""

    categorical: tuple[str, ...] = Field(default=(), description="Names or patterns of categorical columns.")
    numeric: tuple[str, ...] = Field(default=(), description="Names or patterns of numeric columns.")


class ColumnKnobs(Knobs):
    """The roles of an interaction log's columns."""

    user: str = Field(default="user_id", description="Column with the user's id (text or whole number).")
    item: str = Field(default="item_id", description="Column with the item's id (text or whole number).")
    time: str = Field(default="timestamp", description="Column with the time of the impression; no zone means UTC.")
    label: str = Field(default="click", description="Column with the outcome: 0 or 1.")
    request: str | None = Field(default=None, description="Column with the id of the request or page view, if logged.")
    exploration: str | None = Field(
        default=None,
        description="Column that says whether an impression was chosen at random (1 or true) and not by the ranker. "
        "With it, models are compared on random impressions only.",
    )
    delivered: str | None = Field(
        default=None,
        description="Column with the time at which a row arrived, if logged. Models do not read it; monitoring watches "
        "for late rows with it.",
    )
    user_features: FeatureGroup = Field(default=FeatureGroup(), description="Logged columns that describe the user.")
    item_features: FeatureGroup = Field(default=FeatureGroup(), description="Logged columns that describe the item.")
    context_features: FeatureGroup = Field(
        default=FeatureGroup(), description="Logged columns that describe the moment."
    )


class Schema(Value):
    """Roles and features of one log, patterns resolved to names."""

    user: str
    item: str
    time: str
    label: str
    request: str | None
    exploration: str | None = None
    delivered: str | None = None
    features: tuple[Feature, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that together name an interaction; no two rows may share them."""
        return (self.user, self.item, self.time, *((self.request,) if self.request else ()))

    @property
    def roles(self) -> dict[str, str]:
        """Role to column, of the roles that the log plays."""
        named = {
            "user": self.user,
            "item": self.item,
            "time": self.time,
            "label": self.label,
            "request": self.request,
            "exploration": self.exploration,
        }
        return {role: column for role, column in named.items() if column is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column the log must have: roles, then features."""
        return (*self.roles.values(), *(feature.name for feature in self.features))

    @property
    def kept(self) -> tuple[str, ...]:
        """Every column that a snapshot keeps: those, and the time of delivery, which no model needs."""
        return self.columns if self.delivered is None else (*self.columns, self.delivered)


class HistoryKnobs(Knobs):
    """Point-in-time features from the log itself: what was known strictly before each impression."""

    enabled: bool = Field(default=True, description="Build history features at all.")
    item_attributes: tuple[str, ...] = Field(
        default=(), description="Item columns whose history counts too, such as the category."
    )
    user_by_attribute: bool = Field(
        default=True, description="Also the history of each user with each of those attributes."
    )
    since_start: bool = Field(
        default=True,
        description="Impressions and click rate since the snapshot's start. They grow with the window, so a model "
        "meets larger numbers than it learnt from; where that matters use windows_days and split.warmup_days instead.",
    )
    windows_days: tuple[PositiveInt, ...] = Field(
        default=(), description="Look-back windows in days for impressions and click rate."
    )
    prior_impressions: PositiveFloat = Field(
        default=20.0, description="Strength of the click-rate smoothing, in impressions."
    )
    grain: Literal["event", "day"] = Field(
        default="event",
        description="event: exact up to the impression. day: up to the last UTC midnight before it (cheaper).",
    )


class HistoryKey(Value):
    """Whose history is counted: one or two columns, and the tower the result belongs to."""

    name: str
    columns: tuple[str, ...]
    owner: Owner


class FeatureSpec(Value):
    """Everything needed to build a model's input from an interaction log."""

    log: Schema
    history: HistoryKnobs
    label_delay_hours: NonNegativeFloat = Field(
        default=0.0, description="Time after an impression at which its label is known."
    )

    @property
    def history_keys(self) -> tuple[HistoryKey, ...]:
        """Whose histories are counted, in column order."""
        if not self.history.enabled:
            return ()
        keys = [
            HistoryKey(name="user", columns=(self.log.user,), owner=Owner.USER),
            HistoryKey(name="item", columns=(self.log.item,), owner=Owner.ITEM),
        ]
        for attribute in self.history.item_attributes:
            keys.append(HistoryKey(name=attribute, columns=(attribute,), owner=Owner.ITEM))
            if self.history.user_by_attribute:
                both = (self.log.user, attribute)
                keys.append(HistoryKey(name=f"user_x_{attribute}", columns=both, owner=Owner.CONTEXT))
        return tuple(keys)

    @property
    def history_features(self) -> tuple[Feature, ...]:
        """The history columns, all numeric: ``hist_<key>_<impressions|ctr|recency_hours>[_<days>d]``.

        Recency is over everything; impressions and click rate once for everything and once per window.
        """
        return tuple(
            Feature(name=name, owner=key.owner, kind=Kind.NUMERIC)
            for key in self.history_keys
            for name in self.history_names(key)
        )

    def history_names(self, key: HistoryKey) -> tuple[str, ...]:
        """The history columns of one key, in their order; recency is the last."""
        suffixes = [*([""] if self.history.since_start else []), *(f"_{days}d" for days in self.history.windows_days)]
        names = [f"hist_{key.name}_{what}{suffix}" for suffix in suffixes for what in ("impressions", "ctr")]
        return (*names, f"hist_{key.name}_recency_hours")

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features besides the two ids: logged ones first, then history."""
        return (*self.log.features, *self.history_features)


def resolve(columns: ColumnKnobs, available: Sequence[str]) -> Schema:
    """Turn names and patterns into the columns that a log really has.

    Args:
        columns: the configured roles.
        available: the log's column names, in order.

    Returns:
        The schema.  An exact name beats a pattern; the first matching owner wins; a pattern never
        takes a column that already has a role.

    Raises:
        MissingColumn: a role or an exactly named feature is not there, or a pattern matches nothing.
        SettingsError: two roles name the same column, or a column is named twice.
    """
    roles = {"user": columns.user, "item": columns.item, "time": columns.time, "label": columns.label}
    optional = {"request": columns.request, "exploration": columns.exploration, "delivered": columns.delivered}
    roles |= {role: column for role, column in optional.items() if column is not None}
    _require(list(roles.items()), available)
    if len(set(roles.values())) < len(roles):
        raise SettingsError(f"data.columns gives one column two roles: {roles}. Give each role its own column.")
    wanted = [
        (owner, kind, name)
        for owner, group in (
            (Owner.USER, columns.user_features),
            (Owner.ITEM, columns.item_features),
            (Owner.CONTEXT, columns.context_features),
        )
        for kind, names in ((Kind.CATEGORICAL, group.categorical), (Kind.NUMERIC, group.numeric))
        for name in names
    ]
    return Schema(
        user=columns.user,
        item=columns.item,
        time=columns.time,
        label=columns.label,
        request=columns.request,
        exploration=columns.exploration,
        delivered=columns.delivered,
        features=_features(wanted, available, taken=set(roles.values())),
    )


def _features(wanted: list[tuple[Owner, Kind, str]], available: Sequence[str], taken: set[str]) -> tuple[Feature, ...]:
    exact = [entry for entry in wanted if not _is_pattern(entry[2])]
    _require([(f"{owner}_features.{kind}", name) for owner, kind, name in exact], available)
    found: dict[str, Feature] = {}
    for owner, kind, name in exact:
        if name in found or name in taken:
            raise SettingsError(f"data.columns names {name!r} twice. Keep one of the two.")
        found[name] = Feature(name=name, owner=owner, kind=kind)
    for owner, kind, pattern in wanted:
        if not _is_pattern(pattern):
            continue
        matches = [name for name in available if fnmatchcase(name, pattern) and name not in taken]
        if not matches:
            raise MissingColumn(
                f"data.columns.{owner}_features.{kind}: the pattern {pattern!r} matches no column. "
                f"The data have: {', '.join(available)}."
            )
        for name in matches:
            found.setdefault(name, Feature(name=name, owner=owner, kind=kind))
    return tuple(found[name] for name in available if name in found)


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _require(named: list[tuple[str, str]], available: Sequence[str]) -> None:
    missing = [f"{name!r} (data.columns.{role})" for role, name in named if name not in available]
    if missing:
        raise MissingColumn(
            f"The data have no column {', '.join(missing)}. They have: {', '.join(available)}. "
            "Name the right columns under [data.columns], or bring data that have them."
        )
