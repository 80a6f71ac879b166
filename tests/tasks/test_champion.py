"""Who serves: adopted from an alias while the ledger is empty, and reconciled with the ledger from then on."""

from pathlib import Path

import pytest

from ranking.decision import Decision
from ranking.errors import RegistryUnavailable, RollbackError, StaleChampion
from ranking.results import ModelRef
from tasks import promotion as promotions
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import reconcile, serving
from tests.tasks.promoting import back, crown, fail_at, push, put, shop, stocked
from tests.tasks.tiny_models import NAME, Shop, evidence_about, open_shop, with_database

__all__ = ["shop", "stocked"]  # the fixtures, under the names by which tests ask for them


class TestAdoption:
    """An alias set by hand while the ledger is empty."""

    def test_it_is_the_champion_and_must_be_compared_with(self, shop: Shop) -> None:
        crown(shop, "2")
        assert serving(shop.registry, shop.ledger) == shop.registry.model("2")
        challenger = shop.registry.model("1")
        with pytest.raises(StaleChampion, match="no champion, and version 2 serves now"):
            push(shop, challenger, evidence_about(challenger, None))

    def test_the_first_ledger_entry_adopts_it_and_one_can_go_back_to_it(self, shop: Shop) -> None:
        crown(shop, "2")
        assert put(shop, 1).entry.before == "2"
        assert shop.registry.aliases() == {"champion": "1", "previous": "2"}
        assert back(shop).champion.version == "2"

    def test_a_version_from_somewhere_else_is_replaced_by_force_and_put_back_by_force(self, tmp_path: Path) -> None:
        shop = open_shop(with_database(tmp_path))
        stranger = foreign(shop)
        shop.registry.point("champion", stranger.version)
        assert serving(shop.registry, shop.ledger).learnt is None
        ours = shop.register(1)
        verdict = Decision.A_B_TEST
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr(promotions, "verify_serving", verify_bundle)
            put(shop, ours.version, decision=verdict, forced=True, reason="theirs cannot be compared")
        with pytest.raises(RollbackError, match="not registered by feedloop"):
            back(shop, to=stranger.version)
        assert back(shop, to=stranger.version, forced=True).champion == stranger


def foreign(shop: Shop) -> ModelRef:
    from mlflow import MlflowClient

    client = MlflowClient(shop.registry.tracking_uri)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, source=str(shop.workspace), await_creation_for=0)
    return shop.registry.model("release-1")


class TestReconcile:
    def test_aliases_moved_by_hand_are_moved_back(self, shop: Shop) -> None:
        put(shop, 1)
        put(shop, 2)
        crown(shop, "3")
        shop.registry.release(shop.registry.model("4"))
        shop.registry.point("previous", "4")
        assert serving(shop.registry, shop.ledger).version == "2", "the ledger is the truth, also before"
        assert reconcile(shop.registry, shop.ledger) == shop.ledger.head()
        assert shop.registry.aliases() == {"champion": "2", "previous": "1"}

    def test_an_empty_ledger_changes_nothing(self, shop: Shop) -> None:
        crown(shop, "3")
        assert reconcile(shop.registry, shop.ledger) is None
        assert shop.registry.aliases() == {"champion": "3"}

    @pytest.mark.parametrize("step", ["point:previous", "point:champion", "annotate"])
    def test_an_outage_after_the_entry_is_finished_by_repeating_the_promotion(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        put(shop, 1)
        champion, challenger = shop.registry.model("1"), shop.registry.model("2")
        evidence = evidence_about(challenger, champion)
        with monkeypatch.context() as broken:
            fail_at(broken, step)
            with pytest.raises(RegistryUnavailable):
                push(shop, challenger, evidence)
        assert len(shop.ledger.entries()) == 2
        assert serving(shop.registry, shop.ledger).version == "2"
        done = push(shop, challenger, evidence, minutes=5)
        assert done.status == "promoted"
        assert len(shop.ledger.entries()) == 2, "once"
        assert shop.registry.aliases() == {"champion": "2", "previous": "1"}
        assert shop.registry.tags(challenger)["status"] == "champion"

    def test_an_outage_before_the_entry_leaves_everything_as_it_was(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(shop, 1)
        for step in ("package", "aliases", "model"):
            with monkeypatch.context() as broken:
                fail_at(broken, step)
                with pytest.raises(RegistryUnavailable):
                    put(shop, 2)
        assert len(shop.ledger.entries()) == 1
        assert shop.registry.aliases() == {"champion": "1"}
