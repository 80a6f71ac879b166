"""Moving a rollout: thin tasks over :mod:`tasks.rollouts`, which tell Prefect what was done."""

import logging
from datetime import datetime

from prefect import task

from ranking.results import Evidence, Promotion
from ranking.rollout import Rollout
from ranking.rollout_checks import StageEvidence
from settings.effects import RegistryKnobs
from tasks import rollout_end, rollout_entries, rollouts
from tasks.champion import reconcile
from tasks.events import emit_entry
from tasks.reports import publish_entry
from tasks.retries import RETRY
from tasks.rollout_report import publish_tick
from tasks.rollouts import Tick, Verb
from tasks.stores import open_both
from tasks.uncached import UNCACHED

logger = logging.getLogger("feedloop.rollouts")

ACTOR = "advance"
"""Who moves a rollout when nobody does it by hand."""


@task(name="current rollout", timeout_seconds=300, **RETRY.options, **UNCACHED)
def current_rollout(registry: RegistryKnobs, workspace: str) -> Rollout | None:
    """The rollout that is on its way; None when there is none.  Whatever a crash left half done is finished first.

    Raises:
        RegistryUnavailable: no answer.
    """
    models, ledger = open_both(registry, workspace)
    reconcile(models, ledger)
    return rollout_entries.running(ledger.entries())


@task(name="make step", timeout_seconds=600, **RETRY.options, **UNCACHED)
def make_step(
    *, rollout: Rollout, evidence: StageEvidence, now: datetime, registry: RegistryKnobs, workspace: str
) -> Tick | None:
    """Make at most one step, if the rollout is still where the evidence was read; see :func:`rollouts.advance`."""
    models, ledger = open_both(registry, workspace)

    def seen(present: Rollout) -> StageEvidence:
        # Evidence of another rollout or stage says nothing here; the checks refuse the stage, this the rollout.
        return evidence if present.id == rollout.id else StageEvidence(stage=present.stage)

    tick = rollouts.advance(models, ledger, gather=seen, actor=ACTOR, now=now)
    if tick is not None:
        if tick.entry is not None:
            emit_entry(registry.model_name, tick.entry)
        publish_tick(registry.model_name, tick, rollout_entries.history(ledger.entries(), tick.rollout))
    return tick


@task(name="finish rollout", timeout_seconds=900, **RETRY.options, **UNCACHED)
def finish_rollout(
    *, policy_digest: str, now: datetime, registry: RegistryKnobs, workspace: str
) -> Promotion | Evidence | None:
    """Promote the challenger of a completed rollout, or give back what to ask; see :func:`rollout_end.finish`."""
    models, ledger = open_both(registry, workspace)
    done = rollout_end.finish(models, ledger, policy_digest=policy_digest, actor=ACTOR, now=now)
    if isinstance(done, Promotion) and done.entry is not None:
        logger.info("%s: %s", done.status, done.reason)
        emit_entry(registry.model_name, done.entry)
        publish_entry(registry.model_name, done.entry)
    return done


@task(name="steer rollout", timeout_seconds=300, **RETRY.options, **UNCACHED)
def steer_rollout(
    *, verb: Verb, reason: str, actor: str, now: datetime, registry: RegistryKnobs, workspace: str
) -> Tick:
    """Pause, resume or abort by hand; see :func:`rollouts.steer`."""
    models, ledger = open_both(registry, workspace)
    tick = rollouts.steer(models, ledger, verb=verb, actor=actor, reason=reason, now=now)
    if tick.entry is not None:
        emit_entry(registry.model_name, tick.entry)
        publish_entry(registry.model_name, tick.entry)
    return tick
