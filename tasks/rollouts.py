"""A challenger on its way to its users: begun by an approval, moved one step at a time, ended by a promotion or not.

The state lies in the ledger.  Each change is one entry, written by exactly one of those who try, so a killed tick
leaves the stage it found, and the next one goes on from there.  No Prefect here.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import Field

from ranking import rollout as states
from ranking.errors import BundleError, PromotionError, PromotionRefused, StaleChampion
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Evidence, ModelRef, Promotion
from ranking.rollout import Action, ReleasePlan, Rollout, RolloutStatus, Step, Transition
from ranking.rollout_checks import StageEvidence
from ranking.steps import next_step
from ranking.strategies import AbStage
from ranking.times import as_utc
from ranking.trial import Trial
from ranking.values import Value
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import verify_serving
from tasks.champion import reconcile
from tasks.routing import last_rollout, rollout_of
from tasks.succession import quarantined, serving_version

logger = logging.getLogger("feedloop.rollouts")

_LONGEST_REASON = 1500
"""Characters of a step's reason: an entry of the ledger holds the state besides."""

_STEER_TRIES = 5

Verb = Literal["pause", "resume", "abort"]
"""What a person can do to a rollout."""


class Tick(Value):
    """What one tick did, and why."""

    rollout: Rollout = Field(description="After the tick.")
    step: Step | None = Field(description="None when nothing was left to decide.")
    evidence: StageEvidence | None = Field(default=None, description="What the step was decided on.")
    entry: LedgerEntry | None = Field(default=None, description="What was written; None when nothing changed.")


def present(entries: tuple[LedgerEntry, ...]) -> Rollout | None:
    """The rollout that concerns the champion of now; ``None`` without one.

    One that has ended well and was promoted is over, and so is one whose champion no longer serves.
    """
    entry = last_rollout(entries)
    if entry is None:
        return None
    rollout = rollout_of(entry)
    if rollout.champion != serving_version(entries):
        return None
    return rollout.model_copy(update={"history": tuple(map(_transition, history(entries, rollout)))})


def _transition(entry: LedgerEntry) -> Transition:
    """One entry as a line of the rollout's history."""
    action, _, reason = entry.reason.partition(": ")
    return Transition(at=entry.at, actor=entry.actor, action=action, stage=rollout_of(entry).stage, reason=reason)


def running(entries: tuple[LedgerEntry, ...]) -> Rollout | None:
    """The rollout that a tick has to look at: running, paused, or completed and not promoted yet."""
    rollout = present(entries)
    if rollout is None or (rollout.status.ended and rollout.status is not RolloutStatus.COMPLETED):
        return None
    return rollout


def begun_with(entries: tuple[LedgerEntry, ...], approval_digest: str) -> LedgerEntry | None:
    """The beginning of the rollout that an approval was used for; ``None`` if it was not."""
    return next((e for e in entries if e.rollout is not None and e.approval_digest == approval_digest), None)


def history(entries: tuple[LedgerEntry, ...], rollout: Rollout) -> tuple[LedgerEntry, ...]:
    """Every entry of one rollout, its beginning first."""
    return tuple(entry for entry in entries if entry.rollout is not None and entry.rollout["id"] == rollout.id)


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
    rollout = states.begin(
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
            "rollout": _kept(rollout),
        }
    )
    # Not `commit`: that lets steps of rollouts in between, and of two that begin at once both would.
    entry = _appended(ledger, begun, head)
    _tell(registry, entry)
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
    moved = states.apply(rollout, step, actor)
    entry = None
    if moved != rollout:
        entry = _write(registry, ledger, head, moved, actor=actor, reason=f"{step.action}: {step.reason}", now=now)
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
    change = {"pause": states.pause, "resume": states.resume, "abort": states.abort}[verb]
    for remaining in reversed(range(_STEER_TRIES)):
        head = reconcile(registry, ledger)
        rollout = running(ledger.entries())
        if rollout is None:
            raise PromotionRefused(f"No rollout is on its way, so there is nothing to {verb}.")
        moved = change(rollout, actor=actor, reason=reason, now=now)
        try:
            entry = _write(registry, ledger, head, moved, actor=actor, reason=f"{verb}: {reason}", now=now)
        except StaleChampion:
            # A tick came first.  Who wants to stop it wants that in the next stage too.
            if not remaining:
                raise
            continue
        return Tick(rollout=moved, step=None, entry=entry)
    raise AssertionError("the last try returns or raises")


def finish(
    registry: Registry, ledger: Ledger, *, policy_digest: str, actor: str, now: datetime
) -> Promotion | Evidence | None:
    """Do what a completed rollout asks for.

    The challenger of a shadow or a canary was approved before it began, so it becomes champion now.  An A/B test was
    approved as a test: its winner comes back as evidence, with the trial in it, to be approved.

    Args:
        registry: where both models live.
        ledger: keeps the state.
        policy_digest: of the policy in force now.
        actor: who ticks.
        now: the time.

    Returns:
        The promotion, the evidence to ask about, or ``None`` when nothing is completed.

    Raises:
        RegistryUnavailable: no answer; repeating is safe.
    """
    entries = ledger.entries()
    rollout = running(entries)
    if rollout is None or rollout.status is not RolloutStatus.COMPLETED:
        return None
    steps = history(entries, rollout)
    challenger = _approved(registry, steps[0])
    evidence = registry.evidence(challenger, steps[0].evidence_digest)
    try:
        if evidence is None:
            raise PromotionRefused(
                f"The evidence {(steps[0].evidence_digest or 'none')[:12]}… that rollout {rollout.id} was approved on "
                "is gone from the registry. Compare the challenger again."
            )
        if isinstance(rollout.current, AbStage):
            return _won(registry, entries, challenger, evidence, steps)
        return _promoted(registry, ledger, challenger, evidence, steps, policy_digest, now)
    except (PromotionError, BundleError) as error:
        reason = f"{type(error).__name__}: {error}"
        logger.error("Rollout %s is completed and its challenger cannot be promoted: %s", rollout.id, reason)
        given_up = states.withdraw(rollout, actor=actor, reason=reason, now=now)
        head = reconcile(registry, ledger)
        entry = _write(registry, ledger, head, given_up, actor=actor, reason=f"withdraw: {reason}", now=now)
        return Promotion(
            status="refused",
            reason=reason,
            champion=registry.model(rollout.champion),
            previous=None,
            challenger=challenger,
            approval=None,
            entry=entry,
        )


def tested(entries: tuple[LedgerEntry, ...], evidence: Evidence) -> bool:
    """Whether the ledger knows of the A/B test that the evidence says was won, about this very challenger."""
    trial, challenger = evidence.trial, evidence.comparison.challenger
    if trial is None:
        return False
    found = [entry for entry in entries if entry.rollout is not None and entry.rollout["id"] == trial.rollout]
    if not found:
        return False
    last = rollout_of(found[-1])
    return (found[0].subject, found[0].digest, last.status, last.champion) == (
        challenger.version,
        challenger.digest,
        RolloutStatus.COMPLETED,
        evidence.compared_with,
    )


def _approved(registry: Registry, begun: LedgerEntry) -> ModelRef:
    """The challenger with the digest that was approved, whatever the registry's tags say since."""
    return registry.model(begun.subject).model_copy(update={"digest": begun.digest})


def _won(
    registry: Registry,
    entries: tuple[LedgerEntry, ...],
    challenger: ModelRef,
    evidence: Evidence,
    steps: tuple[LedgerEntry, ...],
) -> Evidence:
    """The evidence of a won A/B test, recorded for whoever is asked about it.

    Raises:
        PromotionRefused: somebody was asked and said no.
    """
    trial = Trial(
        rollout=rollout_of(steps[-1]).id,
        verdict="PROMOTE_B",
        reason=steps[-1].reason.removeprefix(f"{Action.COMPLETE}: "),
        began=steps[0].at,
        ended=steps[-1].at,
    )
    told = evidence.model_copy(update={"trial": trial, "plan": {}})
    answer = next((entry for entry in entries if entry.evidence_digest == told.digest), None)
    if answer is not None:
        raise PromotionRefused(f"Its promotion was asked for: {answer.operation} by {answer.actor}: {answer.reason}")
    if told.digest not in registry.evidence_digests(challenger):
        registry.record(challenger, told)
    return told


def _promoted(
    registry: Registry,
    ledger: Ledger,
    challenger: ModelRef,
    evidence: Evidence,
    steps: tuple[LedgerEntry, ...],
    policy_digest: str,
    now: datetime,
) -> Promotion:
    from tasks.promotion import put_in_service

    begun, entries = steps[0], ledger.entries()
    failed = quarantined(entries).get(challenger.version)
    if failed is not None:
        raise PromotionRefused(f"It was taken out of service on {as_utc(failed.at)}: {failed.reason}")
    if evidence.policy_digest != policy_digest and not begun.forced:
        raise PromotionRefused(
            f"It was approved under the policy {evidence.policy_digest[:12]}…, and {policy_digest[:12]}… is configured "
            "now: compare it again."
        )
    verify_serving(registry, challenger)
    draft = Draft(
        operation=Operation.PROMOTE,
        before=begun.before,
        after=challenger.version,
        subject=challenger.version,
        digest=challenger.digest,
        evidence_digest=evidence.digest,
        forced=begun.forced,
        actor=begun.actor,
        reason=f"Its rollout is completed. {steps[-1].reason}",
        at=now,
        approval_digest=begun.approval_digest,
        channel=begun.channel,
        requested_by=begun.requested_by,
    )
    return put_in_service(registry, ledger, draft, challenger, evidence, head=entries[-1])


def _write(
    registry: Registry,
    ledger: Ledger,
    head: LedgerEntry | None,
    rollout: Rollout,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> LedgerEntry:
    begun = history(ledger.entries(), rollout)[0]
    draft = Draft(
        operation=Operation.ROLLOUT,
        before=rollout.champion,
        after=rollout.champion,
        subject=rollout.challenger,
        digest=begun.digest,
        evidence_digest=begun.evidence_digest,
        forced=begun.forced,
        actor=actor,
        reason=reason[:_LONGEST_REASON],
        at=now,
        rollout=_kept(rollout),
    )
    entry = _appended(ledger, draft, head)
    _tell(registry, entry)
    return entry


def _appended(ledger: Ledger, draft: Draft, head: LedgerEntry | None) -> LedgerEntry:
    """Take the next place.  Refusals may come in between; a step of a rollout or another champion may not."""
    while True:
        try:
            return ledger.append(draft, head)
        except StaleChampion:
            entries = ledger.entries()
            since = entries[head.number if head else 0 :]
            if any(entry.operation.moves or entry.rollout is not None for entry in since):
                raise
            head = entries[-1]


def _kept(rollout: Rollout) -> dict[str, object]:
    """The state as an entry keeps it: its history is the entries before."""
    return rollout.model_copy(update={"history": ()}).model_dump(mode="json")


def _tell(registry: Registry, entry: LedgerEntry) -> None:
    """Tags of the challenger, for whoever looks at it in the registry; they can be told again from the ledger."""
    rollout = rollout_of(entry)
    tags = {"status": f"rollout: {rollout.status}", "rollout": rollout.id, "rollout_stage": rollout.current.name}
    registry.annotate(registry.model(rollout.challenger), tags)
