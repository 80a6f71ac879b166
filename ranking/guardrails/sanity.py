"""Rules that need no champion: sane scores, enough evidence, budgets."""

from ranking.findings import Finding, Status
from ranking.guardrails.findings import finding
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.results import Comparison


def score_sanity(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """Scores are numbers, lie within (0, 1) and are not all the same."""
    health, rows = comparison.challenger_scores, comparison.rows
    if health is None:
        return finding("score_sanity", Status.UNPROVEN, "The challenger's scores were not looked at.")
    if health.missing:
        status, words = Status.HARM, f"{health.missing:,} of {rows:,} scores are NaN or infinite"
    elif health.constant:
        status, words = Status.HARM, f"all {rows:,} scores are {health.lowest:.6g}, which ranks nothing"
    elif health.outside:
        status, words = Status.HARM, f"{health.outside:,} of {rows:,} scores are below 0 or above 1, no click rates"
    elif health.certain:
        status, words = (
            Status.UNPROVEN,
            f"{health.certain:,} of {rows:,} scores are exactly 0 or 1, too sure",
        )
    else:
        status, words = Status.OK, f"all {rows:,} scores lie between {health.lowest:.6g} and {health.highest:.6g}"
    return finding(
        "score_sanity",
        status,
        f"Challenger: {words}.",
        missing=health.missing,
        outside=health.outside,
        certain=health.certain,
    )


def evidence(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """There are enough clicks, users and items for a standard error to mean anything."""
    clicks, others = comparison.positives, comparison.rows - comparison.positives
    clusters = min(comparison.users, comparison.items)
    enough = min(clicks, others) >= knobs.min_positives and clusters >= knobs.min_clusters
    return finding(
        "evidence",
        Status.OK if enough else Status.UNPROVEN,
        f"The holdout has {clicks:,} clicks and {others:,} non-clicks, {comparison.users:,} users and "
        f"{comparison.items:,} items; standard errors need {knobs.min_positives:,} of each label and "
        f"{knobs.min_clusters:,} users and items.",
        clicks=clicks,
        non_clicks=others,
        users=comparison.users,
        items=comparison.items,
    )


def latency(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """Scoring one request is fast enough, when there is a budget."""
    measured = comparison.costs.latency_p99_milliseconds
    return _budget(
        "latency", "p99 latency of a request of 100 candidates", "ms", measured, knobs.max_latency_p99_milliseconds
    )


def size(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """The bundle is small enough, when there is a budget."""
    return _budget("size", "bundle size", "MB", comparison.costs.size_megabytes, knobs.max_size_megabytes)


def _budget(rule: str, what: str, unit: str, measured: float | None, budget: float | None) -> Finding | None:
    if budget is None:
        return None
    if measured is None:
        return finding(rule, Status.UNPROVEN, f"The {what} was not measured; the budget is {budget:g} {unit}.")
    status = Status.OK if measured <= budget else Status.HARM
    return finding(
        rule,
        status,
        f"The {what} is {measured:.3g} {unit} of a budget of {budget:g}.",
        measured=measured,
        budget=budget,
    )
