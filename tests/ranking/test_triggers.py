"""The arbiter: every decision and every non-decision, with its reason; its limits, whatever happens."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.bins import ColumnKind
from ranking.data_quality.checks import Health, Quality
from ranking.drift import ColumnDrift, Drift
from ranking.levels import Level
from ranking.measurements import Estimate
from ranking.performance import Performance
from ranking.times import Window
from ranking.triggers import (
    TRIGGERS,
    VETOES,
    Arbitration,
    ManualRequest,
    Memory,
    Outcome,
    Signals,
    TriggerKnobs,
    arbitrate,
    settle,
)
from ranking.triggers.memory import EVIDENCE, RECENT, STARTS

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
KNOBS = TriggerKnobs()
HEALTH = {False: Health.OK, True: Health.INCIDENT}


def window(number: int) -> Window:
    return Window(start=START + number * DAY, end=START + (number + 1) * DAY)


def drift(number: int, level: Level | None, champion: str = "1") -> Drift:
    columns = tuple(
        ColumnDrift(name=f"c{place}", kind=ColumnKind.NUMERIC, critical=False, psi=0.3, drifted=place < 3)
        for place in range(40)
    )
    return Drift(
        champion=champion,
        reference_digest="r" * 64,
        window=window(number),
        rows=9_000,
        users=900,
        columns=columns,
        level=level,
        sentence="3 of 40 columns drifted.",
    )


def performance(number: int, level: Level | None, change: float = -0.02) -> Performance:
    measured = Estimate(value=change, se=0.001, low=change - 0.003, high=change + 0.003)
    return Performance(champion="1", window=window(number), days=(), auc=measured, level=level, sentence="It changed.")


def quality(number: int, *, incident: bool = False) -> Quality:
    sentence = "Values are missing: age is null in 100.0%." if incident else "All 9 checks are ok."
    return Quality(window=window(number), rows=9_000, checks=(), health=HEALTH[incident], sentence=sentence)


def signals(number: int, level: Level | None = Level.CALM, *, incident: bool = False, **changes: object) -> Signals:
    """What a daily check of one window sees."""
    fields = {
        "champion": "1",
        "window": window(number),
        "quality": quality(number, incident=incident),
        "drift": drift(number, level),
        "performance": performance(number, Level.CALM, change=0.0),
    }
    return Signals(**(fields | changes))


def after(number: int) -> datetime:
    """One hour after a window's end."""
    return window(number).end + HOUR


class Loop:
    """A memory that is carried from check to check."""

    def __init__(self, knobs: TriggerKnobs = KNOBS) -> None:
        self.knobs, self.memory = knobs, Memory()

    def check(self, seen: Signals, now: datetime | None = None) -> Arbitration:
        assert seen.window is not None
        decided, self.memory = arbitrate(seen, self.memory, self.knobs, now or seen.window.end + HOUR)
        assert Memory.model_validate_json(self.memory.model_dump_json()) == self.memory
        assert Arbitration.model_validate_json(decided.model_dump_json()) == decided
        assert self.memory.recent[-1].reason == decided.reason
        return decided

    def end(self, result: str, at: datetime) -> None:
        assert self.memory.flight is not None
        self.memory = settle(self.memory, Outcome(key=self.memory.flight.key, result=result, at=at))


def reason(decided: Arbitration, trigger: str) -> str:
    return next(answer.reason for answer in decided.answers if answer.trigger == trigger)


def test_the_lists_can_be_read_in_one_look():
    assert [trigger.__name__ for trigger in TRIGGERS] == [
        "manual",
        "schedule",
        "drift",
        "performance",
        "combined",
        "volume",
    ]
    assert [veto.__name__ for veto in VETOES] == ["data_incident", "single_flight", "cool_down", "daily_budget"]
    assert {trigger.__name__ for trigger in TRIGGERS} > EVIDENCE


def test_a_quiet_day_retrains_nothing_and_every_trigger_says_why_not():
    decided = Loop().check(signals(0))
    assert decided.decision == "wait"
    assert decided.flight is None
    assert decided.reason == (
        "No retraining. manual: nobody asked; schedule: the schedule is not due; drift: 3 of 40 columns drifted; "
        "performance: It changed; combined: drift and a proven loss of AUC did not come together; "
        "volume: triggers.volume_rows is not set."
    )


def test_the_first_window_of_drift_waits_for_a_second_in_a_row():
    loop = Loop()
    first = loop.check(signals(0, Level.ALARM))
    assert first.decision == "wait"
    assert reason(first, "drift") == "drift of 3 of 40 columns in the first window; needs a second in a row"
    second = loop.check(signals(1, Level.ALARM))
    assert second.decision == "retrain"
    assert second.reason == (
        "Retrain, by drift: drift of 3 of 40 columns in 2 windows in a row: 3 of 40 columns drifted."
    )
    assert loop.memory.flight == second.flight


def test_the_same_window_looked_at_twice_is_one_window():
    loop = Loop()
    for hour in range(5):
        decided = loop.check(signals(0, Level.ALARM), after(0) + hour * HOUR)
        assert decided.decision == "wait"
        assert "in the first window" in reason(decided, "drift")


def test_a_window_that_was_repaired_replaces_what_it_said():
    loop = Loop()
    loop.check(signals(0, Level.ALARM))
    loop.check(signals(0, Level.CALM), after(0) + HOUR)
    assert loop.check(signals(1, Level.ALARM)).decision == "wait"
    loop.check(signals(1, Level.CALM), after(1) + HOUR)
    loop.check(signals(1, Level.ALARM), after(1) + 2 * HOUR)
    assert loop.check(signals(2, Level.ALARM)).decision == "retrain"


def test_an_older_window_changes_nothing():
    loop = Loop()
    loop.check(signals(5, Level.ALARM))
    late = loop.check(signals(4, Level.ALARM), after(5) + HOUR)
    assert late.decision == "wait"
    assert reason(late, "drift") == "a later window was looked at before"
    assert loop.check(signals(6, Level.ALARM)).decision == "retrain"


@pytest.mark.parametrize("between", [Level.CALM, Level.RAISED, None])
def test_anything_but_an_alarm_in_between_starts_the_row_again(between):
    loop = Loop()
    loop.check(signals(0, Level.ALARM))
    loop.check(signals(1, between))
    assert loop.check(signals(2, Level.ALARM)).decision == "wait"


def test_a_missed_day_is_not_in_a_row():
    loop = Loop()
    loop.check(signals(0, Level.ALARM))
    assert loop.check(signals(2, Level.ALARM)).decision == "wait"
    assert loop.check(signals(3, Level.ALARM)).decision == "retrain"


def test_more_windows_can_be_asked_for():
    loop = Loop(TriggerKnobs(drift_windows=4))
    said = [reason(loop.check(signals(number, Level.ALARM)), "drift") for number in range(3)]
    assert said[0].endswith("in the first window; needs a second of 4 in a row")
    assert said[2].endswith("in the third window; needs a fourth in a row")
    assert loop.check(signals(3, Level.ALARM)).decision == "retrain"


def drifted_once(knobs: TriggerKnobs = KNOBS) -> Loop:
    """Two windows of drift, and the retraining ended unpromoted two hours later."""
    loop = Loop(knobs)
    loop.check(signals(0, Level.ALARM))
    assert loop.check(signals(1, Level.ALARM)).decision == "retrain"
    loop.end("not_promoted", after(1) + 2 * HOUR)
    return loop


def test_an_alarm_lasts_until_it_is_calm():
    loop = drifted_once()
    raised = loop.check(signals(2, Level.RAISED), after(1) + 40 * DAY)
    assert raised.decision == "retrain"
    assert reason(raised, "drift") == "it has not been calm since the alarm: 3 of 40 columns drifted"
    loop.end("not_promoted", after(1) + 41 * DAY)
    loop.check(signals(60, Level.CALM))
    assert loop.check(signals(61, Level.RAISED)).decision == "wait"


def test_the_cool_down_doubles_with_every_retraining_that_was_not_promoted_up_to_a_week():
    loop, started, number = Loop(), [], 0
    while len(started) < 7:
        if loop.check(signals(number, Level.ALARM)).decision == "retrain":
            started.append(number)
            loop.end("not_promoted", after(number))
        number += 1
    assert [later - earlier for earlier, later in pairwise(started)] == [2, 4, 7, 7, 7, 7]
    assert loop.memory.unpromoted == 7


def test_a_cool_down_says_until_when_and_why_so_long():
    refused = drifted_once().check(signals(2, Level.ALARM))
    assert refused.decision == "wait"
    assert refused.refusals[0].veto == "cool_down"
    assert refused.reason.endswith(
        "the last retraining ended at 2026-03-04 03:00 UTC, 1 in a row not promoted: "
        "cool-down of 48 h until 2026-03-06 03:00 UTC."
    )


def test_a_promotion_ends_the_doubling_and_starts_the_row_again():
    loop = drifted_once()
    assert loop.check(signals(5, Level.ALARM)).decision == "retrain"
    loop.end("promoted", after(5))
    assert loop.memory.unpromoted == 0
    assert loop.check(signals(6, Level.ALARM)).decision == "wait"
    again = loop.check(signals(7, Level.ALARM))
    assert again.decision == "retrain"


def test_the_schedule_waits_for_the_plain_cool_down_only():
    loop = drifted_once()
    early = loop.check(signals(2, Level.ALARM, scheduled=True))
    assert "schedule asks (the schedule is due), but the last retraining ended" in early.reason
    decided = loop.check(signals(3, Level.ALARM, scheduled=True))
    assert (decided.decision, decided.trigger) == ("retrain", "schedule")
    assert [refusal.trigger for refusal in decided.refusals] == ["drift"]


def test_without_a_cron_a_champion_that_is_too_old_is_retrained():
    loop = drifted_once(TriggerKnobs(max_days_without_retrain=10))
    assert loop.check(signals(10)).decision == "wait"
    decided = loop.check(signals(11))
    assert decided.trigger == "schedule"
    assert reason(decided, "schedule") == "the last retraining started 10.0 days ago, of at most 10"


def test_a_scheduled_run_that_looked_at_nothing_may_go_and_signals_may_not():
    decided, memory = arbitrate(Signals(champion="1", scheduled=True), Memory(), KNOBS, START)
    assert decided.trigger == "schedule"
    assert [answer.fires for answer in decided.answers] == [False, True, None, None, None, False]
    assert memory.flight == decided.flight


def test_a_worse_champion_is_retrained_when_two_checks_in_a_row_say_so():
    loop = Loop()
    first = loop.check(signals(0, performance=performance(0, Level.ALARM)))
    assert reason(first, "performance") == ("a change of AUC by -0.0200 in the first window; needs a second in a row")
    decided = loop.check(signals(1, performance=performance(1, Level.ALARM)))
    assert decided.trigger == "performance"
    assert reason(decided, "performance") == "a change of AUC by -0.0200 in 2 windows in a row: It changed"


def test_one_check_can_be_made_enough():
    loop = Loop(TriggerKnobs(performance_windows=1))
    decided = loop.check(signals(0, performance=performance(0, Level.ALARM)))
    assert reason(decided, "performance") == "a change of AUC by -0.0200 in this window: It changed"


def test_drift_and_a_small_proven_loss_together_need_no_second_window():
    decided = Loop().check(signals(0, Level.ALARM, performance=performance(0, Level.RAISED, change=-0.007)))
    assert decided.trigger == "combined"
    assert "drift in this window together with a proven change of AUC by -0.0070" in decided.reason
    unproven = performance(0, Level.RAISED, change=-0.002)
    assert Loop().check(signals(0, Level.ALARM, performance=unproven)).decision == "wait"


@pytest.mark.parametrize(
    ("rows", "fires", "said"),
    [
        (None, None, "new labelled rows were not counted"),
        (99_999, False, "99,999 new labelled rows of 100,000"),
        (100_000, True, "100,000 new labelled rows of 100,000"),
    ],
)
def test_volume_retrains_when_enough_rows_are_labelled(rows, fires, said):
    decided = Loop(TriggerKnobs(volume_rows=100_000)).check(signals(0, new_labelled_rows=rows))
    answer = decided.answers[-1]
    assert (answer.trigger, answer.fires, answer.reason) == ("volume", fires, said)
    assert decided.decision == ("retrain" if fires else "wait")


@pytest.mark.parametrize(
    "changes", [{"scheduled": True}, {"new_labelled_rows": 10}, {"manual": ManualRequest(requester="ada")}]
)
def test_a_data_incident_blocks_every_retraining(changes):
    decided = Loop(TriggerKnobs(volume_rows=5)).check(signals(0, Level.ALARM, incident=True, **changes))
    assert decided.decision == "wait"
    assert "the data have an incident. Values are missing: age is null in 100.0%." in decided.reason
    assert {refusal.veto for refusal in decided.refusals} == {"data_incident"}


def test_drift_in_faulty_data_counts_for_nothing():
    loop = Loop()
    for number in range(4):
        decided = loop.check(signals(number, Level.ALARM, incident=True))
        assert decided.reason.startswith("No retraining. Data incident: Values are missing: age")
        assert reason(decided, "drift") == (
            "it does not count, since the data have an incident (3 of 40 columns drifted)"
        )
    assert loop.check(signals(4, Level.ALARM)).decision == "wait"


def test_an_incident_blocks_for_a_while_after_its_window_unless_it_is_repaired():
    loop = Loop(TriggerKnobs(incident_hold_hours=72))
    loop.check(signals(0, incident=True))
    loop.check(signals(1, Level.ALARM))
    held = loop.check(signals(2, Level.ALARM))
    assert held.decision == "wait"
    assert "the window until 2026-03-03 00:00 UTC had a data incident and was not found repaired since" in held.reason
    assert loop.check(signals(3, Level.ALARM)).decision == "retrain"
    repaired = Loop(TriggerKnobs(incident_hold_hours=72))
    repaired.check(signals(0, incident=True))
    repaired.check(signals(0), after(0) + HOUR)
    repaired.check(signals(1, Level.ALARM))
    assert repaired.check(signals(2, Level.ALARM)).decision == "retrain"


def test_without_a_look_at_the_data_no_signal_retrains():
    loop = Loop()
    decided = [loop.check(signals(number, Level.ALARM, quality=None)) for number in range(3)][-1]
    assert decided.decision == "wait"
    assert reason(decided, "drift").startswith("it does not count, since data quality was not measured")
    assert loop.check(signals(3, quality=None, scheduled=True)).trigger == "schedule"
    volume = Loop(TriggerKnobs(volume_rows=5)).check(signals(0, quality=None, new_labelled_rows=9))
    assert volume.decision == "wait"
    assert "a signal from unchecked data is none" in volume.reason


@pytest.mark.parametrize(
    ("request_", "decision", "said"),
    [
        (ManualRequest(requester="ada", reason="new tab"), "wait", "Ask again with force and a reason if it must be."),
        (ManualRequest(requester="ada", forced=True, reason=" "), "wait", "Force needs a reason."),
        (
            ManualRequest(requester="ada", forced=True, reason="the sensor is gone for good"),
            "retrain",
            "Retrain, by manual: ada asked for it: the sensor is gone for good.",
        ),
    ],
)
def test_a_human_must_force_and_explain_a_retraining_during_an_incident(request_, decision, said):
    decided = Loop().check(signals(0, incident=True, manual=request_))
    assert decided.decision == decision
    assert said in decided.reason


def test_a_human_need_not_wait_but_never_gets_a_second_flight():
    loop = drifted_once(TriggerKnobs(daily_budget=1))
    asked = ManualRequest(requester="ada")
    decided = loop.check(signals(1, manual=asked), after(1) + 3 * HOUR)
    assert decided.reason == "Retrain, by manual: ada asked for it without giving a reason."
    second = loop.check(
        signals(1, manual=asked.model_copy(update={"forced": True, "reason": "now"})), after(1) + 4 * HOUR
    )
    assert second.decision == "wait"
    assert "but retraining retrain-" in second.reason
    assert "(manual) is on its way since 2026-03-04 04:00 UTC." in second.reason


def test_twenty_events_at_once_start_one_retraining():
    loop = Loop()
    loop.check(signals(0, Level.ALARM))
    decided = [loop.check(signals(1, Level.ALARM)) for _ in range(20)]
    assert [one.decision for one in decided] == ["retrain"] + ["wait"] * 19
    assert {one.refusals[0].veto for one in decided[1:]} == {"single_flight"}
    assert decided[0].dedupe_key == "1/2026-03-04T00:00:00+00:00/drift"


def test_the_budget_of_a_day_is_never_exceeded_by_machines():
    loop = Loop(TriggerKnobs(cool_down_hours=1, max_cool_down_hours=1, daily_budget=2))
    started = []
    for hour in range(72):
        now = START + hour * HOUR
        decided, loop.memory = arbitrate(Signals(champion="1", scheduled=True), loop.memory, loop.knobs, now)
        if decided.flight:
            started.append(now)
            loop.end("failed", now)
        elif decided.refusals[0].veto == "daily_budget":
            assert "2 retrainings started within 24 h, of at most 2." in decided.reason
    assert len(started) == 6


def test_a_lost_retraining_is_given_up_and_believed_again_when_it_reports_back():
    loop = Loop()
    loop.check(signals(0, Level.ALARM))
    flight = loop.check(signals(1, Level.ALARM)).flight
    for number in range(2, 5):
        assert "is on its way" in loop.check(signals(number, Level.ALARM)).reason
    decided = loop.check(signals(5, Level.ALARM))
    assert decided.decision == "retrain"
    assert f"Retraining {flight.key} never reported back and was given up." in decided.reason
    assert loop.memory.unpromoted == 1
    late = settle(loop.memory, Outcome(key=flight.key, result="promoted", at=after(5)))
    assert late.unpromoted == 0
    assert late.flight == decided.flight
    assert settle(late, Outcome(key=flight.key, result="promoted", at=after(6))) == late


def test_an_outcome_that_is_told_twice_or_of_nobody_changes_nothing():
    loop = drifted_once()
    known = loop.memory
    assert settle(known, Outcome(key=known.settled[-1], result="not_promoted", at=after(9))) == known
    assert settle(known, Outcome(key="retrain-of-somebody-else", result="failed", at=after(9))) == known


def test_another_champion_starts_the_row_again_and_numbers_about_the_old_one_do_not_count():
    loop = Loop()
    loop.check(signals(0, Level.ALARM))
    stale = loop.check(signals(1, Level.ALARM, champion="2"))
    assert reason(stale, "drift").startswith("it does not count: it is about champion 1, and 2 serves")
    first = loop.check(signals(2, champion="2", drift=drift(2, Level.ALARM, champion="2")))
    assert "in the first window" in reason(first, "drift")


def test_a_flight_is_named_after_its_time_so_that_a_lost_memory_repeats_no_name():
    keys = {arbitrate(Signals(scheduled=True), Memory(), KNOBS, START + hour * HOUR)[0].flight.key for hour in range(3)}
    assert keys == {"retrain-20260302T000000Z-1", "retrain-20260302T010000Z-1", "retrain-20260302T020000Z-1"}


LEVELS = st.sampled_from([None, *Level])
STEPS = st.lists(
    st.tuples(
        st.integers(0, 60),  # hours since the check before
        LEVELS,
        LEVELS,
        st.sampled_from([None, True, False]),  # quality: unmeasured, incident, ok
        st.booleans(),  # cron
        st.sampled_from([None, ManualRequest(requester="a"), ManualRequest(requester="a", forced=True, reason="r")]),
        st.sampled_from([None, "promoted", "not_promoted", "failed"]),  # how the flight ends, if it does
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=150)
@given(STEPS, st.integers(1, 3), st.integers(1, 60))
def test_whatever_happens_the_limits_hold(steps, budget, cool_down_hours):
    knobs = TriggerKnobs(daily_budget=budget, cool_down_hours=cool_down_hours, volume_rows=5)
    memory, now, started, ended, in_flight = Memory(), START, [], [], None
    for hours, shift, loss, incident, scheduled, asked, result in steps:
        now += hours * HOUR
        number = (now - START) // DAY - 1
        seen = signals(
            number,
            shift,
            quality=None if incident is None else quality(number, incident=incident),
            performance=performance(number, loss),
            scheduled=scheduled,
            manual=asked,
            new_labelled_rows=9,
        )
        decided, after_check = arbitrate(seen, memory, knobs, now)
        assert (decided, after_check) == arbitrate(seen, memory, knobs, now), "a pure function"
        assert len(after_check.recent) <= RECENT
        assert len(after_check.starts) <= STARTS
        assert after_check.revision > memory.revision
        assert decided.reason
        memory = after_check
        lost = in_flight is not None and now - in_flight >= timedelta(hours=knobs.flight_expires_hours)
        if decided.decision == "retrain":
            assert in_flight is None or lost, "never two in flight"
            if decided.trigger != "manual":
                assert sum(now - start < DAY for start in started) < budget, "never beyond the budget"
                assert all(now - end >= cool_down_hours * HOUR for end in ended), "never within the cool-down"
            assert incident is not True or (decided.trigger == "manual" and asked.forced), "never from faulty data"
            assert incident is not None or decided.trigger in {"manual", "schedule"}
            started.append(now)
            in_flight = now
        elif lost:
            in_flight = None
        if in_flight is not None and result is not None and memory.flight is not None:
            memory = settle(memory, Outcome(key=memory.flight.key, result=result, at=now))
            ended.append(now)
            in_flight = None
        assert Memory.model_validate_json(memory.model_dump_json()) == memory
