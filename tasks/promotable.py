"""What forbids a promotion: evidence about another model, the verdict, the policy, a quarantine, another champion."""

from ranking.decision import Decision
from ranking.errors import PromotionRefused, StaleChampion
from ranking.ledger import LedgerEntry
from ranking.results import Evidence, ModelRef
from ranking.rollout import plan_of
from ranking.times import as_utc
from tasks.rollout_entries import tested
from tasks.succession import quarantined


def require_about(challenger: ModelRef, evidence: Evidence) -> None:
    """Refuse evidence about another model than the challenger.

    Raises:
        PromotionRefused: names both.
    """
    about = evidence.comparison.challenger
    if (about.version, about.digest, about.package_digest) != (
        challenger.version,
        challenger.digest,
        challenger.package_digest,
    ):
        raise PromotionRefused(
            f"The evidence is about version {about.version} ({about.digest[:12]}…), not about version "
            f"{challenger.version} of {challenger.name!r} ({challenger.digest[:12]}…). Compare this challenger first."
        )


def overrides(
    challenger: ModelRef,
    evidence: Evidence,
    entries: tuple[LedgerEntry, ...],
    *,
    policy_digest: str,
    forced: bool,
    reason: str,
) -> list[str]:
    """What forbids the promotion; returned only when it is forced with a reason."""
    verdict, problems = evidence.verdict, []
    if verdict.decision is not Decision.PROMOTE and not (_is_test(evidence) or tested(entries, evidence)):
        sure = f"{verdict.confidence.value} confidence"
        problems.append(f"the verdict is {verdict.decision.value} ({sure}): {verdict.reason}")
    if evidence.policy_digest != policy_digest:
        problems.append(
            f"it was judged under the policy {evidence.policy_digest[:12]}…, and {policy_digest[:12]}… is configured "
            "now: compare it again."
        )
    failed = quarantined(entries).get(challenger.version)
    if failed is not None:
        problems.append(f"it was taken out of service by {failed.actor} on {as_utc(failed.at)}: {failed.reason}")
    if problems and not (forced and reason.strip()):
        lacking = "Forcing it needs a reason." if forced else "To promote it all the same, force it and give a reason."
        raise PromotionRefused(
            f"Version {challenger.version} of {challenger.name!r} is not promoted: {'; and '.join(problems)} {lacking}"
        )
    return problems


def _is_test(evidence: Evidence) -> bool:
    """Whether an undecided verdict is to be decided by an A/B test: it moves nobody's champion."""
    plan = plan_of(evidence)
    return evidence.verdict.decision is Decision.A_B_TEST and plan is not None and plan.strategy.kind == "ab_test"


def require_champion(champion: ModelRef | None, compared_with: str | None) -> None:
    """Refuse when another version serves than the one that was compared.

    Raises:
        StaleChampion: names both.
    """
    version = champion.version if champion else None
    if version != compared_with:
        raise StaleChampion(
            f"The challenger was compared with {_named(compared_with)}, and {_named(version)} serves now. "
            "An approval is for a pair: compare again with today's champion."
        )


def _named(version: str | None) -> str:
    return "no champion" if version is None else f"version {version}"
