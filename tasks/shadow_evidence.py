"""What a shadow showed: both models' scores of the same requests, beside what the challenger did in training."""

import logging
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ranking.errors import DataError, FeedloopError
from ranking.measurements import Estimate
from ranking.placements import FloatArray
from ranking.results import Evidence, FeatureTable, ModelRef
from ranking.scored import codes
from ranking.shadow import FeatureCoverage, ShadowComparison, ShadowSums, compare_shadow, paired_log_loss
from ranking.values import digest
from settings.effects import RegistryKnobs
from tasks.adapters.storage import temporary_folder, write_bytes
from tasks.data import load_rows
from tasks.stores import open_models

if TYPE_CHECKING:
    from tasks.stage_logs import Logs

logger = logging.getLogger("feedloop.rollouts")

PLACE = "monitoring/shadow_reference.arrow"
"""Where the challenger's own holdout is kept beside it: sorted scores, and how often each feature was known."""

KEPT_SCORES = 10_000
"""Evenly spaced quantiles of the scores: a stability index needs no more."""


def shadow_evidence(logs: "Logs", registry: RegistryKnobs, workspace: str) -> ShadowComparison | None:
    """Compare both models on the requests that the challenger was to score; ``None`` before the first.

    Raises:
        UnreadableData: a log cannot be read.
    """
    chosen = logs.stage("shadow_requests", logs.now)
    if chosen is None:
        return None
    requests = chosen.to_pyarrow()
    if not requests.num_rows:
        return None
    scores, known = _reference(logs, registry, workspace)
    rows = logs.stage("shadow", logs.now)
    pairs = None if rows is None else rows.filter(rows.challenger_score.notnull()).to_pyarrow()
    sums = _sums(requests, known)
    if pairs is None or not pairs.num_rows:
        return ShadowComparison(
            sums=sums, rank_correlation=None, top_overlap=None, top=10, stability_index=None, own_stability_index=None
        )
    return compare_shadow(
        sums,
        pairs["champion_score"].to_numpy(),
        pairs["challenger_score"].to_numpy(),
        codes(pairs["request_id"])[0],
        holdout_scores=scores,
        log_loss=_log_loss(logs),
    )


def _sums(requests: pa.Table, known: dict[str, float] | None) -> ShadowSums:
    outcome = requests["outcome"]
    scored = requests.filter(pc.equal(outcome, "scored"))
    failed = int(pc.sum(pc.equal(outcome, "failed")).as_py() or 0)
    latency = scored["latency_ms"].to_numpy()
    return ShadowSums(
        requests=requests.num_rows,
        scored=scored.num_rows,
        failed=failed,
        latency_p99_milliseconds=float(np.quantile(latency, 0.99)) if len(latency) else None,
        features=None if known is None else _coverage(scored, known),
    )


def _coverage(scored: pa.Table, known: dict[str, float]) -> tuple[FeatureCoverage, ...] | None:
    """How often each feature was known in the shadow, the mean over requests, and how often in training."""
    live: dict[str, list[float]] = {}
    for features in scored["features"].to_pylist():
        for feature in features or ():
            live.setdefault(feature["name"], []).append(feature["known"])
    return tuple(
        FeatureCoverage(name=name, live=min(float(np.mean(shares)), 1.0), training=known[name])
        for name, shares in sorted(live.items())
        if name in known
    )


def _log_loss(logs: "Logs") -> Estimate | None:
    """Paired log loss on what the champion showed and whose labels are final."""
    rows, outcomes = logs.stage("shadow", logs.matured), logs.outcomes
    if rows is None or outcomes is None:
        return None
    once = outcomes.group_by("request_id", "item").agg(label=outcomes.label.max())
    scored = rows.filter(rows.challenger_score.notnull()).inner_join(once, ["request_id", "item"])
    found = scored.select("user", "champion_score", "challenger_score", "label").to_pyarrow()
    if not found.num_rows:
        return None
    users = codes(found["user"])[0]
    return paired_log_loss(
        users, found["label"].to_numpy(), found["champion_score"].to_numpy(), found["challenger_score"].to_numpy()
    )


def _reference(
    logs: "Logs", registry: RegistryKnobs, workspace: str
) -> tuple[FloatArray | None, dict[str, float] | None]:
    """The challenger's scores on its own holdout and how often each feature was known there; made once.

    Not being able to make it leaves both unmeasured, with the reason in the log: a shadow then holds.
    """
    models = open_models(registry, workspace)
    try:
        challenger = models.model(logs.rollout.challenger)
        kept = models.attached(challenger, PLACE)
        table = _parsed(kept) if kept is not None else None
        if table is None:
            evidence = models.evidence(challenger)
            if evidence is None:
                raise DataError(f"version {challenger.version} was never compared")
            table = _made(challenger, evidence, registry, workspace)
            with temporary_folder() as folder:
                write_bytes(str(folder / "reference"), _bytes(table))
                models.attach(challenger, {PLACE: folder / "reference"})
    except FeedloopError as error:
        logger.warning("What the challenger's scores and features looked like in training is not known: %s", error)
        return None, None
    metadata = table.schema.metadata or {}
    known = {key.decode(): float(value) for key, value in metadata.items()}
    return table["score"].to_numpy(), known


def _made(challenger: ModelRef, evidence: Evidence, registry: RegistryKnobs, workspace: str) -> pa.Table:
    from ranking.bundle import Bundle
    from tasks.registry import download_bundle

    with temporary_folder() as folder:
        bundle = Bundle.load(download_bundle(challenger, registry, workspace, folder / "bundle"), challenger.digest)
    comparison, spec = evidence.comparison, bundle.facts.spec
    uri = f"{workspace}/features/{comparison.snapshot_fingerprint[:16]}-{digest(spec)[:16]}.parquet"
    filesystem, path = fsspec.core.url_to_fs(uri)
    if not filesystem.exists(path):
        raise DataError(f"the features {uri} that it was compared on are gone from the workspace")
    features = FeatureTable(
        uri=uri, snapshot_fingerprint=comparison.snapshot_fingerprint, rows=comparison.rows, spec=spec
    )
    rows = load_rows(features, comparison.holdout)
    scores = np.sort(bundle.score(rows))
    kept = scores[np.linspace(0, len(scores) - 1, min(len(scores), KEPT_SCORES)).astype(np.int64)]
    known = {name: 1 - rows[name].null_count / max(rows.num_rows, 1) for name in bundle.encoder.columns}
    return pa.table({"score": kept}).replace_schema_metadata({name: repr(share) for name, share in known.items()})


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _parsed(kept: bytes) -> pa.Table | None:
    try:
        return pa.ipc.open_file(kept).read_all()
    except pa.ArrowInvalid:
        return None
