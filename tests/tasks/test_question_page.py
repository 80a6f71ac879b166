"""What stands beside the form, without its server: the question in words, and links that tell no secret."""

from typing import Any, cast

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_UI_URL, temporary_settings

from ranking.measurements import Estimate
from tasks.question_page import links_to, question_page
from tasks.questions import ApprovalForm, form_of
from tests.ranking.test_questions import PROOF, question

CHALLENGER = PROOF.comparison.challenger


class Artifacts:
    """The part of Prefect's client that looks for the report."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def read_latest_artifacts(self, artifact_filter: Any) -> list[str]:
        return [key for key in self.keys if key in artifact_filter.key.any_]


def links(tracking_uri: str | None, *keys: str) -> tuple[str, ...]:
    with temporary_settings({PREFECT_UI_URL: "http://prefect.example"}):
        return links_to(cast(SyncPrefectClient, Artifacts(*keys)), CHALLENGER, tracking_uri)


def test_the_report_is_linked_where_it_was_published() -> None:
    assert links(None) == ()
    assert links(None, "report-feed-ranker-v2") == (
        "[Report with pictures](http://prefect.example/artifacts/key/report-feed-ranker-v2)",
    )


@pytest.mark.parametrize("uri", ["http://mlflow.example:5000/", "http://ada:secret@mlflow.example:5000"])
def test_the_version_is_linked_in_mlflow_without_the_password_of_its_address(uri: str) -> None:
    (link,) = links(uri)
    assert link == "[Version 2 in MLflow](http://mlflow.example:5000/#/models/feed_ranker-challengers/versions/2)"
    assert links("sqlite:///mlflow.db") == ()


def test_the_page_asks_first_and_then_shows_the_numbers() -> None:
    page = question_page(question(), PROOF, ("[there](http://x)",))
    assert page.startswith("**Shall version 2 of feed_ranker serve, in place of version 1?**")
    auc = PROOF.comparison.auc
    assert auc.champion is not None
    assert auc.challenger is not None
    assert auc.difference is not None
    numbers = f"- **auc** {auc.champion.value:.4f} → {auc.challenger.value:.4f}: {auc.difference.value:+.4f} (95 %"
    assert page.index("- [there](http://x)") < page.index(numbers)
    for finding in PROOF.verdict.findings:
        assert f"- **{finding.status}** {finding.rule}: {finding.sentence}" in page
    assert f"evidence `{PROOF.digest[:12]}`" in page
    assert "so far: ann" in question_page(question().model_copy(update={"approved_by": ("ann",)}), PROOF, ())
    first = question().model_copy(update={"against": None, "requested_by": None, "approvers": ("ann", "bob")})
    words = question_page(first, PROOF, ())
    assert "as the first champion?" in words
    assert "Nobody is named who asked" in words
    assert "Who may approve: ann, bob." in words


def test_what_was_not_measured_is_said_to_be_so_and_a_table_never_hides_a_number() -> None:
    nothing = PROOF.comparison.gauc.model_copy(update={"champion": None, "challenger": None, "difference": None})
    unsure = PROOF.comparison.auc.model_copy(update={"difference": Estimate(value=0.01)})
    comparison = PROOF.comparison.model_copy(update={"gauc": nothing, "auc": unsure})
    page = question_page(question(), PROOF.model_copy(update={"comparison": comparison}), ())
    assert "- **gauc** not measured" in page
    assert "+0.0100 (its error is not known)" in page
    assert "|" not in page


def test_the_form_of_a_question_has_the_digest_filled_in_and_keeps_every_description() -> None:
    form = form_of(question(), "text")
    assert issubclass(form, ApprovalForm)
    schema = form.model_json_schema()
    assert schema["properties"]["evidence_digest"]["default"] == PROOF.digest
    assert "Leave it" in schema["properties"]["evidence_digest"]["description"]
    assert schema["properties"]["approver"]["pattern"] == r"\S"
