"""One tick of a rollout: look at its stage, make at most one step, and finish what is completed."""

from datetime import datetime

from prefect import flow

from flows.outcome import nothing_rolls_out
from ranking.results import Evidence
from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.clock import moment
from tasks.rollout_service import current_rollout, finish_rollout, make_step
from tasks.rollouts import Tick
from tasks.sample import sample_now
from tasks.stage_evidence import gather_evidence
from tasks.winners import ask_for_promotion


@flow(name="advance", flow_run_name="advance", timeout_seconds=2 * 3600, **LEAVES_WORD)
def advance(config: str | None = None, now: datetime | None = None) -> Tick | None:
    """Move the rollout on by at most one step, if its evidence allows it; roll it back on harm.

    Nobody waits here for days: each run reads the state from the ledger and the evidence from the logs, and ends.

    Args:
        config: settings file; without one, feedloop.toml in the working directory.
        now: pretend it is this moment (for replays).  The sample feed has a calendar of its own.
    """
    settings = load(config)
    at = moment(now or sample_now(settings))

    rollout = current_rollout(**settings.store)
    if rollout is None:
        return nothing_rolls_out()
    evidence = gather_evidence(
        rollout=rollout,
        online=settings.online_folder,
        outcomes=settings.outcomes_uri,
        data=settings.data,
        maturity_hours=settings.maturity_hours,
        now=at,
        **settings.store,
    )
    tick = make_step(rollout=rollout, evidence=evidence, now=at, **settings.store)
    done = finish_rollout(policy_digest=settings.policy_digest, now=at, **settings.store)
    if isinstance(done, Evidence):
        ask_for_promotion(done)
    return tick
