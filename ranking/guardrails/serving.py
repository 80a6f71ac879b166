"""The rule on the registered artifact: what was compared is what would serve."""

from ranking.findings import Finding, Status
from ranking.guardrails.findings import finding
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.results import Comparison


def serving(comparison: Comparison, knobs: GuardrailKnobs) -> Finding | None:
    """The registered challenger, loaded by MLflow alone in a clean process, answers as in training."""
    check = comparison.serving
    if check is None:
        return finding(
            "serving",
            Status.UNPROVEN,
            "The registered challenger was not asked through MLflow in a clean process, so nobody knows that it "
            "serves what was compared.",
        )
    return finding(
        "serving",
        Status.OK if check.passed else Status.HARM,
        check.reason,
        golden_rows=check.golden_rows,
        sampled_rows=check.sampled_rows,
        worst_difference=check.worst_difference,
    )
