"""Where a model's columns come from: a table of looked-up features, or the request alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from ranking.errors import FeaturesError
from ranking.features import FeatureSpec, Owner

Sent = Sequence[Mapping[str, Any] | None]
"""What came with each item."""


class FeatureSource(Protocol):
    """Makes the rows that a bundle scores.  Values are immutable: threads share them."""

    @property
    def digest(self) -> str:
        """Names the content; empty without a table."""

    @property
    def as_of(self) -> datetime | None:
        """The moment that the table answers for."""

    def rows(
        self,
        user: str | int,
        items: Sequence[str | int],
        context: Mapping[str, Any],
        at: datetime,
        overrides: Mapping[str, Any] | None = None,
        item_features: Sent | None = None,
    ) -> pa.Table:
        """One row per item.

        Args:
            user: its id.
            items: (N,) ids.
            context: a value for every context feature.
            at: the time of the request.
            overrides: other logged features that hold for all items.
            item_features: (N,) what each item brings.

        Raises:
            FeaturesError: a context feature is missing, or a name is none of the model's.
        """


@dataclass(frozen=True)
class RequestFeatures:
    """No table: what the request does not bring is null."""

    spec: FeatureSpec
    digest: str = ""
    as_of: datetime | None = None

    def rows(
        self,
        user: str | int,
        items: Sequence[str | int],
        context: Mapping[str, Any],
        at: datetime,
        overrides: Mapping[str, Any] | None = None,
        item_features: Sent | None = None,
    ) -> pa.Table:
        """See :class:`FeatureSource`."""
        del at
        given = {**context, **(overrides or {})}
        missing = [f.name for f in self.spec.log.features if f.owner is Owner.CONTEXT and f.name not in given]
        if missing:
            raise FeaturesError(
                f"The request lacks the context {', '.join(missing)}. Send it; null is allowed where it is not known."
            )
        count = len(items)
        sent = [some or {} for some in item_features or ()]
        by_item = {name for some in sent for name in some}
        columns: dict[str, Any] = {self.spec.log.user: pa.repeat(user, count), self.spec.log.item: cells(items)}
        for feature in self.spec.features:
            value = given.get(feature.name)
            if feature.name in by_item:
                columns[feature.name] = cells([some.get(feature.name, value) for some in sent])
            else:
                columns[feature.name] = pa.repeat(pa.scalar(value), count)
        return pa.table(columns)


def cells(values: Sequence[Any]) -> pa.Array:
    """A column of JSON values; where they mix numbers and text, their text, which the encoder knows them by too."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
