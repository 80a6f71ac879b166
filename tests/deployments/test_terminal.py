"""Who answers for the command line."""

import builtins
import sys
from collections.abc import Iterator

import pytest

from deployments.output import Output
from deployments.terminal import asker
from ranking.results import Approval
from tests.examples import NOW, evidence

PROOF = evidence()


@pytest.fixture
def output() -> Iterator[Output]:
    made = Output(as_json=False, verbose=False)
    yield made
    made.close()


def answered(output: Output, monkeypatch: pytest.MonkeyPatch, *answers: str) -> Approval:
    """What the asker makes of a person who types these lines at a terminal."""
    lines = iter(answers)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", lambda *_: next(lines))
    return asker(output, yes=False)(PROOF, NOW)


def test_at_a_terminal_the_evidence_is_shown_and_the_answer_is_bound_to_it(
    output: Output, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    approval = answered(output, monkeypatch, "approve", "looks right")
    assert (approval.approved, approval.reason, approval.channel) == (True, "looks right", "terminal")
    assert approval.evidence_digest == PROOF.digest
    shown = capsys.readouterr().out
    assert PROOF.verdict.decision in shown
    assert "gauc" in shown


def test_pressing_return_rejects(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    approval = answered(output, monkeypatch, "", "")
    assert not approval.approved
    assert approval.channel == "terminal"


def test_without_a_terminal_nobody_is_asked_and_the_answer_is_no(output: Output) -> None:
    approval = asker(output, yes=False)(PROOF, NOW)
    assert (approval.approved, approval.channel, approval.approver) == (False, "nobody", "nobody")
    assert "no terminal" in approval.reason


def test_yes_approves_and_says_so(output: Output) -> None:
    approval = asker(output, yes=True)(PROOF, NOW)
    assert (approval.approved, approval.channel, approval.reason) == (True, "flag", "--yes was given")
