"""Train a challenger and put its bundle where every worker can read it."""

import logging
import sys
from pathlib import Path
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from ranking.bundle import Bundle
from ranking.fits import Epoch
from ranking.models import ModelKnobs
from ranking.results import FeatureTable, ModelRef, Split, Trained
from ranking.training import TrainingKnobs, fit
from settings.effects import RegistryKnobs
from tasks.adapters.storage import published, temporary_folder
from tasks.data import load_rows
from tasks.registry import download_bundle
from tasks.resuming import RESUMED
from tasks.retries import RETRY

logger = logging.getLogger("feedloop.training")


@task(
    name="train challenger",
    task_run_name="train {model.kind}",
    timeout_seconds=12 * 3600,
    **RETRY.options,
    **RESUMED,
)
def train_challenger(
    *,
    features: FeatureTable,
    split: Split,
    model: ModelKnobs,
    knobs: TrainingKnobs,
    seed: int,
    champion: ModelRef | None,
    registry: RegistryKnobs,
    workspace: str,
) -> Trained:
    """Fit the configured architecture on the train rows and save its bundle in the workspace.

    Args:
        features: rows with features.
        split: which rows are for what; the holdout is not touched.
        model: the architecture.
        knobs: how to fit.
        seed: of everything random.
        champion: where a warm start begins, if ``knobs.warm_start`` asks for one.
        registry: where the champion is.
        workspace: the bundle goes to ``bundles/<digest>`` under it.

    Raises:
        TrainingError: nothing to learn from, or the fit diverged.
        StorageError: the bundle cannot be written; then nothing is left behind.
    """
    warm = _champion_bundle(champion, registry, workspace) if knobs.warm_start and champion is not None else None
    fitted = fit(
        load_rows(features, split.train),
        load_rows(features, split.validation),
        spec=features.spec,
        learnt=split.learnt,
        model=model,
        knobs=knobs,
        seed=seed,
        warm_start=warm,
        on_epoch=_Progress(knobs.max_epochs),
        progress=sys.stderr.isatty(),
    )
    training = fitted.training
    with temporary_folder() as folder:
        fitted.bundle.save(folder / "bundle")
        uri = published(folder / "bundle", f"{workspace}/bundles/{training.digest[:16]}")
    logger.info(
        "Trained %s: %d epochs, best validation log loss %.4f, %s rows/s on %s",
        model.kind,
        len(training.epochs),
        training.epochs[training.best_epoch].validation_log_loss,
        f"{training.rows_per_second:,.0f}",
        training.device,
    )
    return Trained(bundle_uri=uri, training=training)


def _champion_bundle(champion: ModelRef, registry: RegistryKnobs, workspace: str) -> Bundle:
    with temporary_folder() as folder:
        return Bundle.load(download_bundle(champion, registry, workspace, Path(folder)), champion.digest)


class _Progress:
    """Tells each epoch to the log and, inside a Prefect run, to a progress artifact."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._artifact: UUID | None = None
        if TaskRunContext.get() is not None:
            # In a task that is not async this is the id itself; Prefect types both cases in one.
            made = create_progress_artifact(0.0, description=f"Training, at most {epochs} epochs")
            self._artifact = made if isinstance(made, UUID) else None

    def __call__(self, epoch: Epoch) -> None:
        logger.info(
            "Epoch %d: train log loss %.4f, validation %.4f",
            epoch.number + 1,
            epoch.train_log_loss,
            epoch.validation_log_loss,
        )
        if self._artifact is not None:
            update_progress_artifact(self._artifact, 100.0 * (epoch.number + 1) / self._epochs)
