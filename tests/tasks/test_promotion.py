"""Promotion, decline, rollback and reconciliation over a real embedded MLflow."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.errors import (
    BundleError,
    FeedloopError,
    PromotionRefused,
    RegistryUnavailable,
    RollbackError,
    StaleChampion,
    TamperedBundle,
    UnknownModel,
)
from ranking.results import Decision, Evidence, LedgerEntry, ModelRef, Operation, Promotion, Rollback
from settings.effects import RegistryKnobs
from tasks import promotion as promotions
from tasks import registry as tasks
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.serving_check import verify_bundle, verify_serving
from tasks.promotion import decline, promote, reconcile, serving
from tasks.rollback import rollback
from tasks.succession import back_to, quarantined, served, serving_version
from tests.tasks.mlflow_server import mlflow_server
from tests.tasks.tiny_models import NAME, NOW, Shop, approval_of, evidence_about, open_shop, with_database


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with four registered versions, made once."""
    shop = open_shop(with_database(tmp_path_factory.mktemp("stocked")))
    for seed in (1, 2, 3, 4):
        shop.register(seed)
    return shop.workspace


@pytest.fixture
def shop(stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy of the stocked shop.  The check in a clean process takes seconds and has tests of its own."""
    monkeypatch.setattr(promotions, "verify_serving", verify_bundle)
    shutil.copy(stocked / "mlflow.db", tmp_path / "mlflow.db")
    return open_shop(tmp_path)


def put(
    shop: Shop,
    version: int | str,
    *,
    decision: Decision = Decision.PROMOTE,
    forced: bool = False,
    reason: str = "",
    minutes: int = 0,
) -> Promotion:
    """Promote a version against today's champion, with everything in order unless said otherwise."""
    champion, challenger = serving(shop.registry, shop.ledger), shop.registry.model(str(version))
    return push(
        shop, challenger, champion, evidence_about(challenger, champion, decision), forced=forced, reason=reason,
        minutes=minutes,
    )  # fmt: skip


def push(
    shop: Shop,
    challenger: ModelRef,
    champion: ModelRef | None,
    evidence: Evidence,
    *,
    forced: bool = False,
    reason: str = "",
    minutes: int = 0,
) -> Promotion:
    return promote(
        shop.registry,
        shop.ledger,
        challenger=challenger,
        compared_with=champion.version if champion else None,
        evidence=evidence,
        approval=approval_of(evidence),
        forced=forced,
        reason=reason,
        now=NOW + timedelta(minutes=minutes),
    )


def back(shop: Shop, to: str | None = None, *, forced: bool = False, reason: str = "clicks fell") -> Rollback:
    return rollback(shop.registry, shop.ledger, to=to, reason=reason, actor="grace", now=NOW, forced=forced)


def package_folder(shop: Shop, version: str) -> Path:
    from mlflow import MlflowClient

    return Path(MlflowClient(shop.registry.tracking_uri).get_model_version_download_uri(NAME, version))


@contextmanager
def spoiled(shop: Shop, version: str, file: str = "model.safetensors") -> Iterator[None]:
    """Overwrite bytes of a version behind everybody's back, as anyone with write access can."""
    (path,) = package_folder(shop, version).rglob(file)
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes(255 - byte for byte in content[-3:]))
    try:
        yield
    finally:
        path.write_bytes(content)


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
        card = MlflowClient(shop.registry.tracking_uri).get_model_version(NAME, "2").description
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
        with pytest.raises(PromotionRefused, match=r"approval by ada was given for other evidence.*Ask for approval"):
            promote(
                shop.registry,
                shop.ledger,
                challenger=challenger,
                compared_with=None,
                evidence=changed,
                approval=approval_of(evidence),
                forced=False,
                reason="",
                now=NOW,
            )
        assert shop.ledger.head() is None

    def test_a_no_is_not_a_yes_even_when_forced(self, shop: Shop) -> None:
        challenger = shop.registry.model("1")
        evidence = evidence_about(challenger, None)
        with pytest.raises(PromotionRefused, match="ada did not approve version 1"):
            promote(
                shop.registry,
                shop.ledger,
                challenger=challenger,
                compared_with=None,
                evidence=evidence,
                approval=approval_of(evidence, approved=False),
                forced=True,
                reason="I insist",
                now=NOW,
            )

    def test_evidence_about_another_model_or_another_champion_is_refused(self, shop: Shop) -> None:
        first, second, third = (shop.registry.model(version) for version in "123")
        put(shop, 1)
        with pytest.raises(PromotionRefused, match="evidence is about version 2"):
            push(shop, third, first, evidence_about(second, first))
        with pytest.raises(PromotionRefused, match=r"compares version 3 .* with no champion"):
            push(shop, third, first, evidence_about(third, None))

    def test_an_approval_is_for_a_pair_so_another_champion_in_between_stops_it(self, shop: Shop) -> None:
        first, third = put(shop, 1).champion, shop.registry.model("3")
        evidence = evidence_about(third, first)
        put(shop, 2)
        with pytest.raises(StaleChampion, match="compared with version 1, and version 2 serves now"):
            push(shop, third, first, evidence)
        with pytest.raises(StaleChampion, match="compared with no champion, and version 2 serves now"):
            push(shop, third, None, evidence_about(third, None))
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
                return push(mine, challenger, first, evidence_about(challenger, first)).champion.version
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


class TestAdoption:
    """An alias set by hand while the ledger is empty."""

    def test_it_is_the_champion_and_must_be_compared_with(self, shop: Shop) -> None:
        shop.registry.point("champion", "2")
        assert serving(shop.registry, shop.ledger) == shop.registry.model("2")
        challenger = shop.registry.model("1")
        with pytest.raises(StaleChampion, match="no champion, and version 2 serves now"):
            push(shop, challenger, None, evidence_about(challenger, None))

    def test_the_first_ledger_entry_adopts_it_and_one_can_go_back_to_it(self, shop: Shop) -> None:
        shop.registry.point("champion", "2")
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
    return shop.registry.model("1")


class TestReconcile:
    def test_aliases_moved_by_hand_are_moved_back(self, shop: Shop) -> None:
        put(shop, 1)
        put(shop, 2)
        shop.registry.point("champion", "3")
        shop.registry.point("previous", "4")
        assert serving(shop.registry, shop.ledger).version == "2", "the ledger is the truth, also before"
        assert reconcile(shop.registry, shop.ledger) == shop.ledger.head()
        assert shop.registry.aliases() == {"champion": "2", "previous": "1"}

    def test_an_empty_ledger_changes_nothing(self, shop: Shop) -> None:
        shop.registry.point("champion", "3")
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
                push(shop, challenger, champion, evidence)
        assert len(shop.ledger.entries()) == 2
        assert serving(shop.registry, shop.ledger).version == "2"
        done = push(shop, challenger, champion, evidence, minutes=5)
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


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Make one call of the registry fail as in an outage; ``point:x`` only for that alias."""
    name, _, alias = step.partition(":")
    original = getattr(MlflowRegistry, name)

    def fail(self: MlflowRegistry, *arguments: object, **named: object) -> object:
        if not alias or arguments[0] == alias:
            raise RegistryUnavailable("no answer")
        return original(self, *arguments, **named)

    monkeypatch.setattr(MlflowRegistry, name, fail)


class TestDecline:
    def test_it_is_recorded_with_who_and_why_and_the_champion_stays(self, shop: Shop) -> None:
        champion, challenger = put(shop, 1).champion, shop.registry.model("2")
        evidence = evidence_about(challenger, champion)
        approval = approval_of(evidence, approved=False).model_copy(update={"reason": "not on a Friday"})
        entry = decline(
            shop.registry, shop.ledger, challenger=challenger, evidence=evidence, approval=approval, now=NOW
        )
        assert (entry.operation, entry.before, entry.after, entry.subject) == (Operation.DECLINE, "1", "1", "2")
        assert (entry.actor, entry.reason, entry.evidence_digest) == ("ada", "not on a Friday", evidence.digest)
        assert shop.registry.aliases() == {"champion": "1"}
        assert shop.registry.tags(challenger)["decline_reason"] == "not on a Friday"

    def test_before_any_champion_it_leaves_none(self, shop: Shop) -> None:
        challenger = shop.registry.model("1")
        evidence = evidence_about(challenger, None)
        decline(
            shop.registry,
            shop.ledger,
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence, approved=False),
            now=NOW,
        )
        assert serving(shop.registry, shop.ledger) is None
        assert put(shop, 1).previous is None

    def test_a_promotion_at_the_same_moment_does_not_lose_it(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        put(shop, 1)
        challenger = shop.registry.model("3")
        evidence = evidence_about(challenger, shop.registry.model("1"))
        appends: list[str] = []
        append = shop.ledger.append

        def slow_append(draft: object, head: LedgerEntry | None) -> LedgerEntry:
            if not appends:
                appends.append("once")
                put(open_shop(shop.workspace), 2)
            return append(draft, head)

        monkeypatch.setattr(shop.ledger, "append", slow_append)
        entry = decline(
            shop.registry,
            shop.ledger,
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence),
            now=NOW,
        )
        assert (entry.number, entry.after) == (3, "2")


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
            put(shop, 2)
        with pytest.raises(RollbackError, match="itself taken out of service by grace"):
            back(shop, to="2")
        assert put(shop, 2, forced=True, reason="fixed the data").entry.forced is True
        assert quarantined(shop.ledger.entries()) == {}

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


class TestTasks:
    """The Prefect tasks, by their functions: the same effects behind settings."""

    def test_champion_promotion_decline_and_rollback_by_settings(self, shop: Shop) -> None:
        where = {"registry": RegistryKnobs(), "workspace": str(shop.workspace)}
        assert tasks.current_champion.fn(**where) is None
        assert tasks.champion_bundle(**where) is None
        first, second = tasks.registered_versions(**where)[:2]
        for challenger, champion in ((first, None), (second, first)):
            evidence = evidence_about(challenger, champion)
            tasks.record_evidence.fn(challenger=challenger, evidence=evidence, report=None, **where)
            assert tasks.read_evidence.fn(challenger, **where) == evidence
            tasks.apply_promotion.fn(
                challenger=challenger,
                compared_with=champion.version if champion else None,
                evidence=evidence,
                approval=approval_of(evidence),
                forced=False,
                reason="",
                now=NOW,
                **where,
            )
        assert tasks.current_champion.fn(**where) == second == tasks.find_model("champion", **where)
        assert tasks.champion_bundle(**where).digest == second.digest
        done = tasks.record_decline.fn(
            challenger=first, evidence=evidence, approval=approval_of(evidence, approved=False), now=NOW, **where
        )
        assert (done.status, done.champion, done.reason) == ("not_approved", second, "ada: the numbers are clear")
        rolled = tasks.apply_rollback.fn(to=None, reason="clicks fell", actor="grace", now=NOW, **where)
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


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.tasks.tiny_models import NOW, approval_of, evidence_about, open_shop, with_database
from tasks import promotion
from tasks.adapters.mlflow_ledger import MlflowLedger
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.serving_check import verify_bundle
from tasks.rollback import rollback

workspace, operation, fatal = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
promotion.verify_serving = verify_bundle
calls = 0

def dying(cls, name, after):
    original = getattr(cls, name)
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == fatal and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if calls == fatal and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(cls, name, call)

shop = open_shop(workspace)
for cls, name in ((MlflowRegistry, "point"), (MlflowRegistry, "annotate"), (MlflowLedger, "append")):
    dying(cls, name, after=sys.argv[4] == "after")
if operation == "promote":
    champion, challenger = shop.registry.model("1"), shop.registry.model("2")
    evidence = evidence_about(challenger, champion)
    promotion.promote(shop.registry, shop.ledger, challenger=challenger, compared_with="1", evidence=evidence,
                      approval=approval_of(evidence), forced=False, reason="", now=NOW)
else:
    rollback(shop.registry, shop.ledger, to=None, reason="clicks fell", actor="grace", now=NOW)
"""


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["promote", "rollback"])
@pytest.mark.parametrize("fatal", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_leaves_one_champion_and_an_intact_chain(
    shop: Shop, operation: str, fatal: int, when: str
) -> None:
    put(shop, 1)
    if operation == "rollback":
        put(shop, 2)
    before = len(shop.ledger.entries())
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(shop.workspace), operation, str(fatal), when],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (-9, 0), done.stderr
    after = open_shop(shop.workspace)
    assert after.ledger.verify() == ()
    head = reconcile(after.registry, after.ledger)
    written = len(after.ledger.entries()) > before
    expected = {("promote", True): "2", ("promote", False): "1", ("rollback", True): "1", ("rollback", False): "2"}
    assert head.after == expected[operation, written] == after.registry.champion().version
    assert serving(after.registry, after.ledger).version == head.after
