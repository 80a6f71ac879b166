"""Score champion and challenger on the same unseen rows and decide."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from ranking.bundle import Bundle
from ranking.comparison import Scored, by_value, codes, compare
from ranking.errors import ComparisonError
from ranking.fairness import assert_fair
from ranking.features import Schema
from ranking.gate_world import HoldoutShape, shape_of
from ranking.results import Comparison, FeatureTable, ModelRef, ServingCheck, Snapshot, Split, Verdict
from ranking.times import as_utc
from ranking.verdict import GateKnobs, decide
from settings.effects import RegistryKnobs
from tasks.adapters.storage import temporary_folder
from tasks.data import ROW_ID, build_features, load_rows
from tasks.registry import download_bundle
from tasks.resuming import RESUMED
from tasks.retries import RETRY

logger = logging.getLogger("feedloop.evaluation")

COLD_ITEM_IMPRESSIONS = 10
"""An item with fewer impressions before the holdout is cold."""

ASSUMED_AUC = 0.7
"""Of a champion that does not exist yet."""


@task(name="compare models", timeout_seconds=3 * 3600, **RETRY.options, **RESUMED)
def compare_models(
    *,
    challenger: ModelRef,
    champion: ModelRef | None,
    snapshot: Snapshot,
    features: FeatureTable,
    split: Split,
    gate: GateKnobs,
    registry: RegistryKnobs,
    workspace: str,
    warehouse: str,
    serving: ServingCheck | None = None,
) -> Comparison:
    """Score both models on the holdout, each through its own bundle and its own features.

    Args:
        challenger: the candidate.
        champion: who serves; ``None`` only when the registry said that nobody does.
        snapshot: the rows.
        features: the rows with the challenger's features.
        split: names the holdout.
        gate: names the slices and the confidence level.
        registry: where the bundles are.
        workspace: where a champion with other features gets a table of its own.
        warehouse: the engine that builds it.
        serving: how the registered challenger answered; None when nobody asked it, and then it is not promoted.

    Raises:
        LeakageError: a model has seen rows of the holdout, or could have.
        ComparisonError: the models were not scored on the same rows.
        TamperedBundle: a bundle is not the one that was registered.
    """
    with temporary_folder() as folder:
        new = Bundle.load(download_bundle(challenger, registry, workspace, folder / "challenger"), challenger.digest)
        old = _champion(champion, registry, workspace, folder)
    log = features.spec.log
    logged = load_rows(features, split.holdout)
    learnt = load_rows(features, split.learnt)
    if log.exploration:
        logged = _explored(logged, log.exploration, split)
    rows = rows_for(new, logged, features, snapshot, split, workspace, warehouse)
    old_rows = None if old is None else rows_for(old, logged, features, snapshot, split, workspace, warehouse)
    assert_fair(
        holdout=split.holdout,
        cutoff=snapshot.cutoff,
        gap_hours=split.gap_hours,
        label_maturity_hours=split.label_maturity_hours,
        champion=champion,
        challenger=challenger,
        challenger_features=new.facts.learnt,
        challenger_row_ids=_ids(rows),
        champion_features=None if old is None else old.facts.learnt,
        champion_row_ids=None if old_rows is None else _ids(old_rows),
        trained_row_ids=_ids(learnt),
    )
    scored = Scored(
        labels=rows[log.label].to_numpy(),
        challenger=new.score(rows),
        champion=None if old is None or old_rows is None else old.score(old_rows),
        users=codes(rows[log.user])[0],
        items=codes(rows[log.item])[0],
        row_ids=_ids(rows),
        groups=codes(rows[log.request])[0] if log.request else None,
        slices=_slices(rows, learnt, log, gate),
    )
    return compare(
        scored,
        champion=champion,
        challenger=challenger,
        holdout=split.holdout,
        snapshot_fingerprint=snapshot.fingerprint,
        serving=serving,
        confidence_level=gate.confidence_level,
        exploration=log.exploration is not None,
    )


def holdout_shape(
    *,
    champion: ModelRef | None,
    other: ModelRef | None,
    snapshot: Snapshot,
    features: FeatureTable,
    split: Split,
    gate: GateKnobs,
    registry: RegistryKnobs,
    workspace: str,
    warehouse: str,
) -> HoldoutShape:
    """Describe the holdout that the next challenger would be compared on, for ``ranking.gate_check``.

    Nothing is decided on it, so it need not be fair: the champion may have learnt some of these rows.

    Args:
        champion: who serves; without one its AUC is taken to be ``ASSUMED_AUC``.
        other: another version, to see how much two models' scores differ; without one ``HoldoutShape``'s default.
        snapshot: the rows.
        features: the rows with today's features.
        split: names the holdout.
        gate: names the slices.
        registry: where the bundles are.
        workspace: where a model with other features gets a table of its own.
        warehouse: the engine that builds it.
    """
    log = features.spec.log
    rows = load_rows(features, split.holdout)
    if log.exploration:
        rows = _explored(rows, log.exploration, split)

    def scores(model: ModelRef | None) -> np.ndarray | None:
        if model is None:
            return None
        with temporary_folder() as folder:
            bundle = Bundle.load(download_bundle(model, registry, workspace, folder / "bundle"), model.digest)
        return bundle.score(rows_for(bundle, rows, features, snapshot, split, workspace, warehouse))

    serving = scores(champion)
    changed = serving if other is None or serving is None else scores(other)
    shape = shape_of(
        Scored(
            labels=rows[log.label].to_numpy(),
            challenger=np.full(rows.num_rows, 0.5) if changed is None else changed,
            champion=serving,
            users=codes(rows[log.user])[0],
            items=codes(rows[log.item])[0],
            row_ids=_ids(rows),
            slices=_slices(rows, load_rows(features, split.learnt), log, gate),
        )
    )
    if serving is not None:
        return shape
    # Constant scores say nothing of a model: what it would be like is assumed.
    assumed = {"auc": ASSUMED_AUC, "signal": HoldoutShape.model_fields["signal"].default}
    return shape.model_copy(update=assumed)


def _explored(rows: pa.Table, column: str, split: Split) -> pa.Table:
    """The impressions that were chosen at random: the ranker in charge had no hand in them."""
    chosen = rows.filter(pc.field(column))
    if chosen.num_rows == 0:
        raise ComparisonError(
            f"None of the {rows.num_rows:,} holdout rows was chosen at random (column {column!r}), "
            f"{as_utc(split.holdout.start)} to {as_utc(split.holdout.end)}. Explore some traffic, lengthen the "
            "holdout, or take data.columns.exploration away."
        )
    return chosen


def _champion(champion: ModelRef | None, registry: RegistryKnobs, workspace: str, folder: Path) -> Bundle | None:
    if champion is None:
        return None
    return Bundle.load(download_bundle(champion, registry, workspace, folder / "champion"), champion.digest)


def rows_for(
    bundle: Bundle,
    rows: pa.Table,
    features: FeatureTable,
    snapshot: Snapshot,
    split: Split,
    workspace: str,
    warehouse: str,
) -> pa.Table:
    """The holdout with the features that this bundle was trained on, which may not be today's."""
    if bundle.facts.spec == features.spec:
        return rows
    own = build_features.fn(snapshot=snapshot, spec=bundle.facts.spec, workspace=workspace, warehouse=warehouse)
    return load_rows(own, split.holdout).filter(pc.field(ROW_ID).isin(_ids(rows)))


def _ids(rows: pa.Table) -> np.ndarray:
    return np.asarray(rows[ROW_ID].to_numpy())


def _slices(rows: pa.Table, learnt: pa.Table, log: Schema, gate: GateKnobs) -> dict[str, np.ndarray]:
    """Rows of new users, of cold items, and of every value of the configured columns."""
    users, seen = _together(rows[log.user], learnt[log.user])
    items, shown = _together(rows[log.item], learnt[log.item])
    slices = {
        "new_users": ~np.isin(users, seen),
        "cold_items": np.bincount(shown, minlength=items.max(initial=0) + 1)[items] < COLD_ITEM_IMPRESSIONS,
    }
    for column in gate.slice_columns:
        if column not in rows.column_names:
            raise ComparisonError(
                f"gate.slice_columns names {column!r}, which is no feature. Known: {', '.join(rows.column_names)}."
            )
        slices |= by_value(column, rows[column], rows[log.label].to_numpy(), gate.slice_min_positives)
    return slices


def _together(here: pa.ChunkedArray, there: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of two columns under one numbering."""
    both = codes(pa.chunked_array([*here.chunks, *there.chunks], here.type))[0]
    return both[: len(here)], both[len(here) :]


@task(name="judge", timeout_seconds=300, **RESUMED)
def judge(comparison: Comparison, gate: GateKnobs) -> Verdict:
    """Turn the comparison into a verdict; pure, and a task so that the run shows it."""
    verdict = decide(comparison, gate)
    logger.info("Verdict %s (%s confidence): %s", verdict.decision, verdict.confidence, verdict.reason)
    return verdict
