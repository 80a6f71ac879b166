"""The walk of one request through ``/rank``: read, assigned, scored, ordered, logged, answered.

Whatever a challenger does, its user gets an answer: the champion's, in the same request.
"""

import logging
import time
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np
import orjson

from deployments.gateway import metrics
from deployments.gateway.lane import told
from deployments.gateway.problems import Refused
from deployments.gateway.query import Query, read_query
from deployments.gateway.serving import Loaded, Serving
from deployments.gateway.state import Gateway
from ranking.assignment import Assignment, RoutingTable, assign
from ranking.errors import BundleError, FeaturesError
from ranking.exposures import Answered, Outcome
from ranking.hashing import BUCKETS, bucket, text_of
from ranking.interleaving import draft
from tasks.adapters.exposure_log import microseconds

logger = logging.getLogger("feedloop.gateway")

CHALLENGER_SHARE = 0.5
"""Share of the time for an answer that a challenger may use up; the rest is the champion's."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """A list: (L,) places of the candidates in their order, with their scores, and who made it."""

    loaded: Loaded
    order: np.ndarray
    scores: np.ndarray
    outcome: Outcome = Outcome.OK
    teams: tuple[int, ...] | None = None


async def rank(gateway: Gateway, body: bytes, header_id: str | None) -> tuple[str, bytes]:
    """Answer a request; gives its id and the answer's JSON.

    Raises:
        Refused: it cannot be answered.
    """
    started = time.perf_counter()
    serving = ready(gateway)
    query = read_query(body, serving, gateway.knobs, header_id, gateway.clock())
    with metrics.IN_FLIGHT.track_inprogress():
        return query.request_id, await _answered(gateway, serving, query, started)


async def _answered(gateway: Gateway, serving: Serving, query: Query, started: float) -> bytes:
    if gateway.knobs.trust_request_time:
        gateway.newest = max(gateway.newest or query.at, query.at)
    assigned = assign(serving.routing.table, query.user)
    try:
        ranked = await _ranked(gateway, serving, query, assigned, started)
    except (FeaturesError, BundleError) as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), query.request_id) from error
    except TimeoutError as error:
        _note(gateway, serving, query, assigned, started, Outcome.TIMEOUT)
        most = gateway.knobs.timeout_milliseconds
        raise Refused(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"No answer within {most:g} ms (serving.timeout_milliseconds).",
            query.request_id,
        ) from error
    except Exception as error:
        logger.exception("Request %s could not be answered.", query.request_id)
        _note(gateway, serving, query, assigned, started, Outcome.ERROR)
        raise Refused(
            HTTPStatus.INTERNAL_SERVER_ERROR, "The champion failed; the gateway's log says why.", query.request_id
        ) from error
    _note(gateway, serving, query, assigned, started, ranked.outcome, ranked)
    return _json(serving, query, assigned, ranked)


def ready(gateway: Gateway) -> Serving:
    """What serves now.

    Raises:
        Refused: nothing yet (503).
    """
    if gateway.serving is None:
        why = "; ".join(gateway.troubles.values()) or "the champion is being loaded"
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"No champion serves yet: {why}")
    return gateway.serving


def chosen(table: RoutingTable, purpose: str, share: float, request_id: str) -> bool:
    """Whether a request belongs to a share of all requests; the same request always does or never does."""
    return share > 0 and bucket(f"{table.salt}{purpose}:", request_id) < share * BUCKETS


async def _ranked(gateway: Gateway, serving: Serving, query: Query, assigned: Assignment, started: float) -> Ranked:
    table = serving.routing.table
    if table.interleaved is not None and chosen(table, "interleaved", table.interleaved_share, query.request_id):
        return await _mixed(gateway, serving, query, table.interleaved, started)
    failed = None
    if assigned.version != table.champion:
        scores, failed = await _challenged(gateway, serving, query, assigned.version)
        if scores is not None:
            gateway.breaker.succeeded()
            return Ranked(serving.models[assigned.version], _order(scores), scores)
    scores = await _champion(gateway, serving, query, started)
    ranked = Ranked(serving.champion, _order(scores), scores, Outcome.OK if failed is None else Outcome.FALLBACK)
    if failed is not None:
        # Only now: a request that no model can answer is the caller's mistake, and not the challenger's.
        gateway.challenger_failed(assigned.version, failed)
    elif table.shadow is not None and chosen(table, "shadow", table.shadow_share, query.request_id):
        gateway.shadow.offer(serving, query, ranked.order, scores)
    return ranked


async def _mixed(gateway: Gateway, serving: Serving, query: Query, version: str, started: float) -> Ranked:
    """Both models' lists as one, or the champion's alone if the challenger has none."""
    theirs, failed = await _challenged(gateway, serving, query, version)
    ours = await _champion(gateway, serving, query, started)
    if theirs is None:
        gateway.challenger_failed(version, failed or "")
        return Ranked(serving.champion, _order(ours), ours, Outcome.FALLBACK)
    gateway.breaker.succeeded()
    table = serving.routing.table
    mixed = draft(
        _order(ours).tolist(), _order(theirs).tolist(), query.length, salt=table.salt, request=query.request_id
    )
    order = np.array(mixed.items)
    by_pick = ours.copy()
    picked = np.array(mixed.teams) == 1
    by_pick[order[picked]] = theirs[order[picked]]
    return Ranked(serving.champion, order, by_pick, teams=mixed.teams)


async def _champion(gateway: Gateway, serving: Serving, query: Query, started: float) -> np.ndarray:
    left = gateway.knobs.timeout_milliseconds / 1000 - (time.perf_counter() - started)
    loaded = serving.champion
    return await gateway.champion_scores(loaded, lambda: query.rows(loaded), len(query.items), max(left, 0.001))


async def _challenged(
    gateway: Gateway, serving: Serving, query: Query, version: str
) -> tuple[np.ndarray | None, str | None]:
    """A challenger's scores, or why there are none."""
    if version not in serving.models:
        return None, serving.broken.get(version, "it is not loaded")
    if not gateway.breaker.allows(time.monotonic()):
        return None, "its breaker is open"
    loaded = serving.models[version]
    seconds = gateway.knobs.timeout_milliseconds / 1000 * CHALLENGER_SHARE
    try:
        return await gateway.challenger_scores(loaded, lambda: query.rows(loaded), len(query.items), seconds), None
    except TimeoutError:
        return None, f"no answer within {1000 * seconds:g} ms"
    except Exception as error:  # noqa: BLE001 (whatever a challenger raises, its user gets the champion's answer)
        return None, told(error)


def _order(scores: np.ndarray) -> np.ndarray:
    """Best first; equal scores stay in the order they were sent."""
    return np.argsort(-scores, kind="stable")


def _note(
    gateway: Gateway,
    serving: Serving,
    query: Query,
    assigned: Assignment,
    started: float,
    outcome: Outcome,
    ranked: Ranked | None = None,
) -> None:
    """Log and count how a request ended, before anybody is told."""
    seconds = time.perf_counter() - started
    table = serving.routing.table
    loaded = serving.champion if ranked is None else ranked.loaded
    shown = [] if ranked is None else ranked.order[: query.length].tolist()
    gateway.log.write(
        Answered(
            request_id=query.request_id,
            user=text_of(query.user),
            time=microseconds(query.at),
            rollout=table.rollout,
            stage=table.stage,
            arm=assigned.arm,
            version=loaded.ref.version,
            entry=serving.routing.entry,
            outcome=outcome,
            latency_ms=1000 * seconds,
            candidates=len(query.items),
            bad=outcome is not Outcome.OK or 1000 * seconds > gateway.knobs.slow_milliseconds,
            propensity=assigned.propensity,
            features_digest=loaded.features.digest,
            items=tuple(text_of(query.items[place]) for place in shown),
            scores=() if ranked is None else tuple(ranked.scores[shown].tolist()),
            teams=None if ranked is None else ranked.teams,
        )
    )
    metrics.REQUESTS.labels("rank", assigned.arm, loaded.ref.version, outcome).inc()
    metrics.LATENCY.labels("rank").observe(seconds)


def _json(serving: Serving, query: Query, assigned: Assignment, ranked: Ranked) -> bytes:
    table = serving.routing.table
    shown = ranked.order[: query.length].tolist()
    scores = ranked.scores[shown].tolist()
    return orjson.dumps(
        {
            "request_id": query.request_id,
            "model": serving.routing.model,
            "version": ranked.loaded.ref.version,
            "arm": assigned.arm,
            "rollout": table.rollout,
            "stage": table.stage_name,
            "items": [
                {"item": query.items[place], "score": score, "position": position}
                for position, (place, score) in enumerate(zip(shown, scores, strict=True), start=1)
            ],
            "fallback": ranked.outcome is Outcome.FALLBACK,
        }
    )
