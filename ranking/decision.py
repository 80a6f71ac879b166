"""What should happen to a challenger, and how sure that is."""

from enum import StrEnum


class Decision(StrEnum):
    """What should happen to the challenger."""

    PROMOTE = "PROMOTE"
    A_B_TEST = "A_B_TEST"
    REJECT = "REJECT"


class Confidence(StrEnum):
    """How sure the verdict is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
