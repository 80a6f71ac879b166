"""The gateway as an ASGI application: its addresses, its start and its end."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import orjson
import torch
from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from deployments.gateway import answering, invocations, metrics
from deployments.gateway.limits import check_token, read_body
from deployments.gateway.page import route_page
from deployments.gateway.problems import Refused, problem
from deployments.gateway.schemas import Predictions, Problem, RankAnswer, RankRequest
from deployments.gateway.shadowing import CHILD, Shadow
from deployments.gateway.state import Gateway, utc_now
from deployments.gateway.store import Store
from deployments.gateway.watching import Watcher
from ranking.errors import StorageError
from settings.loading import load
from settings.model import Settings
from tasks.adapters.exposure_log import ExposureLog, recover

logger = logging.getLogger("feedloop.gateway")

SWITCH_SECONDS = 0.001
"""How long a scoring thread may keep the interpreter from the event loop; Python's own 5 ms show in p99."""

_DESCRIPTION = (
    "Ranks candidates with the champion, and with a challenger where a running rollout says so. "
    "Every answer is logged; see docs/serving.md."
)
_SCHEMA = "#/components/schemas/{model}"
_LOCKED = {"/rank", "/invocations", "/version"}
_FIELDS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class Gate(FastAPI):
    """FastAPI, told of the bodies and the token that are read by hand."""

    locked = False
    """Whether answers need the token."""

    def openapi(self) -> dict[str, Any]:
        """The description of the interface."""
        described = super().openapi()
        bodies = models_json_schema([(RankRequest, "validation")], ref_template=_SCHEMA)[1]["$defs"]
        described["components"]["schemas"].update(bodies)
        if self.locked:
            described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path in _LOCKED & described["paths"].keys():
                for operation in described["paths"][path].values():
                    operation["security"] = [{"token": []}]
        return described


def from_settings() -> FastAPI:
    """The application of one worker, from ``$FEEDLOOP_CONFIG`` and the environment."""
    if not logging.getLogger("feedloop").handlers:
        # A worker that was started by another process has none of the command's habits.
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
        logging.getLogger("feedloop").setLevel(logging.INFO)
    return create_app(load())


def create_app(settings: Settings, *, shadow_child: str = CHILD) -> FastAPI:
    """The application.

    Args:
        settings: all knobs.
        shadow_child: module that runs as the process of the shadow.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, shadow_child) as gateway:
            app.state.gateway = gateway
            yield

    app = Gate(title="feedloop gateway", description=_DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.locked = settings.serving.token is not None
    _route_questions(app, settings)
    _route_facts(app, settings)
    route_page(app)
    return app


@asynccontextmanager
async def running(settings: Settings, shadow_child: str) -> AsyncIterator[Gateway]:
    """A gateway with its background work; at the end everything that was answered is in the log."""
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(1)
    knobs = settings.serving
    store = Store(settings.gateway_folder)
    metrics.forget_dead(settings.metrics_folder)
    log = ExposureLog(settings.online_folder, store.journals, utc_now())
    gateway = Gateway(knobs, log, Shadow(knobs, log, store.bundles, shadow_child))
    work = [
        asyncio.create_task(task)
        for task in (
            _recovered(gateway, store, settings.online_folder),
            Watcher(settings, store, gateway).run(),
            gateway.shadow.run(),
            gateway.keep_logging(),
        )
    ]
    try:
        yield gateway
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await gateway.shadow.close()
        with suppress(StorageError):
            log.close(gateway.beat_time())
        metrics.forget_this(settings.metrics_folder)


async def _recovered(gateway: Gateway, store: Store, folder: str) -> None:
    """What a killed gateway had answered and not yet written."""
    try:
        found = await asyncio.to_thread(recover, store.journals, folder)
    except StorageError as error:
        gateway.set_trouble("log", str(error))
        return
    if found:
        logger.warning("%d journals of gateways that were killed are in the log now.", found)


def _route_questions(app: FastAPI, settings: Settings) -> None:
    knobs = settings.serving
    problems: dict[int | str, dict[str, Any]] = {
        int(status): {"model": Problem}
        for status in (
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.SERVICE_UNAVAILABLE,
            HTTPStatus.GATEWAY_TIMEOUT,
        )
    }

    # The body is read by hand: limits hold before anything is parsed, and errors have one form.
    @app.post(
        "/rank",
        summary="Rank candidates for a user",
        tags=["questions"],
        response_model=RankAnswer,
        responses=problems,
        openapi_extra=_body({"$ref": _SCHEMA.format(model="RankRequest")}),
    )
    async def rank(request: Request) -> Response:
        """Rank candidates for a user."""
        try:
            check_token(request, knobs)
            body = await read_body(request, knobs)
            header_id = request.headers.get("x-request-id", "")[:200] or None
            request_id, answer = await answering.rank(request.app.state.gateway, body, header_id)
        except Refused as refused:
            metrics.REQUESTS.labels("rank", "", "", str(int(refused.status))).inc()
            return problem(refused)
        return _answered(answer, {"X-Request-Id": _header(request_id)})

    @app.post(
        "/invocations",
        summary="Score rows, by MLflow's protocol",
        tags=["questions"],
        response_model=Predictions,
        responses=problems,
        openapi_extra=_body(_invocations_schema()),
    )
    async def invoke(request: Request) -> Response:
        """Score rows with the champion, by MLflow's protocol.  Nothing is looked up and nothing is logged."""
        try:
            check_token(request, knobs)
            body = await read_body(request, knobs)
            content_type = request.headers.get("content-type", "")
            answer = await invocations.invoke(request.app.state.gateway, body, content_type)
        except Refused as refused:
            metrics.REQUESTS.labels("invocations", "", "", str(int(refused.status))).inc()
            return problem(refused)
        return _answered(answer)


def _route_facts(app: FastAPI, settings: Settings) -> None:
    @app.get("/health", summary="Alive, and ready", tags=["facts"])
    @app.get("/ping", include_in_schema=False)
    async def health(request: Request) -> Response:
        """Alive if it answers; ready (200) once a champion is loaded, until then 503.  Needs no token."""
        gateway: Gateway = request.app.state.gateway
        is_ready = gateway.serving is not None
        reasons = list(gateway.troubles.values())
        status = "starting" if not is_ready else "degraded" if reasons else "ok"
        content = {"status": status, "live": True, "ready": is_ready, "reasons": reasons}
        return _answered(orjson.dumps(content), status=200 if is_ready else 503)

    @app.get("/version", summary="What serves now", tags=["facts"])
    async def version(request: Request) -> Response:
        """What serves: the ledger's entry, the routing table, digests of models and features."""
        try:
            check_token(request, settings.serving)
            serving = answering.ready(request.app.state.gateway)
        except Refused as refused:
            return problem(refused)
        content = {
            "model": serving.routing.model,
            "entry": serving.routing.entry,
            "since": serving.since,
            "table": serving.routing.table.model_dump(mode="json"),
            "models": [
                {
                    "version": version,
                    "digest": loaded.ref.digest,
                    "features_digest": loaded.features.digest,
                    "features_as_of": loaded.features.as_of,
                }
                for version, loaded in serving.models.items()
            ],
            "broken": serving.broken,
            "gateway": request.app.state.gateway.log.writer,
        }
        return _answered(orjson.dumps(content))

    @app.get("/metrics", summary="Prometheus' metrics", tags=["facts"])
    async def prometheus() -> Response:
        """Metrics of all workers in Prometheus' text format.  Needs no token."""
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _answered(content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(content, status_code=status, media_type="application/json", headers=headers)


def _header(text: str) -> str:
    """A request's id as a header may carry it."""
    return text.encode("ascii", "replace").decode().replace("\n", "?").replace("\r", "?")


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _invocations_schema() -> dict[str, Any]:
    example = {"dataframe_split": {"columns": ["user_id", "item_id"], "data": [[4711, "item-1"]]}}
    return {"type": "object", "properties": {name: {} for name in _FIELDS}, "examples": [example]}
