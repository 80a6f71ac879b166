"""Rollouts in the ledger: begun by an approval, moved by ticks, ended by a promotion, a rollback or a person."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ranking.approval import ApprovalRules
from ranking.decision import Decision
from ranking.errors import ApprovalReused, PromotionRefused, RollbackError, StaleChampion
from ranking.experiment_knobs import ExperimentKnobs
from ranking.health import HealthWindow, Sessions
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Approval, Evidence, ModelRef, Promotion
from ranking.rollout import Action, ReleasePlan, Rollout, RolloutStatus
from ranking.rollout_checks import StageEvidence
from ranking.strategies import AbTest, Canary, RampStage, Strategy
from tasks import promotion as promotions
from tasks import rollout_end, rollouts
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tasks.promotion import Proposal, promote, settle
from tasks.rollback import rollback
from tasks.rollout_entries import begun_with, history, running
from tasks.rollouts import Tick
from tasks.routing import current_routing
from tasks.succession import quarantined, serving_version
from tests.tasks.tiny_models import NOW, Shop, approval_of, evidence_about, open_shop, with_database

POLICY = "p" * 64
ANYBODY = ApprovalRules()

CANARY = Canary(
    ramp=(
        RampStage(name="10 %", share=0.1, min_hours=1, min_sessions=100),
        RampStage(name="100 %, bake", share=1.0, min_hours=1),
    )
)


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three versions, the first of them champion."""
    shop = open_shop(with_database(tmp_path_factory.mktemp("rollouts")))
    for seed in (1, 2, 3):
        shop.register(seed)
    first = evidence_about(shop.registry.model("1"), None)
    answer(shop, first, approval_of(first))
    return shop.workspace


@pytest.fixture
def shop(stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy of it.  The check in a clean process takes seconds and has tests of its own."""
    monkeypatch.setattr(promotions, "verify_serving", verify_bundle)
    monkeypatch.setattr(rollout_end, "verify_serving", verify_bundle)
    shutil.copy(stocked / "mlflow.db", tmp_path / "mlflow.db")
    return open_shop(tmp_path)


def planned(
    shop: Shop, version: str, strategy: Strategy, decision: Decision = Decision.PROMOTE
) -> tuple[ModelRef, Evidence]:
    """A challenger and its evidence against the champion, recorded with the plan in it."""
    challenger = shop.registry.model(version)
    known = evidence_about(challenger, serving(shop.registry, shop.ledger), decision)
    evidence = known.model_copy(update={"plan": ReleasePlan(strategy=strategy).kept})
    shop.registry.record(challenger, evidence)
    return challenger, evidence


def answer(shop: Shop, evidence: Evidence, approval: Approval, now: datetime = NOW) -> Promotion:
    """Settle an approval; what forbids it is raised."""
    return promote(
        shop.registry,
        shop.ledger,
        Proposal(
            challenger=evidence.comparison.challenger,
            evidence=evidence,
            approval=approval,
            rules=ANYBODY,
            policy_digest=POLICY,
            now=now,
        ),
    )


def begun(shop: Shop, version: str = "2", strategy: Strategy = CANARY) -> Rollout:
    """A rollout that was approved just now."""
    _, evidence = planned(shop, version, strategy)
    done = answer(shop, evidence, approval_of(evidence))
    assert done.status == "rolling_out"
    found = running(shop.ledger.entries())
    assert found is not None
    return found


def healthy(rollout: Rollout, now: datetime, *, bad: int = 0) -> StageEvidence:
    """Windows of a stage in which many came, and ``bad`` of 1,000 canary sessions per window were bad."""
    minutes = timedelta(minutes=rollout.knobs.window_minutes)
    number = int((now - rollout.entered) / minutes)
    paired = getattr(rollout.current, "share", 0) < 1
    windows = tuple(
        HealthWindow(
            start=rollout.entered + place * minutes,
            end=rollout.entered + (place + 1) * minutes,
            canary=Sessions(total=1000, bad=bad),
            control=Sessions(total=1000, bad=0) if paired else None,
        )
        for place in range(number)
    )
    users = 1000 if paired else None
    return StageEvidence(stage=rollout.stage, windows=windows, canary_users=users, control_users=users)


def tick(shop: Shop, now: datetime, **options: int) -> Tick:
    """One tick with healthy evidence, or with bad sessions."""
    done = rollouts.advance(
        shop.registry,
        shop.ledger,
        gather=lambda rollout: healthy(rollout, now, **options),
        actor="tick",
        now=now,
    )
    assert done is not None
    return done


def finish(shop: Shop, now: datetime) -> Promotion | Evidence | None:
    """What a completed rollout asks for."""
    return rollout_end.finish(shop.registry, shop.ledger, policy_digest=POLICY, actor="tick", now=now)


def test_an_approved_canary_changes_nobodys_champion_and_routes_its_users(shop: Shop) -> None:
    rollout = begun(shop)
    assert serving_version(shop.ledger.entries()) == "1"
    head = shop.ledger.entries()[-1]
    assert head.operation is Operation.ROLLOUT
    assert head.reason == (
        "Canary: 10% of the users for at least 1 hours, then 100% of the users for at least 1 hours. "
        "the numbers are clear"
    )
    routing = current_routing(shop.registry, shop.ledger)
    assert routing is not None
    assert [(arm.name, arm.version, arm.share) for arm in routing.table.arms] == [
        ("treatment", "2", 0.1),
        ("control", "1", 0.1),
    ]
    assert routing.ref("2").digest == rollout_digest(shop, "2")
    assert rollout.id == f"feed_ranker-v2-{head.number}"
    assert shop.registry.tags(shop.registry.model("2"))["rollout_stage"] == "10 %"


def rollout_digest(shop: Shop, version: str) -> str:
    return shop.registry.model(version).digest


def test_repeating_the_approval_begins_nothing_twice_and_promotes_nothing(shop: Shop) -> None:
    _, evidence = planned(shop, "2", CANARY)
    approval = approval_of(evidence)
    first = answer(shop, evidence, approval)
    again = answer(shop, evidence, approval)
    assert again.entry == first.entry
    tick(shop, NOW + timedelta(hours=2))
    assert answer(shop, evidence, approval).entry == first.entry
    # An immediate promotion of the same evidence cannot use the approval up once more.
    entry = begun_with(shop.ledger.entries(), approval.digest)
    assert entry == first.entry


def test_a_canary_goes_up_stage_by_stage_and_its_challenger_becomes_champion(shop: Shop) -> None:
    begun(shop)
    early = tick(shop, NOW + timedelta(minutes=30))
    assert early.entry is None
    assert early.step is not None
    assert early.step.reason == "Stage '10 %' is held: 0.5 of 1 hours in stage '10 %'."
    up = tick(shop, NOW + timedelta(hours=1))
    assert up.rollout.stage == 1
    routing = current_routing(shop.registry, shop.ledger)
    assert routing is not None
    assert routing.table.share_of("treatment") == 1.0
    assert finish(shop, NOW + timedelta(hours=1)) is None
    done = tick(shop, NOW + timedelta(hours=2))
    assert done.rollout.status is RolloutStatus.COMPLETED
    assert serving_version(shop.ledger.entries()) == "1"
    promoted = finish(shop, NOW + timedelta(hours=2))
    assert isinstance(promoted, Promotion)
    assert promoted.status == "promoted"
    last = shop.ledger.entries()[-1]
    assert (last.operation, last.after, last.actor) == (Operation.PROMOTE, "2", "ada")
    assert last.approval_digest == history(shop.ledger.entries(), done.rollout)[0].approval_digest
    assert running(shop.ledger.entries()) is None
    after = current_routing(shop.registry, shop.ledger)
    assert after is not None
    assert (after.table.champion, after.table.arms) == ("2", ())


def test_a_tick_that_was_killed_after_its_entry_goes_on_from_there(shop: Shop) -> None:
    begun(shop)
    tick(shop, NOW + timedelta(hours=1))
    tick(shop, NOW + timedelta(hours=2))
    # Killed between the last step and the promotion: the next tick makes no step, and the promotion follows.
    again = tick(shop, NOW + timedelta(hours=3))
    assert again.step is None
    assert isinstance(finish(shop, NOW + timedelta(hours=3)), Promotion)
    assert finish(shop, NOW + timedelta(hours=3)) is None
    assert [entry.operation for entry in shop.ledger.entries()][-2:] == [Operation.ROLLOUT, Operation.PROMOTE]


def test_harm_rolls_back_quarantines_and_the_challenger_cannot_come_back(shop: Shop) -> None:
    begun(shop)
    harmed = tick(shop, NOW + timedelta(minutes=45), bad=200)
    assert harmed.step is not None
    assert harmed.step.action is Action.ROLL_BACK
    assert "600 of 3,000 canary sessions were bad" in harmed.step.reason
    entries = shop.ledger.entries()
    assert quarantined(entries)["2"].reason.startswith("ROLL_BACK: Rolled back in stage '10 %'.")
    routing = current_routing(shop.registry, shop.ledger)
    assert routing is not None
    assert routing.table.arms == ()
    _, evidence = planned(shop, "2", CANARY)
    # The approval was used up by the rollout, and a new one meets the quarantine.
    with pytest.raises(ApprovalReused):
        promotions.require_valid(approval_of(evidence), evidence, ANYBODY, entries, NOW)
    later = approval_of(evidence).model_copy(update={"at": NOW + timedelta(days=1)})
    with pytest.raises(PromotionRefused, match="it was taken out of service by tick"):
        answer(shop, evidence, later)


def test_silent_metrics_roll_back_and_blame_nobody(shop: Shop) -> None:
    begun(shop)
    now = NOW + timedelta(minutes=40)
    done = rollouts.advance(
        shop.registry, shop.ledger, gather=lambda rollout: StageEvidence(stage=rollout.stage), actor="tick", now=now
    )
    assert done is not None
    assert done.step is not None
    assert done.step.action is Action.ROLL_BACK
    assert "minutes of silence roll back" in done.step.reason
    assert quarantined(shop.ledger.entries()) == {}


def test_one_rollout_at_a_time(shop: Shop) -> None:
    begun(shop, "2")
    _, evidence = planned(shop, "3", CANARY)
    with pytest.raises(PromotionRefused, match="Version 2 is on its way to its users"):
        answer(shop, evidence, approval_of(evidence))


def test_of_two_that_begin_at_once_one_is_told_that_it_was_second(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    _, evidence = planned(shop, "3", CANARY)
    own = shop.ledger.entries

    def nobody_yet(entries: object) -> None:
        """What both saw before either had written."""
        monkeypatch.undo()
        monkeypatch.setattr(promotions, "verify_serving", verify_bundle)
        begun(shop, "2")

    monkeypatch.setattr(rollouts, "running", nobody_yet)
    with pytest.raises(StaleChampion):
        answer(shop, evidence, approval_of(evidence))
    assert [entry.subject for entry in own() if entry.rollout is not None] == ["2"]


def test_who_stops_a_rollout_is_not_turned_away_by_a_tick(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(shop)
    real, ticked = rollouts.running, []

    def seen_before_the_tick(entries: tuple[LedgerEntry, ...]) -> Rollout | None:
        found = real(entries)
        if not ticked:
            ticked.append(True)
            tick(shop, NOW + timedelta(hours=1))
        return found

    monkeypatch.setattr(rollouts, "running", seen_before_the_tick)
    ended = rollouts.steer(shop.registry, shop.ledger, verb="abort", actor="eve", reason="stop it", now=NOW)
    assert (ended.rollout.status, ended.rollout.stage) == (RolloutStatus.ABORTED, 1)


def test_of_many_ticks_at_once_one_moves_the_rollout(shop: Shop) -> None:
    begun(shop)
    now = NOW + timedelta(hours=1)
    rollout = running(shop.ledger.entries())
    assert rollout is not None
    seen = healthy(rollout, now)

    def once(number: int) -> str:
        actor = f"tick {number}"
        try:
            done = rollouts.advance(shop.registry, shop.ledger, gather=lambda _: seen, actor=actor, now=now)
        except StaleChampion:
            return "lost"
        return "moved" if done is not None and done.entry is not None else "held"

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(once, range(6)))
    assert results.count("moved") == 1
    found = running(shop.ledger.entries())
    assert found is not None
    assert found.stage == 1


def test_a_person_pauses_resumes_and_aborts_with_a_reason(shop: Shop) -> None:
    begun(shop)

    def steer(verb: rollouts.Verb, reason: str) -> Tick:
        return rollouts.steer(shop.registry, shop.ledger, verb=verb, actor="eve", reason=reason, now=NOW)

    with pytest.raises(PromotionRefused, match="To pause a rollout, give a reason"):
        steer("pause", " ")
    paused = steer("pause", "on-call change")
    assert paused.rollout.status is RolloutStatus.PAUSED
    held = tick(shop, NOW + timedelta(hours=1))
    assert held.rollout.stage == 0
    assert held.step is not None
    assert held.step.reason.startswith("Paused by hand: on-call change Otherwise: Every check of stage '10 %' is ok.")
    assert steer("resume", "all quiet").rollout.status is RolloutStatus.RUNNING
    ended = steer("abort", "not today")
    assert ended.entry is not None
    assert (ended.entry.actor, ended.entry.reason) == ("eve", "abort: not today")
    with pytest.raises(PromotionRefused, match="No rollout is on its way"):
        steer("pause", "again")
    assert quarantined(shop.ledger.entries()) == {}


def test_a_rollback_without_a_target_is_not_mistaken_for_an_abort(shop: Shop) -> None:
    begun(shop)
    with pytest.raises(RollbackError, match="feedloop rollout abort"):
        rollback(shop.registry, shop.ledger, to=None, reason="canary is bad", actor="eve", now=NOW, request="one")


def test_a_changed_champion_ends_the_rollout(shop: Shop) -> None:
    begun(shop, "2")
    _, evidence = planned(shop, "3", CANARY)
    at_once = evidence.model_copy(update={"plan": {}})
    assert answer(shop, at_once, approval_of(at_once)).status == "promoted"
    assert running(shop.ledger.entries()) is None
    routing = current_routing(shop.registry, shop.ledger)
    assert routing is not None
    assert (routing.table.champion, routing.table.arms) == ("3", ())


def test_a_challenger_that_cannot_be_promoted_at_the_end_is_withdrawn(shop: Shop) -> None:
    begun(shop)
    tick(shop, NOW + timedelta(hours=1))
    tick(shop, NOW + timedelta(hours=2))
    refused = rollout_end.finish(
        shop.registry, shop.ledger, policy_digest="another", actor="tick", now=NOW + timedelta(hours=2)
    )
    assert isinstance(refused, Promotion)
    assert refused.status == "refused"
    assert "compare it again" in refused.reason
    assert running(shop.ledger.entries()) is None
    assert serving_version(shop.ledger.entries()) == "1"
    routing = current_routing(shop.registry, shop.ledger)
    assert routing is not None
    assert routing.table.arms == ()


QUICK_TEST = AbTest(first=None, experiment=ExperimentKnobs(weeks=1, min_users_per_arm=100))


def won(shop: Shop) -> Evidence:
    """An undecided challenger that has won its A/B test."""
    _, evidence = planned(shop, "2", QUICK_TEST, Decision.A_B_TEST)
    assert answer(shop, evidence, approval_of(evidence)).status == "rolling_out"
    rollout = running(shop.ledger.entries())
    assert rollout is not None
    done = rollout.model_copy(update={"status": RolloutStatus.COMPLETED, "history": ()})
    entries = shop.ledger.entries()
    draft = rollouts.Draft(
        operation=Operation.ROLLOUT,
        before="1",
        after="1",
        subject="2",
        digest=entries[-1].digest,
        evidence_digest=evidence.digest,
        forced=False,
        actor="tick",
        reason="COMPLETE: B is proven better.",
        at=NOW + timedelta(days=7),
        rollout=done.model_dump(mode="json"),
    )
    shop.ledger.append(draft, entries[-1])
    told = finish(shop, NOW + timedelta(days=7))
    assert isinstance(told, Evidence)
    return told


def test_an_undecided_verdict_may_be_tested_but_not_promoted(shop: Shop) -> None:
    _, evidence = planned(shop, "2", CANARY, Decision.A_B_TEST)
    with pytest.raises(PromotionRefused, match="the verdict is A_B_TEST"):
        answer(shop, evidence, approval_of(evidence))


def test_the_winner_of_an_ab_test_is_asked_about_and_then_promoted(shop: Shop) -> None:
    told = won(shop)
    assert told.trial is not None
    assert told.trial.reason == "B is proven better."
    assert serving_version(shop.ledger.entries()) == "1"
    # Ticks come by until somebody has answered, and record nothing more.
    assert finish(shop, NOW + timedelta(days=8)) == told
    assert shop.registry.evidence(shop.registry.model("2")) == told
    promoted = answer(shop, told, approval_of(told), NOW + timedelta(days=8))
    assert promoted.status == "promoted"
    assert finish(shop, NOW + timedelta(days=9)) is None


def test_a_winner_that_somebody_declines_is_withdrawn(shop: Shop) -> None:
    told = won(shop)
    settle(
        shop.registry,
        shop.ledger,
        Proposal(
            challenger=told.comparison.challenger,
            evidence=told,
            approval=approval_of(told, approved=False),
            rules=ANYBODY,
            policy_digest=POLICY,
            now=NOW + timedelta(days=8),
        ),
    )
    refused = finish(shop, NOW + timedelta(days=9))
    assert isinstance(refused, Promotion)
    assert "declined" in refused.reason or "decline by ada" in refused.reason
    assert running(shop.ledger.entries()) is None


def test_a_trial_that_the_ledger_does_not_know_counts_for_nothing(shop: Shop) -> None:
    told = won(shop)
    assert told.trial is not None
    forged = told.model_copy(update={"trial": told.trial.model_copy(update={"rollout": "feed_ranker-v2-99"})})
    with pytest.raises(PromotionRefused, match="the verdict is A_B_TEST"):
        answer(shop, forged, approval_of(forged), NOW + timedelta(days=8))
