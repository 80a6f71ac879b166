"""The ordered list of rules that can stop a promotion, however much AUC rose.

Each rule looks at one thing of a ``Comparison`` and gives a ``Finding``: ``ok`` (proven fine),
``unproven`` (not enough evidence, or not measured) or ``harm`` (proven bad), with its numbers and a
sentence; or ``None`` when it does not apply (nothing is "non-inferior" to no champion).  A new rule
is one function in a file of this package and one line in ``GUARDRAILS``.
"""

from collections.abc import Iterable

from ranking.guardrails.findings import Rule
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.guardrails.quality import calibration, gauc, log_loss
from ranking.guardrails.sanity import evidence, latency, score_sanity, size
from ranking.guardrails.slices import slices
from ranking.results import Comparison, Finding, Status

GUARDRAILS: tuple[Rule, ...] = (score_sanity, evidence, log_loss, gauc, calibration, latency, size, slices)

_ORDER = (Status.OK, Status.UNPROVEN, Status.HARM)


def check(comparison: Comparison, knobs: GuardrailKnobs, rules: tuple[Rule, ...] = GUARDRAILS) -> tuple[Finding, ...]:
    """Ask every rule that applies, in order."""
    answers = (rule(comparison, knobs) for rule in rules)
    return tuple(finding for finding in answers if finding is not None)


def worst(findings: Iterable[Finding]) -> Status:
    """The worst status found; ``ok`` when nothing was asked."""
    return max((finding.status for finding in findings), key=_ORDER.index, default=Status.OK)
