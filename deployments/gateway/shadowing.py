"""The shadow: a challenger scores the same requests, after they were answered, in a process of its own.

A request that is chosen is scored, failed, too late, or dropped, and each is logged, so that coverage can be
counted.  Dropped are those that find the queue full, the breaker open, or no process; nothing here can make
a user wait.
"""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deployments.gateway import metrics
from deployments.gateway.breaker import Breaker
from deployments.gateway.query import Query
from deployments.gateway.serving import Loaded, Serving
from deployments.gateway.shadow_process import Child, ShadowFailed
from ranking.exposures import Shadowed, ShadowOutcome
from ranking.hashing import text_of
from settings.serving import ServingKnobs
from tasks.adapters.exposure_log import ExposureLog, microseconds

logger = logging.getLogger("feedloop.gateway")

START_SECONDS = 60.0
LONGEST_PAUSE = 60.0
SUSPECT_DEATHS = 2
"""Processes in a row that ended, hung or took too much before one of them scored."""

CHILD = "deployments.gateway.shadow_child"


@dataclass(frozen=True, eq=False)
class Waiting:
    """One request that was answered and waits for the shadow."""

    serving: Serving
    loaded: Loaded | None
    query: Query
    order: np.ndarray
    scores: np.ndarray


class Shadow:
    """The queue of one gateway process, and its child.

    Args:
        knobs: budget, deadline and breaker.
        log: where outcomes are written.
        bundles: folder of verified bundles.
        child: module that is run as the child.
    """

    def __init__(self, knobs: ServingKnobs, log: ExposureLog, bundles: Path, child: str = CHILD) -> None:
        self.breaker = Breaker(knobs.breaker_failures, knobs.breaker_seconds)
        self._knobs = knobs
        self._log = log
        self._bundles = bundles
        self._module = child
        self._queue: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._using = asyncio.Lock()
        self._child: Child | None = None
        self._wanted: str | None = None
        self._budget_ms = knobs.shadow_milliseconds_per_second
        self._counted = time.monotonic()
        self._deaths = 0
        self._not_before = 0.0
        self._asked: Waiting | None = None
        """The request that is being scored, as long as it has no outcome."""

    @property
    def waiting(self) -> int:
        """Requests that have no outcome yet."""
        return len(self._queue) + (self._asked is not None)

    @property
    def pid(self) -> int | None:
        """The process of the shadow; None if there is none."""
        return None if self._child is None else self._child.process.pid

    def offer(self, serving: Serving, query: Query, order: np.ndarray, scores: np.ndarray) -> None:
        """Let the challenger score a request that was answered, when there is time."""
        version = serving.routing.table.shadow or ""
        waiting = Waiting(serving, serving.models.get(version), query, order, scores)
        if waiting.loaded is None or len(self._queue) >= self._knobs.shadow_queue:
            self._note(waiting, ShadowOutcome.DROPPED)
            return
        self._queue.append(waiting)
        self._arrived.set()

    async def run(self) -> None:
        """Work the queue off, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                # Hundreds that are dropped at once, after a hang, must not stand in the way of an answer.
                await asyncio.sleep(0)
                await self._within_budget()
                self._asked = waiting = self._queue.popleft()
                try:
                    await self._score(waiting)
                except Exception:
                    # Whatever it is, the next request must be looked at.
                    logger.exception("The shadow of request %s failed.", waiting.query.request_id)
                    self._settle(ShadowOutcome.FAILED)
                finally:
                    # The gateway ended in the middle of it: chosen, and not scored.
                    self._settle(ShadowOutcome.DROPPED)

    async def prepare(self, loaded: Loaded | None) -> None:
        """Have a process ready before requests are chosen for it; none is kept for no challenger."""
        self._wanted = None if loaded is None else loaded.ref.digest
        if loaded is None:
            async with self._using:
                await self._end()
            return
        if self._child is not None and self._child.loaded is loaded:
            return
        try:
            # The old one works on meanwhile.
            child = await self._started(loaded)
        except (ShadowFailed, TimeoutError, OSError) as error:
            logger.error("The shadow of version %s does not start: %s", loaded.ref.version, error)
            return
        async with self._using:
            await self._end()
            self._child = child
        self.breaker = Breaker(self._knobs.breaker_failures, self._knobs.breaker_seconds)
        self._deaths, self._not_before = 0, 0.0

    async def close(self) -> None:
        """End the process; what still waits counts as dropped."""
        while self._queue:
            self._note(self._queue.popleft(), ShadowOutcome.DROPPED)
        await self._end()

    async def _score(self, waiting: Waiting) -> None:
        loaded, now = waiting.loaded, time.monotonic()
        wanted = loaded is not None and loaded.ref.digest == self._wanted
        if loaded is None or not wanted or now < self._not_before or not self.breaker.allows(now):
            self._note(waiting, ShadowOutcome.DROPPED)
            return
        async with self._using:
            try:
                if self._child is None:
                    # One late answer can be a busy machine's fault.  Who fails again and again gets what is left over.
                    self._child = await self._started(loaded, idle=self._deaths >= SUSPECT_DEATHS)
                started = time.monotonic()
                reply = await self._child.ask(
                    _question(waiting, loaded),
                    self._knobs.shadow_timeout_milliseconds / 1000,
                    self._knobs.shadow_megabytes * 2**20,
                )
            except (ShadowFailed, TimeoutError, OSError) as error:
                outcome = ShadowOutcome.TIMEOUT if isinstance(error, TimeoutError) else ShadowOutcome.FAILED
                self._note(waiting, outcome)
                await self._died(loaded, error)
                return
        self._deaths = 0
        self.breaker.succeeded()
        self._budget_ms -= 1000 * (time.monotonic() - started)
        self._note(waiting, ShadowOutcome.SCORED, reply)

    async def _started(self, loaded: Loaded, *, idle: bool = False) -> Child:
        metrics.SHADOW_STARTS.inc()
        child = await Child.start(self._module, loaded, idle=idle)
        plan = {
            "bundle": str(self._bundles / loaded.ref.digest),
            "digest": loaded.ref.digest,
            "megabytes": self._knobs.shadow_megabytes,
            "features": None if loaded.table is None else loaded.table.model_dump(mode="json"),
        }
        try:
            await child.ask(plan, START_SECONDS, self._knobs.shadow_megabytes * 2**20)
        except BaseException:
            await child.kill()
            raise
        return child

    async def _died(self, loaded: Loaded, error: Exception) -> None:
        """One failure more.  A process that ended, hangs or takes too much is replaced, later and later."""
        words = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        logger.warning("The shadow of version %s failed: %s", loaded.ref.version, words)
        opened = self.breaker.failed(time.monotonic())
        if opened:
            logger.error(
                "The shadow of version %s failed %d times in a row; it rests for %g s.",
                loaded.ref.version,
                self._knobs.breaker_failures,
                self._knobs.breaker_seconds,
            )
        if isinstance(error, ShadowFailed) and error.usable and not opened:
            return
        await self._end()
        self._deaths += 1
        # The first may be bad luck.  After that every attempt is a burden on who answers users, for a shadow that has
        # lost its coverage anyway: three attempts in the first minute, then one a minute.
        self._not_before = time.monotonic() + min(8.0 ** (self._deaths - 1), LONGEST_PAUSE)

    async def _end(self) -> None:
        if self._child is not None:
            await self._child.kill()
            self._child = None

    async def _within_budget(self) -> None:
        rate = self._knobs.shadow_milliseconds_per_second
        while True:
            now = time.monotonic()
            self._budget_ms = min(self._budget_ms + rate * (now - self._counted), rate)
            self._counted = now
            if self._budget_ms > 0:
                return
            await asyncio.sleep(0.02 - self._budget_ms / rate)

    def _settle(self, outcome: ShadowOutcome) -> None:
        """Give the request that is being scored this outcome, if it has none."""
        if self._asked is not None:
            self._note(self._asked, outcome)

    def _note(self, waiting: Waiting, outcome: ShadowOutcome, reply: dict[str, Any] | None = None) -> None:
        if waiting is self._asked:
            self._asked = None
        table, query, order = waiting.serving.routing.table, waiting.query, waiting.order
        asked = outcome is not ShadowOutcome.DROPPED
        scores = None if reply is None else np.asarray(reply["scores"], dtype=np.float64)[order]
        self._log.write(
            Shadowed(
                request_id=query.request_id,
                user=text_of(query.user),
                time=microseconds(query.at),
                rollout=table.rollout,
                stage=table.stage,
                outcome=outcome,
                latency_ms=None if reply is None else reply["ms"],
                features=None if reply is None else reply["features"],
                items=tuple(text_of(query.items[place]) for place in order) if asked else (),
                champion_scores=tuple(waiting.scores[order].tolist()) if asked else (),
                challenger_scores=None if scores is None else tuple(scores.tolist()),
            )
        )
        metrics.SHADOW.labels(table.shadow or "", outcome).inc()
        if reply is not None:
            metrics.SHADOW_LATENCY.observe(reply["ms"] / 1000)


def _question(waiting: Waiting, loaded: Loaded) -> dict[str, Any]:
    query, known = waiting.query, loaded.feature_names
    return {
        # Training saw what was shown; among all candidates more items are new, and of those less is known.
        "shown": waiting.order[: query.length].tolist(),
        "user": query.user,
        "items": query.items,
        "context": {name: value for name, value in query.context.items() if name in known},
        "user_features": {name: value for name, value in query.user_features.items() if name in known},
        "item_features": query.sent(loaded),
        "at": query.at.isoformat(),
    }
