"""PROMOTE, A_B_TEST or REJECT, with the reason: the gate's whole rule in one place.

Let d be the AUC gain with the two-sided interval [L, U]::

    d < -max_degradation                               REJECT    high if U < 0 else medium
    any guardrail proven harmful                       REJECT    high
    d <= 0                                             REJECT    medium if U < min_improvement else low
    d >= min_improvement, L > 0, guardrails all ok     PROMOTE   high if L >= min_improvement/2 else medium
    L > -max_degradation                               A_B_TEST  medium
    otherwise                                          REJECT    low

Then two caps: without a recorded training window of the champion, and on impressions that the
champion chose while the models disagree, nothing is more than an A_B_TEST.
"""

from math import ceil
from statistics import NormalDist

from pydantic import Field

from ranking.clusters import critical
from ranking.decision import Confidence, Decision
from ranking.findings import Finding, Status
from ranking.guardrails import GUARDRAILS, check, worst
from ranking.guardrails.findings import POWER, Rule
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.measurements import Estimate
from ranking.results import Comparison, Verdict

TOLERANCE = 1e-12
"""Thresholds are compared with this slack: in floats 0.29 - 0.28 is less than 0.01."""


class GateKnobs(GuardrailKnobs):
    """When a challenger replaces the champion."""

    min_auc_improvement: float = Field(default=0.01, ge=0, lt=0.5, description="AUC gain that asks for promotion.")
    max_auc_degradation: float = Field(default=0.005, ge=0, lt=0.5, description="AUC drop that is always rejected.")
    confidence_level: float = Field(default=0.95, gt=0.5, lt=1, description="Of the AUC gain's two-sided interval.")
    min_first_auc: float = Field(default=0.55, ge=0.5, lt=1, description="AUC that the first model ever must reach.")
    min_score_correlation: float = Field(
        default=0.9,
        ge=-1,
        le=1,
        description="Below this correlation of the two models' scores, impressions chosen by the champion decide "
        "at most an A/B test.",
    )
    exploration_holdout: bool = Field(
        default=False,
        description="All of the holdout's impressions were chosen at random, not by the champion. Where only some "
        "were, name their column in data.columns.exploration instead.",
    )


def decide(comparison: Comparison, knobs: GateKnobs, rules: tuple[Rule, ...] = GUARDRAILS) -> Verdict:
    """Turn a comparison into a verdict.  The same comparison and knobs give the same verdict.

    Args:
        comparison: what ``ranking.comparison.compare`` measured.
        knobs: thresholds and margins.
        rules: the guardrails to ask.
    """
    findings = check(comparison, knobs, rules)
    if comparison.champion is None:
        return _first(comparison, knobs, findings)
    gain = comparison.auc.difference
    if gain is None:
        return _unmeasured(comparison, findings)
    ruled = _rule(comparison, gain, knobs, findings)
    return _capped(ruled, comparison, knobs)


def _rule(comparison: Comparison, gain: Estimate, knobs: GateKnobs, findings: tuple[Finding, ...]) -> Verdict:
    d, (low, high) = gain.value, _interval(comparison, gain, knobs)
    least, most = knobs.min_auc_improvement, knobs.max_auc_degradation
    status = worst(findings)
    said = f"AUC changed by {d:+.4f} ({_between(gain, low, high, knobs)})"

    def verdict(decision: Decision, confidence: Confidence, reason: str) -> Verdict:
        return Verdict(
            decision=decision,
            confidence=confidence,
            reason=reason,
            missing=_missing(comparison, gain, knobs, findings),
            findings=findings,
            minimum_detectable_effect=_detectable(comparison, gain, knobs),
        )

    if d < -most - TOLERANCE:
        sure = Confidence.HIGH if high < -TOLERANCE else Confidence.MEDIUM
        return verdict(Decision.REJECT, sure, f"{said}: a drop of more than {most:.4f} is never accepted.")
    if status is Status.HARM:
        return verdict(Decision.REJECT, Confidence.HIGH, f"{said}, but harm is proven. {_sentences(findings, status)}")
    if d <= TOLERANCE:
        sure = Confidence.MEDIUM if high < least - TOLERANCE else Confidence.LOW
        return verdict(Decision.REJECT, sure, f"{said}: no gain, so the champion stays.")
    if d >= least - TOLERANCE and low > TOLERANCE and status is Status.OK:
        sure = Confidence.HIGH if low >= least / 2 - TOLERANCE else Confidence.MEDIUM
        return verdict(
            Decision.PROMOTE, sure, f"{said}: at least {least:.4f}, proven above 0, and every guardrail is ok."
        )
    if low > -most + TOLERANCE:
        return verdict(Decision.A_B_TEST, Confidence.MEDIUM, f"{said}: {_why_not(d, low, knobs, findings)}")
    return verdict(
        Decision.REJECT,
        Confidence.LOW,
        f"{said}: inconclusive, since a drop of {most:.4f} or more is not ruled out on {comparison.rows:,} rows. "
        "Enlarge the holdout.",
    )


def _why_not(d: float, low: float, knobs: GateKnobs, findings: tuple[Finding, ...]) -> str:
    """Why a gain is worth an A/B test but not a promotion."""
    why = []
    if d < knobs.min_auc_improvement - TOLERANCE:
        why.append(f"a gain, but less than the {knobs.min_auc_improvement:.4f} that a promotion needs.")
    elif low <= TOLERANCE:
        why.append("enough of a gain, but not proven above 0.")
    if worst(findings) is Status.UNPROVEN:
        why.append(f"Not proven harmless: {_sentences(findings, Status.UNPROVEN)}")
    return " ".join(why)


def _capped(verdict: Verdict, comparison: Comparison, knobs: GateKnobs) -> Verdict:
    """At most an A/B test where the comparison itself may be unfair."""
    caps, missing = [], []
    if comparison.champion is not None and comparison.champion.learnt is None:
        caps.append(
            f"nobody recorded what champion version {comparison.champion.version} was trained on, so it may have "
            "seen this holdout"
        )
        missing.append("A recorded training window of the champion.")
    close = comparison.score_correlation
    random = comparison.exploration or knobs.exploration_holdout
    if not random and (close is None or close < knobs.min_score_correlation - TOLERANCE):
        measured = "are constant, their correlation is not measurable" if close is None else f"correlate by {close:.3f}"
        caps.append(
            f"the two models' scores {measured} (less than {knobs.min_score_correlation:g}), and the impressions were "
            "chosen by the champion: what the challenger would have shown instead was not logged"
        )
        missing.append("Random impressions in the holdout (data.columns.exploration), or an A/B test.")
    if not caps:
        return verdict
    update: dict[str, object] = {"missing": (*verdict.missing, *missing)}
    if verdict.decision is Decision.PROMOTE:
        update |= {
            "decision": Decision.A_B_TEST,
            "confidence": Confidence.MEDIUM,
            "reason": f"{verdict.reason} Not promoted offline because {'; and because '.join(caps)}.",
        }
    return verdict.model_copy(update=update)


def _first(comparison: Comparison, knobs: GateKnobs, findings: tuple[Finding, ...]) -> Verdict:
    """No champion: the floors decide, and only proven harm stops what reaches them."""
    area, loss = comparison.auc.challenger, comparison.log_loss.challenger
    if area is None or loss is None:
        return _unmeasured(comparison, findings)
    low, _ = _interval(comparison, area, knobs)
    constant = comparison.constant_log_loss
    said = f"First model: AUC {area.value:.4f}, log loss {loss.value:.4f} (a constant has {constant:.4f})"
    failed = []
    if area.value < knobs.min_first_auc - TOLERANCE:
        failed.append(f"AUC is below the floor of {knobs.min_first_auc:.4f}.")
    if low <= 0.5:
        failed.append(f"An AUC above 0.5 is not proven ({_between(area, low, None, knobs)}).")
    if loss.value >= constant:
        failed.append("Its log loss is no better than that of a constant.")
    if worst(findings) is Status.HARM:
        failed.append(_sentences(findings, Status.HARM))
    if failed:
        decision, confidence, reason = Decision.REJECT, Confidence.HIGH, f"{said}. {' '.join(failed)}"
    else:
        decision, reason = Decision.PROMOTE, f"{said}: there is no champion, and every floor is reached."
        confidence = Confidence.HIGH if low >= knobs.min_first_auc else Confidence.MEDIUM
    return Verdict(
        decision=decision,
        confidence=confidence,
        reason=reason,
        missing=tuple(f.sentence for f in findings if f.status is Status.UNPROVEN),
        findings=findings,
    )


def _unmeasured(comparison: Comparison, findings: tuple[Finding, ...]) -> Verdict:
    harmful = worst(findings) is Status.HARM
    note = comparison.auc.note or "not measured"
    return Verdict(
        decision=Decision.REJECT,
        confidence=Confidence.HIGH if harmful else Confidence.LOW,
        reason=f"AUC could not be compared: {note}. {_sentences(findings, Status.HARM)}".strip(),
        missing=(f"A measurable AUC: {note}.", *(f.sentence for f in findings if f.status is Status.UNPROVEN)),
        findings=findings,
    )


def _interval(comparison: Comparison, measured: Estimate, knobs: GateKnobs) -> tuple[float, float]:
    """Two-sided bounds; without a standard error everything is possible."""
    if measured.se is None:
        return float("-inf"), float("inf")
    reach = critical(0.5 + knobs.confidence_level / 2, min(comparison.users, comparison.items)) * measured.se
    return measured.value - reach, measured.value + reach


def _between(measured: Estimate, low: float, high: float | None, knobs: GateKnobs) -> str:
    if measured.se is None:
        return "its standard error is not measurable"
    if high is None:
        return f"{knobs.confidence_level:.0%} interval from {low:.4f}"
    return f"{knobs.confidence_level:.0%} interval {low:+.4f} to {high:+.4f}"


def _detectable(comparison: Comparison, gain: Estimate, knobs: GateKnobs) -> float | None:
    """Smallest true gain that passes both ``d >= min_improvement`` and ``L > 0`` with 80 % probability."""
    if gain.se is None:
        return None
    z = NormalDist().inv_cdf(POWER)
    reach = critical(0.5 + knobs.confidence_level / 2, min(comparison.users, comparison.items))
    return max((reach + z) * gain.se, knobs.min_auc_improvement + z * gain.se)


def _missing(
    comparison: Comparison, gain: Estimate, knobs: GateKnobs, findings: tuple[Finding, ...]
) -> tuple[str, ...]:
    """What would have to be known to decide better: more rows, and each unproven guardrail."""
    rows = []
    low, _ = _interval(comparison, gain, knobs)
    reach = gain.value - low
    if gain.se is None:
        rows.append("A holdout with at least two users and two items: without them no error can be estimated.")
    elif reach > knobs.max_auc_degradation > 0:
        needed = _round_up(comparison.rows * (reach / knobs.max_auc_degradation) ** 2)
        told = "tells the sign of the AUC gain and little more" if abs(gain.value) > reach else "decides nothing"
        rows.append(
            f"A holdout of {comparison.rows:,} rows {told}: about {needed:,} are needed for an AUC gain known "
            f"to ±{knobs.max_auc_degradation:.4f} (now ±{reach:.4f})."
        )
    return (*rows, *(f.sentence for f in findings if f.status is Status.UNPROVEN))


def _round_up(rows: float) -> int:
    """Two significant digits, upwards."""
    unit = int(10 ** max(len(str(int(rows))) - 2, 0))
    return ceil(rows / unit) * unit


def _sentences(findings: tuple[Finding, ...], status: Status) -> str:
    return " ".join(finding.sentence for finding in findings if finding.status is status)
