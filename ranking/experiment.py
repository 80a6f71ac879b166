"""True A/B: one registered horizon, users split at random, and a verdict that daily looks do not spoil.

::

    sample ratio p < 0.001, or users in two arms          INVALID    nothing can be concluded
    z < -bound, or a guardrail proven harmed              REJECT_B
    fewer users than the floor, before the horizon        CONTINUE
    z > bound and every guardrail proven harmless         PROMOTE_B
    at the horizon otherwise                              KEEP_A     with the interval

z is that of the click-through rate (``ranking.ratios``).  The bound is Haybittle-Peto's: 3.29 at interim
looks, at most one a day, about 2.00 at the horizon.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from math import log

from pydantic import AwareDatetime, Field, NonNegativeInt

from ranking.errors import ComparisonError
from ranking.experiment_knobs import GUARDRAIL_METRICS, ExperimentKnobs, GuardrailMetric
from ranking.findings import Finding, Status
from ranking.ratios import Effect, RatioSums, effect
from ranking.sequential import rarity_log_evidence
from ranking.times import as_utc
from ranking.values import Value


class Arms(Value):
    """One metric's sums for both arms."""

    control: RatioSums
    treatment: RatioSums


class ExperimentEvidence(Value):
    """What was seen so far, of users counted once, in the arm they were first assigned to.

    Only exposures of the test's own stage count, from its start to ``until``; every label before ``until``
    is final.
    """

    until: AwareDatetime
    clicks: Arms = Field(description="Clicks over impressions by user, with the pre-period for CUPED if there is one.")
    guardrails: dict[str, Arms] = Field(default_factory=dict, description="By name of GUARDRAIL_METRICS.")
    control_users: NonNegativeInt = Field(description="Users assigned to the control and seen.")
    treatment_users: NonNegativeInt
    crossovers: NonNegativeInt | None = Field(description="Users seen in both arms; None if nobody counted them.")


class TestVerdict(StrEnum):
    """What the A/B test says."""

    __test__ = False  # pytest would take the name for a test

    INVALID = "INVALID"
    REJECT_B = "REJECT_B"
    CONTINUE = "CONTINUE"
    PROMOTE_B = "PROMOTE_B"
    KEEP_A = "KEEP_A"


class Readout(Value):
    """One look at an A/B test: the verdict, its reason and its numbers.

    The intervals are as wide as the look's bound, so that a verdict and an interval that excludes 0 come
    together.
    """

    verdict: TestVerdict
    reason: str
    missing: tuple[str, ...] = ()
    at: AwareDatetime
    until: AwareDatetime
    looked: bool = Field(description="Whether this counts as a look; record its time before the next one.")
    final: bool = Field(description="Whether the horizon is reached.")
    critical: float
    clicks: Effect
    findings: tuple[Finding, ...]
    control_users: NonNegativeInt
    treatment_users: NonNegativeInt
    sample_ratio_p: float | None = Field(description="Chance of a split as uneven as this; None without users.")
    crossovers: NonNegativeInt | None


def read(
    evidence: ExperimentEvidence,
    knobs: ExperimentKnobs,
    *,
    start: datetime,
    now: datetime,
    looks: Iterable[datetime] = (),
) -> Readout:
    """Read an A/B test.  The same evidence, looks and time give the same readout.

    Args:
        evidence: sums of both arms.
        knobs: as registered when the test started.
        start: when users were first split.
        now: the time of this look.
        looks: times of the earlier looks.

    Raises:
        ComparisonError: exposures from after the horizon, or a metric with more users than were seen.
    """
    _check(evidence, knobs, start, now)
    final = evidence.until >= start + knobs.horizon
    looked = final or _day(now) not in {_day(look) for look in looks}
    critical = knobs.final_bound if final else knobs.interim_critical
    clicks = effect(evidence.clicks.control, evidence.clicks.treatment, critical=critical)
    findings = tuple(_guard(metric, evidence, knobs, critical) for metric in GUARDRAIL_METRICS)
    ratio_p = sample_ratio_p(evidence.control_users, evidence.treatment_users)
    days = (evidence.until - start) / timedelta(days=1)
    broken = _broken(evidence, ratio_p, knobs)
    if broken:
        verdict, reason = TestVerdict.INVALID, broken
    elif not looked:
        verdict = TestVerdict.CONTINUE
        reason = f"Today was looked at already ({_day(now)}); one look a day keeps the error rate. Look tomorrow."
    else:
        verdict, reason = _verdict(evidence, clicks, findings, knobs, critical, days, final=final)
    return Readout(
        verdict=verdict,
        reason=reason,
        missing=_missing(evidence, clicks, findings, knobs, days) if verdict is TestVerdict.CONTINUE else (),
        at=now,
        until=evidence.until,
        looked=looked,
        final=final,
        critical=critical,
        clicks=clicks,
        findings=findings,
        control_users=evidence.control_users,
        treatment_users=evidence.treatment_users,
        sample_ratio_p=ratio_p,
        crossovers=evidence.crossovers,
    )


def sample_ratio_p(control: int, treatment: int, expected: float = 0.5) -> float | None:
    """Chi-square chance of a split at least as far from the planned one; ``None`` without users.

    Args:
        control: users seen in the control.
        treatment: users seen in the treatment.
        expected: planned share of the treatment.
    """
    from scipy.special import chdtrc

    users = control + treatment
    if not users:
        return None
    off = treatment - users * expected
    return float(chdtrc(1, off**2 / (users * expected * (1 - expected))))


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _check(evidence: ExperimentEvidence, knobs: ExperimentKnobs, start: datetime, now: datetime) -> None:
    end = start + knobs.horizon
    if evidence.until > end or evidence.until > now:
        raise ComparisonError(
            f"The evidence runs until {as_utc(evidence.until)}, the test until {as_utc(end)}, and it is {as_utc(now)}: "
            "leave later exposures out, the horizon is registered."
        )
    seen = {"control": evidence.control_users, "treatment": evidence.treatment_users}
    for name, arms in {"clicks": evidence.clicks, **evidence.guardrails}.items():
        for arm, users in seen.items():
            if getattr(arms, arm).users > users:
                raise ComparisonError(
                    f"{name!r} has {getattr(arms, arm).users:,} users in the {arm}, where {users:,} were seen: "
                    "count every user once."
                )


def _broken(evidence: ExperimentEvidence, ratio_p: float | None, knobs: ExperimentKnobs) -> str:
    """Why the split cannot be trusted; empty if it can."""
    a, b = evidence.control_users, evidence.treatment_users
    if ratio_p is not None and ratio_p < knobs.min_sample_ratio_p:
        return (
            f"{a:,} users in A and {b:,} in B should be equally many; chance alone does that with p = {ratio_p:.1e}. "
            "Some users are lost or logged on one side only: find out why, and start again with a new salt."
        )
    if evidence.crossovers and evidence.crossovers > knobs.max_crossover_share * (a + b):
        return (
            f"{evidence.crossovers:,} of {a + b:,} users were seen in both arms, more than "
            f"{knobs.max_crossover_share:.1%}. A gateway routes by another table or id: fix it, and start again."
        )
    return ""


def _verdict(
    evidence: ExperimentEvidence,
    clicks: Effect,
    findings: tuple[Finding, ...],
    knobs: ExperimentKnobs,
    critical: float,
    days: float,
    *,
    final: bool,
) -> tuple[TestVerdict, str]:
    z, said = clicks.z, _said(clicks, critical)
    if z is not None and z < -critical:
        return TestVerdict.REJECT_B, f"{said}: B is proven worse."
    harmed = [finding.sentence for finding in findings if finding.status is Status.HARM]
    if harmed:
        return TestVerdict.REJECT_B, f"{said}, but harm is proven. {' '.join(harmed)}"
    better = z is not None and z > critical
    enough = min(evidence.control_users, evidence.treatment_users) >= knobs.min_users_per_arm
    harmless = all(finding.status is Status.OK for finding in findings)
    if better and enough and harmless and (final or days >= knobs.min_days_before_promotion):
        return TestVerdict.PROMOTE_B, f"{said}: B is proven better, and every guardrail is proven harmless."
    if not final:
        return TestVerdict.CONTINUE, f"{said}: day {days:.1f} of {7 * knobs.weeks}, nothing is decided."
    why = "a better B is not proven"
    if better and not enough:
        why = f"B looks better, but {knobs.min_users_per_arm:,} users per arm were registered as the least"
    elif better:
        why = "B is better, but not every guardrail is proven harmless"
    return (
        TestVerdict.KEEP_A,
        f"{said}: the horizon of {knobs.weeks} week{'s' if knobs.weeks > 1 else ''} is reached and {why}, so A stays.",
    )


def _said(clicks: Effect, critical: float) -> str:
    if clicks.relative is None or clicks.z is None:
        return f"Click-through rate could not be compared ({clicks.note or 'the control has no clicks'})"
    moved = clicks.relative
    adjusted = ", CUPED" if clicks.variance_reduction is not None else ""
    return (
        f"Click-through rate changed by {moved.value:+.2%} ({moved.low:+.2%} to {moved.high:+.2%}, "
        f"z = {clicks.z:+.2f} against ±{critical:.2f}{adjusted})"
    )


def _guard(metric: GuardrailMetric, evidence: ExperimentEvidence, knobs: ExperimentKnobs, critical: float) -> Finding:
    """Harmless if the one-sided bound is within the margin, harm if the change is proven beyond it."""
    from scipy.special import ndtri

    margin = float(getattr(knobs, f"{metric.name}_margin_relative"))
    arms = evidence.guardrails.get(metric.name)
    measured = Effect(note="nobody measured it") if arms is None else effect(arms.control, arms.treatment)
    rare = _rare(arms.treatment, knobs) if arms is not None and metric.name == "bad_sessions" else ""
    moved = measured.relative
    if moved is None or moved.se is None:
        sentence = f"{metric.words} could not be compared: {measured.note or 'the control has none'}."
        return Finding(rule=metric.name, status=Status.OK if rare else Status.UNPROVEN, sentence=rare or sentence)
    worse = -moved.value if metric.higher_is_better else moved.value
    if worse + float(ndtri(knobs.guardrail_confidence_level)) * moved.se < margin:
        status, words = Status.OK, "proven less than"
    elif worse - critical * moved.se > margin:
        status, words = Status.HARM, "proven worse by more than"
    else:
        status, words = Status.UNPROVEN, "not proven to be within"
    if rare and status is Status.UNPROVEN:
        return Finding(rule=metric.name, status=Status.OK, sentence=rare)
    return Finding(
        rule=metric.name,
        status=status,
        sentence=f"{metric.words} changed by {moved.value:+.2%} (standard error {moved.se:.2%}): "
        f"{words} the margin of {margin:.0%}.",
        numbers={"change_relative": moved.value, "se": moved.se, "margin": margin},
    )


def _rare(sessions: RatioSums, knobs: ExperimentKnobs) -> str:
    """That B's bad sessions are proven too rare to matter, or nothing: where none is bad, no shares can be compared."""
    bad, total = sessions.sums[:2]
    if rarity_log_evidence(total, bad, knobs.tolerable_bad_share) < -log(1 - knobs.guardrail_confidence_level):
        return ""
    return f"{bad:,.0f} of {total:,.0f} sessions in B were bad: proven fewer than {knobs.tolerable_bad_share:.1%}."


def _missing(
    evidence: ExperimentEvidence,
    clicks: Effect,
    findings: tuple[Finding, ...],
    knobs: ExperimentKnobs,
    days: float,
) -> tuple[str, ...]:
    """What has to come before the test can decide."""
    lacking = []
    fewest = min(evidence.control_users, evidence.treatment_users)
    if fewest < knobs.min_users_per_arm:
        lacking.append(f"{knobs.min_users_per_arm - fewest:,} more users in the smaller arm ({fewest:,} so far).")
    if days < 7 * knobs.weeks:
        lacking.append(f"{7 * knobs.weeks - days:.1f} more days until the registered horizon.")
    if clicks.z is None:
        lacking.append(f"A measurable click-through rate: {clicks.note or 'the control has no clicks'}.")
    if evidence.crossovers is None:
        lacking.append("A count of the users seen in both arms.")
    return (*lacking, *(finding.sentence for finding in findings if finding.status is not Status.OK))
