"""Each rule's answers, with the reason: what is an incident, and what is only the world."""

import re
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ranking.counts import count
from ranking.data_quality import QUALITY_RULES, check_quality, worst
from ranking.data_quality.checks import Check, Health, Quality
from ranking.data_quality.knobs import QualityKnobs
from ranking.reference import Reference, ReferenceKnobs, build_reference
from tests.ranking.monitor_world import DAY, KINDS, LOG, START, FeedWorld, counted, first_champion, window

WORLD = FeedWorld(seed=3, rows=1_500)
KNOBS = QualityKnobs()


def reference() -> Reference:
    return first_champion(WORLD.seed, WORLD.rows, WORLD.users)[1]


def with_column(name: str, values: Any) -> pa.Table:
    table = WORLD.day(28)
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def checked(table: pa.Table, found: Reference | None = None, number: int = 28) -> Quality:
    frozen = found or reference()
    return check_quality(frozen, counted(frozen, table, number), KNOBS)


def the(quality: Quality, rule: str) -> Check:
    return next(check for check in quality.checks if check.rule == rule)


def test_a_usual_day_is_ok_by_every_rule_that_applies():
    found = checked(WORLD.day(28))
    assert found.health is Health.OK
    assert not found.blocks
    assert found.sentence == "All 9 checks are ok."
    asked = [rule.__name__ for rule in QUALITY_RULES if rule.__name__ != "lateness"]
    assert [check.rule for check in found.checks] == asked
    assert all(check.sentence and check.numbers for check in found.checks)
    assert Quality.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("share", "health"), [(0.0, Health.OK), (0.05, Health.SUSPECT), (0.3, Health.INCIDENT), (1.0, Health.INCIDENT)]
)
def test_missing_values_are_judged_by_how_many_more_they_are(share, health):
    values = WORLD.day(28)["number20"].to_numpy()
    lost = np.random.default_rng(0).random(len(values)) < share
    found = checked(with_column("number20", np.where(lost, np.nan, values)))
    assert the(found, "nulls").health is health
    if share:
        assert f"number20 is null in {lost.mean():.1%} (reference 0.0%)" in the(found, "nulls").sentence


def test_a_feature_that_stops_before_the_windows_end_is_late():
    table = WORLD.day(28)
    hours = (table["time"].to_numpy() - np.datetime64("2026-02-02", "us")) / np.timedelta64(1, "h")
    late = np.where(hours > 19, np.nan, table["number20"].to_numpy())
    found = the(checked(with_column("number20", late)), "nulls")
    assert found.health is Health.INCIDENT
    assert re.search(r"number20 is null in .* and has no value in the last [45]\.\d h", found.sentence)


def test_a_feature_that_is_often_null_is_not_late_after_a_short_silence():
    knobs = QualityKnobs(stale_suspect_hours=0.01, stale_incident_hours=0.02)
    found = check_quality(reference(), counted(reference(), WORLD.day(28), 28), knobs)
    assert "number16" not in the(found, "nulls").sentence


def test_a_delivery_that_came_twice_is_an_incident():
    table = WORLD.day(28)
    found = checked(pa.concat_tables([table, table.slice(0, len(table) // 4)]))
    assert the(found, "duplicates").health is Health.INCIDENT
    assert "repeat another's user, item, time; 0.0% did in the reference" in found.sentence


@pytest.mark.parametrize(
    ("part", "health"), [(1.0, Health.OK), (0.5, Health.SUSPECT), (0.2, Health.INCIDENT), (0.0, Health.INCIDENT)]
)
def test_volume_is_compared_with_the_quietest_and_the_busiest_day(part, health):
    table = WORLD.day(28)
    chosen = np.sort(np.random.default_rng(0).permutation(len(table))[: round(len(table) * part)])
    found = the(checked(table.take(pa.array(chosen))), "volume")
    assert found.health is health
    assert ("The window has no rows." if not part else "rows a day; the reference's days have") in found.sentence


def test_a_weekend_is_no_flood():
    assert the(checked(WORLD.day(33), number=33), "volume").health is Health.OK


def test_a_log_that_stops_early_is_stale():
    table = WORLD.day(28)
    early = table.filter(pa.array(table["time"].to_numpy() < np.datetime64("2026-02-02T18:00")))
    found = checked(early)
    assert the(found, "freshness").health is Health.INCIDENT
    assert "6.0 h before the window's end" in found.sentence


def test_an_absent_and_an_unreadable_column_are_incidents():
    found = checked(WORLD.day(28).drop_columns(["number20"]))
    assert found.sentence == "Absent or unreadable: number20 (The column 'number20' is not there)."
    assert the(checked(with_column("number20", ["x"] * len(WORLD.day(28)))), "present").health is Health.INCIDENT


def test_a_column_that_got_stuck_is_an_incident():
    rows = len(WORLD.day(28))
    found = checked(with_column("number20", np.full(rows, 0.1)))
    assert "Stuck: number20 has one value only, 0.1." in found.sentence
    assert "Stuck: category1 has one value only, 'v3'." in checked(with_column("category1", ["v3"] * rows)).sentence


def test_a_column_that_nearly_always_had_one_value_may_have_only_it_for_a_day():
    rng = np.random.default_rng(0)
    tables = [
        table.set_column(
            table.column_names.index("number20"), "number20", pa.array((rng.random(len(table)) < 1e-4) * 1.0)
        )
        for table in (WORLD.day(number) for number in range(8))
    ]
    frozen = build_reference(
        pa.concat_tables(tables), KINDS, LOG, champion="1", window=window(0, 8), knobs=ReferenceKnobs()
    )
    found = checked(with_column("number20", np.zeros(len(WORLD.day(28)))), frozen)
    assert the(found, "constants").health is Health.OK


def test_a_column_that_holds_anothers_values_is_an_incident():
    found = checked(with_column("number20", WORLD.day(28)["number21"].to_numpy()))
    assert the(found, "copies").sentence in {
        "Copied: number21 equals number20 in every row.",
        "Copied: number20 equals number21 in every row.",
    }
    assert found.blocks


def test_columns_that_always_were_copies_are_no_incident():
    tables = [
        table.set_column(table.column_names.index("number20"), "number20", table["number21"])
        for table in (WORLD.day(number) for number in range(29))
    ]
    frozen = build_reference(
        pa.concat_tables(tables[:28]), KINDS, LOG, champion="1", window=window(0, 28), knobs=ReferenceKnobs()
    )
    assert the(checked(tables[28], frozen), "copies").health is Health.OK


@pytest.mark.parametrize(("share", "health"), [(0.1, Health.SUSPECT), (0.5, Health.INCIDENT)])
def test_unknown_values_are_an_incident_when_nothing_new_ever_came(share, health):
    values = WORLD.day(28)["category1"].to_pylist()
    strange = np.random.default_rng(0).random(len(values)) < share
    table = with_column("category1", np.where(strange, "renamed", values).tolist())
    found = the(checked(table), "unseen")
    assert found.health is health
    assert "category1 has" in found.sentence
    assert "(expected up to 0.0%)" in found.sentence


def test_new_values_are_expected_where_they_always_came():
    values = WORLD.day(28)["category1"].to_pylist()
    strange = np.random.default_rng(0).random(len(values)) < 0.3
    table = with_column("category1", np.where(strange, "new", values).tolist())
    table = table.set_column(
        table.column_names.index("time"), "time", pa.array(table["time"].to_numpy() + np.timedelta64(9, "D"))
    )
    churning = reference().model_copy(update={"daily_new_share": reference().daily_new_share | {"category1": 0.03}})
    assert the(checked(table, churning, 37), "unseen").health is Health.OK
    assert the(checked(table, number=37), "unseen").health is Health.INCIDENT
    unknown = reference().model_copy(update={"daily_new_share": reference().daily_new_share | {"category1": None}})
    found = the(checked(table, unknown, 37), "unseen")
    assert found.health is Health.SUSPECT
    assert "how fast new values come was not measured" in found.sentence


@pytest.mark.parametrize(("rate", "health"), [(0.0, Health.INCIDENT), (0.02, Health.INCIDENT), (0.6, Health.SUSPECT)])
def test_a_label_rate_far_from_the_references_is_no_drift_but_a_fault(rate, health):
    rows = len(WORLD.day(28))
    labels = (np.random.default_rng(0).random(rows) < rate).astype(int)
    found = the(checked(with_column("click", labels)), "labels")
    assert found.health is health
    assert f"{labels.mean():.2%} of the known labels are 1" in found.sentence


def test_labels_that_are_not_known_yet_are_not_asked_about():
    found = checked(with_column("click", [None] * len(WORLD.day(28))))
    assert "labels" not in [check.rule for check in found.checks]
    assert found.health is Health.OK


def with_arrivals(table: pa.Table, late: float) -> pa.Table:
    slow = np.random.default_rng(0).random(len(table)) < late
    delay = np.where(slow, np.timedelta64(12, "h"), np.timedelta64(1, "m"))
    return table.append_column("arrived", pa.array(table["time"].to_numpy() + delay))


def test_rows_that_are_delivered_late_are_an_incident_and_unlogged_delivery_is_suspect():
    tables = [with_arrivals(WORLD.day(number), 0.01) for number in range(8)]
    frozen = build_reference(
        pa.concat_tables(tables),
        KINDS,
        LOG,
        champion="1",
        window=window(0, 8),
        knobs=ReferenceKnobs(),
        arrival="arrived",
    )
    assert the(checked(with_arrivals(WORLD.day(28), 0.02), frozen), "lateness").health is Health.OK
    late = the(checked(with_arrivals(WORLD.day(28), 0.4), frozen), "lateness")
    assert late.health is Health.INCIDENT
    assert "of the rows came more than 6 h late; 1" in late.sentence
    unlogged = the(checked(WORLD.day(28), frozen), "lateness")
    assert unlogged.health is Health.SUSPECT
    assert unlogged.sentence == "Lateness was not measured: 'arrived' is not there."


def test_a_reference_without_a_whole_day_cannot_judge_volume():
    half = window(0, 1).model_copy(update={"end": START + DAY / 2})
    table = WORLD.day(0)
    table = table.filter(pa.array(table["time"].to_numpy() < np.datetime64("2026-01-05T12:00")))
    frozen = build_reference(table, KINDS, LOG, champion="1", window=half, knobs=ReferenceKnobs())
    assert the(checked(WORLD.day(28), frozen), "volume").health is Health.SUSPECT


def test_an_empty_window_is_an_incident_and_no_division_by_zero():
    found = check_quality(reference(), count(WORLD.day(28).slice(0, 0), reference().layout, window(28, 29)), KNOBS)
    assert found.blocks
    assert found.sentence == "The window has no rows."


def test_nothing_asked_is_not_fine():
    assert worst([]) is Health.SUSPECT
    assert check_quality(reference(), counted(reference(), WORLD.day(28), 28), KNOBS, rules=()).health is Health.SUSPECT


def test_many_bad_columns_are_counted_and_the_first_five_named():
    table = WORLD.day(28)
    for place in range(7):
        name = f"number{place + 18}"
        table = table.set_column(table.column_names.index(name), name, pa.nulls(len(table), pa.float64()))
    found = the(checked(table), "nulls")
    assert found.sentence.endswith("and 2 more.")
    assert found.numbers["columns"] == 7


def test_an_old_reference_has_an_age():
    assert reference().age_days(reference().counts.window.end + timedelta(days=3)) == 3
    assert reference().age_days(START) == 0
