"""Promotion, decline, rollback and reconciliation over a real embedded MLflow."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.approval import ApprovalRules
from ranking.decision import Decision
from ranking.errors import (
    BundleError,
    FeedloopError,
    PromotionRefused,
    RegistryUnavailable,
    RollbackError,
    StaleChampion,
    TamperedBundle,
    UnknownModel,
    WrongEvidence,
)
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Evidence, ModelRef, Promotion, Rollback
from settings.effects import RegistryKnobs
from tasks import promotion as promotions
from tasks import registry as tasks
from tasks import service
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.serving_check import verify_bundle, verify_serving
from tasks.champion import reconcile, serving
from tasks.promotion import Proposal, promote, settle
from tasks.rollback import rollback
from tasks.succession import back_to, quarantined, served, serving_version
from tests.tasks.mlflow_server import mlflow_server
from tests.tasks.tiny_models import (
    NAME,
    NOW,
    Shop,
    approval_of,
    evidence_about,
    open_shop,
    sample_rows,
    tiny_bundle,
    with_database,
)

ANYBODY = ApprovalRules()
RULES = ApprovalRules(approvers=("ada", "Bob"), requester_may_approve=False)
POLICY = "p" * 64


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
        shop, challenger, evidence_about(challenger, champion, decision), forced=forced, reason=reason,
        minutes=minutes,
    )  # fmt: skip


def push(
    shop: Shop,
    challenger: ModelRef,
    evidence: Evidence,
    *,
    forced: bool = False,
    reason: str = "",
    minutes: int = 0,
) -> Promotion:
    return promote(
        shop.registry,
        shop.ledger,
        Proposal(
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence).model_copy(update={"at": NOW + timedelta(minutes=minutes)}),
            rules=ANYBODY,
            policy_digest=POLICY,
            forced=forced,
            reason=reason,
            now=NOW + timedelta(minutes=minutes),
        ),
    )


def back(shop: Shop, to: str | None = None, *, forced: bool = False, reason: str = "clicks fell") -> Rollback:
    request = str(uuid.uuid4())
    return rollback(
        shop.registry, shop.ledger, to=to, reason=reason, actor="grace", now=NOW, request=request, forced=forced
    )


def crown(shop: Shop, version: str) -> None:
    """Give a version the alias ``champion`` by hand, past the ledger."""
    shop.registry.release(shop.registry.model(version))
    shop.registry.point("champion", version)


def package_folder(shop: Shop, version: str) -> Path:
    """Where the bytes of a version lie: those of its released copy, if there is one."""
    from mlflow import MlflowClient

    _, name, number = shop.registry.address(shop.registry.model(version)).replace("models:/", "/").split("/")
    return Path(MlflowClient(shop.registry.tracking_uri).get_model_version_download_uri(name, number))


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


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Make one call of the registry fail as in an outage; ``point:x`` only for that alias."""
    name, _, alias = step.partition(":")
    original = getattr(MlflowRegistry, name)

    def fail(self: MlflowRegistry, *arguments: object, **named: object) -> object:
        if not alias or arguments[0] == alias:
            raise RegistryUnavailable("no answer")
        return original(self, *arguments, **named)

    monkeypatch.setattr(MlflowRegistry, name, fail)


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


class TestRelease:
    def test_what_serves_is_a_copy_that_the_trainer_cannot_reach(self, shop: Shop) -> None:
        done = put(shop, 1)
        assert shop.registry.address(done.champion) == f"models:/{NAME}/1"
        with challengers_copy_spoiled(shop, "1"):
            verify_serving(shop.registry, shop.registry.model("champion"))
        assert done.entry.release_digest == done.champion.package_digest

    def test_plain_mlflow_loads_it_by_alias_and_answers_as_in_training(self, shop: Shop) -> None:
        import mlflow.pyfunc
        from mlflow import MlflowClient

        put(shop, 1)
        put(shop, 2)
        back(shop)
        source = MlflowClient(shop.registry.tracking_uri).get_model_version_by_alias(NAME, "champion").source
        scores = mlflow.pyfunc.load_model(source).predict(sample_rows()[["user_id", "item_id", "age", "device"]])
        assert abs(scores - tiny_bundle(1).score(sample_rows())).max() <= 1e-6

    def test_releasing_twice_copies_once(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        ref = shop.registry.model("1")
        assert shop.registry.release(ref) == shop.registry.release(ref) == ref.package_digest
        versions = MlflowClient(shop.registry.tracking_uri).search_model_versions(f"name = '{NAME}'")
        assert [str(version.version) for version in versions] == ["1"]

    def test_code_and_its_digest_changed_together_do_not_pass(self, shop: Shop) -> None:
        """The trainer owns the version's tags; the evidence remembers what was compared."""
        challenger = shop.registry.model("1")
        evidence = evidence_about(challenger, None)
        shop.registry.annotate(challenger, {"package_digest": "0" * 64})
        with pytest.raises(PromotionRefused, match="evidence is about version 1"):
            push(shop, shop.registry.model("1"), evidence)

    def test_a_released_copy_that_was_deleted_is_made_again_from_the_challenger(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        put(shop, 1)
        put(shop, 2)
        MlflowClient(shop.registry.tracking_uri).delete_model_version(NAME, "1")
        assert back(shop).champion.version == "1"
        assert shop.registry.champion().version == "1"

    def test_a_champion_whose_copies_are_all_gone_does_not_keep_one_from_going_back(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        put(shop, 1)
        champion = put(shop, 2).champion
        client = MlflowClient(shop.registry.tracking_uri)
        client.delete_model_version(NAME, "2")
        with challengers_copy_spoiled(shop, champion.version):
            assert back(shop).champion.version == "1"


@contextmanager
def challengers_copy_spoiled(shop: Shop, version: str) -> Iterator[None]:
    """Overwrite what the trainer registered, and not the released copy."""
    from mlflow import MlflowClient

    client = MlflowClient(shop.registry.tracking_uri)
    folder = Path(client.get_model_version_download_uri(f"{NAME}-challengers", version))
    (path,) = folder.rglob("model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"???")
    try:
        yield
    finally:
        path.write_bytes(content)


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
