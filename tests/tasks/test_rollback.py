"""Going back: to which version, past what, and what comes back again."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.errors import PromotionRefused, RegistryUnavailable, RollbackError
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Rollback
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tasks.rollback import rollback
from tasks.succession import back_to, quarantined, served, serving_version
from tests.tasks.promoting import back, fail_at, package_folder, put, shop, spoiled, stocked
from tests.tasks.tiny_models import NOW, Shop

__all__ = ["shop", "stocked"]  # the fixtures, under the names by which tests ask for them


class TestRollback:
    def test_it_goes_back_to_the_version_that_served_before(self, shop: Shop) -> None:
        put(shop, 1)
        put(shop, 3)
        done = back(shop)
        assert (done.champion.version, done.replaced.version, done.reason) == ("1", "3", "clicks fell")
        assert shop.registry.aliases() == {"champion": "1"}
        assert shop.registry.champion().version == "1"
        assert (done.entry.operation, done.entry.actor) == (Operation.ROLLBACK, "grace")
        assert shop.registry.tags(done.replaced)["status"] == "rolled_back"
        assert shop.registry.tags(done.champion)["status"] == "champion"

    def test_twice_in_a_row_goes_back_twice_and_never_to_what_failed(self, shop: Shop) -> None:
        for version in (1, 2, 3):
            put(shop, version)
        assert [back(shop).champion.version for _ in range(2)] == ["2", "1"]
        with pytest.raises(RollbackError, match=r"No healthy version served before version 1.*service: version 2, 3"):
            back(shop)

    def test_a_version_that_was_only_declined_or_registered_is_no_target(self, shop: Shop) -> None:
        put(shop, 1)
        with pytest.raises(RollbackError, match=r"Version 4 never served.*promote it instead\. Served so far: 1\."):
            back(shop, to="4")
        with pytest.raises(RollbackError, match="Version 1 serves already"):
            back(shop, to="1")

    def test_a_named_version_may_be_further_back(self, shop: Shop) -> None:
        for version in (1, 2, 3):
            put(shop, version)
        assert back(shop, to="1").champion.version == "1"
        assert shop.registry.aliases() == {"champion": "1"}

    def test_nothing_was_ever_promoted(self, shop: Shop) -> None:
        with pytest.raises(RollbackError, match="Nothing was ever promoted"):
            back(shop)

    def test_a_rollback_needs_a_reason(self, shop: Shop) -> None:
        with pytest.raises(RollbackError, match="needs a reason"):
            back(shop, reason=" ")

    def test_a_target_whose_bytes_do_not_verify_is_skipped_and_that_is_said(self, shop: Shop) -> None:
        for version in (1, 2, 3):
            put(shop, version)
        with spoiled(shop, "2"):
            done = back(shop)
        assert done.champion.version == "1"
        assert "Version 2 was skipped" in done.entry.reason
        assert "model.safetensors" in done.entry.reason

    def test_a_named_target_whose_bytes_do_not_verify_is_refused(self, shop: Shop) -> None:
        put(shop, 1)
        put(shop, 2)
        with spoiled(shop, "1"), pytest.raises(RollbackError, match="Version 1 cannot be put back"):
            back(shop, to="1")
        assert shop.registry.aliases()["champion"] == "2"

    def test_a_target_replaced_whole_with_its_tags_is_refused_by_the_digest_in_the_ledger(
        self, shop: Shop, stocked: Path
    ) -> None:
        put(shop, 1)
        put(shop, 2)
        theirs, target = package_folder(shop, "3"), package_folder(shop, "1")
        kept = stocked / "kept"
        shutil.copytree(target, kept)
        tags = shop.registry.tags(shop.registry.model("3"))
        forged = {name: tags[name] for name in ("digest", "package_digest")}
        try:
            shutil.rmtree(target)
            shutil.copytree(theirs, target)
            shop.registry.annotate(shop.registry.model("1"), forged)
            verify_bundle(shop.registry, shop.registry.model("1"))  # the registry itself sees nothing
            with pytest.raises(RollbackError, match=r"Version 1 was skipped: .* was expected"):
                back(shop)
        finally:
            shutil.rmtree(target)
            shutil.move(kept, target)
        assert shop.registry.aliases()["champion"] == "2"

    def test_what_was_rolled_back_comes_back_only_by_force_with_a_reason(self, shop: Shop) -> None:
        put(shop, 1)
        put(shop, 2)
        back(shop)
        with pytest.raises(
            PromotionRefused, match="taken out of service by grace on 2026-03-01 12:00 UTC: clicks fell"
        ):
            put(shop, 2, minutes=5)
        with pytest.raises(RollbackError, match="itself taken out of service by grace"):
            back(shop, to="2")
        assert put(shop, 2, forced=True, reason="fixed the data", minutes=5).entry.forced is True
        assert quarantined(shop.ledger.entries()) == {}

    def test_a_rollback_cut_short_after_its_entry_is_finished_and_not_done_twice(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for version in (1, 2, 3):
            put(shop, version)

        def again() -> Rollback:
            return rollback(
                shop.registry, shop.ledger, to=None, reason="clicks fell", actor="grace", now=NOW, request="run 7"
            )

        for step in ("point", "annotate"):
            with monkeypatch.context() as broken:
                fail_at(broken, step)
                with pytest.raises(RegistryUnavailable):
                    again()
        done = again()
        assert (done.champion.version, done.replaced.version, done.entry.number) == ("2", "3", 4)
        assert len(shop.ledger.entries()) == 4
        assert shop.registry.aliases() == {"champion": "2", "previous": "1"}
        assert shop.registry.tags(done.replaced)["status"] == "rolled_back"

    def test_an_outage_is_an_outage_and_never_a_skipped_version(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(shop, 1)
        put(shop, 2)
        with monkeypatch.context() as broken:
            fail_at(broken, "package")
            with pytest.raises(RegistryUnavailable):
                back(shop)
        assert serving(shop.registry, shop.ledger).version == "2"


def entry(number: int, operation: Operation, before: str | None, after: str | None) -> LedgerEntry:
    return LedgerEntry(
        number=number,
        operation=operation,
        before=before,
        after=after,
        subject=after or "x",
        digest="d",
        evidence_digest=None,
        forced=False,
        actor="ada",
        reason="r",
        at=NOW,
        previous_hash="",
    )


@given(moves=st.lists(st.sampled_from(["promote", "rollback", "decline"]), max_size=30))
def test_one_can_always_roll_back_as_often_as_there_are_healthy_predecessors(moves: list[str]) -> None:
    """A model of the ledger as a plain stack: promotions push new versions, rollbacks pop them."""
    entries: list[LedgerEntry] = []
    stack: list[str] = []
    for number, move in enumerate(moves, start=1):
        now = stack[-1] if stack else None
        if move == "promote":
            stack.append(str(number))
            entries.append(entry(number, Operation.PROMOTE, now, str(number)))
        elif move == "rollback" and len(stack) > 1:
            stack.pop()
            entries.append(entry(number, Operation.ROLLBACK, now, stack[-1]))
        else:
            entries.append(entry(number, Operation.DECLINE, now, now))
        history = tuple(entries)
        assert serving_version(history) == (stack[-1] if stack else None)
        assert served(history) == tuple(stack)
        assert back_to(history, stack[-1] if stack else "") == (stack[-2] if len(stack) > 1 else None)
