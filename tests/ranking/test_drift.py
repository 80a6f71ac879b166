"""The reference, the columns that drifted, and what the window amounts to."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from ranking.bins import ColumnKind
from ranking.counts import count
from ranking.drift import ColumnDrift, Drift, DriftKnobs, measure_drift
from ranking.errors import EmptyWindow, SettingsError
from ranking.levels import Level
from ranking.reference import Reference, ReferenceKnobs, build_reference, by_day, freeze, new_share
from tests.ranking.monitor_world import (
    KINDS,
    LOG,
    START,
    FeedWorld,
    counted,
    first_champion,
    window,
)

KNOBS = DriftKnobs()
WORLD = FeedWorld(seed=3, rows=1_500)


def reference() -> Reference:
    return first_champion(WORLD.seed, WORLD.rows, WORLD.users)[1]


def moved(**changes):
    """A day of the world with some columns changed."""
    table = WORLD.day(28)
    for name, change in changes.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(change(table[name].to_numpy())))
    return counted(reference(), table, 28)


def shifted(distance):
    return lambda values: values + distance


def test_a_quiet_day_is_calm_and_every_number_is_there():
    found = measure_drift(reference(), moved(), KNOBS)
    assert found.level is Level.CALM
    assert found.sentence == "0 of 41 columns drifted."
    assert all(column.psi is not None and column.drifted is False for column in found.columns)
    assert all(column.usual_psi and column.noise_psi and column.threshold >= 0.1 for column in found.columns)
    assert all((column.mean_shift is None) == (column.kind not in {"numeric", "score"}) for column in found.columns)
    assert found.reference_digest == reference().digest
    assert Drift.model_validate_json(found.model_dump_json()) == found


def test_psi_and_ks_of_a_column_are_what_scipy_says_of_its_values():
    found = measure_drift(reference(), moved(number20=shifted(0.5)), KNOBS)
    column = next(column for column in found.columns if column.name == "number20")
    old = np.concatenate([WORLD.day(number)["number20"].to_numpy() for number in range(28)])
    new = WORLD.day(28)["number20"].to_numpy() + 0.5
    edges = [-np.inf, *np.quantile(old, np.linspace(0, 1, 11)[1:-1]), np.inf]
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (old, new))
    assert column.psi == pytest.approx(stats.entropy(q, p) + stats.entropy(p, q), rel=1e-2)
    assert column.kolmogorov_smirnov == pytest.approx(stats.ks_2samp(old, new).statistic, abs=0.02)
    assert column.mean_shift == pytest.approx((new.mean() - old.mean()) / old.std(), rel=1e-6)


def test_one_column_that_is_not_critical_is_no_alarm():
    found = measure_drift(reference(), moved(number20=shifted(2.0)), KNOBS)
    assert found.level is Level.CALM
    assert [column.name for column in found.drifted] == ["number20"]


def test_a_critical_column_beyond_the_alarm_is_one_by_itself():
    knobs = DriftKnobs(critical_columns=("number20",))
    found = measure_drift(reference(), moved(number20=shifted(2.0)), knobs)
    assert found.level is Level.ALARM
    assert "number20 PSI" in found.sentence
    assert found.sentence.endswith("alone is an alarm beyond 0.2.")


def test_a_critical_column_that_nobody_watches_is_a_wrong_setting():
    with pytest.raises(SettingsError, match="names nmber20, and the reference of version 1 does not watch it"):
        measure_drift(reference(), moved(), DriftKnobs(critical_columns=("nmber20", "number2")))


def test_the_score_is_always_critical():
    found = measure_drift(reference(), moved(score=lambda scores: scores**3), KNOBS)
    assert found.level is Level.ALARM
    assert "1 of 41 columns drifted (score PSI" in found.sentence


def test_a_tenth_of_the_columns_is_an_alarm_and_half_of_that_is_neither_calm():
    names = [f"number{place}" for place in range(18, 23)]
    loud = measure_drift(reference(), moved(**dict.fromkeys(names, shifted(2.0))), KNOBS)
    assert loud.level is Level.ALARM
    assert loud.sentence.endswith("at least 10% of the columns.")
    quiet = measure_drift(reference(), moved(**dict.fromkeys(names[:3], shifted(2.0))), KNOBS)
    assert quiet.level is Level.RAISED
    assert quiet.sentence.endswith("no alarm, but not calm either.")


def test_a_column_whose_own_days_differ_much_is_not_blamed_for_one_more():
    wild = reference().model_copy(update={"usual_psi": reference().usual_psi | {"number20": 5.0}})
    found = measure_drift(wild, moved(number20=shifted(1.0)), KNOBS)
    column = next(column for column in found.columns if column.name == "number20")
    assert 0.2 < column.psi < column.threshold == 5.0
    assert not column.drifted


def test_few_users_raise_the_threshold_to_what_chance_shows():
    table = WORLD.day(28)
    some = table.filter(pa.array(table["user"].to_numpy() % 5 == 0))
    found = measure_drift(reference(), counted(reference(), some, 28), KNOBS)
    assert 100 < found.users < 200
    assert all(column.noise_psi > 0.1 for column in found.columns if column.kind == "numeric")
    assert found.level is Level.CALM


@pytest.mark.parametrize(
    ("last", "rows", "said"),
    [
        (28.5, 2_000, "the window is 12 hours long, and only whole days are comparable"),
        (28.0, 2_000, "the window is 0 hours long"),
        (29.0, 20, "effective users, and 100 are needed"),
    ],
)
def test_what_cannot_be_compared_is_not_measured_and_never_calm(last, rows, said):
    part = window(28, 29).model_copy(update={"end": START + last * timedelta(days=1)})
    found = measure_drift(reference(), count(WORLD.day(28).slice(0, rows), reference().layout, part), KNOBS)
    assert found.level is None
    assert said in found.sentence
    assert all(column.psi is None and column.drifted is None and said in column.note for column in found.columns)


def test_an_absent_score_could_be_an_alarm_so_the_window_is_not_calm():
    table = WORLD.day(28).drop_columns(["score"])
    found = measure_drift(reference(), counted(reference(), table, 28), KNOBS)
    assert found.level is None
    assert "1 were not measured, and they could make it an alarm: score: The column 'score' is not there." in (
        found.sentence
    )


def test_one_absent_column_of_many_leaves_the_window_calm_and_five_do_not():
    one = measure_drift(reference(), counted(reference(), WORLD.day(28).drop_columns(["number20"]), 28), KNOBS)
    assert one.level is Level.CALM
    five = WORLD.day(28).drop_columns([f"number{place}" for place in range(18, 23)])
    assert measure_drift(reference(), counted(reference(), five, 28), KNOBS).level is None


def test_labels_that_are_not_known_yet_do_not_stop_the_features_from_being_judged():
    table = WORLD.day(28)
    table = table.set_column(table.column_names.index("click"), "click", pa.nulls(len(table), pa.int64()))
    found = measure_drift(reference(), counted(reference(), table, 28), KNOBS)
    label = next(column for column in found.columns if column.kind is ColumnKind.LABEL)
    assert label.psi is None
    assert "0 in the window" in label.note
    assert found.level is Level.CALM
    assert "of 40 columns" in found.sentence


def test_a_reference_survives_json_and_does_not_care_for_the_order_of_rows():
    tables = first_champion(WORLD.seed, WORLD.rows, WORLD.users)[0]
    whole = pa.concat_tables(tables)
    shuffled = whole.take(np.random.default_rng(0).permutation(len(whole)))
    again = build_reference(shuffled, KINDS, LOG, champion="1", window=window(0, 28), knobs=ReferenceKnobs())
    assert again.usual_psi == pytest.approx(reference().usual_psi)
    assert again.daily_rows == reference().daily_rows
    assert Reference.model_validate_json(reference().model_dump_json()) == reference()


def test_a_reference_of_days_that_were_counted_elsewhere_is_the_same():
    found = reference()
    tables = first_champion(WORLD.seed, WORLD.rows, WORLD.users)[0]
    daily = [counted(found, table, number) for number, table in enumerate(tables)]
    assert freeze("1", found.layout, daily, ReferenceKnobs(), found.daily_new_share) == found


def test_a_short_reference_has_no_usual_psi_and_says_so():
    tables = first_champion(WORLD.seed, WORLD.rows, WORLD.users)[0][:4]
    found = build_reference(
        pa.concat_tables(tables), KINDS, LOG, champion="1", window=window(0, 4), knobs=ReferenceKnobs()
    )
    assert found.days == 4
    assert set(found.usual_psi.values()) == {None}


def test_no_rows_make_no_reference():
    with pytest.raises(EmptyWindow, match="0 rows between 2026-01-05 00:00 UTC and 2026-01-06 00:00 UTC"):
        build_reference(WORLD.day(0).slice(0, 0), KINDS, LOG, champion="1", window=window(0, 1), knobs=ReferenceKnobs())


def test_scores_can_be_frozen_on_other_rows_than_features():
    tables = first_champion(WORLD.seed, WORLD.rows, WORLD.users)[0]
    features = {name: kind for name, kind in KINDS.items() if name != "score"}
    learnt = build_reference(
        pa.concat_tables(tables[:21]), features, LOG, champion="1", window=window(0, 21), knobs=ReferenceKnobs()
    )
    held_out = build_reference(
        pa.concat_tables(tables[21:]),
        {"score": ColumnKind.SCORE},
        LOG,
        champion="1",
        window=window(21, 28),
        knobs=ReferenceKnobs(),
    )
    joined = learnt.joined(held_out)
    assert [column.name for column in joined.layout.columns] == [*features, "score"]
    assert joined.units["score"] < joined.units["number0"]
    assert joined.digest != learnt.digest
    assert measure_drift(joined, counted(joined, WORLD.day(28), 28), KNOBS).level is Level.CALM


def test_new_values_per_day_are_learnt_from_the_later_half_of_the_days():
    days = [pa.chunked_array([[f"old{place}" for place in range(9)] + [f"new{number}"]]) for number in range(10)]
    assert new_share(days, "item") == pytest.approx(0.1)
    assert new_share(days[:3], "item") is None
    assert new_share([pa.chunked_array([["a", "b"]])] * 6, "item") == 0


def test_days_are_cut_at_the_windows_own_midnights():
    table = pa.table({"time": pa.array([START + timedelta(hours=hour) for hour in (60, 0, 23, 24, 90)])})
    parts = by_day(table, "time", window(0, 3))
    assert [len(part) for part in parts] == [2, 1, 1]


def test_a_column_that_was_not_measured_says_why():
    column = ColumnDrift(name="a", kind=ColumnKind.NUMERIC, critical=False, note="it was not counted")
    assert column.psi is column.drifted is column.threshold is None
