"""What stands beside the approval form: the question in one paragraph, the evidence, and where to read more."""

from urllib.parse import urlsplit, urlunsplit

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.settings import PREFECT_UI_URL

from ranking.questions import Question
from ranking.results import Evidence, ModelRef, as_utc, challengers_of
from tasks.reports import artifact_key, evidence_markdown


def question_page(question: Question, evidence: Evidence, links: tuple[str, ...]) -> str:
    """The question as Markdown.

    Args:
        question: what is asked.
        evidence: what it rests on.
        links: of :func:`links_to`.
    """
    place = f"in place of version {question.against}" if question.against else "as the first champion"
    lines = [
        f"**Shall version {question.challenger} of {question.model} serve, {place}?**",
        "",
        f"{_asked(question)} An approval counts until {as_utc(question.expires_at)}; without one the champion stays.",
    ]
    if question.forced:
        verdict = f"{question.decision} ({question.confidence} confidence)"
        lines += ["", f"**This promotion is forced:** the verdict is {verdict}, or something else speaks against it."]
    lines += ["", *(f"- {link}" for link in links), ""] if links else [""]
    return "\n".join([*lines, evidence_markdown(evidence)])


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
