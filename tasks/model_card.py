"""What a version says of itself in MLflow: tags for programs, a short description for people."""

from ranking.ledger import LedgerEntry
from ranking.results import Evidence, ModelRef
from ranking.times import as_utc


def entry_tags(status: str, entry: LedgerEntry) -> dict[str, str]:
    """Tags of a version that the ledger put in service."""
    return {
        "status": status,
        "promoted_at": entry.at.isoformat(),
        "promoted_by": entry.actor,
        "promotion_reason": entry.reason,
        "promotion_forced": str(entry.forced).lower(),
        "ledger_entry": str(entry.number),
        "ledger_hash": entry.hash,
    }


def verdict_tags(evidence: Evidence) -> dict[str, str]:
    """Tags that say what a promotion rested on."""
    verdict = evidence.verdict
    metrics = {
        f"metric_{metric.name}": f"{metric.challenger.value:.6f}"
        for metric in evidence.comparison.metrics
        if metric.challenger is not None
    }
    return metrics | {
        "decision": verdict.decision.value,
        "confidence": verdict.confidence.value,
        "decision_reason": verdict.reason,
        "evidence_digest": evidence.digest,
        "policy_digest": evidence.policy_digest,
        "holdout_fingerprint": evidence.comparison.snapshot_fingerprint,
    }


def card(ref: ModelRef, evidence: Evidence, entry: LedgerEntry) -> str:
    """The version's description: short Markdown for people who look it up in MLflow."""
    rows = []
    for metric in evidence.comparison.metrics:
        numbers = (metric.challenger, metric.champion, metric.difference)
        cells = ["not measured" if number is None else f"{number.value:.4f}" for number in numbers]
        rows.append(f"| {metric.name} | {' | '.join(cells)} |")
    learnt = f"{as_utc(ref.learnt.start)} to {as_utc(ref.learnt.end)}" if ref.learnt else "not recorded"
    forced = " **Forced.**" if entry.forced else ""
    return "\n".join(
        (
            f"**Promoted** {as_utc(entry.at)} by {entry.actor}.{forced} {entry.reason}",
            "",
            f"Verdict: **{evidence.verdict.decision.value}** ({evidence.verdict.confidence.value} confidence). "
            f"{evidence.verdict.reason}",
            "",
            "| metric | this version | champion before | difference |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Learnt from {learnt}. Measured on {evidence.comparison.rows:,} holdout rows.",
            f"Bundle `{ref.digest[:16]}…`.",
            "",
            "To go back: `feedloop rollback --reason WHY`",
        )
    )
