"""The next step of a rollout: ADVANCE, HOLD, ROLL_BACK, COMPLETE or INVALID, at most one per tick.

In the order of the checks the first harm ends the rollout: INVALID if the check asks whether the
measurement is broken, ROLL_BACK otherwise.  Anything unproven holds.  Only when everything is ok does the
rollout advance.  Evidence of another stage is refused: pooled over stages with different shares, identical
models look as far apart as the hours and weekdays of the stages are.
"""

from datetime import datetime

from ranking import health
from ranking.errors import ComparisonError
from ranking.experiment import TestVerdict
from ranking.findings import Finding, Status
from ranking.rollout import Action, Rollout, RolloutStatus, Step
from ranking.rollout_checks import BLAMELESS, CHECKS, INVALIDATING, Check, Situation, StageEvidence
from ranking.strategies import AbStage
from ranking.times import as_utc


def next_step(rollout: Rollout, evidence: StageEvidence, now: datetime, checks: tuple[Check, ...] = CHECKS) -> Step:
    """Decide the next step.  The same rollout, evidence and time give the same step.

    Args:
        rollout: its state, from the ledger.
        evidence: of its present stage.
        now: the time.
        checks: the rules to ask.

    Raises:
        ComparisonError: evidence from before the stage was entered, or from the future.
    """
    unready = _unready(rollout, evidence, now)
    if unready:
        return Step(action=Action.HOLD, reason=unready, stage=rollout.stage, at=now)
    _check_windows(rollout, evidence, now)
    situation = Situation(rollout, evidence, now)
    findings = tuple(finding for finding in (check(situation) for check in checks) if finding is not None)
    for finding in findings:
        if finding.status is Status.HARM:
            return _harmed(situation, findings, finding)
    if isinstance(situation.stage, AbStage):
        return _after_look(situation, findings)
    waiting = tuple(finding.sentence for finding in findings if finding.status is Status.UNPROVEN)
    if waiting:
        held = f"Stage {situation.stage.name!r} is held: {waiting[0]}"
        return _step(situation, Action.HOLD, held, findings, missing=waiting)
    return _forward(situation, findings)


def _unready(rollout: Rollout, evidence: StageEvidence, now: datetime) -> str:
    """Why nothing can be decided; empty if something can."""
    if rollout.status.ended:
        return f"Rollout {rollout.id} is {rollout.status}; nothing follows."
    if now < rollout.entered:
        return f"It is {as_utc(now)}, but the stage began at {as_utc(rollout.entered)}: check the clock."
    if evidence.stage != rollout.stage:
        return f"The evidence is of stage {evidence.stage}, the rollout is in {rollout.stage}: stages are never pooled."
    return ""


def _check_windows(rollout: Rollout, evidence: StageEvidence, now: datetime) -> None:
    early = sum(window.start < rollout.entered for window in evidence.windows)
    late = sum(window.end > now for window in evidence.windows)
    if early or late:
        raise ComparisonError(
            f"{early} windows start before the stage was entered ({as_utc(rollout.entered)}) and {late} end after "
            f"{as_utc(now)}: leave them out, stages are never pooled."
        )


def _harmed(situation: Situation, findings: tuple[Finding, ...], finding: Finding) -> Step:
    name = situation.stage.name
    if finding.rule in INVALIDATING:
        reason = f"Stage {name!r} cannot be judged, so the champion keeps all users. {finding.sentence}"
        return _step(situation, Action.INVALID, reason, findings)
    blamed = finding.rule not in BLAMELESS
    reason = f"Rolled back in stage {name!r}. {finding.sentence}"
    return _step(situation, Action.ROLL_BACK, reason, findings, quarantine=blamed)


def _after_look(situation: Situation, findings: tuple[Finding, ...]) -> Step:
    """What the verdict of an A/B test means for the rollout."""
    readout = situation.readout
    if readout is None:
        return _step(situation, Action.HOLD, "The A/B test has no evidence yet.", findings)
    match readout.verdict:
        case TestVerdict.PROMOTE_B:
            return _forward(situation, findings, readout.reason)
        case TestVerdict.CONTINUE:
            return _step(situation, Action.HOLD, readout.reason, findings, missing=readout.missing)
        case TestVerdict.INVALID:
            return _step(situation, Action.INVALID, readout.reason, findings)
        case TestVerdict.REJECT_B:
            return _step(situation, Action.ROLL_BACK, readout.reason, findings, quarantine=True)
        case TestVerdict.KEEP_A:
            return _step(situation, Action.ROLL_BACK, readout.reason, findings)


def _forward(situation: Situation, findings: tuple[Finding, ...], why: str = "") -> Step:
    rollout = situation.rollout
    last = rollout.stage + 1 == len(rollout.stages)
    why = why or f"Every check of stage {situation.stage.name!r} is ok."
    if rollout.status is RolloutStatus.PAUSED:
        return _step(situation, Action.HOLD, f"Paused by hand: {rollout.history[-1].reason} Otherwise: {why}", findings)
    if last:
        return _step(situation, Action.COMPLETE, f"{why} The challenger may be promoted.", findings)
    following = rollout.stages[rollout.stage + 1].name
    return _step(situation, Action.ADVANCE, f"{why} On to stage {following!r}.", findings)


def _step(
    situation: Situation,
    action: Action,
    reason: str,
    findings: tuple[Finding, ...],
    *,
    missing: tuple[str, ...] = (),
    quarantine: bool = False,
) -> Step:
    rollout = situation.rollout
    own = health.control_bad_share(situation.evidence.windows) if situation.paired else None
    return Step(
        action=action,
        reason=reason,
        missing=missing,
        stage=rollout.stage,
        at=situation.now,
        quarantine=quarantine,
        findings=findings,
        readout=situation.readout,
        control_bad_share=rollout.control_bad_share if own is None else own,
    )
