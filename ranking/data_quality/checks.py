"""What the rules share: their answers, and when a change of a share is more than chance."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from math import sqrt

from pydantic import Field, NonNegativeInt

from ranking.counts import Counts
from ranking.data_quality.knobs import QualityKnobs
from ranking.reference import Reference
from ranking.times import Window
from ranking.values import Value

CHANCE = 1e-3
"""Two-sided probability below which a change of a share is not put down to chance."""

CHANCE_Z = 3.2905
"""The normal quantile that goes with it."""

NAMED = 5
"""Columns that a sentence names."""


class Health(StrEnum):
    """How the data are, from good to bad."""

    OK = "ok"
    SUSPECT = "suspect"
    INCIDENT = "incident"


class Check(Value):
    """One rule's answer, in words and numbers."""

    rule: str
    health: Health
    sentence: str
    numbers: dict[str, float | None] = Field(default_factory=dict)


class Quality(Value):
    """What all rules say of one window."""

    window: Window
    rows: NonNegativeInt
    checks: tuple[Check, ...]
    health: Health
    sentence: str

    @property
    def blocks(self) -> bool:
        """Whether nothing may be learnt from this window."""
        return self.health is Health.INCIDENT


Rule = Callable[[Reference, Counts, QualityKnobs], Check | None]


def graded(amount: float, suspect: float, incident: float) -> Health:
    """Beyond which of the two bounds an amount lies."""
    if amount > incident:
        return Health.INCIDENT
    return Health.SUSPECT if amount > suspect else Health.OK


def beyond_chance(old: float, new: float, units: float) -> bool:
    """Whether a share of so many independent units moved by more than chance would."""
    middle = (old + new) / 2
    return abs(new - old) > CHANCE_Z * sqrt(middle * (1 - middle) / max(units, 1.0))


def by_column(rule: str, found: Mapping[str, tuple[Health, float, str]], fine: str, incident: str) -> Check:
    """One check of many columns: the worst health, naming the columns that have it.

    Args:
        rule: its name.
        found: column to health, amount and words.
        fine: the sentence when all are ok.
        incident: how the sentence begins when some are not.
    """
    bad = {name: entry for name, entry in found.items() if entry[0] is not Health.OK}
    if not bad:
        return Check(rule=rule, health=Health.OK, sentence=fine, numbers={"columns": 0})
    health = Health.INCIDENT if any(entry[0] is Health.INCIDENT for entry in bad.values()) else Health.SUSPECT
    listed = sorted((name for name in bad if bad[name][0] is health), key=lambda name: -bad[name][1])
    named = "; ".join(f"{name} {bad[name][2]}" for name in listed[:NAMED])
    more = f"; and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return Check(
        rule=rule,
        health=health,
        sentence=f"{incident}: {named}{more}.",
        numbers={"columns": len(bad), **{name: bad[name][1] for name in listed[:NAMED]}},
    )
