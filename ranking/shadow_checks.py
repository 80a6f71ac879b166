"""What a challenger must show in the shadow, as a list of rules.

Coverage and features come first: what was not scored, or not scored as in training, cannot be judged, so
there the shadow is INVALID.  A number nobody measured is unproven, never fine.
"""

from pydantic import Field

from ranking.findings import Finding, Status
from ranking.shadow import ShadowComparison
from ranking.values import Knobs

INVALIDATING = ("coverage", "feature_coverage")
"""Rules whose harm says that the measurement is broken, not the model."""


class ShadowKnobs(Knobs):
    """What a challenger must show in the shadow before users see it."""

    min_coverage: float = Field(
        default=0.99, gt=0, le=1, description="Share of the chosen requests that must have been scored."
    )
    max_feature_loss: float = Field(
        default=0.01, ge=0, lt=1, description="A feature may be known by this much less often than in training."
    )
    max_error_share: float = Field(default=0.001, ge=0, lt=1, description="Share of requests on which it may raise.")
    max_latency_p99_milliseconds: float = Field(default=50.0, gt=0, description="Time of the slowest request in 100.")
    max_own_shift: float = Field(
        default=0.2, gt=0, le=5, description="PSI of the challenger's live scores against its own on the holdout."
    )
    min_rank_correlation: float = Field(
        default=0.3, ge=-1, le=1, description="Mean rank correlation of the two models' lists."
    )
    max_log_loss_increase_relative: float = Field(
        default=0.005, gt=0, lt=1, description="Share of the champion's log loss by which it may be proven worse."
    )


def check_shadow(compared: ShadowComparison, knobs: ShadowKnobs) -> tuple[Finding, ...]:
    """Judge a shadow that has seen enough requests.

    Args:
        compared: the two models on live requests.
        knobs: what is asked of the challenger.
    """
    sums = compared.sums
    failed = sums.failed / sums.requests if sums.requests else None
    distance = None if compared.rank_correlation is None else 1 - compared.rank_correlation
    return (
        _coverage(compared, knobs),
        _features(compared, knobs),
        _at_most("errors", "The share of requests on which it raised", failed, knobs.max_error_share),
        _at_most("latency", "p99 in milliseconds", sums.latency_p99_milliseconds, knobs.max_latency_p99_milliseconds),
        _at_most("own_shift", "PSI against its own holdout", compared.own_stability_index, knobs.max_own_shift),
        _at_most("rank_correlation", "1 - rank correlation", distance, 1 - knobs.min_rank_correlation),
        _log_loss(compared, knobs),
    )


def _coverage(compared: ShadowComparison, knobs: ShadowKnobs) -> Finding:
    covered, sums = compared.coverage, compared.sums
    if covered is None:
        return _unmeasured("coverage", "Coverage")
    return Finding(
        rule="coverage",
        status=Status.OK if covered >= knobs.min_coverage else Status.HARM,
        sentence=f"{sums.scored:,} of {sums.requests:,} chosen requests were scored ({covered:.2%}); "
        f"{knobs.min_coverage:.0%} are needed.",
        numbers={"coverage": covered, "least": knobs.min_coverage},
    )


def _features(compared: ShadowComparison, knobs: ShadowKnobs) -> Finding:
    if not compared.sums.features:
        return _unmeasured("feature_coverage", "How often each feature was known")
    worst = min(compared.sums.features, key=lambda feature: feature.live - feature.training)
    lost = worst.training - worst.live
    return Finding(
        rule="feature_coverage",
        status=Status.OK if lost <= knobs.max_feature_loss else Status.HARM,
        sentence=f"Feature {worst.name!r} was known in {worst.live:.1%} of the live rows, and in {worst.training:.1%} "
        f"in training; it may fall by {knobs.max_feature_loss:.1%}.",
        numbers={"live": worst.live, "training": worst.training},
    )


def _at_most(rule: str, what: str, measured: float | None, most: float) -> Finding:
    if measured is None:
        return _unmeasured(rule, what)
    fine = measured <= most
    return Finding(
        rule=rule,
        status=Status.OK if fine else Status.HARM,
        sentence=f"{what} is {measured:.4g}, {'at' if fine else 'and may be at'} most {most:.4g}.",
        numbers={"measured": measured, "most": most},
    )


def _log_loss(compared: ShadowComparison, knobs: ShadowKnobs) -> Finding:
    """Non-inferior on the impressions that the champion chose: a safety check, not a race."""
    moved, margin = compared.log_loss, knobs.max_log_loss_increase_relative
    if moved is None or moved.low is None or moved.high is None:
        return _unmeasured("log_loss", "Log loss on final labels")
    status, words = Status.UNPROVEN, "not proven to be within"
    if moved.high < margin:
        status, words = Status.OK, "proven less than"
    elif moved.low > margin:
        status, words = Status.HARM, "proven worse by more than"
    return Finding(
        rule="log_loss",
        status=status,
        sentence=f"Log loss changed by {moved.value:+.2%} ({moved.low:+.2%} to {moved.high:+.2%}): {words} "
        f"the margin of {margin:.2%}.",
        numbers={"change_relative": moved.value, "low": moved.low, "high": moved.high},
    )


def _unmeasured(rule: str, what: str) -> Finding:
    return Finding(rule=rule, status=Status.UNPROVEN, sentence=f"{what} was not measured.")
