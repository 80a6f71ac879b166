"""What stands beside the approval form: the question in one paragraph, the evidence, and where to read more."""

from urllib.parse import urlsplit, urlunsplit

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.settings import PREFECT_UI_URL

from ranking.measurements import MetricComparison
from ranking.questions import Question
from ranking.results import Evidence, ModelRef, challengers_of
from ranking.rollout import plan_of
from ranking.times import as_utc
from tasks.reports import artifact_key, told_plan


def question_page(question: Question, evidence: Evidence, links: tuple[str, ...]) -> str:
    """The question as Markdown.

    Args:
        question: what is asked.
        evidence: what it rests on.
        links: of :func:`links_to`.
    """
    place = f"in place of version {question.against}" if question.against else "as the first champion"
    plan = plan_of(evidence)
    asked = f"serve, {place}" if plan is None else f"set out for its users, beside version {question.against}"
    lines = [
        f"**Shall version {question.challenger} of {question.model} {asked}?**",
        "",
        f"{_asked(question)} An approval counts until {as_utc(question.expires_at)}; without one the champion stays.",
    ]
    if question.forced:
        verdict = f"{question.decision} ({question.confidence} confidence)"
        lines += ["", f"**This promotion is forced:** the verdict is {verdict}, or something else speaks against it."]
    lines += ["", *told_plan(evidence)]
    lines += ["", *(f"- {link}" for link in links)] if links else []
    return "\n".join([*lines, "", *_told(evidence)]) + "\n"


def _told(evidence: Evidence) -> list[str]:
    """The evidence in lists: the form is narrow, and a wide table would hide the intervals."""
    comparison, verdict = evidence.comparison, evidence.verdict
    lines = [
        f"**{verdict.decision}, {verdict.confidence} confidence.** {verdict.reason}",
        "",
        f"On {comparison.rows:,} holdout rows ({comparison.positives:,} clicks, {comparison.users:,} users, "
        f"{comparison.items:,} items), {as_utc(comparison.holdout.start)} to {as_utc(comparison.holdout.end)}:",
        "",
        *(_metric(metric) for metric in (comparison.auc, comparison.log_loss, comparison.gauc, comparison.calibration)),
    ]
    if verdict.findings:
        lines += ["", "Guardrails:", ""]
        lines += [f"- **{finding.status}** {finding.rule}: {_line(finding.sentence)}" for finding in verdict.findings]
    if verdict.missing:
        lines += ["", "Missing for a firmer verdict:", "", *(f"- {_line(what)}" for what in verdict.missing)]
    challenger = comparison.challenger
    return [
        *lines,
        "",
        f"Model `{challenger.digest[:12]}`, policy `{evidence.policy_digest[:12]}`, evidence `{evidence.digest[:12]}`.",
    ]


def _metric(metric: MetricComparison) -> str:
    if metric.challenger is None:
        return f"- **{metric.name}** not measured"
    if metric.champion is None or metric.difference is None:
        return f"- **{metric.name}** {metric.challenger.value:.4f}"
    change = metric.difference
    known = change.low is not None and change.high is not None
    interval = f"95 % interval {change.low:+.4f} to {change.high:+.4f}" if known else "its error is not known"
    return (
        f"- **{metric.name}** {metric.champion.value:.4f} → {metric.challenger.value:.4f}: "
        f"{change.value:+.4f} ({interval})"
    )


def _line(text: str) -> str:
    """Text that stays in its line: slices are named after values of the log, which may hold anything."""
    return " ".join(text.split())


def _asked(question: Question) -> str:
    who = f"Asked by {question.requested_by}" if question.requested_by else "Nobody is named who asked"
    sentences = [f"{who}, {as_utc(question.asked_at)}."]
    if question.approvers:
        sentences.append(f"Who may approve: {', '.join(question.approvers)}.")
    if question.approvals > 1:
        so_far = ", ".join(question.approved_by) or "nobody yet"
        sentences.append(f"{question.approvals} different people have to approve; so far: {so_far}.")
    return " ".join(sentences)


def links_to(client: SyncPrefectClient, challenger: ModelRef, tracking_uri: str | None) -> tuple[str, ...]:
    """Markdown links to the report: in Prefect if it was published there, and in MLflow if that has an address."""
    found = []
    key = artifact_key(challenger)
    filter_ = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[key]))
    if PREFECT_UI_URL.value() and client.read_latest_artifacts(artifact_filter=filter_):
        found.append(f"[Report with pictures]({PREFECT_UI_URL.value()}/artifacts/key/{key})")
    if tracking_uri and tracking_uri.startswith(("http://", "https://")):
        page = f"{_public(tracking_uri)}/#/models/{challengers_of(challenger.name)}/versions/{challenger.version}"
        found.append(f"[Version {challenger.version} in MLflow]({page})")
    return tuple(found)


def _public(uri: str) -> str:
    """The address without the name and the password that may stand in it."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
