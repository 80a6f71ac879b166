"""The rule on slices: no part of the feed pays for the average."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ranking.clusters import critical
from ranking.findings import Finding, Status
from ranking.guardrails.findings import POWER, finding
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.measurements import SliceComparison
from ranking.placements import BoolArray, FloatArray
from ranking.results import Comparison


@dataclass(frozen=True)
class SliceTest:
    """One metric in one slice, turned so that positive is worse."""

    part: str
    words: str
    worse: float
    se: float
    margin: float
    clusters: int


def slices(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """AUC and log loss of no slice are proven worse.

    All slices and both metrics are one family under Holm (1979): tested against the margin a slice
    is harm, tested against no change it is unproven.  Asking every slice on its own would block
    most good challengers.
    """
    if comparison.champion is None:
        return None
    tests = [test for part in comparison.slices for test in _tests(part, knobs)]
    numbers = {"slices": float(len(comparison.slices)), "tested": len(tests) / 2}
    harmed = _rejected(tests, [test.margin for test in tests], knobs.slice_family_error)
    if harmed:
        return finding("slices", Status.HARM, f"Proven worse than the margin in {'; '.join(harmed)}.", **numbers)
    worse = _rejected(tests, [0.0] * len(tests), knobs.slice_family_error)
    if worse:
        return finding("slices", Status.UNPROVEN, f"Worse, by how much is not clear, in {'; '.join(worse)}.", **numbers)
    absent = _absent(comparison, knobs)
    if absent:
        return finding("slices", Status.UNPROVEN, f"No slice was measured for {', '.join(absent)}.", **numbers)
    small = len(comparison.slices) - len(tests) // 2
    note = f" {small} more have fewer than {knobs.slice_min_positives} clicks or non-clicks, or one user or item."
    blind, seen = _blind_spot(tests, knobs.slice_family_error)
    return finding(
        "slices",
        Status.OK,
        f"None of {len(tests) // 2} slices is proven worse.{note if small else ''}{blind}",
        **numbers,
        log_loss_harm_seen=seen,
    )


def _blind_spot(tests: Sequence[SliceTest], family_error: float) -> tuple[str, float | None]:
    """How much worse the least certain slice's log loss must be to be seen, in words and as a share.

    Seen means blamed by Holm's first and strictest step, with 80 % probability.
    """
    if not tests:
        return "", None
    least = max(tests[1::2], key=lambda test: test.se)
    reach = critical(1 - family_error / len(tests), least.clusters) + NormalDist().inv_cdf(POWER)
    seen = reach * least.se
    return (
        f" The least certain is {least.part}: there, a log loss worse by {seen:.1%} would be seen with {POWER:.0%} "
        "probability, and less may stay unseen."
    ), seen


def _tests(part: SliceComparison, knobs: GuardrailKnobs) -> list[SliceTest]:
    """AUC and log loss of one slice; nothing when it is too small."""
    area, loss, base = part.auc.difference, part.log_loss.difference, part.log_loss.champion
    small = min(part.positives, part.rows - part.positives) < knobs.slice_min_positives
    if small or area is None or area.se is None or loss is None or loss.se is None or not base or base.value <= 0:
        return []
    clusters = min(part.users, part.items)
    change = loss.value / base.value
    return [
        SliceTest(
            part.name, f"{part.name} (AUC {area.value:+.4f})", -area.value, area.se, knobs.slice_auc_margin, clusters
        ),
        SliceTest(
            part.name,
            f"{part.name} (log loss {change:+.2%})",
            change,
            loss.se / base.value,
            knobs.log_loss_margin_relative,
            clusters,
        ),
    ]


def _rejected(tests: Sequence[SliceTest], margins: Sequence[float], family_error: float) -> list[str]:
    """The slices proven worse than their margins, in words, most certain first."""
    if not tests:
        return []
    p = np.array([_p_value(test, margin) for test, margin in zip(tests, margins, strict=True)])
    rejected = holm(p, family_error)
    return [tests[index].words for index in np.argsort(p, kind="stable") if rejected[index]]


def _p_value(test: SliceTest, margin: float) -> float:
    from scipy.special import stdtr

    beyond = test.worse - margin
    if test.se == 0:
        return 0.0 if beyond > 1e-12 else 1.0
    return float(stdtr(max(test.clusters - 1, 1), -beyond / test.se))


def holm(p_values: FloatArray, family_error: float) -> BoolArray:
    """Which hypotheses Holm's step-down procedure rejects: (N,) bool for (N,) p-values."""
    order = np.argsort(p_values, kind="stable")
    passed = p_values[order] <= family_error / (len(order) - np.arange(len(order)))
    rejected = np.zeros(len(order), dtype=bool)
    rejected[order] = np.cumprod(passed).astype(bool)
    return rejected


def _absent(comparison: Comparison, knobs: GuardrailKnobs) -> list[str]:
    names = [part.name for part in comparison.slices]
    return [name for name in knobs.slice_names if name not in names] + [
        column for column in knobs.slice_columns if not any(name.startswith(f"{column}=") for name in names)
    ]
