"""What a guardrail or a check of a rollout's stage found."""

from enum import StrEnum

from pydantic import Field

from ranking.values import Value


class Status(StrEnum):
    """What a guardrail found, from good to bad."""

    OK = "ok"
    UNPROVEN = "unproven"
    HARM = "harm"


class Finding(Value):
    """One guardrail's answer, in words and numbers."""

    rule: str
    status: Status
    sentence: str
    numbers: dict[str, float | None] = Field(default_factory=dict)
