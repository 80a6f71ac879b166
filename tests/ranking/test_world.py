from datetime import timedelta

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from ranking.features import resolve
from ranking.world import CLICK_AT, SAMPLE_COLUMNS, TRUTH, World, WorldKnobs, as_known_at

SMALL = WorldKnobs(users=200, items=80, requests_per_day=150)


def test_the_same_seed_gives_the_same_day_in_whatever_order_days_are_asked_for() -> None:
    forward, backward = World(SMALL), World(SMALL)
    third = [forward.day(number) for number in range(4)][3]
    pd.testing.assert_frame_equal(third, backward.day(3))
    assert not third.equals(World(SMALL.model_copy(update={"seed": 8})).day(3))


def test_the_log_has_every_column_that_the_sample_roles_name() -> None:
    day = World(SMALL).day(0)
    assert resolve(SAMPLE_COLUMNS, list(day.columns)).features
    assert not day.duplicated(["user_id", "item_id", "timestamp", "request_id"]).any()
    assert day["timestamp"].is_monotonic_increasing


def test_a_ranker_that_knows_the_truth_gets_more_clicks_than_chance() -> None:
    knobs = SMALL.model_copy(update={"exploration_share": 0.0})
    world = World(knobs)
    truth = {}

    def oracle(candidates: pd.DataFrame) -> np.ndarray:
        assert TRUTH not in candidates
        return truth["p"]

    everything = World(knobs.model_copy(update={"slate_size": knobs.candidates_per_request}))
    # The same candidates, all shown in the order they were drawn, tell the true probabilities without position.
    shown = everything.day(5, lambda rows: -np.arange(len(rows), dtype=float))
    position = np.tile(np.arange(knobs.candidates_per_request), knobs.requests_per_day)
    truth["p"] = shown[TRUTH].to_numpy() * (1 + 0.06 * position)
    assert world.day(5, oracle)[TRUTH].mean() > world.day(5)[TRUTH].mean() * 1.2


def test_exploration_shows_requests_in_an_order_the_ranker_did_not_choose() -> None:
    ranker = lambda rows: -rows["item_id"].to_numpy(dtype=float)  # noqa: E731 (a ranker by item number)
    greedy = World(SMALL.model_copy(update={"exploration_share": 0.0})).day(1, ranker)
    mixed = World(SMALL.model_copy(update={"exploration_share": 0.5})).day(1, ranker)
    ordered = [
        day.groupby("request_id")["item_id"].apply(lambda ids: ids.is_monotonic_increasing) for day in (greedy, mixed)
    ]
    assert ordered[0].all()
    assert 0.3 < ordered[1].mean() < 0.7


def test_a_click_is_not_known_before_it_happens() -> None:
    day = World(SMALL).day(0)
    clicks = day[day[CLICK_AT].notna()]
    moment = clicks[CLICK_AT].median().to_pydatetime()
    known = as_known_at(day, moment)
    assert (known["timestamp"] < moment).all()
    assert known["click"].sum() == (clicks[CLICK_AT] <= moment).sum() < len(clicks)
    late = as_known_at(day, SMALL.start + timedelta(days=1, hours=SMALL.label_delay_hours))
    assert late["click"].sum() == len(clicks)
    assert {CLICK_AT, TRUTH}.isdisjoint(known.columns)


def test_tastes_drift_so_that_old_truth_ranks_worse_while_a_world_without_drift_stays() -> None:
    still = {"trend_drift_per_day": 0.0, "taste_drift_per_day": 0.0, "segment_drift_per_day": 0.0}

    def similarity(world: World) -> float:
        """Correlation over 40 days of what each age band thinks of each category."""
        days = [
            world.day(number).groupby(["user_age_band", "item_category"], observed=True)[TRUTH].mean()
            for number in (0, 40)
        ]
        return float(days[0].corr(days[1]))

    assert similarity(World(WorldKnobs(**still))) > 0.8
    assert similarity(World(WorldKnobs())) < 0.5


def test_new_items_appear_every_day() -> None:
    world = World(SMALL)
    assert world.day(20)["item_id"].max() > SMALL.items > world.day(0)["item_id"].max()


def test_the_truth_predicts_the_clicks() -> None:
    days = pd.concat([World(SMALL).day(number) for number in range(5)])
    assert roc_auc_score(days["click"], days[TRUTH]) > 0.7
    assert abs(days["click"].mean() - days[TRUTH].mean()) < 0.02
