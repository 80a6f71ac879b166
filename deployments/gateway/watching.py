"""Follows the ledger: what it says is loaded, verified, warmed, and then swapped in.

Whatever goes wrong here, what served goes on serving: no answer from MLflow, a broken ledger, a champion
that does not verify.  A challenger that does not verify is left out, and its users get the champion.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from deployments.gateway import metrics
from deployments.gateway.features import FeatureSource, RequestFeatures
from deployments.gateway.serving import Loaded, Serving
from deployments.gateway.state import Gateway
from deployments.gateway.store import Store
from ranking.bundle import Bundle
from ranking.errors import FeedloopError, LedgerBroken, RegistryUnavailable
from ranking.features import Owner
from ranking.results import ModelRef
from settings.model import Settings
from tasks.adapters.ledger import Ledger
from tasks.adapters.registry import Registry
from tasks.routing import Routing, current_routing
from tasks.stores import open_both

logger = logging.getLogger("feedloop.gateway")

RETRY_SECONDS = 60.0
"""Time after which a challenger that could not be loaded is tried again."""

WARM_ROWS, WARM_ROUNDS = 100, 3


@dataclass(eq=False)
class Watcher:
    """Keeps one gateway process at what the ledger says."""

    settings: Settings
    store: Store
    gateway: Gateway
    _open: tuple[Registry, Ledger] | None = field(default=None, init=False)
    _retry_at: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """Look at the ledger every ``serving.refresh_seconds``, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self.settings.serving.refresh_seconds)

    async def look(self) -> None:
        """One look; never raises."""
        try:
            serving = await asyncio.to_thread(self._prepared)
            if serving is not None:
                await self.gateway.shadow.prepare(serving.models.get(serving.routing.table.shadow or ""))
                self.gateway.swap(serving)
        except FeedloopError as error:
            metrics.POLLS.labels("failed").inc()
            self.gateway.trouble("routing", str(error))
        except Exception as error:
            metrics.POLLS.labels("failed").inc()
            logger.exception("The look at the ledger failed.")
            self.gateway.trouble("routing", f"{type(error).__name__}: {error}")

    def _prepared(self) -> Serving | None:
        """What to serve from now on, loaded and warmed; None if that is what serves.

        Raises:
            FeedloopError: the champion cannot be loaded, or nobody knows who it is.
        """
        routing, registry = self._routing()
        current = self.gateway.serving
        if routing is None:
            raise FeedloopError("There is no champion yet. `feedloop retrain` proposes one.")
        if current is not None and routing == current.routing and not self._due(current):
            return None
        champion, *others = routing.models
        models = {champion.version: self._loaded(champion, registry)}
        broken: dict[str, str] = {}
        for ref in others:
            try:
                models[ref.version] = self._loaded(ref, registry)
            except FeedloopError as error:
                broken[ref.version] = str(error)
                logger.error("Version %s is not served, its users get the champion: %s", ref.version, error)
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self.store.remember(routing)
        self._tell_broken(broken)
        return Serving(routing=routing, models=models, since=self.gateway.clock(), broken=broken)

    def _tell_broken(self, broken: dict[str, str]) -> None:
        if broken:
            self.gateway.troubles["models"] = "; ".join(f"version {v}: {why}" for v, why in broken.items())
        else:
            self.gateway.troubles.pop("models", None)

    def _due(self, current: Serving) -> bool:
        return bool(current.broken) and time.monotonic() >= self._retry_at

    def _routing(self) -> tuple[Routing | None, Registry | None]:
        """The routing now, and the registry that gave it; at a start without MLflow, the last one that served."""
        try:
            if self._open is None:
                self._open = open_both(**self.settings.store)
            routing = current_routing(*self._open)
        except (RegistryUnavailable, LedgerBroken) as error:
            metrics.POLLS.labels("failed").inc()
            self.gateway.trouble("routing", f"what was known serves on: {error}")
            if self.gateway.serving is not None:
                return self.gateway.serving.routing, None
            remembered = self.store.remembered()
            if remembered is None:
                raise
            return remembered, None
        metrics.POLLS.labels("ok").inc()
        metrics.CHECKED.set(time.time())
        self.gateway.troubles.pop("routing", None)
        return routing, self._open[0]

    def _loaded(self, ref: ModelRef, registry: Registry | None) -> Loaded:
        """A model ready to serve; the one in memory if it is the same."""
        current = self.gateway.serving
        known = None if current is None else current.models.get(ref.version)
        if known is not None and known.ref.digest == ref.digest:
            return known
        bundle = self.store.load(ref, registry)
        loaded = Loaded(ref, bundle, self._features(bundle))
        warm(loaded, self.gateway)
        return loaded

    def _features(self, bundle: Bundle) -> FeatureSource:
        return RequestFeatures(bundle.facts.spec)


def warm(loaded: Loaded, gateway: Gateway) -> None:
    """Score made-up rows: the first answers of a model are slow, and one that cannot answer shows here.

    Raises:
        FeedloopError: it cannot answer.
    """
    spec = loaded.bundle.facts.spec
    context = {feature.name: None for feature in spec.log.features if feature.owner is Owner.CONTEXT}
    for _ in range(WARM_ROUNDS):
        rows = loaded.features.rows(0, list(range(WARM_ROWS)), context, gateway.clock())
        loaded.bundle.score(rows)
