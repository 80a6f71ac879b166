"""Look at the last day of the log with the champion's eyes: are the rows sound, did they drift, is it still good?"""

import logging
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from ranking.counts import Counts, count
from ranking.data_quality import check_quality
from ranking.data_quality.checks import Quality
from ranking.data_quality.knobs import QualityKnobs
from ranking.drift import Drift, DriftKnobs, measure_drift
from ranking.errors import ComparisonError, DataError, MissingColumn
from ranking.features import Schema, resolve
from ranking.interactions import canonical
from ranking.monitoring import SCORE, Frozen, Scores, matured_days
from ranking.performance import MaturedDay, PerformanceKnobs, measure_performance
from ranking.results import ModelRef
from ranking.scored import codes
from ranking.times import Window, as_utc
from ranking.triggers import Signals
from settings.effects import DataKnobs, RegistryKnobs
from tasks.adapters.storage import temporary_folder
from tasks.adapters.warehouse import open_warehouse
from tasks.data import build_features, load_rows, take_snapshot
from tasks.registry import download_bundle
from tasks.retries import RETRY
from tasks.uncached import UNCACHED

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from ranking.bundle import Bundle

logger = logging.getLogger("feedloop.monitoring")


@task(name="read window", timeout_seconds=6 * 3600, **RETRY.options, **UNCACHED)
def read_window(*, frozen: Frozen, data: DataKnobs, window: Window, now: datetime, maturity_hours: float) -> Counts:
    """Count the window's rows as they were delivered: unlike a snapshot, faulty rows are wanted here.

    A label that is not final yet counts as not known.

    Raises:
        MissingColumn: a column that names a row is not there.
        UnreadableData: the log cannot be read.
    """
    layout = frozen.features.layout
    roles = (layout.user, layout.time, *layout.key, *((layout.arrival,) if layout.arrival else ()))
    wanted = dict.fromkeys((*roles, *(column.name for column in layout.columns)))
    with open_warehouse(data.warehouse) as engine, engine.guard(data.uri):
        log = engine.read(data.uri)
        if layout.time not in log.columns:
            raise MissingColumn(f"The log has no column {layout.time!r} any more. It has: {', '.join(log.columns)}.")
        recent = _within(log.select(*(name for name in wanted if name in log.columns)), layout.time, window)
        rows = recent.to_pyarrow()
    label = frozen.features.label
    if label is not None and label.name in rows.column_names:
        age = pc.subtract(pa.scalar(now, pa.timestamp("us", "UTC")), rows[layout.time]).cast(pa.int64())
        final = pc.greater_equal(age, int(maturity_hours * 3.6e9))
        column = rows[label.name]
        known = pc.if_else(final, column, pa.scalar(None, column.type))
        rows = rows.set_column(rows.column_names.index(label.name), label.name, known)
    logger.info("Read %s rows from %s to %s", f"{rows.num_rows:,}", as_utc(window.start), as_utc(window.end))
    return count(rows, layout, window)


def _within(log: "ir.Table", time: str, window: Window) -> "ir.Table":
    import ibis

    timed = log.mutate(**{time: log[time].cast("timestamp('UTC', 6)")})
    return timed.filter((timed[time] >= ibis.literal(window.start)) & (timed[time] < ibis.literal(window.end)))


@task(name="check data", timeout_seconds=1800, **UNCACHED)
def check_data(*, frozen: Frozen, counts: Counts, knobs: QualityKnobs) -> Quality:
    """Ask every rule of data quality; an incident vetoes retraining, and nothing else is measured on such rows."""
    quality = check_quality(frozen.features, counts, knobs)
    logger.log(logging.WARNING if quality.blocks else logging.INFO, "Data are %s: %s", quality.health, quality.sentence)
    return quality


@task(name="score days", timeout_seconds=6 * 3600, **RETRY.options, **UNCACHED)
def score_days(
    *,
    champion: ModelRef,
    frozen: Frozen,
    quality: Quality,
    data: DataKnobs,
    knobs: PerformanceKnobs,
    maturity_hours: float,
    now: datetime,
    registry: RegistryKnobs,
    workspace: str,
) -> Scores:
    """Let the champion score the window, for drift, and the last matured days, for its performance.

    Nothing of it stays in the workspace.  Rows that cannot be scored leave it unmeasured, with the reason.
    """
    if quality.blocks:
        return Scores(note="the data have an incident")
    from ranking.bundle import Bundle

    with temporary_folder() as folder:
        bundle = Bundle.load(download_bundle(champion, registry, workspace, folder / "bundle"), champion.digest)
        days = matured_days(quality.window, now, maturity_hours, knobs.days)
        try:
            rows = _recent(bundle, data, Window(start=days[0].start, end=quality.window.end), now, str(folder))
            performance = measure_performance(
                _matured(rows, bundle.facts.spec.log, days),
                frozen.baseline,
                knobs,
                now=now,
                label_maturity_hours=maturity_hours,
            )
        except (DataError, ComparisonError) as error:
            logger.warning("The window was not scored: %s", error)
            return Scores(note=f"it was not scored: {error}")
        log = bundle.facts.spec.log
        column = count(_day(rows, log, quality.window), frozen.scores.layout, quality.window).columns[SCORE]
    logger.info("%s", performance.sentence)
    return Scores(column=column, performance=performance)


def _recent(bundle: "Bundle", data: DataKnobs, window: Window, now: datetime, scratch: str) -> pa.Table:
    from tasks.frozen import scored

    spec = bundle.facts.spec
    snapshot = take_snapshot.fn(
        data=data, cutoff=window.end, now=max(now, window.end), workspace=scratch, also=spec.log.features
    )
    table = build_features.fn(snapshot=snapshot, spec=spec, workspace=scratch, warehouse=data.warehouse)
    return scored(bundle, load_rows(table, window))


def _day(rows: pa.Table, log: Schema, window: Window) -> pa.Table:
    zone = pa.timestamp("us", "UTC")
    inside = (pc.field(log.time) >= pa.scalar(window.start, zone)) & (pc.field(log.time) < pa.scalar(window.end, zone))
    return rows.filter(inside)


def _matured(rows: pa.Table, log: Schema, days: list[Window]) -> list[MaturedDay]:
    """The days with users and items under one numbering; a day without rows is left out, and breaks the row."""
    numbered = rows.select([log.time, log.label, SCORE]).append_column("user", pa.array(codes(rows[log.user])[0]))
    numbered = numbered.append_column("item", pa.array(codes(rows[log.item])[0]))
    groups = rows[log.request] if log.request else rows[log.user]
    numbered = numbered.append_column("group", pa.array(codes(groups)[0]))
    parts = [(day, _day(numbered, log, day)) for day in days]
    return [
        MaturedDay(
            window=day,
            labels=part[log.label].to_numpy() == 1,
            scores=part[SCORE].to_numpy(),
            users=part["user"].to_numpy(),
            items=part["item"].to_numpy(),
            groups=part["group"].to_numpy(),
            exploration=log.exploration is not None,
        )
        for day, part in parts
        if part.num_rows
    ]


@task(name="check drift", timeout_seconds=1800, **UNCACHED)
def check_drift(*, frozen: Frozen, counts: Counts, scores: Scores, knobs: DriftKnobs) -> Drift:
    """PSI of every logged feature, of the label and of the score, against the frozen reference."""
    drift = measure_drift(frozen.whole, scores.beside(counts), knobs)
    logger.info("%s", drift.sentence)
    return drift


@task(name="count new rows", timeout_seconds=3600, **RETRY.options, **UNCACHED)
def count_new_rows(*, champion: ModelRef, data: DataKnobs, window: Window, wanted: int | None) -> int | None:
    """Labelled rows since the champion's last one; None when ``triggers.volume_rows`` does not ask for them."""
    if wanted is None or champion.learnt is None:
        return None
    with open_warehouse(data.warehouse) as engine, engine.guard(data.uri):
        log = engine.read(data.uri)
        schema = resolve(data.columns, log.columns)
        rows = canonical(log, schema)
        since = _within(rows, schema.time, Window(start=champion.learnt.end, end=window.end))
        return int(since.filter(since[schema.label].notnull()).count().execute())


def signals_of(
    champion: ModelRef, quality: Quality, drift: Drift, scores: Scores, new_labelled_rows: int | None
) -> Signals:
    """Everything that this check saw, as the arbiter takes it."""
    return Signals(
        champion=champion.version,
        window=quality.window,
        quality=quality,
        drift=drift,
        performance=scores.performance,
        new_labelled_rows=new_labelled_rows,
    )
