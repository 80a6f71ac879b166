"""The report of one check of the champion: Markdown, a picture, and Prefect artifacts."""

import base64
import logging
import re

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.context import TaskRunContext

from ranking.data_quality.checks import Quality
from ranking.drift import ColumnDrift, Drift
from ranking.monitoring import DriftReport, Frozen, Scores, Weighed
from ranking.performance import Performance
from ranking.times import as_utc
from tasks.adapters.storage import write_bytes
from tasks.drift_picture import drift_picture
from tasks.retries import RETRY
from tasks.uncached import UNCACHED

logger = logging.getLogger("feedloop.reports")


@task(name="write drift report", timeout_seconds=300, **RETRY.options, **UNCACHED)
def write_drift_report(
    *, model: str, frozen: Frozen, quality: Quality, drift: Drift, scores: Scores, weighed: Weighed, workspace: str
) -> DriftReport:
    """Write the report as files under ``reports/`` and, inside a Prefect run, as artifacts.

    Raises:
        StorageError: the folder cannot be written.
    """
    day = quality.window.start
    title = f"{model} v{drift.champion} on {day:%Y-%m-%d}: {weighed.decision.decision}"
    text = drift_markdown(title, quality, drift, scores.performance, weighed, scores.note)
    picture = drift_picture(drift, scores.performance, frozen.baseline, title)
    folder = f"{workspace}/reports/{model}-monitor-{day:%Y-%m-%d}"
    report = DriftReport(markdown_uri=f"{folder}/report.md", picture_uri=f"{folder}/drift.png", title=title)
    write_bytes(report.picture_uri, picture)
    write_bytes(report.markdown_uri, f"{text}\n![Drift and performance](drift.png)\n".encode())
    if TaskRunContext.get() is not None:
        # One key for all days: the artifact's history is the history of the checks.
        key = re.sub(r"[^a-z0-9]+", "-", f"monitor {model}".lower())
        create_markdown_artifact(text, key=key, description=title)
        encoded = base64.b64encode(picture).decode()
        create_image_artifact(f"data:image/png;base64,{encoded}", key=f"{key}-picture", description=title)
    logger.info("Report: %s", report.markdown_uri)
    return report


def drift_markdown(
    title: str, quality: Quality, drift: Drift, performance: Performance | None, weighed: Weighed, note: str = ""
) -> str:
    """The check in words and tables, as Markdown that Prefect and a terminal can both show."""
    decided = weighed.decision
    lines = [
        f"# {title}",
        "",
        decided.reason,
        "",
        f"Looked at {quality.rows:,} rows from {as_utc(quality.window.start)} to {as_utc(quality.window.end)}, "
        f"{drift.users:,.0f} effective users.",
        "",
        f"**Data: {quality.health}.** {quality.sentence}",
        "",
        # Lists where there are sentences: Prefect does not wrap the cells of a table.
        *(f"- **{check.health}** {check.rule}: {_cell(check.sentence)}" for check in quality.checks),
        "",
        f"**Drift: {drift.level or 'not measured'}.** {drift.sentence}",
        "",
        "| column | PSI | bound | usual | chance | drifted | note |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
        *map(_row, sorted(drift.columns, key=lambda column: -(column.psi or 0.0))),
        "",
        *_performance(performance, note),
        "",
        "Triggers:",
        "",
        *(f"- {a.trigger}, **{_fires(a.fires)}**: {_cell(a.reason)}" for a in decided.answers),
        *(f"- {r.trigger}, **refused by {r.veto}**: {_cell(r.reason)}" for r in decided.refusals),
    ]
    return "\n".join(lines) + "\n"


def _performance(performance: Performance | None, note: str) -> list[str]:
    if performance is None:
        return [f"**Performance: not measured.** {note}"]
    return [
        f"**Performance: {performance.level or 'not measured'}.** {performance.sentence}",
        "",
        "| day | rows | clicks | AUC | GAUC | log loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {day.window.start:%Y-%m-%d} | {day.rows:,} | {day.positives:,} | {_number(day.auc)} "
            f"| {_number(day.gauc)} | {_number(day.log_loss)} |"
            for day in performance.days
        ),
    ]


def _row(column: ColumnDrift) -> str:
    drifted = "not measured" if column.drifted is None else "yes" if column.drifted else "no"
    name = f"{_cell(column.name)}{' (critical)' if column.critical else ''}"
    numbers = " | ".join(map(_number, (column.psi, column.threshold, column.usual_psi, column.noise_psi)))
    return f"| {name} | {numbers} | {drifted} | {_cell(column.note)} |"


def _fires(fires: bool | None) -> str:
    return "not measured" if fires is None else "yes" if fires else "no"


def _number(number: float | None) -> str:
    return "not measured" if number is None else f"{number:.4f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
