"""A team's own flow around feedloop's: there an approval pauses, because a flow within another cannot suspend."""

from prefect import flow

from flows.propose import propose
from ranking.results import Promotion


@flow(name="nightly")
def nightly(challenger: str, config: str) -> Promotion:
    """Propose a challenger as one step of something larger."""
    return propose(challenger, requested_by="nightly", config=config)
