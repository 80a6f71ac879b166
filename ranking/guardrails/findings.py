"""What the rules share: their shape, one-sided bounds and the words of a finding."""

from collections.abc import Callable

from ranking.clusters import critical
from ranking.findings import Finding, Status
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.measurements import Estimate
from ranking.results import Comparison

POWER = 0.8
"""Probability with which an effect called detectable is detected."""

Rule = Callable[[Comparison, GuardrailKnobs], Finding | None]


def finding(rule: str, status: Status, sentence: str, **numbers: float | None) -> Finding:
    """A finding with its numbers as keyword arguments."""
    return Finding(rule=rule, status=status, sentence=sentence, numbers=numbers)


def unmeasured(rule: str, what: str, note: str) -> Finding:
    """What is not measured is not fine."""
    why = note or "its standard error is not measurable on this holdout"
    return finding(rule, Status.UNPROVEN, f"{what} could not be compared: {why}.")


def one_sided(measured: Estimate, comparison: Comparison, confidence_level: float) -> tuple[float, float]:
    """Lower and upper bound, each one-sided; needs a measured ``se``."""
    if measured.se is None:
        raise ValueError("one-sided bounds need a standard error")
    reach = critical(confidence_level, min(comparison.users, comparison.items)) * measured.se
    return measured.value - reach, measured.value + reach


def non_inferior(worst_case: float, best_case: float, margin: float) -> tuple[Status, str]:
    """``ok`` if even the worst case is within the margin, ``harm`` if even the best case is not."""
    if worst_case < margin:
        return Status.OK, "not worse by the margin of"
    if best_case > margin:
        return Status.HARM, "proven worse by more than the margin of"
    return Status.UNPROVEN, "not proven to be within the margin of"
