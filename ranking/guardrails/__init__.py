"""The ordered list of rules that can stop a promotion, however much AUC rose.

Each rule looks at one thing of a ``Comparison`` and gives a ``Finding``: ``ok`` (proven fine),
``unproven`` (not enough evidence, or not measured) or ``harm`` (proven bad), with its numbers and a
sentence; or ``None`` when it does not apply (nothing is "non-inferior" to no champion).  A new rule
is one function in a file of this package and one word in one of the two lists below.
"""

from collections.abc import Iterable

from ranking.findings import Finding, Status
from ranking.guardrails.findings import Rule
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.guardrails.quality import calibration, gauc, log_loss
from ranking.guardrails.sanity import evidence, latency, score_sanity, size
from ranking.guardrails.serving import serving
from ranking.guardrails.slices import slices
from ranking.results import Comparison

ON_SCORES: tuple[Rule, ...] = (score_sanity, evidence, log_loss, gauc, calibration, slices)
"""Need labels and scores alone, so that a simulation can ask them."""

ON_ARTIFACT: tuple[Rule, ...] = (serving, latency, size)
"""Need the registered model itself."""

GUARDRAILS: tuple[Rule, ...] = (*ON_SCORES, *ON_ARTIFACT)

_ORDER = (Status.OK, Status.UNPROVEN, Status.HARM)


def check(comparison: Comparison, knobs: GuardrailKnobs, rules: tuple[Rule, ...] = GUARDRAILS) -> tuple[Finding, ...]:
    """Ask every rule that applies, in order."""
    answers = (rule(comparison, knobs) for rule in rules)
    return tuple(finding for finding in answers if finding is not None)


def worst(findings: Iterable[Finding]) -> Status:
    """The worst status found; ``ok`` when nothing was asked."""
    return max((finding.status for finding in findings), key=_ORDER.index, default=Status.OK)
