"""A request, read and checked: what every model needs to make its rows."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
import pyarrow as pa
from pydantic import ValidationError

from deployments.gateway.limits import check_candidates
from deployments.gateway.problems import Refused, explained
from deployments.gateway.schemas import Candidate, RankRequest
from deployments.gateway.serving import Loaded, Serving
from settings.serving import ServingKnobs

_FLAT = {str, int, float, bool, type(None)}
_NOTHING: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Query:
    """One user, some items, a moment."""

    request_id: str
    user: str | int
    items: list[str | int]
    context: dict[str, Any]
    user_features: dict[str, Any]
    item_features: list[dict[str, Any]] | None
    item_names: frozenset[str]
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
        known = loaded.feature_names
        if self.item_features is None or self.item_names <= known:
            return self.item_features
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
    asked, ids, brought = _parsed(body)
    request_id = asked.request_id or header_id or uuid.uuid4().hex
    check_candidates(len(ids), knobs)
    if asked.time is not None and not knobs.trust_request_time:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "A request does not say what time it is, except in a simulation: leave out `time`, or set "
            "serving.trust_request_time = true.",
            request_id,
        )
    user = asked.user_features or {}
    names = frozenset().union(*brought)
    strange = sorted(names.union(asked.context, user) - serving.feature_names)
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
        items=ids,
        context=asked.context,
        user_features=user,
        item_features=brought if names else None,
        item_names=names,
        length=min(asked.length or len(ids), len(ids)),
        at=asked.time.astimezone(UTC) if asked.time else now,
    )


def _parsed(body: bytes) -> tuple[RankRequest, list[str | int], list[dict[str, Any]]]:
    """A request, its ids (N,), and what each item brings (N,).

    The model's own check of a hundred candidates would take a third of the whole answer's time.  So candidates that
    are plainly right are looked at here; the model sees all others, and says what is wrong.
    """
    try:
        sent = orjson.loads(body)
        plain = _plain(sent.get("items")) if isinstance(sent, dict) else None
        if plain is not None:
            ids, brought = plain
            return RankRequest.model_validate({**sent, "items": ids[:1]}), ids, brought
        asked = RankRequest.model_validate(sent)
    except orjson.JSONDecodeError as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"The body is no JSON: {error}.") from error
    except ValidationError as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, explained(error)) from error
    return asked, asked.ids, [entry.features if isinstance(entry, Candidate) else {} for entry in asked.items]


def _plain(items: Any) -> tuple[list[str | int], list[dict[str, Any]]] | None:
    """Ids and features of candidates; None if the model has to look at them."""
    if type(items) is not list or not items:
        return None
    ids: list[str | int] = []
    brought: list[dict[str, Any]] = []
    for entry in items:
        item, features = entry, _NOTHING
        if type(entry) is dict:
            item, features = entry.get("item"), entry.get("features", _NOTHING)
            if len(entry) != 1 + ("features" in entry) or type(features) is not dict:
                return None
            if not _FLAT.issuperset(map(type, features.values())):
                return None
        if type(item) is not str and type(item) is not int:
            return None
        ids.append(item)
        brought.append(features)
    return (ids, brought) if len(set(map(str, ids))) == len(ids) else None
