"""How a step or a person changes a rollout; nothing here decides whether it should."""

from datetime import datetime

from ranking.assignment import Namespace
from ranking.errors import PromotionRefused
from ranking.rollout import Action, Rollout, RolloutKnobs, RolloutStatus, Step, Transition
from ranking.strategies import Strategy


def begin(
    id: str,
    strategy: Strategy,
    *,
    champion: str,
    challenger: str,
    actor: str,
    reason: str,
    now: datetime,
    knobs: RolloutKnobs | None = None,
    namespace: Namespace | None = None,
) -> Rollout:
    """Start a rollout at its first stage.

    Args:
        id: unique; the users are shuffled by it, so no two rollouts share their arms.
        strategy: of ``STRATEGIES``.
        champion: version in charge.
        challenger: version that wants to be.
        actor: who starts it.
        reason: why.
        now: the time.
        knobs: the rules; kept for the whole rollout.
        namespace: users that take part.
    """
    return Rollout(
        id=id,
        champion=champion,
        challenger=challenger,
        strategy=strategy.kind,
        stages=strategy.stages(),
        knobs=knobs or RolloutKnobs(),
        salt=f"{id}:",
        namespace=namespace,
        entered=now,
        history=(Transition(at=now, actor=actor, action="begin", stage=0, reason=reason),),
    )


_AFTER = {
    Action.ADVANCE: RolloutStatus.RUNNING,
    Action.ROLL_BACK: RolloutStatus.ROLLED_BACK,
    Action.COMPLETE: RolloutStatus.COMPLETED,
    Action.INVALID: RolloutStatus.INVALID,
}


def apply(rollout: Rollout, step: Step, actor: str) -> Rollout:
    """The rollout after a step.  A HOLD changes nothing but the record of looks.

    Raises:
        PromotionRefused: the step was decided in another stage, or the rollout has ended or is paused since.
    """
    if step.action is Action.HOLD:
        looked = step.readout is not None and step.readout.looked and step.stage == rollout.stage
        return rollout.model_copy(update={"looks": (*rollout.looks, step.at)}) if looked else rollout
    forward = step.action in {Action.ADVANCE, Action.COMPLETE}
    misplaced = forward and (step.action is Action.COMPLETE) != (rollout.stage + 1 == len(rollout.stages))
    halted = rollout.status.ended or (forward and rollout.status is RolloutStatus.PAUSED)
    if halted or misplaced or step.stage != rollout.stage:
        raise PromotionRefused(
            f"A step decided in stage {step.stage} cannot be made: rollout {rollout.id} is {rollout.status} in stage "
            f"{rollout.stage}. Decide again from the present state."
        )
    number = rollout.stage + 1 if step.action is Action.ADVANCE else rollout.stage
    update: dict[str, object] = {
        "status": _AFTER[step.action],
        "stage": number,
        "quarantined": step.quarantine,
        "control_bad_share": step.control_bad_share,
    }
    if step.action is Action.ADVANCE:
        update |= {"entered": step.at, "looks": ()}
    return _moved(
        rollout, update, Transition(at=step.at, actor=actor, action=step.action, stage=number, reason=step.reason)
    )


def pause(rollout: Rollout, *, actor: str, reason: str, now: datetime) -> Rollout:
    """Stay in this stage until resumed.  Shares stay as they are; proven harm still rolls back.

    Raises:
        PromotionRefused: it is not running.
    """
    return _by_hand(
        rollout, "pause", {RolloutStatus.RUNNING}, RolloutStatus.PAUSED, actor=actor, reason=reason, now=now
    )


def resume(rollout: Rollout, *, actor: str, reason: str, now: datetime) -> Rollout:
    """Go on after a pause.

    Raises:
        PromotionRefused: it is not paused.
    """
    return _by_hand(
        rollout, "resume", {RolloutStatus.PAUSED}, RolloutStatus.RUNNING, actor=actor, reason=reason, now=now
    )


def abort(rollout: Rollout, *, actor: str, reason: str, now: datetime) -> Rollout:
    """End it by hand: the champion serves everybody.  The challenger is not quarantined, nothing is proven.

    Raises:
        PromotionRefused: it has ended already.
    """
    running = {RolloutStatus.RUNNING, RolloutStatus.PAUSED}
    return _by_hand(rollout, "abort", running, RolloutStatus.ABORTED, actor=actor, reason=reason, now=now)


def withdraw(rollout: Rollout, *, actor: str, reason: str, now: datetime) -> Rollout:
    """Give a completed rollout up whose challenger could not be made champion: the champion serves everybody.

    Raises:
        PromotionRefused: it is not completed.
    """
    completed = {RolloutStatus.COMPLETED}
    return _by_hand(rollout, "withdraw", completed, RolloutStatus.ABORTED, actor=actor, reason=reason, now=now)


def _by_hand(
    rollout: Rollout,
    verb: str,
    allowed: set[RolloutStatus],
    after: RolloutStatus,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> Rollout:
    if rollout.status not in allowed:
        raise PromotionRefused(
            f"Rollout {rollout.id} is {rollout.status}, so it cannot {verb}; it would have to be "
            f"{' or '.join(sorted(allowed))}."
        )
    done = Transition(at=now, actor=actor, action=verb, stage=rollout.stage, reason=reason)
    return _moved(rollout, {"status": after}, done)


def _moved(rollout: Rollout, update: dict[str, object], done: Transition) -> Rollout:
    return rollout.model_copy(update={**update, "history": (*rollout.history, done)})
