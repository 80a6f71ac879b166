"""What a shadow showed: both models' scores of the same requests, beside what the challenger did in training."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import fsspec
import ibis
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
    import ibis.expr.types as ir

    from tasks.stage_logs import Logs

logger = logging.getLogger("feedloop.rollouts")

PLACE = "monitoring/shadow_reference.arrow"
"""Where the challenger's own holdout is kept beside it: sorted scores, and how often each feature was known."""

AT_RANDOM, SHOWN = "at_random", "shown"
"""Which live rows the scores of a reference stand for: the name of its column."""

KEPT_SCORES = 10_000
"""Evenly spaced quantiles of the scores: a stability index needs no more."""

LEAST_ROWS = 1_000
"""So many holdout rows of one kind make a reference of their own."""


@dataclass(frozen=True)
class Reference:
    """What the challenger did on its own holdout.

    The scores are of rows that stand for one kind of live rows: what was shown at random is like all candidates, what
    a ranker chose is like what is shown.  Mixed up, a sound model looks shifted, because a ranker shows what it likes.
    """

    scores: FloatArray
    at_random: bool
    known: dict[str, float]


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
    reference = _reference(logs, registry, workspace)
    rows = logs.stage("shadow", logs.now)
    pairs = None if rows is None else _pairs(logs, rows.filter(rows.challenger_score.notnull()))
    sums = _sums(requests, None if reference is None else reference.known)
    if pairs is None or not pairs.num_rows:
        return ShadowComparison(
            sums=sums, rank_correlation=None, top_overlap=None, top=10, stability_index=None, own_stability_index=None
        )
    alike = None if reference is None else _alike(pairs, reference)
    return compare_shadow(
        sums,
        pairs["champion_score"].to_numpy(),
        pairs["challenger_score"].to_numpy(),
        codes(pairs["request_id"])[0],
        holdout_scores=None if reference is None or alike is None else reference.scores,
        live_scores=alike,
        log_loss=_log_loss(logs),
    )


def _pairs(logs: "Logs", scored: "ir.Table") -> pa.Table:
    """Both scores of every candidate, and whether it was ``shown``."""
    exposures = logs.stage("exposures", logs.now)
    if exposures is None:
        return scored.mutate(shown=ibis.literal(False)).to_pyarrow()
    seen = exposures.select("request_id", "item").distinct().mutate(shown=True)
    joined = scored.left_join(seen, ["request_id", "item"])
    return joined.select(*scored.columns, shown=joined.shown.fill_null(False)).to_pyarrow()


def _alike(pairs: pa.Table, reference: Reference) -> FloatArray | None:
    """The challenger's live scores of the rows that the reference's stand for; ``None`` without any."""
    chosen = pairs if reference.at_random else pairs.filter(pc.field("shown"))
    return chosen["challenger_score"].to_numpy() if chosen.num_rows else None


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


def _reference(logs: "Logs", registry: RegistryKnobs, workspace: str) -> Reference | None:
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
        return None
    metadata = table.schema.metadata or {}
    name = table.column_names[0]
    return Reference(
        scores=table[name].to_numpy(),
        at_random=name == AT_RANDOM,
        known={key.decode(): float(value) for key, value in metadata.items()},
    )


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
    name, alike, ranked = _kinds(load_rows(features, comparison.holdout), spec.log.exploration)
    scores = np.sort(bundle.score(alike))
    kept = scores[np.linspace(0, len(scores) - 1, min(len(scores), KEPT_SCORES)).astype(np.int64)]
    known = {column: 1 - ranked[column].null_count / max(ranked.num_rows, 1) for column in bundle.encoder.columns}
    return pa.table({name: kept}).replace_schema_metadata({column: repr(share) for column, share in known.items()})


def _kinds(rows: pa.Table, exploration: str | None) -> tuple[str, pa.Table, pa.Table]:
    """Which live rows the scores stand for, the holdout rows to score, and those that a ranker chose."""
    if exploration is None:
        return SHOWN, rows, rows
    explored = pc.field(exploration)
    by_chance, ranked = rows.filter(explored), rows.filter(~explored)
    ranked = ranked if ranked.num_rows >= LEAST_ROWS else rows
    return (AT_RANDOM, by_chance, ranked) if by_chance.num_rows >= LEAST_ROWS else (SHOWN, ranked, ranked)


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _parsed(kept: bytes) -> pa.Table | None:
    try:
        table = pa.ipc.open_file(kept).read_all()
    except pa.ArrowInvalid:
        return None
    return table if table.column_names[0] in (AT_RANDOM, SHOWN) else None
