"""Live traffic: the same crowd in however many ticks, clicks by the truth, whoever ranks."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from ranking.errors import SettingsError
from ranking.traffic import CROWD, FIRST_REQUEST, Traffic, as_logged
from ranking.world import CLICK_AT, TRUTH, World, WorldKnobs, as_known_at

KNOBS = WorldKnobs(users=200, items=80, candidates_per_request=10, slate_size=5)
START = KNOBS.start + timedelta(days=3)
DAY = timedelta(days=1)


def crowd(**changes: object) -> Traffic:
    return Traffic(KNOBS, **{"requests_per_day": 600, **changes})  # type: ignore[arg-type]


def shown_by(rows: pd.DataFrame, by: np.ndarray) -> pd.DataFrame:
    """The best five of every page."""
    order = rows.assign(by=-by).sort_values(["request_id", "by"], kind="stable")
    order["position"] = order.groupby("request_id").cumcount() + 1
    return order[order["position"] <= KNOBS.slate_size].drop(columns="by")


def test_a_day_in_many_ticks_is_the_day_at_once() -> None:
    whole = crowd().between(START, START + DAY)
    ticks = [crowd().between(START + n * DAY / 16, START + (n + 1) * DAY / 16) for n in range(16)]
    pd.testing.assert_frame_equal(pd.concat(ticks, ignore_index=True), whole)
    assert whole["request_id"].nunique() == 600
    assert whole["request_id"].min() % CROWD == 3 * 1_000_000 + FIRST_REQUEST


def test_a_stretch_over_midnight_has_both_days_in_order() -> None:
    rows = crowd().between(START + DAY / 2, START + DAY * 3 / 2)
    assert rows["timestamp"].is_monotonic_increasing
    assert set(rows["request_id"] % CROWD // 1_000_000) == {3, 4}


def test_another_seed_is_another_crowd_with_the_same_tastes() -> None:
    one, other = crowd(seed=0).day(3), crowd(seed=1).day(3)
    assert not one["user_id"].equals(other["user_id"])
    tastes = pd.concat([one, other]).groupby(["user_id", "item_category"])[TRUTH].mean()
    assert tastes.between(0, 1).all()
    assert crowd(seed=0).day(3)["user_id"].equals(one["user_id"])


def test_fewer_visitors_are_the_first_users_of_the_same_world() -> None:
    rows = crowd(visitors=20).day(3)
    assert rows["user_id"].max() < 20
    device = World(KNOBS).day(0).groupby("user_id")["user_device"].first()
    known = rows[rows["user_id"].isin(device.index)]
    assert (known["user_device"] == known["user_id"].map(device)).all()


def test_an_item_at_one_place_of_one_page_is_clicked_or_not_whoever_put_it_there() -> None:
    traffic = crowd()
    rows = traffic.between(START, START + DAY)
    by_truth, by_chance = shown_by(rows, rows[TRUTH].to_numpy()), shown_by(rows, np.arange(len(rows)) * 1.0)
    found = [
        traffic.outcomes(shown).set_index(["request_id", "item_id", "position"])["click"]
        for shown in (by_truth, by_chance)
    ]
    both = pd.concat(found, axis=1, join="inner", keys=["truth", "chance"])
    assert len(both) > 50
    assert both["truth"].equals(both["chance"])


def test_clicks_follow_the_truth_and_a_better_order_gets_more_of_them() -> None:
    traffic = crowd(requests_per_day=4000)
    rows = traffic.between(START, START + DAY)
    good = traffic.outcomes(shown_by(rows, rows[TRUTH].to_numpy()))
    bad = traffic.outcomes(shown_by(rows, -rows[TRUTH].to_numpy()))
    for outcomes in (good, bad):
        expected = outcomes[TRUTH].mean()
        se = np.sqrt((outcomes[TRUTH] * (1 - outcomes[TRUTH])).sum()) / len(outcomes)
        assert abs(outcomes["click"].mean() - expected) < 4 * se
    assert good["click"].mean() > 2 * bad["click"].mean()
    late = (good[CLICK_AT] - good["timestamp"]).dropna()
    assert late.max() <= timedelta(hours=KNOBS.label_delay_hours)
    assert good[CLICK_AT].notna().equals(good["click"] == 1)


def test_what_is_logged_has_the_columns_and_types_of_the_log_and_not_the_truth() -> None:
    traffic = crowd()
    logged = as_logged(traffic.outcomes(shown_by(rows := traffic.day(3), rows[TRUTH].to_numpy())))
    known = as_known_at(World(KNOBS).day(0), KNOBS.start + DAY)
    assert set(logged.columns) == set(known.columns)
    assert logged.dtypes.drop("position").sort_index().equals(known.dtypes.drop("position").sort_index())


def test_more_than_the_world_has_is_refused() -> None:
    with pytest.raises(SettingsError, match="201 visitors were asked for, and the sample world has 200 users"):
        crowd(visitors=201)
    with pytest.raises(SettingsError, match="500,000 requests per day are too many"):
        crowd(requests_per_day=500_000)
