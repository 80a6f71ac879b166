"""The report a person reads before approving: Markdown, HTML, two pictures, and Prefect artifacts."""

import base64
import logging
import re

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.context import TaskRunContext

from ranking.ledger import LedgerEntry
from ranking.measurements import Estimate, MetricComparison
from ranking.results import Comparison, Evidence, ModelRef, Report
from ranking.rollout import plan_of
from ranking.times import as_utc
from ranking.verdict import GateKnobs
from tasks.adapters.storage import write_bytes
from tasks.evidence_picture import evidence_picture
from tasks.html import page
from tasks.pictures import report_picture
from tasks.resuming import RESUMED
from tasks.retries import RETRY

logger = logging.getLogger("feedloop.reports")

PICTURES = {
    "report.png": "ROC, calibration, AUC difference and training",
    "evidence.png": "Gating numbers against their margins, slices, score shift and top-k overlap",
}
"""File and what it shows."""


@task(name="write report", timeout_seconds=300, **RETRY.options, **RESUMED)
def write_report(*, evidence: Evidence, gate: GateKnobs, workspace: str) -> Report:
    """Write the report as files and, inside a Prefect run, as artifacts.

    Args:
        evidence: comparison, verdict, training and split.
        gate: its margins are drawn.
        workspace: the report goes to ``reports/<model>-v<version>/`` under it.

    Returns:
        Where the Markdown, the HTML and the pictures lie.

    Raises:
        StorageError: the folder cannot be written.
    """
    challenger = evidence.comparison.challenger
    title = f"{challenger.name} v{challenger.version}: {evidence.verdict.decision}"
    text = evidence_markdown(evidence)
    pictures = _pictures(evidence, gate)
    folder = f"{workspace}/reports/{challenger.name}-v{challenger.version}"
    report = Report(
        markdown_uri=f"{folder}/report.md",
        html_uri=f"{folder}/report.html",
        picture_uri=f"{folder}/report.png",
        evidence_picture_uri=f"{folder}/evidence.png",
        title=title,
    )
    for name, picture in pictures.items():
        write_bytes(f"{folder}/{name}", picture)
    shown = "\n\n".join(f"![{PICTURES[name]}]({name})" for name in pictures)
    write_bytes(report.markdown_uri, f"{text}\n{shown}\n".encode())
    named = {PICTURES[name]: picture for name, picture in pictures.items()}
    write_bytes(report.html_uri, page(title, text, named).encode())
    if TaskRunContext.get() is not None:
        _publish(title, text, pictures, artifact_key(challenger))
    logger.info("Report: %s", report.html_uri)
    return report


def _pictures(evidence: Evidence, gate: GateKnobs) -> dict[str, bytes]:
    """PNGs by file name, in the order in which they are read."""
    overview = report_picture(
        evidence.comparison,
        evidence.verdict,
        evidence.training,
        min_auc_improvement=gate.min_auc_improvement,
        max_auc_degradation=gate.max_auc_degradation,
    )
    return {"evidence.png": evidence_picture(evidence.comparison, evidence.verdict, gate), "report.png": overview}


def artifact_key(challenger: ModelRef) -> str:
    """Under which Prefect shows the report about a version."""
    return _key(f"report {challenger.name} v{challenger.version}")


def _publish(title: str, text: str, pictures: dict[str, bytes], key: str) -> None:
    """Show the report in Prefect's UI."""
    create_markdown_artifact(text, key=key, description=title)
    for file, picture in pictures.items():
        encoded = base64.b64encode(picture).decode()
        create_image_artifact(
            f"data:image/png;base64,{encoded}", key=f"{key}-{file.removesuffix('.png')}", description=PICTURES[file]
        )


def publish_entry(model: str, entry: LedgerEntry) -> None:
    """Show in Prefect's UI what a ledger entry says; the artifact's history is the history of the model."""
    if TaskRunContext.get() is None:
        return
    lines = [
        f"# {model}: {entry.operation}{', forced' if entry.forced else ''}",
        "",
        entry.reason,
        "",
        "| | |",
        "| --- | --- |",
        f"| champion before | {entry.before or 'none'} |",
        f"| champion now | {entry.after or 'none'} |",
        f"| about version | {entry.subject} |",
        f"| by | {_cell(entry.actor)} |",
        f"| at | {as_utc(entry.at)} |",
        f"| ledger entry | {entry.number}, `{entry.hash[:16]}` |",
        f"| evidence | `{(entry.evidence_digest or 'none')[:16]}` |",
    ]
    create_markdown_artifact("\n".join(lines), key=_key(f"ledger {model}"), description=f"Ledger of {model}")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def evidence_markdown(evidence: Evidence) -> str:
    """The evidence in words and tables, as Markdown that Prefect and a terminal can both show."""
    comparison, verdict = evidence.comparison, evidence.verdict
    champion = comparison.champion
    against = f"champion v{champion.version}" if champion else "nothing: there is no champion yet"
    chosen = ", all shown at random," if comparison.exploration else ""
    lines = [
        f"# {comparison.challenger.name}: {verdict.decision} ({verdict.confidence} confidence)",
        "",
        verdict.reason,
        "",
        f"Challenger v{comparison.challenger.version} against {against}, on {comparison.rows:,} holdout rows{chosen} "
        f"({comparison.positives:,} clicks, {comparison.users:,} users, {comparison.items:,} items) from "
        f"{as_utc(comparison.holdout.start)} to {as_utc(comparison.holdout.end)}.",
        "",
        *_metrics(comparison),
        *_agreement(comparison),
    ]
    if verdict.findings:
        # A list and no table: Prefect does not wrap cells, and would cut the findings off.
        lines += ["", "Guardrails:", ""]
        lines += [f"- **{finding.status}** {finding.rule}: {_cell(finding.sentence)}" for finding in verdict.findings]
    if verdict.minimum_detectable_effect is not None:
        lines += [
            "",
            "Smallest true AUC gain that this holdout promotes with 80 % probability: "
            f"{verdict.minimum_detectable_effect:.4f}.",
        ]
    if evidence.plan or evidence.trial:
        lines += ["", *told_plan(evidence)]
    if verdict.missing:
        lines += ["", "Missing for a firmer verdict:", "", *(f"- {what}" for what in verdict.missing)]
    return "\n".join([*lines, "", *_provenance(evidence)]) + "\n"


def told_plan(evidence: Evidence) -> list[str]:
    """How the challenger is to reach its users, and what live users said of it already."""
    plan, trial = plan_of(evidence), evidence.trial
    lines = ["All users get it at once." if plan is None else f"How it gets there: {plan.words}"]
    if trial is not None:
        lines += ["", f"**A/B test {trial.rollout}: {trial.verdict}.** {' '.join(trial.reason.split())}"]
    return lines


def _shown(comparison: Comparison) -> list[MetricComparison]:
    """All gating metrics, and of the others those that could be measured."""
    return [metric for metric in comparison.metrics if metric not in comparison.others or metric.challenger is not None]


def _metrics(comparison: Comparison) -> list[str]:
    """A table of both models and the difference, or of the one model there is."""
    shown = _shown(comparison)
    if comparison.champion is None:
        return ["| metric | value |", "| --- | ---: |", *(f"| {m.name} | {_number(m.challenger)} |" for m in shown)]
    head = "| metric | champion | challenger | difference | 95 % interval |"
    return [head, "| --- | ---: | ---: | ---: | :---: |", *(_row(metric) for metric in shown)]


def _row(metric: MetricComparison) -> str:
    difference, interval, change = metric.difference, "not measured", "not measured"
    if difference is not None:
        change = f"{difference.value:+.4f}"
        if difference.low is not None and difference.high is not None:
            interval = f"{difference.low:+.4f} … {difference.high:+.4f}"
    return f"| {metric.name} | {_number(metric.champion)} | {_number(metric.challenger)} | {change} | {interval} |"


def _cell(text: str) -> str:
    """Text that stays in its cell: slices are named after values of the log, which may hold anything."""
    return " ".join(text.split()).replace("|", r"\|")


def _number(estimate: Estimate | None) -> str:
    """A value and, where it is known, how far its interval reaches to either side."""
    if estimate is None:
        return "not measured"
    reach = "" if estimate.high is None else f" ± {estimate.high - estimate.value:.4f}"
    return f"{estimate.value:.4f}{reach}"


def _agreement(comparison: Comparison) -> list[str]:
    """How alike the two models' scores and lists are, in a sentence."""
    agreement, correlation = comparison.agreement, comparison.score_correlation
    if comparison.champion is None:
        return []
    parts = [f"correlate by {correlation:.3f}" if correlation is not None else "have no correlation to measure"]
    if agreement is not None and agreement.stability_index is not None:
        parts.append(f"have shifted by a PSI of {agreement.stability_index:.3f}")
    kept = ""
    if agreement is not None and agreement.overlaps is not None:
        tops = zip(agreement.overlaps.x, agreement.overlaps.y, strict=True)
        told = ", ".join(f"{share:.0%} of its top {length:.0f}" for length, share in tops)
        kept = f" Of the champion's lists the challenger keeps {told}."
    return ["", f"The two models' scores {' and '.join(parts)}.{kept}"]


def _provenance(evidence: Evidence) -> list[str]:
    lines = []
    if evidence.split is not None:
        split = evidence.split
        lines.append(
            f"Trained on {split.train_rows:,} rows until {as_utc(split.train.end)}, stopped early on "
            f"{split.validation_rows:,} rows until {as_utc(split.validation.end)}; gap {split.gap_hours:g} h."
        )
    if evidence.training is not None:
        training = evidence.training
        lines.append(
            f"{training.architecture}, {training.parameters:,} parameters, best epoch {training.best_epoch + 1} of "
            f"{len(training.epochs)}, {training.rows_per_second:,.0f} rows/s on {training.device}, "
            f"seed {training.seed}."
        )
    costs = evidence.comparison.costs
    if costs.latency_p99_milliseconds is not None and costs.size_megabytes is not None:
        lines.append(
            f"Serving a request of 100 candidates takes {costs.latency_p99_milliseconds:.3g} ms (99th percentile, "
            f"MLflow in a process of its own, one thread, no network); the bundle has {costs.size_megabytes:.3g} MB."
        )
    lines.append(
        f"Snapshot `{evidence.comparison.snapshot_fingerprint[:16]}`, model digest "
        f"`{evidence.comparison.challenger.digest[:16]}`, policy `{evidence.policy_digest[:16]}`, evidence "
        f"`{evidence.digest[:16]}`{f', {evidence.code_version}' if evidence.code_version else ''}."
    )
    return lines
