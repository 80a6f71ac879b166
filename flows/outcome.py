"""How a run that changed nothing looks in the Prefect UI: completed, and called by what happened."""

from typing import cast

from prefect.states import Completed

from ranking.monitoring import Monitoring
from ranking.results import Promotion, Retraining
from tasks.rollouts import Tick

REJECTED, REFUSED, NOTHING_SERVES, ROLLING_OUT, NOTHING_TO_DO = ENDINGS = (
    "Rejected",
    "Refused",
    "Nothing serves",
    "Rolling out",
    "Nothing to do",
)
"""Names of completed states that are not *Completed*; whoever waits for the end of a run must know them."""

NAMES = {"rolling_out": ROLLING_OUT, "not_approved": REJECTED, "refused": REFUSED}


def outcome(promotion: Promotion) -> Promotion:
    """What a flow returns: its caller gets the promotion, and the UI shows *Rejected* or *Refused*."""
    name = NAMES.get(promotion.status)
    if name is None:
        return promotion
    # A flow that returns a state ends in that state, and its caller gets the state's data.
    return cast(Promotion, Completed(name=name, message=promotion.reason, data=promotion))


def refused(reason: str) -> Retraining:
    """What a retraining returns that may not begin: its caller gets nothing, and the UI shows *Refused*."""
    return cast(Retraining, Completed(name=REFUSED, message=reason))


def nothing_serves() -> Monitoring | None:
    """What a check returns when there is no champion to check."""
    return cast(
        Monitoring | None, Completed(name=NOTHING_SERVES, message="There is no champion yet, so nothing was checked.")
    )


def nothing_rolls_out() -> Tick | None:
    """What a tick returns when no challenger is on its way."""
    return cast(Tick | None, Completed(name=NOTHING_TO_DO, message="No rollout is on its way."))
