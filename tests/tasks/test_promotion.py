"""Promotion over a real embedded MLflow: who is promoted, who is refused, and what is asked first."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ranking.decision import Decision
from ranking.errors import (
    BundleError,
    FeedloopError,
    PromotionRefused,
    RegistryUnavailable,
    StaleChampion,
    TamperedBundle,
    UnknownModel,
    WrongEvidence,
)
from settings.effects import RegistryKnobs
from tasks import promotion as promotions
from tasks import registry as tasks
from tasks import service
from tasks.adapters.serving_check import verify_serving
from tasks.champion import reconcile, serving
from tasks.promotion import Proposal, promote
from tests.tasks.mlflow_server import mlflow_server
from tests.tasks.promoting import ANYBODY, POLICY, back, push, put, shop, spoiled, stocked
from tests.tasks.tiny_models import NAME, NOW, Shop, approval_of, evidence_about, open_shop

__all__ = ["shop", "stocked"]  # the fixtures, under the names by which tests ask for them


class TestPromote:
    def test_the_first_champion_replaces_nobody(self, shop: Shop) -> None:
        done = put(shop, 1)
        assert (done.status, done.previous) == ("promoted", None)
        assert done.champion == serving(shop.registry, shop.ledger) == shop.registry.champion()
        assert done.entry == shop.ledger.head()
        assert (done.entry.before, done.entry.after, done.entry.actor) == (None, "1", "ada")
        assert "Version 1 serves since 2026-03-01 12:00 UTC (ledger entry 1): the numbers are clear" in done.reason

    def test_the_next_one_moves_the_aliases_and_keeps_the_one_before(self, shop: Shop) -> None:
        shop.registry.point("challenger", "2")
        first = put(shop, 1).champion
        done = put(shop, 2)
        assert shop.registry.aliases() == {"champion": "2", "previous": "1"}
        assert done.previous == first
        assert (done.entry.before, done.entry.after) == ("1", "2")

    def test_a_version_says_in_mlflow_why_it_serves_and_how_to_go_back(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        put(shop, 1)
        done = put(shop, 2)
        tags = shop.registry.tags(done.champion)
        assert tags["status"] == "champion"
        assert tags["promoted_at"] == NOW.isoformat()
        assert (tags["decision"], tags["decision_reason"]) == ("PROMOTE", "AUC 0.7200 against 0.7000.")
        assert (tags["metric_auc"], tags["fingerprint"], tags["git_commit"]) == ("0.720000", "f" * 64, "abc123")
        assert (tags["ledger_entry"], tags["ledger_hash"]) == ("2", done.entry.hash)
        assert shop.registry.tags(done.previous)["status"] == "replaced"
        card = MlflowClient(shop.registry.tracking_uri).get_model_version_by_alias(NAME, "champion").description
        assert "| auc | 0.7200 | 0.7000 | 0.0200 |" in card
        assert "feedloop rollback" in card

    @pytest.mark.parametrize("decision", [Decision.REJECT, Decision.A_B_TEST])
    def test_anything_but_promote_is_refused_with_the_verdict_and_its_reason(
        self, shop: Shop, decision: Decision
    ) -> None:
        with pytest.raises(PromotionRefused, match=rf"the verdict is {decision.value} .*AUC 0\.7200 against 0\.7000"):
            put(shop, 1, decision=decision)
        with pytest.raises(PromotionRefused, match="Forcing it needs a reason"):
            put(shop, 1, decision=decision, forced=True, reason="   ")
        assert shop.ledger.head() is None
        assert shop.registry.champion() is None

    def test_a_forced_promotion_is_done_marked_and_reasoned(self, shop: Shop) -> None:
        done = put(shop, 1, decision=Decision.REJECT, forced=True, reason="the old one is broken")
        assert (done.entry.forced, done.entry.reason) == (True, "the old one is broken")
        assert "forced" in done.reason
        assert shop.registry.tags(done.champion)["promotion_forced"] == "true"

    def test_forcing_what_nothing_forbids_is_not_marked_as_forced(self, shop: Shop) -> None:
        assert put(shop, 1, forced=True, reason="hurry").entry.forced is False

    def test_an_approval_of_other_evidence_is_refused(self, shop: Shop) -> None:
        challenger = shop.registry.model("1")
        evidence = evidence_about(challenger, None)
        changed = evidence.model_copy(update={"policy_digest": "q" * 64})
        with pytest.raises(WrongEvidence, match=r"approval by ada was given for other evidence.*Ask for approval"):
            promote(
                shop.registry,
                shop.ledger,
                Proposal(
                    challenger=challenger,
                    evidence=changed,
                    approval=approval_of(evidence),
                    rules=ANYBODY,
                    policy_digest=POLICY,
                    now=NOW,
                ),
            )
        assert shop.ledger.head() is None

    def test_evidence_about_another_model_is_refused(self, shop: Shop) -> None:
        first, second, third = (shop.registry.model(version) for version in "123")
        put(shop, 1)
        with pytest.raises(PromotionRefused, match=r"evidence is about version 2 .* not about version 3"):
            push(shop, third, evidence_about(second, first))

    def test_an_approval_is_for_a_pair_so_another_champion_in_between_stops_it(self, shop: Shop) -> None:
        first, third = put(shop, 1).champion, shop.registry.model("3")
        evidence = evidence_about(third, first)
        put(shop, 2)
        with pytest.raises(StaleChampion, match="compared with version 1, and version 2 serves now"):
            push(shop, third, evidence)
        with pytest.raises(StaleChampion, match="compared with no champion, and version 2 serves now"):
            push(shop, third, evidence_about(third, None))
        assert shop.registry.aliases()["champion"] == "2"

    def test_a_challenger_overwritten_after_approval_is_refused_by_its_digest(self, shop: Shop) -> None:
        put(shop, 1)
        with spoiled(shop, "2"), pytest.raises(TamperedBundle, match=r"model\.safetensors"):
            put(shop, 2)
        assert len(shop.ledger.entries()) == 1
        assert shop.registry.aliases() == {"champion": "1"}

    def test_of_six_promotions_at_once_one_wins_and_the_others_are_told(self, shop: Shop) -> None:
        first = put(shop, 1).champion

        def race(version: str) -> str:
            mine = open_shop(shop.workspace)
            challenger = mine.registry.model(version)
            try:
                return push(mine, challenger, evidence_about(challenger, first)).champion.version
            except StaleChampion:
                return "stale"

        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(race, ["2", "3", "4", "2", "3", "4"]))
        reconcile(shop.registry, shop.ledger)
        winner = shop.ledger.head().after
        assert len(shop.ledger.entries()) == 2
        assert set(results) == {winner, "stale"}
        assert shop.registry.aliases() == {"champion": winner, "previous": "1"}


class TestCleanProcess:
    def test_a_healthy_version_passes_by_mlflow_alone(self, shop: Shop) -> None:
        verify_serving(shop.registry, shop.registry.model("1"))

    def test_a_version_that_does_not_load_is_refused_before_the_ledger_is_touched(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tasks.adapters import serving_check

        monkeypatch.setattr(promotions, "verify_serving", verify_serving)
        monkeypatch.setattr(serving_check, "_CHILD", "raise SystemExit('ModuleNotFoundError: no torch here')")
        with pytest.raises(BundleError, match=r"does not load in a clean process by MLflow alone.*no torch here"):
            put(shop, 1)
        assert shop.ledger.head() is None

    @pytest.mark.parametrize(
        ("scores", "sentence"),
        [
            ("[0.5] * 32", "differs by 0"),
            ("[0.5]", "gave 1 scores for 32 rows"),
            ("[float('nan')] * 32", "differs by nan"),
        ],
    )
    def test_a_version_that_answers_otherwise_than_in_training_is_refused(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, scores: str, sentence: str
    ) -> None:
        from tasks.adapters import serving_check

        child = f"import json, sys; json.dump({scores}, open(sys.argv[3], 'w'))"
        monkeypatch.setattr(serving_check, "_CHILD", child)
        with pytest.raises(BundleError, match=sentence):
            verify_serving(shop.registry, shop.registry.model("1"))


class TestTasks:
    """The Prefect tasks, by their functions: the same effects behind settings."""

    def test_champion_promotion_decline_and_rollback_by_settings(self, shop: Shop) -> None:
        where = {"registry": RegistryKnobs(), "workspace": str(shop.workspace)}
        assert service.current_champion.fn(**where) is None
        assert tasks.champion_bundle(**where) is None
        first, second = shop.registry.versions()[:2]
        for challenger, champion in ((first, None), (second, first)):
            evidence = evidence_about(challenger, champion)
            tasks.record_evidence.fn(challenger=challenger, evidence=evidence, report=None, **where)
            assert tasks.read_evidence.fn(challenger, **where) == evidence
            service.settle_promotion.fn(
                challenger=challenger,
                evidence=evidence,
                approval=approval_of(evidence),
                rules=ANYBODY,
                policy_digest=POLICY,
                forced=False,
                reason="",
                now=NOW,
                **where,
            )
        assert service.current_champion.fn(**where) == second == tasks.find_model("champion", **where)
        assert tasks.champion_bundle(**where).digest == second.digest
        done = service.settle_promotion.fn(
            challenger=second,
            evidence=evidence,
            approval=approval_of(evidence, approved=False),
            rules=ANYBODY,
            policy_digest=POLICY,
            forced=False,
            reason="",
            now=NOW,
            **where,
        )
        assert (done.status, done.champion, done.reason) == ("not_approved", second, "ada: the numbers are clear")
        rolled = service.apply_rollback.fn(to=None, reason="clicks fell", actor="grace", now=NOW, **where)
        assert rolled.champion == first
        assert [entry.operation.value for entry in tasks.ledger_entries(**where)] == [
            "promote",
            "promote",
            "decline",
            "rollback",
        ]

    def test_a_version_never_compared_has_no_evidence_to_promote_on(self, shop: Shop) -> None:
        with pytest.raises(FeedloopError, match="was never compared"):
            tasks.read_evidence.fn(shop.registry.model("4"), RegistryKnobs(), str(shop.workspace))

    def test_a_remote_workspace_needs_a_server(self) -> None:
        with pytest.raises(FeedloopError, match=r"Set registry\.tracking_uri"):
            tasks.champion_now(RegistryKnobs(), "memory://bucket/feedloop")


@pytest.mark.slow
def test_the_whole_life_of_a_champion_behind_a_real_server(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "worker").mkdir()
    with mlflow_server(tmp_path / "server") as uri:
        shop = open_shop(tmp_path / "worker", uri)
        shop.register(1)
        shop.register(2)
        put(shop, 1)
        assert put(shop, 2).previous.version == "1"
        challenger = shop.registry.model("1")
        evidence = evidence_about(challenger, shop.registry.model("2"))
        shop.registry.record(challenger, evidence)
        assert shop.registry.evidence(challenger) == evidence
        assert back(shop).champion.version == "1"
        assert shop.registry.aliases() == {"champion": "1"}
        assert shop.ledger.verify() == ()
        with pytest.raises(UnknownModel, match=r"Versions: 1, 2\. Aliases: champion \(version 1\)"):
            shop.registry.model("3")
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        serving(shop.registry, shop.ledger)
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        shop.registry.download(challenger, tmp_path / "bundle")
