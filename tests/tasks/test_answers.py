"""Answers to a promotion that change nothing: declined, or refused by name, and recorded."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from ranking.approval import ApprovalRules
from ranking.errors import PromotionRefused
from ranking.ledger import LedgerEntry, Operation
from ranking.results import ModelRef, Promotion
from tasks.champion import serving
from tasks.promotion import Proposal, promote, settle
from tests.tasks.promoting import ANYBODY, POLICY, back, put, shop, spoiled, stocked
from tests.tasks.tiny_models import NOW, Shop, approval_of, evidence_about, open_shop

__all__ = ["shop", "stocked"]  # the fixtures, under the names by which tests ask for them

RULES = ApprovalRules(approvers=("ada", "Bob"), requester_may_approve=False)


def answer(shop: Shop, challenger: ModelRef, champion: ModelRef | None, **changes: object) -> Promotion:
    """Settle an answer that differs from ada's plain yes."""
    evidence = evidence_about(challenger, champion)
    return settle(
        shop.registry,
        shop.ledger,
        Proposal(
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence).model_copy(update=changes),
            rules=RULES,
            policy_digest=POLICY,
            now=NOW,
        ),
    )


class TestAnswersThatChangeNothing:
    def test_a_no_is_recorded_with_who_and_why_and_the_champion_stays(self, shop: Shop) -> None:
        champion, challenger = put(shop, 1).champion, shop.registry.model("2")
        done = answer(shop, challenger, champion, approved=False, reason="not on a Friday")
        entry = done.entry
        assert (done.status, done.champion, done.reason) == ("not_approved", champion, "ada: not on a Friday")
        assert (entry.operation, entry.before, entry.after, entry.subject) == (Operation.DECLINE, "1", "1", "2")
        assert (entry.actor, entry.reason) == ("ada", "not on a Friday")
        assert entry.evidence_digest == evidence_about(challenger, champion).digest
        assert shop.registry.aliases() == {"champion": "1"}
        assert shop.registry.tags(challenger)["declined_because"] == "not on a Friday"

    def test_before_any_champion_it_leaves_none(self, shop: Shop) -> None:
        answer(shop, shop.registry.model("1"), None, approved=False)
        assert serving(shop.registry, shop.ledger) is None
        assert put(shop, 1).previous is None

    def test_a_promotion_at_the_same_moment_does_not_lose_it(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        champion = put(shop, 1).champion
        interrupted(shop, monkeypatch, lambda: put(open_shop(shop.workspace), 2))
        entry = answer(shop, shop.registry.model("3"), champion, approved=False).entry
        assert (entry.number, entry.after) == (3, "2")

    def test_it_does_not_spoil_a_promotion_at_the_same_moment(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        champion = put(shop, 1).champion
        other = open_shop(shop.workspace)
        interrupted(shop, monkeypatch, lambda: answer(other, other.registry.model("3"), champion, approved=False))
        assert put(shop, 2).entry.number == 3
        assert shop.registry.aliases() == {"champion": "2", "previous": "1"}

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"evidence_digest": "0" * 64}, "WrongEvidence: The approval by ada was given for other evidence"),
            ({"expires_at": NOW - timedelta(minutes=1)}, "ApprovalExpired: The approval by ada counted until"),
            ({"approver": "mallory"}, "UnknownApprover: mallory may not approve a promotion. Those who may: ada, Bob"),
            ({"requested_by": " ADA "}, "SelfApproval: ada asked for this promotion and approved it too"),
            ({"requested_by": None}, "SelfApproval: Nobody is known to have asked for this promotion"),
        ],
    )
    def test_an_approval_that_does_not_count_is_refused_by_name_and_recorded(
        self, shop: Shop, changes: dict[str, object], name: str
    ) -> None:
        champion, challenger = put(shop, 1).champion, shop.registry.model("2")
        done = answer(shop, challenger, champion, **({"requested_by": "carol"} | changes))
        assert (done.status, done.champion) == ("refused", champion)
        assert done.reason.startswith(name)
        assert (done.entry.operation, done.entry.reason) == (Operation.REFUSE, done.reason)
        assert shop.registry.tags(challenger)["status"] == "refused"
        assert shop.registry.aliases() == {"champion": "1"}

    def test_a_stale_pair_is_refused_by_name_and_recorded(self, shop: Shop) -> None:
        first = put(shop, 1).champion
        put(shop, 2)
        done = answer(shop, shop.registry.model("3"), first, requested_by="carol")
        assert done.reason.startswith("StaleChampion: The challenger was compared with version 1, and version 2 serves")
        assert done.entry.operation is Operation.REFUSE

    def test_overwritten_bytes_are_refused_by_digest_and_recorded(self, shop: Shop) -> None:
        champion, challenger = put(shop, 1).champion, shop.registry.model("2")
        with spoiled(shop, "2"):
            done = answer(shop, challenger, champion, requested_by="carol")
        assert done.reason.startswith("TamperedBundle: ")
        assert (done.entry.operation, serving(shop.registry, shop.ledger)) == (Operation.REFUSE, champion)

    def test_an_approval_counts_once(self, shop: Shop) -> None:
        champion, challenger = put(shop, 1).champion, shop.registry.model("2")
        assert answer(shop, challenger, champion, requested_by="carol").status == "promoted"
        back(shop)
        again = answer(shop, challenger, champion, requested_by="carol")
        assert again.reason.startswith("ApprovalReused: The approval by ada was used up by ledger entry 2")
        assert serving(shop.registry, shop.ledger) == champion

    def test_a_policy_changed_since_the_verdict_stops_the_promotion(self, shop: Shop) -> None:
        challenger = shop.registry.model("1")
        evidence = evidence_about(challenger, None)
        with pytest.raises(PromotionRefused, match=r"judged under the policy pppppppppppp…, and qqqqqqqqqqqq… is"):
            promote(
                shop.registry,
                shop.ledger,
                Proposal(
                    challenger=challenger,
                    evidence=evidence,
                    approval=approval_of(evidence),
                    rules=ANYBODY,
                    policy_digest="q" * 64,
                    now=NOW,
                ),
            )


def interrupted(shop: Shop, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Let something else happen right before the shop's next entry in the ledger."""
    append, happened = shop.ledger.append, []

    def late(draft: object, head: LedgerEntry | None) -> LedgerEntry:
        if not happened:
            happened.append(meanwhile())
        return append(draft, head)

    monkeypatch.setattr(shop.ledger, "append", late)
