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
    overrides: dict[str, Any]
    length: int
    at: datetime

    def rows(self, loaded: Loaded) -> pa.Table:
        """The rows as a model reads them; what another model reads is left out.

        Raises:
            FeaturesError: what this model needs is missing.
        """
        known = loaded.feature_names
        context = {name: value for name, value in self.context.items() if name in known}
        overrides = {name: value for name, value in self.overrides.items() if name in known}
        return loaded.features.rows(self.user, self.items, context, self.at, overrides)


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
    overrides = {**(asked.user_features or {}), **_by_column(asked.items)}
    strange = sorted((asked.context.keys() | overrides.keys()) - serving.feature_names)
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
        overrides=overrides,
        length=min(asked.length or len(asked.items), len(asked.items)),
        at=asked.time.astimezone(UTC) if asked.time else now,
    )


def _by_column(items: tuple[str | int | Candidate, ...]) -> dict[str, list[Any]]:
    """Candidates' features as columns (N,); a column that one candidate brings is null where another lacks it."""
    brought = [entry.features if isinstance(entry, Candidate) else {} for entry in items]
    names = dict.fromkeys(name for features in brought for name in features)
    return {name: [features.get(name) for features in brought] for name in names}
