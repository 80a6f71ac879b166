"""Put an earlier champion back."""

from datetime import datetime

from prefect import flow

from ranking.results import Rollback
from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.clock import moment
from tasks.service import apply_rollback


@flow(name="rollback", log_prints=False, timeout_seconds=3600, **LEAVES_WORD)
def rollback(
    reason: str, to: str | None = None, actor: str = "prefect", config: str | None = None, now: datetime | None = None
) -> Rollback:
    """Put the previous champion back, or a named version that served before.  Needs no approval.

    Args:
        reason: why; it is written to the ledger.
        to: version number; without one, the version that served before the current champion.
        actor: who asks for it.
        config: settings file; without one, feedloop.toml in the working directory.
        now: pretend it is this moment (for replays).
    """
    settings = load(config)
    return apply_rollback(to=to, reason=reason, actor=actor, now=moment(now), **settings.store)
