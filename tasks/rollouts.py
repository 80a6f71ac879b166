"""A challenger on its way to its users: begun by an approval, moved one step at a time, or by hand.

The state lies in the ledger.  Each change is one entry, written by exactly one of those who try, so a killed tick
leaves the stage it found, and the next one goes on from there.  No Prefect here.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import Field

from ranking import rollout_changes
from ranking.errors import PromotionRefused, StaleChampion
from ranking.ledger import LedgerEntry, Operation
from ranking.rollout import ReleasePlan, Rollout, RolloutStatus, Step
from ranking.rollout_checks import StageEvidence
from ranking.steps import next_step
from ranking.values import Value
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.champion import reconcile
from tasks.rollout_entries import append_entry, kept, running, tell_registry, write_step

logger = logging.getLogger("feedloop.rollouts")

_STEER_TRIES = 5

Verb = Literal["pause", "resume", "abort"]
"""What a person can do to a rollout."""


class Tick(Value):
    """What one tick did, and why."""

    rollout: Rollout = Field(description="After the tick.")
    step: Step | None = Field(description="None when nothing was left to decide.")
    evidence: StageEvidence | None = Field(default=None, description="What the step was decided on.")
    entry: LedgerEntry | None = Field(default=None, description="What was written; None when nothing changed.")


def begin(
    registry: Registry,
    ledger: Ledger,
    *,
    draft: Draft,
    plan: ReleasePlan,
    model: str,
    head: LedgerEntry | None,
    now: datetime,
) -> LedgerEntry:
    """Begin a rollout in place of the promotion that ``draft`` describes.  The champion stays for now.

    Raises:
        PromotionRefused: another rollout is on its way, or there is no champion to compare with.
        StaleChampion: somebody else changed who serves, or began a rollout at the same moment.
    """
    entries = ledger.entries()
    other = running(entries)
    if other is not None:
        raise PromotionRefused(
            f"Version {other.challenger} is on its way to its users (rollout {other.id}, {other.status}, stage "
            f"{other.current.name!r}). One at a time: wait for its end, or stop it with `feedloop rollout abort`."
        )
    if draft.before is None:
        raise PromotionRefused("There is no champion yet, so there is nothing to roll out beside. Promote at once.")
    number = (entries[-1].number if entries else 0) + 1
    rollout = rollout_changes.begin(
        f"{model}-v{draft.subject}-{number}",
        plan.strategy,
        champion=draft.before,
        challenger=draft.subject,
        actor=draft.actor,
        reason=draft.reason,
        now=now,
        knobs=plan.knobs,
    )
    # What the challenger's bundle answers was asked by the caller already; now its users are.
    begun = draft.model_copy(
        update={
            "operation": Operation.ROLLOUT,
            "after": draft.before,
            "reason": f"{plan.words} {draft.reason}",
            "release_digest": None,
            "rollout": kept(rollout),
        }
    )
    # Not `commit`: that lets steps of rollouts in between, and of two that begin at once both would.
    entry = append_entry(ledger, begun, head)
    tell_registry(registry, entry)
    return entry


def advance(
    registry: Registry,
    ledger: Ledger,
    *,
    gather: Callable[[Rollout], StageEvidence],
    actor: str,
    now: datetime,
) -> Tick | None:
    """One tick: look at the evidence of the present stage, and make at most one step.

    Args:
        registry: where both models live.
        ledger: keeps the state.
        gather: reads what was seen since the stage was entered.
        actor: who ticks.
        now: the time.

    Returns:
        What was done; ``None`` when no rollout is on its way.

    Raises:
        StaleChampion: somebody else moved it meanwhile; nothing was done.
        RegistryUnavailable: no answer; repeating is safe.
    """
    head = reconcile(registry, ledger)
    rollout = running(ledger.entries())
    if rollout is None:
        return None
    if rollout.status is RolloutStatus.COMPLETED:
        return Tick(rollout=rollout, step=None)
    evidence = gather(rollout)
    step = next_step(rollout, evidence, now)
    moved = rollout_changes.apply(rollout, step, actor)
    entry = None
    if moved != rollout:
        entry = write_step(registry, ledger, head, moved, actor=actor, reason=f"{step.action}: {step.reason}", now=now)
    logger.info("%s, stage %s: %s: %s", rollout.id, rollout.current.name, step.action, step.reason)
    return Tick(rollout=moved, step=step, evidence=evidence, entry=entry)


def steer(registry: Registry, ledger: Ledger, *, verb: Verb, actor: str, reason: str, now: datetime) -> Tick:
    """Pause, resume or abort the rollout by hand.

    Raises:
        PromotionRefused: none is on its way, its state does not allow it, or no reason was given.
        StaleChampion: others moved it again and again; nothing was done.
    """
    if not reason.strip():
        raise PromotionRefused(f"To {verb} a rollout, give a reason: it is written to the ledger.")
    change = {"pause": rollout_changes.pause, "resume": rollout_changes.resume, "abort": rollout_changes.abort}[verb]
    for remaining in reversed(range(_STEER_TRIES)):
        head = reconcile(registry, ledger)
        rollout = running(ledger.entries())
        if rollout is None:
            raise PromotionRefused(f"No rollout is on its way, so there is nothing to {verb}.")
        moved = change(rollout, actor=actor, reason=reason, now=now)
        try:
            entry = write_step(registry, ledger, head, moved, actor=actor, reason=f"{verb}: {reason}", now=now)
        except StaleChampion:
            # A tick came first.  Who wants to stop it wants that in the next stage too.
            if not remaining:
                raise
            continue
        return Tick(rollout=moved, step=None, entry=entry)
    raise AssertionError("the last try returns or raises")
