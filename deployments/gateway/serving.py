"""What serves at one moment, as one value.  A request takes it once and is answered from it alone.

It is never changed: a swap replaces the one reference to it, so no answer mixes two states.
"""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from deployments.gateway.features import FeatureSource
from ranking.bundle import Bundle
from ranking.quick_encoding import QuickScorer
from ranking.results import ModelRef
from ranking.serving_features import ServingTable
from tasks.routing import Routing


@dataclass(frozen=True, eq=False)
class Loaded:
    """A verified model in memory, with the features that it reads."""

    ref: ModelRef
    bundle: Bundle
    features: FeatureSource
    table: ServingTable | None = None
    """Where the features came from."""

    @cached_property
    def scorer(self) -> QuickScorer:
        """What scores requests."""
        return QuickScorer(self.bundle)

    @cached_property
    def feature_names(self) -> frozenset[str]:
        """Logged features that a request may bring."""
        return frozenset(feature.name for feature in self.bundle.facts.spec.log.features)


@dataclass(frozen=True, eq=False)
class Serving:
    """Routing, models and features of one moment."""

    routing: Routing
    models: dict[str, Loaded]
    since: datetime
    broken: dict[str, str] = field(default_factory=dict)
    """Versions of the table that cannot be served, and why: their users get the champion."""

    @property
    def champion(self) -> Loaded:
        """The model that can always answer."""
        return self.models[self.routing.table.champion]

    @cached_property
    def feature_names(self) -> frozenset[str]:
        """Every logged feature that some model reads."""
        return frozenset().union(*(loaded.feature_names for loaded in self.models.values()))

    @cached_property
    def digests(self) -> tuple[tuple[str, str, str], ...]:
        """Version, bundle digest and features digest of every model."""
        return tuple((v, loaded.ref.digest, loaded.features.digest) for v, loaded in sorted(self.models.items()))
