"""Ask the policy of today about every comparison of the past."""

from prefect import flow

from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.replay import Replay, replay_verdicts


@flow(name="replay", flow_run_name="replay", timeout_seconds=2 * 3600, **LEAVES_WORD)
def replay(config: str | None = None) -> Replay:
    """What would the thresholds of today have decided about every stored comparison?  Changes nothing.

    Args:
        config: settings file; without one, feedloop.toml in the working directory.
    """
    settings = load(config)
    return replay_verdicts(gate=settings.gate, **settings.store)
