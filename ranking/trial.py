"""What live users said about a challenger."""

from pydantic import AwareDatetime, Field

from ranking.findings import Finding
from ranking.values import Value


class Trial(Value):
    """What live users said about a challenger: the verdict of an A/B test that ran to its end."""

    rollout: str = Field(description="Id of the rollout; the ledger holds all its steps.")
    verdict: str
    reason: str
    began: AwareDatetime
    ended: AwareDatetime
    findings: tuple[Finding, ...] = ()
    numbers: dict[str, float | None] = Field(default_factory=dict)
