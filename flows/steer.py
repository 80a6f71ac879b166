"""Take a rollout into one's own hands: pause it, let it go on, or end it."""

from datetime import datetime

from prefect import flow

from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.clock import moment
from tasks.rollout_service import steer_rollout
from tasks.rollouts import Tick, Verb


@flow(name="steer", flow_run_name="{action}-rollout", timeout_seconds=3600, **LEAVES_WORD)
def steer(action: Verb, reason: str, actor: str, config: str | None = None, now: datetime | None = None) -> Tick:
    """Pause, resume or abort the rollout that is on its way.  Needs no approval; it is written to the ledger.

    Args:
        action: pause: the shares stay as they are until resumed; proven harm still rolls back. abort: the champion
            serves everybody again.
        reason: why; whoever comes next reads it.
        actor: your name.
        config: settings file; without one, feedloop.toml in the working directory.
        now: pretend it is this moment (for replays).
    """
    settings = load(config)
    return steer_rollout(verb=action, reason=reason, actor=actor, now=moment(now), **settings.store)
