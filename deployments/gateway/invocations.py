"""``/invocations``: MLflow's scoring protocol, answered by the champion."""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson
import pyarrow as pa

from deployments.gateway import metrics
from deployments.gateway.answering import ready
from deployments.gateway.features import cells
from deployments.gateway.limits import check_candidates
from deployments.gateway.problems import Refused
from deployments.gateway.serving import Loaded
from deployments.gateway.state import Gateway
from ranking.errors import BundleError

_ARM = "rest"


async def invoke(gateway: Gateway, body: bytes, content_type: str) -> bytes:
    """Score rows as they were sent; nothing is looked up.

    Raises:
        Refused: 400, 415 or 422 with what is wrong; 504 if it took too long.
    """
    started = time.perf_counter()
    loaded = ready(gateway).champion
    if content_type.partition(";")[0].strip().lower() not in ("application/json", ""):
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{content_type!r} is not read. Send application/json.")
    columns, count = _columns(body)
    check_candidates(count, gateway.knobs)
    seconds = gateway.knobs.timeout_milliseconds / 1000
    try:
        scores = await gateway.champion_scores(loaded, lambda: _table(columns, count, loaded), count, seconds)
    except BundleError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
    except TimeoutError as error:
        metrics.REQUESTS.labels("invocations", _ARM, loaded.ref.version, "timeout").inc()
        raise Refused(HTTPStatus.GATEWAY_TIMEOUT, f"No answer within {1000 * seconds:g} ms.") from error
    metrics.REQUESTS.labels("invocations", _ARM, loaded.ref.version, "ok").inc()
    metrics.LATENCY.labels("invocations").observe(time.perf_counter() - started)
    return orjson.dumps({"predictions": scores.tolist()})


def _table(columns: dict[str, list[Any]], count: int, loaded: Loaded) -> pa.Table:
    """The model's columns; one that was not sent is null, as in the logged MLflow model."""
    return pa.table({name: cells(columns.get(name, [None] * count)) for name in loaded.bundle.encoder.columns})


def _columns(body: bytes) -> tuple[dict[str, list[Any]], int]:
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad(f"The body is no JSON: {error}.") from error
    fields = sorted(set(sent) & set(_READERS)) if isinstance(sent, dict) else []
    if len(fields) != 1:
        raise _bad(f"The body must be an object with exactly one of {', '.join(_READERS)}; it has {len(fields)}.")
    try:
        columns = _READERS[fields[0]](sent[fields[0]])
        counts = {len(cells_of) for cells_of in columns.values()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _bad(f"{fields[0]} does not have the form that MLflow gives it: {error}.") from error
    if len(counts) > 1:
        raise _bad(f"{fields[0]} has columns of different lengths: {sorted(counts)}.")
    return columns, next(iter(counts), 0)


def _split(sent: Any) -> dict[str, list[Any]]:
    names, rows = sent["columns"], sent["data"]
    if any(len(row) != len(names) for row in rows):
        raise ValueError(f"every row must have {len(names)} cells")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)} if rows else {}


def _records(sent: Any) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in sent for name in row.keys())  # noqa: SIM118 (a row that is a list must fail)
    return {name: [row.get(name) for row in sent] for name in names}


def _inputs(sent: Any) -> dict[str, list[Any]]:
    if isinstance(sent, list):
        return _records(sent)
    return {name: column if isinstance(column, list) else [column] for name, column in sent.items()}


_READERS: dict[str, Callable[[Any], dict[str, list[Any]]]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _inputs,
    "inputs": _inputs,
}


def _bad(detail: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, detail)
