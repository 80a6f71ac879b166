"""One process of the gateway: what it serves now, its threads, its log.

``serving`` is the one reference that a swap replaces.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from deployments.gateway import metrics
from deployments.gateway.breaker import Breaker
from deployments.gateway.lane import Lane, Rows, Scores
from deployments.gateway.serving import Loaded, Serving
from deployments.gateway.shadowing import Shadow
from ranking.errors import StorageError
from settings.serving import ServingKnobs
from tasks.adapters.exposure_log import ExposureLog

logger = logging.getLogger("feedloop.gateway")


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


@dataclass(eq=False)
class Gateway:
    """Everything that requests share."""

    knobs: ServingKnobs
    log: ExposureLog
    shadow: Shadow
    clock: Callable[[], datetime] = utc_now
    serving: Serving | None = None
    troubles: dict[str, str] = field(default_factory=dict)
    """What is not as it should be, by where it is."""
    newest: datetime | None = None
    """The newest time that a request of a simulation brought."""

    def __post_init__(self) -> None:
        wait = self.knobs.batch_milliseconds / 1000
        self.champions = Lane("champion", self.knobs.batch_rows, wait)
        self.challengers = Lane("challenger", self.knobs.batch_rows, wait)
        self.breaker = Breaker(self.knobs.breaker_failures, self.knobs.breaker_seconds)
        self._champion_late = 0

    def swap(self, serving: Serving) -> None:
        """Serve this from the next request on."""
        if self.serving is None or self.serving.routing.table.rollout != serving.routing.table.rollout:
            self.breaker = Breaker(self.knobs.breaker_failures, self.knobs.breaker_seconds)
        if self.serving is None:
            _settle_memory()
        self.serving = serving
        metrics.SWAPS.inc()
        metrics.READY.set(1)
        metrics.ENTRY.set(serving.routing.entry)
        metrics.BROKEN.set(len(serving.broken))
        for version, loaded in serving.models.items():
            if loaded.features.as_of is not None:
                metrics.FEATURES.labels(version).set(loaded.features.as_of.timestamp())
        logger.info(
            "Serving version %s from ledger entry %d (%s).",
            serving.routing.table.champion,
            serving.routing.entry,
            f"rollout {serving.routing.table.rollout}, {serving.routing.table.stage_name}"
            if serving.routing.table.rollout
            else "no rollout",
        )

    async def champion_scores(self, loaded: Loaded, rows: Rows, count: int, seconds: float) -> Scores:
        """Scores of the champion.

        Raises:
            TimeoutError: not in time.
            Exception: whatever the model raised.
        """
        try:
            scores = await _within(seconds, self.champions.submit(loaded, rows, count))
        except TimeoutError:
            self._champion_late += 1
            if self._champion_late == self.knobs.breaker_failures:
                logger.error(
                    "The champion's thread did not answer %d times in a row: a new one starts.", self._champion_late
                )
                self._champion_late = 0
                self.champions.replace()
            raise
        self._champion_late = 0
        return scores

    async def challenger_scores(self, loaded: Loaded, rows: Rows, count: int, seconds: float) -> Scores:
        """Scores of a challenger.

        Raises:
            TimeoutError: not in time.
            Exception: whatever the model raised.
        """
        return await _within(seconds, self.challengers.submit(loaded, rows, count))

    def challenger_failed(self, version: str, why: str) -> None:
        """The champion had to answer for it."""
        logger.warning("Version %s failed, the champion answered: %s", version, why)
        if self.breaker.failed(time.monotonic()):
            logger.error(
                "Version %s failed %d times in a row: it is not asked for %g s.",
                version,
                self.knobs.breaker_failures,
                self.knobs.breaker_seconds,
            )
            self.challengers.replace()

    def beat_time(self) -> datetime:
        """The time of a beat; in a simulation the time of its newest request."""
        return self.newest or self.clock()

    async def keep_logging(self) -> None:
        """Turn the journal into files, every so often, for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.knobs.log_seconds
        while True:
            await asyncio.sleep(min(0.25, max(due - loop.time(), 0.01)))
            metrics.WAITING.set(self.log.waiting)
            metrics.LOST.set(self.log.lost)
            metrics.BREAKER.labels("challenger").set(self.breaker.open)
            metrics.BREAKER.labels("shadow").set(self.shadow.breaker.open)
            if loop.time() < due and self.log.waiting < self.knobs.log_rows:
                continue
            due = loop.time() + self.knobs.log_seconds
            try:
                await asyncio.to_thread(self.log.rotate, self.beat_time())
                self.set_trouble("log", "")
            except StorageError as error:
                self.set_trouble("log", str(error))
            except Exception as error:
                # Whatever it is, the next rotation must come.
                logger.exception("The log could not be written.")
                self.set_trouble("log", f"{type(error).__name__}: {error}")
            metrics.UNWRITTEN.set(len(self.log.unwritten))

    def set_trouble(self, where: str, what: str) -> None:
        """Remember what is wrong, and tell it once as long as it stays the same; empty: nothing is."""
        if what and self.troubles.get(where) != what:
            logger.error("%s: %s", where, what)
        if what:
            self.troubles[where] = what
        else:
            self.troubles.pop(where, None)


def _settle_memory() -> None:
    """Take what was imported and loaded so far out of the garbage collector's sight.

    A full collection walks through every object of torch, pandas and MLflow, a quarter of a second in which nobody is
    answered, and under load one comes every two seconds.  Only once: what later models leave behind is collected.
    """
    gc.collect()
    gc.freeze()


async def _within(seconds: float, future: "asyncio.Future[Scores]") -> Scores:
    async with asyncio.timeout(seconds):
        return await future
