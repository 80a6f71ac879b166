"""The ordered list of rules that tell a data incident from a change of the world.

A nulled feature or a doubled delivery looks like drift, and a model retrained on it learns the fault.
Each rule looks at one thing of a window and gives a ``Check``: ``ok``, ``suspect`` (said, or not
measured) or ``incident`` (blocks retraining); or ``None`` when it does not apply.  A new rule is one
function in a file of this package and one line in ``QUALITY_RULES``.
"""

from collections.abc import Iterable

from ranking.counts import Counts
from ranking.data_quality.checks import Check, Health, Quality, Rule
from ranking.data_quality.columns import constants, copies, nulls, present, unseen
from ranking.data_quality.knobs import QualityKnobs
from ranking.data_quality.rows import duplicates, freshness, labels, lateness, volume
from ranking.reference import Reference

QUALITY_RULES: tuple[Rule, ...] = (
    volume,
    freshness,
    lateness,
    duplicates,
    present,
    nulls,
    constants,
    copies,
    unseen,
    labels,
)

_ORDER = (Health.OK, Health.SUSPECT, Health.INCIDENT)


def check_quality(
    reference: Reference, current: Counts, knobs: QualityKnobs, rules: tuple[Rule, ...] = QUALITY_RULES
) -> Quality:
    """Ask every rule that applies, in order.

    Args:
        reference: the champion's, frozen.
        current: counts of the window in the reference's bins.
        knobs: how much is too much.
        rules: what to ask.
    """
    answers = (rule(reference, current, knobs) for rule in rules)
    checks = tuple(check for check in answers if check is not None)
    health = worst(checks)
    told = [check.sentence for check in checks if check.health is health]
    return Quality(
        window=current.window,
        rows=current.rows,
        checks=checks,
        health=health,
        sentence=f"All {len(checks)} checks are ok." if health is Health.OK else " ".join(told),
    )


def worst(checks: Iterable[Check]) -> Health:
    """The worst health found; ``suspect`` when nothing was asked, since nothing was seen to be fine."""
    return max((check.health for check in checks), key=_ORDER.index, default=Health.SUSPECT)
