"""Approval at the terminal: ask the person there, take ``--yes``, or note that nobody was there."""

import sys
from datetime import datetime
from typing import Literal

from rich.prompt import Prompt

from deployments.output import Output
from deployments.who import who
from flows.approval import Asker
from ranking.results import Approval, Evidence
from ranking.rollout import plan_of
from tasks.reports import evidence_markdown


def asker(output: Output, *, yes: bool, because: str = "--yes was given") -> Asker:
    """Who answers for this command.

    Args:
        output: where the evidence is shown.
        yes: ``--yes`` was given: approve, explicitly, and say so in the ledger.
        because: the reason that is then written there.

    Returns:
        A function from evidence to approval.  Without ``--yes`` and without a terminal it declines.
    """

    def ask(evidence: Evidence, now: datetime) -> Approval:
        if yes:
            return _approval(evidence, now, approved=True, channel="flag", reason=because)
        if output.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            reason = "Nobody was asked: there is no terminal and --yes was not given."
            return _approval(evidence, now, approved=False, channel="nobody", reason=reason)
        return _ask_person(output, evidence, now)

    return ask


def _ask_person(output: Output, evidence: Evidence, now: datetime) -> Approval:
    output.markdown(evidence_markdown(evidence))
    challenger, plan = evidence.comparison.challenger, plan_of(evidence)
    asked = f"Make version {challenger.version} the champion?"
    if plan is not None:
        asked = f"{plan.words} Let version {challenger.version} set out?"
    try:
        # The default is no: pressing Return must not promote.
        answer = Prompt.ask(
            asked,
            choices=["approve", "reject"],
            default="reject",
            console=output.console,
        )
        reason = Prompt.ask("Reason", default="none given", console=output.console)
    except (EOFError, KeyboardInterrupt):
        return _approval(evidence, now, approved=False, channel="terminal", reason="the question was broken off")
    return _approval(evidence, now, approved=answer == "approve", channel="terminal", reason=reason)


def _approval(
    evidence: Evidence,
    now: datetime,
    *,
    approved: bool,
    channel: Literal["terminal", "flag", "nobody"],
    reason: str,
) -> Approval:
    return Approval(
        approved=approved,
        approver="nobody" if channel == "nobody" else who(),
        reason=reason,
        channel=channel,
        evidence_digest=evidence.digest,
        at=now,
    )
