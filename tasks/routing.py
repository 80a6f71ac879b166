"""Which model each user gets: the ledger's champion, and what a running rollout changes about it.

No Prefect here, and no clock: a gateway asks this every few seconds.
"""

from pydantic import Field, NonNegativeInt, ValidationError

from ranking.assignment import RoutingTable
from ranking.errors import LedgerBroken
from ranking.ledger import LedgerEntry
from ranking.results import ModelRef
from ranking.rollout import Rollout, routing
from ranking.values import Value
from tasks.adapters.ledger import Ledger
from tasks.adapters.registry import Registry
from tasks.succession import last_move, serving_version


class Routing(Value):
    """Everything a gateway has to know: who gets which version, and the digest that each version must have."""

    model: str
    entry: NonNegativeInt = Field(description="The ledger's newest entry; 0 while it is empty. It only grows.")
    table: RoutingTable
    models: tuple[ModelRef, ...] = Field(description="Every version in the table, the champion first.")

    def ref(self, version: str) -> ModelRef:
        """The model of a version in the table."""
        return next(ref for ref in self.models if ref.version == version)


def current_routing(registry: Registry, ledger: Ledger) -> Routing | None:
    """The routing now; ``None`` when there never was a champion.

    Raises:
        RegistryUnavailable: no answer; go on with what was known.
        LedgerBroken: the ledger cannot be trusted.
    """
    entries = ledger.entries()
    version = serving_version(entries)
    champion = registry.champion() if version is None else registry.model(version)
    if champion is None:
        return None
    moved = last_move(entries)
    begun = last_rollout(entries)
    table = RoutingTable(rollout="", champion=champion.version, salt="")
    digests = {} if moved is None else {moved.subject: moved.digest}
    if begun is not None and rollout_of(begun).champion == champion.version:
        table = routing(rollout_of(begun))
        digests[begun.subject] = begun.digest
    refs = (champion, *(registry.model(other) for other in table.versions if other != champion.version))
    return Routing(
        model=champion.name,
        entry=entries[-1].number if entries else 0,
        table=table,
        # The registry's tags can be overwritten by a trainer; what was promoted or begun is what the ledger says.
        models=tuple(ref.model_copy(update={"digest": digests.get(ref.version, ref.digest)}) for ref in refs),
    )


def last_rollout(entries: tuple[LedgerEntry, ...]) -> LedgerEntry | None:
    """The newest entry of any rollout; ``None`` if none was ever begun."""
    return next((entry for entry in reversed(entries) if entry.rollout is not None), None)


def rollout_of(entry: LedgerEntry) -> Rollout:
    """The state that an entry records.

    Raises:
        LedgerBroken: this version of feedloop cannot read it.
    """
    try:
        return Rollout.model_validate(entry.rollout)
    except ValidationError as error:
        raise LedgerBroken(
            f"Ledger entry {entry.number} holds a rollout that this version cannot read, so nobody knows "
            f"who should get the challenger. Use the feedloop that wrote it. {error}"
        ) from error
