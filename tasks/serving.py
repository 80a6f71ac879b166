"""Ask the registered challenger as it would serve, before it is judged."""

import logging
from typing import TYPE_CHECKING

import numpy as np
from prefect import task

from ranking.results import FeatureTable, ModelRef, ServingCheck, Snapshot, Split
from settings.effects import RegistryKnobs
from tasks.adapters.serving_evidence import SAMPLED_ROWS, measure_serving
from tasks.data import load_rows
from tasks.evaluation import rows_for
from tasks.resuming import RESUMED
from tasks.retries import RETRY
from tasks.stores import open_models

if TYPE_CHECKING:
    import pandas as pd

    from ranking.bundle import Bundle

logger = logging.getLogger("feedloop.serving")


@task(name="check serving", timeout_seconds=1800, **RETRY.options, **RESUMED)
def check_serving(
    *,
    challenger: ModelRef,
    snapshot: Snapshot,
    features: FeatureTable,
    split: Split,
    registry: RegistryKnobs,
    workspace: str,
    warehouse: str,
) -> ServingCheck:
    """Load the registered challenger by MLflow alone in a clean process, and see whether it answers as in training.

    A model that does not is no error here: the answer says so, and the gate rejects it.

    Args:
        challenger: the candidate.
        snapshot: the rows.
        features: the rows with today's features.
        split: names the holdout that is sampled.
        registry: where the candidate is.
        workspace: where a candidate with other features gets a table of its own.
        warehouse: the engine that builds it.

    Raises:
        RegistryUnavailable: no answer.
    """

    def sample(bundle: "Bundle") -> "pd.DataFrame":
        logged = load_rows(features, split.holdout)
        # Evenly over the holdout's time, so that nothing has to be drawn.
        chosen = np.unique(np.linspace(0, logged.num_rows - 1, min(SAMPLED_ROWS, logged.num_rows)).astype(np.int64))
        rows = rows_for(bundle, logged.take(chosen), features, snapshot, split, workspace, warehouse)
        frame: pd.DataFrame = rows.to_pandas()
        return frame

    found = measure_serving(open_models(registry, workspace), challenger, sample)
    logger.log(logging.INFO if found.passed else logging.ERROR, "Serving: %s", found.reason)
    return found
