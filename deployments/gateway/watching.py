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
from ranking.errors import FeaturesError, FeedloopError, LedgerBroken, RegistryUnavailable, StorageError
from ranking.features import FeatureSpec, Owner
from ranking.results import ModelRef
from ranking.serving_features import ServingTable
from ranking.serving_folder import specification_key
from settings.model import Settings
from tasks.adapters.feature_tables import fetch, latest
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
    _head: str | None = field(default=None, init=False)
    """Hash of the ledger's entry whose routing serves."""
    _read_at: str | None = field(default=None, init=False)
    """Hash of the entry that the routing was read at; it may not serve yet."""

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
            self.gateway.set_trouble("serving", "")
        except FeedloopError as error:
            metrics.POLLS.labels("failed").inc()
            self.gateway.set_trouble("serving", str(error))
        except Exception as error:
            metrics.POLLS.labels("failed").inc()
            logger.exception("The look at the ledger failed.")
            self.gateway.set_trouble("serving", f"{type(error).__name__}: {error}")

    def _prepared(self) -> Serving | None:
        """What to serve from now on, loaded and warmed; None if that is what serves.

        Raises:
            FeedloopError: the champion cannot be loaded, or nobody knows who it is.
        """
        routing, registry = self._routing()
        current = self.gateway.serving
        if routing is None:
            raise FeedloopError("There is no champion yet. `feedloop retrain` proposes one.")
        champion, *others = routing.models
        models = {champion.version: self._loaded(champion, registry, serves=True)}
        broken = self._challengers(routing, others, registry, models)
        self._head = self._read_at
        if current is not None and current.routing == routing and current.models == models and current.broken == broken:
            return None
        self.store.remember(routing)
        return Serving(routing=routing, models=models, since=self.gateway.clock(), broken=broken)

    def _challengers(
        self, routing: Routing, refs: list[ModelRef], registry: Registry | None, models: dict[str, Loaded]
    ) -> dict[str, str]:
        """Add the other models of the table; gives those that cannot serve, and why."""
        current = self.gateway.serving
        known = {} if current is None or current.routing.models != routing.models else current.broken
        if time.monotonic() >= self._retry_at:
            known = {}
        broken: dict[str, str] = {}
        for ref in refs:
            if ref.version in known:
                broken[ref.version] = known[ref.version]
                continue
            try:
                models[ref.version] = self._loaded(ref, registry, serves=False)
            except FeedloopError as error:
                broken[ref.version] = str(error)
                self._retry_at = time.monotonic() + RETRY_SECONDS
        told = "; ".join(f"version {v} is not served, its users get the champion: {why}" for v, why in broken.items())
        self.gateway.set_trouble("models", told)
        return broken

    def _routing(self) -> tuple[Routing | None, Registry | None]:
        """The routing now, and the registry that gave it; at a start without MLflow, the last one that served."""
        try:
            if self._open is None:
                self._open = open_both(**self.settings.store)
            routing = self._current(*self._open)
        except (RegistryUnavailable, LedgerBroken) as error:
            metrics.POLLS.labels("failed").inc()
            known = self.gateway.serving.routing if self.gateway.serving else self.store.remembered()
            if known is None:
                raise
            self.gateway.set_trouble("routing", f"What was known serves on: {error}")
            return known, None
        metrics.POLLS.labels("ok").inc()
        metrics.CHECKED.set(time.time())
        self.gateway.set_trouble("routing", "")
        return routing, self._open[0]

    def _current(self, registry: Registry, ledger: Ledger) -> Routing | None:
        """The routing now.  While the ledger's head is the same it is the same too, at a fifth of the cost."""
        head = ledger.head()
        serving = self.gateway.serving
        if head is not None and head.hash == self._head and serving is not None:
            return serving.routing
        routing = current_routing(registry, ledger)
        self._read_at = None if head is None else head.hash
        return routing

    def _loaded(self, ref: ModelRef, registry: Registry | None, *, serves: bool) -> Loaded:
        """A model ready to serve; the one in memory if nothing about it changed."""
        current = self.gateway.serving
        known = None if current is None else current.models.get(ref.version)
        if known is not None and known.ref.digest != ref.digest:
            known = None
        bundle = known.bundle if known is not None else self.store.load(ref, registry)
        features, table = self._features(bundle, known, serves=serves)
        if known is not None and features is known.features:
            return known
        loaded = Loaded(ref, bundle, features, table)
        warm(loaded, self.gateway)
        return loaded

    def _features(
        self, bundle: Bundle, known: Loaded | None, *, serves: bool
    ) -> tuple[FeatureSource, ServingTable | None]:
        """The newest features of a model.

        A champion goes on with older ones, or with what requests bring, and says so in its health.  A challenger
        that would look up a history and has none is no candidate for anybody.

        Raises:
            FeaturesError: a challenger has no features.
            StorageError: the same.
        """
        spec = bundle.facts.spec
        try:
            table = latest(self.settings.workspace, specification_key(spec))
            if table is None and spec.history_keys:
                raise FeaturesError("there is no table of its history. Write it with `feedloop features`")
        except (FeaturesError, StorageError) as error:
            return self._without(error, spec, known, serves=serves)
        if serves:
            self.gateway.set_trouble("features", "")
        if table is None:
            return known.features if known is not None and known.table is None else RequestFeatures(spec), None
        if known is not None and known.table is not None and known.table.digest == table.digest:
            return known.features, known.table
        try:
            return fetch(table), table
        except (FeaturesError, StorageError) as error:
            return self._without(error, spec, known, serves=serves)

    def _without(
        self, error: FeedloopError, spec: FeatureSpec, known: Loaded | None, *, serves: bool
    ) -> tuple[FeatureSource, ServingTable | None]:
        if known is None and not serves:
            raise error
        if serves:
            self.gateway.set_trouble("features", f"The champion's features are not the newest: {error}")
        return (RequestFeatures(spec), None) if known is None else (known.features, known.table)


def warm(loaded: Loaded, gateway: Gateway) -> None:
    """Score made-up rows: the first answers of a model are slow, and one that cannot answer shows here.

    Raises:
        FeedloopError: it cannot answer.
    """
    spec = loaded.bundle.facts.spec
    context = {feature.name: None for feature in spec.log.features if feature.owner is Owner.CONTEXT}
    for _ in range(WARM_ROUNDS):
        rows = loaded.features.rows(0, list(range(WARM_ROWS)), context, gateway.clock())
        loaded.scorer.score(rows)
