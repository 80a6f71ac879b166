"""Rollouts: at most one step per tick, and anything missing, late, broken or undecided keeps the champion."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ranking.assignment import CONTROL, REST, TREATMENT, assign_many
from ranking.errors import ComparisonError, PromotionRefused
from ranking.experiment_knobs import ExperimentKnobs
from ranking.health import HealthKnobs, HealthWindow, Sessions
from ranking.interleaving import preference
from ranking.measurements import Estimate
from ranking.ratios import RatioSums
from ranking.rollout import Action, Rollout, RolloutKnobs, RolloutStatus, Step, routing
from ranking.rollout_changes import abort, apply, begin, pause, resume
from ranking.rollout_checks import StageEvidence
from ranking.shadow import FeatureCoverage, ShadowComparison, ShadowSums
from ranking.steps import next_step
from ranking.strategies import STRATEGIES, AbTest, Canary, Immediate, InterleavingStage, RampStage, Shadow, Strategy
from tests.ranking.simulated_traffic import MONDAY, TestDays

HOUR = timedelta(hours=1)
WINDOW = timedelta(minutes=15)


def start(strategy: Strategy | None = None, **knobs: object) -> Rollout:
    return begin(
        "r1",
        strategy or Canary(),
        champion="1",
        challenger="2",
        actor="ann",
        reason="AUC rose",
        now=MONDAY,
        knobs=RolloutKnobs(**knobs),
    )


def at_stage(number: int) -> Rollout:
    return start().model_copy(update={"stage": number})


def windows(
    hours: float, *, canary: tuple[int, int] | None = (400, 2), control: tuple[int, int] | None = (400, 2)
) -> tuple[HealthWindow, ...]:
    """Windows of 15 minutes from the start; (sessions, bad) in each."""
    arms = [None if arm is None else Sessions(total=arm[0], bad=arm[1]) for arm in (canary, control)]
    return tuple(
        HealthWindow(start=MONDAY + n * WINDOW, end=MONDAY + (n + 1) * WINDOW, canary=arms[0], control=arms[1])
        for n in range(int(hours * 4))
    )


def clicks(lift: float = 0.0, users: int = 60_000, seed: int = 1) -> RatioSums:
    rng = np.random.default_rng(seed)
    shown = 1 + rng.poisson(15, users)
    return RatioSums.of(rng.binomial(shown, rng.beta(2, 18, users) * (1 + lift)), shown)


EQUAL = {
    "control_clicks": clicks(seed=1),
    "canary_clicks": clicks(seed=2),
    "control_users": 5_000,
    "canary_users": 5_020,
}


def evidence(hours: float = 2.0, stage: int = 0, **changes: object) -> StageEvidence:
    return StageEvidence(**{"stage": stage, "windows": windows(hours), **EQUAL, **changes})


def tick(rollout: Rollout, seen: StageEvidence, after: timedelta) -> Step:
    return next_step(rollout, seen, MONDAY + after)


def test_a_healthy_canary_advances_one_stage_and_says_where_to():
    step = tick(start(), evidence(2), 2 * HOUR)
    assert (step.action, step.quarantine) == (Action.ADVANCE, False)
    assert step.reason == "Every check of stage '1 %' is ok. On to stage '10 %'."
    after = apply(start(), step, actor="tick")
    assert (after.stage, after.status, after.entered) == (1, RolloutStatus.RUNNING, MONDAY + 2 * HOUR)
    assert after.history[-1].actor == "tick"


def test_the_default_ramp_is_1_10_50_100_percent():
    assert [stage.share for stage in Canary().stages()] == [0.01, 0.1, 0.5, 1.0]
    assert [stage.min_hours for stage in Canary().stages()] == [2, 4, 24, 24]
    assert [stage.min_sessions for stage in Canary().stages()][:2] == [3_000, 30_000]


def test_the_last_stage_completes_after_its_bake_and_not_before():
    bake = at_stage(3)
    seen = evidence(23, stage=3, windows=windows(23, control=None))
    early = tick(bake, seen, 23 * HOUR)
    assert (early.action, early.missing) == (Action.HOLD, ("23.0 of 24 hours in stage '100 %, bake'.",))
    done = tick(bake, evidence(24, stage=3, windows=windows(24, control=None)), 24 * HOUR)
    assert done.action is Action.COMPLETE
    assert "The challenger may be promoted." in done.reason
    assert apply(bake, done, actor="tick").status is RolloutStatus.COMPLETED


@pytest.mark.parametrize("hours", [2, 100, 24 * 365])
def test_zero_traffic_never_advances(hours):
    nobody, now = Sessions(total=0, bad=0), MONDAY + hours * HOUR
    last = HealthWindow(start=now - WINDOW, end=now, canary=nobody, control=nobody)
    seen = StageEvidence(stage=0, windows=(last,), control_users=0, canary_users=0)
    step = tick(start(), seen, hours * HOUR)
    assert step.action is Action.HOLD
    assert "0 of 3,000 sessions in the smaller arm." in step.missing


def test_little_traffic_in_the_control_alone_holds_too():
    step = tick(start(), evidence(windows=windows(2, control=(100, 0))), 2 * HOUR)
    assert step.action is Action.HOLD
    assert "800 of 3,000 sessions in the smaller arm." in step.missing


def test_too_short_a_stage_holds():
    step = tick(start(), evidence(1, windows=windows(1.75, canary=(900, 4), control=(900, 4))), 1.75 * HOUR)
    assert (step.action, step.missing) == (Action.HOLD, ("1.8 of 2 hours in stage '1 %'.",))


def test_missing_metrics_hold_for_one_window_and_roll_back_after_two_without_blaming_the_model():
    seen = evidence(1)
    assert tick(start(), seen, HOUR + timedelta(minutes=30)).action is Action.HOLD
    step = tick(start(), seen, HOUR + timedelta(minutes=36))
    assert (step.action, step.quarantine) == (Action.ROLL_BACK, False)
    assert "36 minutes ago; 35 minutes of silence roll back." in step.reason


def test_windows_that_say_nothing_are_missing_not_zero():
    silent = windows(1) + tuple(
        HealthWindow(start=MONDAY + HOUR + n * WINDOW, end=MONDAY + HOUR + (n + 1) * WINDOW, canary=None, control=None)
        for n in range(3)
    )
    assert tick(start(), evidence(windows=silent), HOUR + 3 * WINDOW).action is Action.ROLL_BACK


def test_a_rollout_that_never_had_metrics_is_rolled_back():
    nothing = StageEvidence(stage=0)
    assert tick(start(), nothing, 0.5 * HOUR).action is Action.HOLD
    assert tick(start(), nothing, HOUR).action is Action.ROLL_BACK


def test_five_times_the_bad_sessions_roll_back_and_quarantine():
    step = tick(start(), evidence(windows=windows(1, canary=(400, 10))), HOUR)
    assert (step.action, step.quarantine) == (Action.ROLL_BACK, True)
    assert (
        "40 of 1,600 canary sessions were bad, and 8 of 1,600 of the control's: proven more than 1.25 times"
        in step.reason
    )
    after = apply(start(), step, actor="tick")
    assert (after.status, after.quarantined) == (RolloutStatus.ROLLED_BACK, True)


def test_an_outage_of_the_whole_site_is_not_blamed_on_the_canary():
    both = windows(2, canary=(400, 300), control=(400, 300))
    step = tick(start(), evidence(windows=both), 2 * HOUR)
    assert step.action is not Action.ROLL_BACK


def test_the_breaker_opens_at_once():
    step = tick(start(), evidence(windows=windows(0.25, canary=(60, 20), control=(60, 0))), 0.25 * HOUR)
    assert step.action is Action.ROLL_BACK
    assert step.reason == (
        "Rolled back in stage '1 %'. 20 of 60 canary sessions were bad (33.33%; 0.00% in the control); the breaker "
        "opens at 20 and 5.0%."
    )


@pytest.mark.parametrize(("canary", "control"), [((60, 19), (60, 0)), ((1_000, 50), (1_000, 0)), ((100, 40), (100, 9))])
def test_the_breaker_needs_all_three_of_its_limits(canary, control):
    step = tick(start(), evidence(windows=windows(0.25, canary=canary, control=control)), 0.25 * HOUR)
    assert next(finding for finding in step.findings if finding.rule == "breaker").status == "ok"


def test_the_bake_is_held_against_the_control_of_the_stage_before():
    before = at_stage(2)
    halves = evidence(stage=2, windows=windows(24, canary=(400, 8), control=(400, 8)))
    bake = apply(before, tick(before, halves, 24 * HOUR), actor="tick")
    assert bake.control_bad_share == pytest.approx(0.02)

    def judged(bad: int) -> Step:
        window = HealthWindow(
            start=bake.entered, end=bake.entered + WINDOW, canary=Sessions(total=1_000, bad=bad), control=None
        )
        return next_step(bake, StageEvidence(stage=3, windows=(window,)), bake.entered + WINDOW)

    assert judged(99).action is Action.HOLD
    assert judged(101).action is Action.ROLL_BACK
    assert "2.00% in the control" in judged(101).reason


def test_a_proven_drop_of_the_click_rate_rolls_back():
    step = tick(at_stage(1), evidence(1, stage=1, canary_clicks=clicks(-0.10)), HOUR)
    assert (step.action, step.quarantine) == (Action.ROLL_BACK, True)
    assert "Click-through rate changed by -9.99%" in step.reason
    assert "against the concurrent control" in step.reason


def test_a_stage_that_could_not_have_seen_the_harm_holds():
    few = {"control_clicks": clicks(users=500, seed=1), "canary_clicks": clicks(users=500, seed=2)}
    seen = evidence(4, stage=1, windows=windows(4, canary=(3_000, 15), control=(3_000, 15)), **few)
    step = tick(at_stage(1), seen, 4 * HOUR)
    assert step.action is Action.HOLD
    assert "of what shows a drop of 10%" in step.missing[0]


def test_a_stage_without_a_demand_is_left_with_few_users_but_not_with_a_proven_drop():
    small = Canary(ramp=(RampStage(name="half", share=0.5, min_sessions=1_000),))
    few = {"control_clicks": clicks(users=500, seed=1), "canary_clicks": clicks(users=500, seed=2)}
    assert tick(start(small), evidence(**few), 2 * HOUR).action is Action.COMPLETE
    assert tick(start(small), evidence(canary_clicks=None), 2 * HOUR).action is Action.COMPLETE
    assert tick(start(small), evidence(canary_clicks=clicks(-0.10)), 2 * HOUR).action is Action.ROLL_BACK


def test_labels_that_are_not_final_yet_hold():
    step = tick(start(), evidence(canary_clicks=None), 2 * HOUR)
    assert (step.action, step.missing) == (
        Action.HOLD,
        ("Click-through rate could not be compared: no final labels yet.",),
    )


def test_an_uneven_split_is_invalid_and_blames_nobody():
    step = tick(start(), evidence(control_users=5_000, canary_users=4_400), 2 * HOUR)
    assert (step.action, step.quarantine) == (Action.INVALID, False)
    assert "4,400 users in the canary and 5,000 in its control cannot be an even split." in step.reason
    assert apply(start(), step, actor="tick").status is RolloutStatus.INVALID


def test_bad_sessions_are_acted_on_although_the_split_is_uneven():
    broken = evidence(windows=windows(1, canary=(400, 40)), control_users=5_000, canary_users=100)
    assert tick(start(), broken, HOUR).action is Action.ROLL_BACK


def test_stages_are_never_pooled():
    step = tick(at_stage(1), evidence(2, stage=0), 4 * HOUR)
    assert (step.action, "stages are never pooled" in step.reason) == (Action.HOLD, True)
    moved = at_stage(1).model_copy(update={"entered": MONDAY + HOUR})
    with pytest.raises(ComparisonError, match="4 windows start before the stage was entered"):
        next_step(moved, evidence(2, stage=1), MONDAY + 2 * HOUR)


def test_windows_from_the_future_and_a_clock_that_runs_backwards_are_not_believed():
    with pytest.raises(ComparisonError, match="4 end after 2026-01-05 01:00 UTC"):
        tick(start(), evidence(2), HOUR)
    assert "check the clock" in next_step(start(), StageEvidence(stage=0), MONDAY - HOUR).reason


def test_a_paused_rollout_never_advances_but_still_rolls_back():
    paused = pause(start(), actor="bob", reason="Big event tonight.", now=MONDAY + HOUR)
    step = tick(paused, evidence(2), 2 * HOUR)
    assert step.action is Action.HOLD
    assert step.reason.startswith("Paused by hand: Big event tonight.")
    assert tick(paused, evidence(windows=windows(1, canary=(400, 20))), HOUR).action is Action.ROLL_BACK
    assert (
        tick(resume(paused, actor="bob", reason="over", now=MONDAY + HOUR), evidence(2), 2 * HOUR).action
        is Action.ADVANCE
    )


def test_a_pause_between_decision_and_step_wins():
    step = tick(start(), evidence(2), 2 * HOUR)
    paused = pause(start(), actor="bob", reason="wait", now=MONDAY + 2 * HOUR)
    with pytest.raises(PromotionRefused, match="rollout r1 is paused in stage 0"):
        apply(paused, step, actor="tick")


def test_a_step_is_made_once():
    step = tick(start(), evidence(2), 2 * HOUR)
    once = apply(start(), step, actor="tick")
    with pytest.raises(PromotionRefused, match="decided in stage 0 cannot be made: rollout r1 is running in stage 1"):
        apply(once, step, actor="tick")


def test_an_aborted_rollout_gives_all_users_back_and_nothing_follows():
    ended = abort(start(), actor="bob", reason="changed our minds", now=MONDAY + HOUR)
    assert (ended.status, ended.quarantined, ended.history[-1].reason) == ("aborted", False, "changed our minds")
    assert routing(ended).arms == ()
    assert "is aborted; nothing follows" in tick(ended, evidence(2), 2 * HOUR).reason
    for verb in (pause, resume, abort):
        with pytest.raises(PromotionRefused, match="is aborted, so it cannot"):
            verb(ended, actor="bob", reason="x", now=MONDAY)


def test_only_a_paused_rollout_resumes():
    with pytest.raises(PromotionRefused, match="cannot resume; it would have to be paused"):
        resume(start(), actor="bob", reason="x", now=MONDAY)


def test_the_routing_follows_the_stage_and_nobody_leaves_the_challenger():
    users = np.arange(50_000)
    shares, before = [], None
    for number in range(4):
        table = routing(at_stage(number))
        found = assign_many(table, users)
        treated = found.codes == found.arms.index(TREATMENT)
        shares.append(treated.mean())
        if before is not None:
            assert treated[before].all()
        before = treated
    assert shares == pytest.approx([0.01, 0.1, 0.5, 1.0], abs=0.005)
    assert [arm.name for arm in routing(at_stage(0)).arms] == [TREATMENT, CONTROL]
    assert routing(at_stage(0)).share_of(REST) == pytest.approx(0.98)


def test_every_end_gives_all_users_to_the_champion_but_a_completed_bake():
    for status in RolloutStatus:
        for number in range(4):
            ended = at_stage(number).model_copy(update={"status": status})
            keeps = status in {RolloutStatus.RUNNING, RolloutStatus.PAUSED} or (
                status is RolloutStatus.COMPLETED and number == 3
            )
            assert bool(routing(ended).arms) is keeps, (status, number)
            assert routing(ended).champion == "1"


def test_immediate_completes_on_the_first_tick_and_serves_nobody_before():
    rollout = start(Immediate())
    assert routing(rollout).arms == ()
    assert next_step(rollout, StageEvidence(stage=0), MONDAY).action is Action.COMPLETE


SCORED = ShadowSums(
    requests=5_000,
    scored=5_000,
    failed=0,
    latency_p99_milliseconds=9.0,
    features=(FeatureCoverage(name="age", live=0.99, training=0.99),),
)


def good_shadow(**changes: object) -> ShadowComparison:
    return ShadowComparison(
        **{
            "sums": SCORED,
            "rank_correlation": 0.8,
            "top_overlap": 0.7,
            "top": 10,
            "stability_index": 0.05,
            "own_stability_index": 0.02,
            "log_loss": Estimate(value=-0.01, se=0.001, low=-0.012, high=-0.008),
            **changes,
        }
    )


def test_a_shadow_serves_nobody_and_completes_after_a_day():
    rollout = start(Shadow())
    assert routing(rollout).arms == ()
    assert (routing(rollout).shadow, routing(rollout).shadow_share) == ("2", 1.0)
    seen = StageEvidence(stage=0, shadow=good_shadow())
    assert tick(rollout, seen, 23 * HOUR).missing == ("23.0 of 24 hours in stage 'shadow'.",)
    assert tick(rollout, seen, 24 * HOUR).action is Action.COMPLETE


@pytest.mark.parametrize(
    ("changes", "action", "says"),
    [
        ({"sums": SCORED.model_copy(update={"scored": 4_900})}, Action.INVALID, "99% are needed"),
        ({"rank_correlation": 0.1}, Action.ROLL_BACK, "rank correlation"),
        ({"log_loss": None}, Action.HOLD, "Log loss on final labels was not measured"),
        (
            {"sums": SCORED.model_copy(update={"features": None})},
            Action.HOLD,
            "each feature was known was not",
        ),
        ({"sums": SCORED.model_copy(update={"requests": 4_999})}, Action.HOLD, "4,999 of 5,000"),
    ],
)
def test_a_shadow_that_is_not_fine_does_not_complete(changes, action, says):
    step = tick(start(Shadow()), StageEvidence(stage=0, shadow=good_shadow(**changes)), 24 * HOUR)
    assert step.action is action
    assert says in step.reason


def test_a_shadow_without_evidence_holds_for_ever():
    assert tick(start(Shadow()), StageEvidence(stage=0), 1_000 * HOUR).action is Action.HOLD


KNOBS = ExperimentKnobs(weeks=2, min_users_per_arm=3_000)


def ab_evidence(days: int, lift: float, **changes: object) -> StageEvidence:
    test = TestDays(np.random.default_rng(1), 4_000, lift)
    for number in range(days):
        test.day(number)
    read = test.evidence(MONDAY + timedelta(days=days)).model_copy(update=changes)
    last = MONDAY + timedelta(days=days)
    sessions = Sessions(total=5_000, bad=25)
    return StageEvidence(
        stage=0,
        experiment=read,
        windows=(HealthWindow(start=last - WINDOW, end=last, canary=sessions, control=sessions),),
    )


def ab(days: int, lift: float, **changes: object) -> Step:
    rollout = start(AbTest(first=None, experiment=KNOBS))
    return next_step(rollout, ab_evidence(days, lift, **changes), MONDAY + timedelta(days=days))


@pytest.mark.parametrize(
    ("days", "lift", "changes", "action", "quarantine"),
    [
        (14, 0.10, {}, Action.COMPLETE, False),
        (14, 0.0, {}, Action.ROLL_BACK, False),
        (7, -0.25, {}, Action.ROLL_BACK, True),
        (3, 0.0, {}, Action.HOLD, False),
        (14, 0.10, {"control_users": 5_000}, Action.INVALID, False),
    ],
    ids=["PROMOTE_B", "KEEP_A", "REJECT_B", "CONTINUE", "INVALID"],
)
def test_each_verdict_of_an_ab_test_has_its_step(days, lift, changes, action, quarantine):
    step = ab(days, lift, **changes)
    assert (step.action, step.quarantine) == (action, quarantine)
    assert step.readout.reason in step.reason


def test_a_look_is_recorded_and_the_next_one_on_the_same_day_decides_nothing():
    rollout = start(AbTest(first=None, experiment=KNOBS))
    step = ab(3, 0.0)
    looked = apply(rollout, step, actor="tick")
    assert looked.looks == (step.at,)
    again = next_step(looked, ab_evidence(3, 0.0), MONDAY + timedelta(days=3, minutes=15))
    assert "was looked at already" in again.reason
    assert apply(looked, again, actor="tick").looks == looked.looks


def test_a_broken_challenger_is_taken_out_of_an_ab_test_at_once():
    rollout = start(AbTest(first=None))
    broken = StageEvidence(stage=0, windows=windows(0.25, canary=(100, 40), control=(100, 0)))
    assert tick(rollout, broken, 0.25 * HOUR).action is Action.ROLL_BACK


def test_an_ab_test_starts_with_a_small_stage_then_splits_half_and_half():
    rollout = start(AbTest())
    assert [arm.share for arm in routing(rollout).arms] == [0.01, 0.01]
    second = apply(rollout, tick(rollout, evidence(2), 2 * HOUR), actor="tick")
    assert [arm.share for arm in routing(second).arms] == [0.5, 0.5]


def test_an_ab_test_without_evidence_holds():
    rollout = start(AbTest(first=None))
    seen = StageEvidence(stage=0, windows=windows(1))
    assert tick(rollout, seen, HOUR).reason == "The A/B test has no evidence yet."


def test_the_strategies_are_a_list_that_settings_can_name():
    adapter = TypeAdapter(Strategy)
    for strategy in STRATEGIES:
        assert adapter.validate_python({"kind": strategy().kind}) == strategy()


def test_a_ramp_that_falls_or_leaves_no_control_is_refused():
    falling = Canary(ramp=(RampStage(name="a", share=0.5), RampStage(name="b", share=0.1)))
    with pytest.raises(ValidationError, match="a ramp only rises"):
        start(falling)
    with pytest.raises(ValidationError, match=r"0\.7 leaves no control"):
        RampStage(name="a", share=0.7)


def test_knobs_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="watched_risk_ratios must all be above tolerated_risk_ratio"):
        HealthKnobs(tolerated_risk_ratio=2.0)
    with pytest.raises(ValidationError, match="refuted_risk_ratio must be above"):
        HealthKnobs(tolerated_risk_ratio=1.2, refuted_risk_ratio=1.1)


def test_more_bad_sessions_than_sessions_are_refused():
    with pytest.raises(ValidationError, match="3 of 2 sessions cannot be bad"):
        Sessions(total=2, bad=3)


@pytest.mark.parametrize("strategy", [strategy() for strategy in STRATEGIES], ids=lambda strategy: strategy.kind)
def test_a_rollout_survives_json(strategy):
    rollout = pause(start(strategy), actor="bob", reason="x", now=MONDAY)
    assert Rollout.model_validate_json(rollout.model_dump_json()) == rollout
    step = next_step(rollout, StageEvidence(stage=0), MONDAY)
    assert Step.model_validate_json(step.model_dump_json()) == step


counts = st.tuples(st.integers(0, 500), st.integers(0, 500)).map(lambda pair: (max(pair), min(pair)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), counts, counts, st.floats(0.25, 30), st.integers(0, 9_000), st.integers(0, 9_000))
def test_whatever_is_seen_a_tick_makes_at_most_one_step_and_gives_its_reason(stage, canary, control, hours, a, b):
    rollout = at_stage(stage)
    hours = int(hours * 4) / 4
    seen = evidence(
        stage=stage, windows=windows(hours, canary=canary, control=control), canary_users=a, control_users=b
    )
    step = tick(rollout, seen, hours * HOUR)
    assert step.reason
    assert step == tick(rollout, seen, hours * HOUR)
    after = apply(rollout, step, actor="tick")
    assert after.stage - rollout.stage == (step.action is Action.ADVANCE)
    if step.action in {Action.ADVANCE, Action.COMPLETE}:
        assert hours >= rollout.current.min_hours
        assert min(canary[0], control[0] if stage < 3 else canary[0]) * int(hours * 4) >= rollout.current.min_sessions


MIXING = AbTest(first=None, interleaving=InterleavingStage(name="mixed lists", request_share=0.2, min_hours=6))


def mixed(surplus: int, requests: int = 3_000) -> StageEvidence:
    """Votes of 300 users; the challenger won ``surplus`` more requests than the champion."""
    rng = np.random.default_rng(3)
    challenger = np.zeros(requests)
    challenger[: (requests + surplus) // 2] = 1
    rng.shuffle(challenger)
    votes = preference(np.arange(requests) % 300, 1 - challenger, challenger)
    return StageEvidence(stage=0, interleaving=votes)


@pytest.mark.parametrize(
    ("evidence", "hours", "action", "says"),
    [
        (mixed(0), 7, Action.ADVANCE, "On to stage 'A/B test'"),
        (mixed(300), 7, Action.ADVANCE, "On to stage 'A/B test'"),
        (mixed(-600), 7, Action.ROLL_BACK, "Users prefer the champion"),
        (mixed(-600), 5, Action.HOLD, "3,000 of 2,000 mixed requests have final labels, after 5.0 of 6 hours"),
        (mixed(-600, 1_500), 7, Action.HOLD, "1,500 of 2,000 mixed requests"),
        (StageEvidence(stage=0), 700, Action.HOLD, "0 of 2,000 mixed requests"),
    ],
)
def test_interleaving_ends_what_users_do_not_like_and_promotes_nobody(evidence, hours, action, says):
    rollout = start(MIXING)
    step = next_step(rollout, evidence, MONDAY + hours * HOUR)
    assert (step.action, step.quarantine) == (action, False)
    assert says in step.reason


def test_mixed_lists_are_routed_by_request_and_no_user_has_an_arm():
    table = routing(start(MIXING))
    assert (table.interleaved, table.interleaved_share, table.arms) == ("2", 0.2, ())
    assert table.versions == ("1", "2")
    assert routing(abort(start(MIXING), actor="ann", reason="no", now=MONDAY)).interleaved is None
