"""The winner of an A/B test is proposed for promotion, once: by a run of its own, which waits for the approval."""

import logging

from prefect import runtime, task

from ranking.results import Evidence
from tasks.uncached import UNCACHED

logger = logging.getLogger("feedloop.rollouts")

PROPOSE = "propose/promote"
"""The deployment that asks for the promotion of a challenger."""


@task(name="ask for promotion", timeout_seconds=120, **UNCACHED)
def ask_for_promotion(evidence: Evidence) -> bool:
    """Start the run that asks whether the winner shall be champion; repeated ticks start it once.

    Returns:
        Whether it was started; False without deployments, where somebody has to run ``feedloop promote``.
    """
    challenger, trial = evidence.comparison.challenger, evidence.trial
    if trial is None or not runtime.deployment.id:
        logger.warning(
            "Version %s has won its A/B test. Ask for its promotion: feedloop promote %s",
            challenger.version,
            challenger.version,
        )
        return False
    from prefect.deployments import run_deployment

    # The key makes it one run, however often a tick comes by before somebody has answered.
    run_deployment(
        PROPOSE,
        parameters={"challenger": challenger.version, "reason": f"It has won its A/B test. {trial.reason}"},
        timeout=0,
        idempotency_key=f"won-{trial.rollout}",
        as_subflow=False,
    )
    logger.info("Asked for the promotion of version %s, which has won its A/B test", challenger.version)
    return True
