"""A request, read and checked: what every model needs to make its rows."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from deployments.gateway.limits import check_candidates
from deployments.gateway.problems import Refused, explained
from deployments.gateway.schemas import Candidate, RankRequest
from deployments.gateway.serving import Loaded, Serving
from settings.serving import ServingKnobs


@dataclass(frozen=True, eq=False)
class Query:
    """One user, some items, a moment."""

    request_id: str
    user: str | int
    items: list[str | int]
    context: dict[str, Any]
    user_features: dict[str, Any]
    item_features: list[dict[str, Any]] | None
    length: int
    at: datetime

    def rows(self, loaded: Loaded) -> pa.Table:
        """The rows as a model reads them; what another model reads is left out.

        Raises:
            FeaturesError: what this model needs is missing.
        """
        known = loaded.feature_names
        context = {name: value for name, value in self.context.items() if name in known}
        user = {name: value for name, value in self.user_features.items() if name in known}
        return loaded.features.rows(self.user, self.items, context, self.at, user, self.sent(loaded))

    def sent(self, loaded: Loaded) -> list[dict[str, Any]] | None:
        """What came with each item, as far as a model reads it."""
        if self.item_features is None:
            return None
        known = loaded.feature_names
        return [{name: value for name, value in some.items() if name in known} for some in self.item_features]


def read_query(body: bytes, serving: Serving, knobs: ServingKnobs, header_id: str | None, now: datetime) -> Query:
    """Read the body of ``/rank``.

    Args:
        body: JSON.
        serving: what serves, whose features may be named.
        knobs: the limits.
        header_id: the request's id from its header, if the body has none.
        now: the time.

    Raises:
        Refused: 422 with what is wrong.
    """
    try:
        asked = RankRequest.model_validate_json(body)
    except ValidationError as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, explained(error)) from error
    request_id = asked.request_id or header_id or uuid.uuid4().hex
    check_candidates(len(asked.items), knobs)
    if asked.time is not None and not knobs.trust_request_time:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "A request does not say what time it is, except in a simulation: leave out `time`, or set "
            "serving.trust_request_time = true.",
            request_id,
        )
    sent = _sent(asked.items)
    user = asked.user_features or {}
    strange = sorted(set(asked.context).union(user, *(sent or ())) - serving.feature_names)
    if strange:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"No model reads {', '.join(strange)} from a request. "
            f"It may bring: {', '.join(sorted(serving.feature_names))}.",
            request_id,
        )
    return Query(
        request_id=request_id,
        user=asked.user,
        items=asked.ids,
        context=asked.context,
        user_features=user,
        item_features=sent,
        length=min(asked.length or len(asked.items), len(asked.items)),
        at=asked.time.astimezone(UTC) if asked.time else now,
    )


def _sent(items: tuple[str | int | Candidate, ...]) -> list[dict[str, Any]] | None:
    """What each candidate brings (N,); None if no one brings anything."""
    brought: list[dict[str, Any]] = [entry.features if isinstance(entry, Candidate) else {} for entry in items]
    return brought if any(brought) else None
