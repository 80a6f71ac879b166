"""Events that Prefect's automations listen to.

Best effort: with the server down an event is lost without a word, so nothing may depend on one.  What was
decided stands in the ledger, and whoever watches must look there too.
"""

from datetime import datetime

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from ranking.ledger import LedgerEntry, Operation

_NAMES = {
    Operation.PROMOTE: "feedloop.model.promoted",
    Operation.ROLLBACK: "feedloop.model.rolled-back",
    Operation.DECLINE: "feedloop.model.declined",
    Operation.REFUSE: "feedloop.model.refused",
    Operation.ROLLOUT: "feedloop.rollout.moved",
}


def emit(event: str, model: str, payload: dict[str, str | None], occurred: datetime | None = None) -> None:
    """Emit an event about a model; outside of a Prefect run there is nobody to tell.

    Args:
        event: its name, such as ``feedloop.model.promoted``.
        model: name of the registered model; the event's resource is ``feedloop.model.<name>``.
        payload: what an automation may need, as plain text; None is left out.
        occurred: when it happened; now if not given.
    """
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return
    emit_event(
        event=event,
        resource={"prefect.resource.id": f"feedloop.model.{model}", "prefect.resource.name": model},
        payload={key: value for key, value in payload.items() if value is not None},
        occurred=occurred,
    )


def emit_entry(model: str, entry: LedgerEntry) -> None:
    """Tell what a ledger entry says.  Its number and hash let a listener drop what it has seen."""
    emit(
        _NAMES[entry.operation],
        model,
        {
            "version": entry.subject,
            "before": entry.before,
            "after": entry.after,
            "actor": entry.actor,
            "reason": entry.reason,
            "ledger_entry": str(entry.number),
            "ledger_hash": entry.hash,
            "evidence_digest": entry.evidence_digest,
            "forced": str(entry.forced).lower(),
            "at": entry.at.isoformat(),
        },
    )
