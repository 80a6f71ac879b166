"""What is frozen of a champion: made once, kept beside its model, and only read from then on."""

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from ranking.bins import ColumnKind, kinds_of
from ranking.errors import RegistryError, UnknownModel
from ranking.features import FeatureSpec, HistoryKnobs
from ranking.ledger import Operation
from ranking.monitoring import SCORE, Frozen
from ranking.performance import Baseline
from ranking.reference import ReferenceKnobs, build_reference
from ranking.results import Evidence, FeatureTable, ModelRef, Snapshot
from ranking.times import as_utc
from settings.effects import DataKnobs, RegistryKnobs
from tasks.adapters.ledger import Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.storage import read_bytes, temporary_folder, write_bytes
from tasks.data import build_features, load_rows, take_snapshot
from tasks.registry import download_bundle
from tasks.retries import RETRY
from tasks.stores import open_both
from tasks.uncached import UNCACHED

if TYPE_CHECKING:
    from ranking.bundle import Bundle

logger = logging.getLogger("feedloop.monitoring")

PLACE = "monitoring/reference.json"
"""Where it lies beside the model."""


@task(name="champion's reference", timeout_seconds=6 * 3600, **RETRY.options, **UNCACHED)
def champion_reference(
    *,
    champion: ModelRef,
    data: DataKnobs,
    knobs: ReferenceKnobs,
    maturity_hours: float,
    now: datetime,
    registry: RegistryKnobs,
    workspace: str,
) -> Frozen:
    """The champion's frozen reference; its first check freezes it.

    Args:
        champion: who serves.
        data: the log, if the champion's snapshot is gone from the workspace.
        knobs: how finely to look, when it is frozen.
        maturity_hours: time after which a label is final.
        now: the present.
        registry: where the reference is kept, beside the model.
        workspace: where snapshots are.

    Raises:
        UnknownModel: the champion was never compared, or feedloop did not register it.
        RegistryError: what is kept cannot be read.
        DataError: the rows that the champion learnt from can no longer be read.
    """
    from ranking.bundle import Bundle

    models, ledger = open_both(registry, workspace)
    kept = models.attached(champion, PLACE)
    if kept is not None:
        return _parsed(kept, champion)
    evidence = _evidence(models, ledger, champion)
    with temporary_folder() as folder:
        bundle = Bundle.load(download_bundle(champion, registry, workspace, folder / "bundle"), champion.digest)
    snapshot = _snapshot(evidence, data, bundle, maturity_hours, now, workspace)
    made = _frozen(champion, evidence, snapshot, bundle, knobs, data, workspace)
    with temporary_folder() as folder:
        write_bytes(str(folder / "reference.json"), made.model_dump_json().encode())
        models.attach(champion, {PLACE: folder / "reference.json"})
    logger.info("Froze the reference of version %s: %d days", champion.version, made.features.days)
    return made


def _parsed(kept: bytes, champion: ModelRef) -> Frozen:
    try:
        return Frozen.model_validate_json(kept)
    except ValueError as error:
        raise RegistryError(
            f"{PLACE} beside version {champion.version} of {champion.name!r} cannot be read: {error}. "
            "Remove that file from the run; the next check freezes it again."
        ) from error


def _evidence(models: Registry, ledger: Ledger, champion: ModelRef) -> Evidence:
    """What the champion was promoted on; for one that was forced or adopted, the newest about it."""
    entries = [entry for entry in ledger.entries() if entry.operation is Operation.PROMOTE]
    digest = next((e.evidence_digest for e in reversed(entries) if e.after == champion.version), None)
    found = models.evidence(champion, digest) or models.evidence(champion)
    if found is None or champion.learnt is None:
        raise UnknownModel(
            f"Version {champion.version} of {champion.name!r} serves, and feedloop has never compared it: what it "
            "learnt from and what it was worth are not known, so it cannot be watched. Retrain and promote a model."
        )
    return found


def _snapshot(
    evidence: Evidence, data: DataKnobs, bundle: "Bundle", maturity_hours: float, now: datetime, workspace: str
) -> Snapshot:
    """The rows of the champion's retraining: its own snapshot, or the same stretch of the log."""
    uri = f"{workspace}/snapshots/{evidence.comparison.snapshot_fingerprint[:16]}"
    manifest = read_bytes(f"{uri}/snapshot.json")
    if manifest is not None:
        # The address of today: the workspace may have moved since.
        return Snapshot.model_validate_json(manifest).model_copy(update={"uri": uri})
    maturity = maturity_hours if evidence.split is None else evidence.split.label_maturity_hours
    cutoff = evidence.comparison.holdout.end + timedelta(hours=maturity)
    logger.warning("The snapshot %s is gone; the log until %s is read again", uri, as_utc(cutoff))
    return take_snapshot.fn(data=data, cutoff=cutoff, now=now, workspace=workspace, also=bundle.facts.spec.log.features)


def _frozen(
    champion: ModelRef,
    evidence: Evidence,
    snapshot: Snapshot,
    bundle: "Bundle",
    knobs: ReferenceKnobs,
    data: DataKnobs,
    workspace: str,
) -> Frozen:
    spec, comparison = bundle.facts.spec, evidence.comparison
    # History features are sums over the very rows that are watched; when they move, the score shows it.
    logged = FeatureSpec(log=spec.log, history=HistoryKnobs(enabled=False))
    rows = FeatureTable(
        uri=f"{snapshot.uri}/rows.parquet",
        snapshot_fingerprint=snapshot.fingerprint,
        rows=snapshot.rows,
        spec=logged,
    )
    learnt = champion.learnt or snapshot.window
    features = build_reference(
        load_rows(rows, learnt),
        kinds_of(logged),
        spec.log,
        champion=champion.version,
        window=learnt,
        knobs=knobs,
        arrival=snapshot.log.delivered,
        late_after_hours=data.late_after_hours,
    )
    table = build_features.fn(snapshot=snapshot, spec=spec, workspace=workspace, warehouse=data.warehouse)
    scores = build_reference(
        scored(bundle, load_rows(table, comparison.holdout)),
        {SCORE: ColumnKind.SCORE},
        spec.log,
        champion=champion.version,
        window=comparison.holdout,
        knobs=knobs,
    )
    baseline = Baseline.of(comparison).model_copy(update={"champion": champion.version})
    return Frozen(features=features, scores=scores, baseline=baseline)


def scored(bundle: "Bundle", rows: pa.Table) -> pa.Table:
    """Rows with the model's scores; of a log with exploration only the random ones.

    What a ranker chose itself scores higher than what another chose before it, without any drift.
    """
    explored = bundle.facts.spec.log.exploration
    if explored:
        rows = rows.filter(pc.field(explored))
    return rows.append_column(SCORE, pa.array(bundle.score(rows)))
