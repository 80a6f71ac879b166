"""What a training run leaves in MLflow's tracking: data set, parameters, curves and metrics of the model."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ranking.fits import Training
from ranking.results import Evidence, Snapshot
from ranking.values import canonical_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DATASET_DIGEST_LENGTH = 36  # MLflow keeps no more; the whole fingerprint is in the tags
_METRICS_AT_ONCE = 1000  # MLflow takes no more


def log_inputs(
    client: "MlflowClient", run_id: str, training: Training, snapshot: Snapshot, tags: Mapping[str, str]
) -> None:
    """Say what the run learnt from, and how: the snapshot as a data set, the training as parameters."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    dataset = Dataset(
        name="snapshot",
        # MLflow's own digest of a frame looks at its first 10,000 rows only.
        digest=snapshot.fingerprint[:_DATASET_DIGEST_LENGTH],
        source_type="feedloop",
        source=canonical_json({"uri": snapshot.uri}),
        profile=snapshot.model_dump_json(include={"rows", "users", "items", "positives"}),
    )
    context = [InputTag("mlflow.data.context", "training"), InputTag("fingerprint", snapshot.fingerprint)]
    client.log_inputs(run_id, [DatasetInput(dataset, context)])
    left_out = {"epochs", "learnt", "digest"}
    params = training.model_dump(mode="json", exclude=left_out) | {
        "learnt_from": training.learnt.start.isoformat(),
        "learnt_until": training.learnt.end.isoformat(),
        "fingerprint": snapshot.fingerprint,
        "bundle_digest": training.digest,
    }
    commit = tags.get("git_commit")
    client.log_batch(
        run_id,
        params=[Param(key, str(value)) for key, value in params.items()],
        tags=[RunTag("mlflow.source.git.commit", commit)] if commit else [],
    )


def log_curves(client: "MlflowClient", run_id: str, model_id: str, training: Training) -> None:
    """Log each epoch as a point of the run's and the model's curves."""
    values = []
    for epoch in training.epochs:
        measured = epoch.model_dump(exclude={"number"}, exclude_none=True)
        values += [(name, value, epoch.number) for name, value in measured.items()]
    values.append(("rows_per_second", training.rows_per_second, 0))
    log_metrics(client, run_id, model_id, values)


def log_metrics(
    client: "MlflowClient", run_id: str, model_id: str | None, values: list[tuple[str, float, int]]
) -> None:
    """Log ``(name, value, step)`` as metrics of the run and, if there is one, of its logged model."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    metrics = [Metric(name, value, now, step, model_id=model_id) for name, value, step in values]
    for start in range(0, len(metrics), _METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])


def evidence_metrics(evidence: Evidence) -> list[tuple[str, float, int]]:
    """Every measured number of a comparison as ``(name, value, step)``; what was not measured is left out."""
    values = []
    for metric in evidence.comparison.metrics:
        for side in ("champion", "challenger", "difference"):
            estimate = getattr(metric, side)
            if estimate is not None:
                values.append((f"{side}_{metric.name}", estimate.value, 0))
    return values
