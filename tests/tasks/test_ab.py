"""Planning and reading an A/B test: from a log, and from what a gateway wrote."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ranking.errors import EmptyWindow, PromotionRefused
from ranking.experiment import TestVerdict
from ranking.experiment_knobs import ExperimentKnobs
from ranking.exposures import EXPOSURES, REQUESTS
from ranking.features import ColumnKnobs
from ranking.rollout_changes import begin
from ranking.strategies import AbTest, Canary
from settings.effects import DataKnobs
from tasks.ab_picture import look_picture, plan_picture
from tasks.ab_plan import plan_test
from tasks.ab_readout import Look, look, look_markdown
from tasks.stage_logs import open_logs
from tests.tasks.gateway_logs import START, exposures_of, outcomes_of, traffic, write, write_outcomes

KNOBS = ExperimentKnobs(weeks=1, min_users_per_arm=100, min_relative_effect=0.1)
PNG = b"\x89PNG"


def data_at(place: Path) -> DataKnobs:
    return DataKnobs(uri=str(place / "log"), columns=ColumnKnobs(request="request_id"))


def read_at(place: Path, hours: float, strategy: AbTest | Canary | None = None) -> Look:
    test = strategy or AbTest(first=None, experiment=KNOBS)
    rollout = begin("r1", test, champion="1", challenger="2", actor="ada", reason="new", now=START)
    now = START + timedelta(hours=hours)
    with open_logs(
        rollout,
        online=str(place / "online"),
        outcomes=str(place / "outcomes"),
        data=data_at(place),
        maturity_hours=0,
        now=now,
    ) as logs:
        return look(logs, now)


def test_a_plan_counts_users_by_week_and_says_what_they_can_show(tmp_path: Path) -> None:
    exposures = exposures_of(traffic(9_000, hours=24 * 20, start=START - timedelta(days=20)))
    write_outcomes(tmp_path, outcomes_of(exposures), "log")
    planned = plan_test(data_at(tmp_path), KNOBS, START)
    users = [exposures[exposures["time"] >= START - timedelta(weeks=number)]["user"].nunique() for number in (1, 2)]
    assert [option.users_per_arm for option in planned.options] == [round(count / 2) for count in users]
    assert "users per arm are needed" in planned.reason
    assert plan_picture(planned, KNOBS.min_relative_effect).startswith(PNG)


def test_nothing_is_planned_from_an_empty_stretch(tmp_path: Path) -> None:
    write_outcomes(tmp_path, outcomes_of(exposures_of(traffic(50))), "log")
    with pytest.raises(EmptyWindow, match="has no row before 2026-02-01"):
        plan_test(data_at(tmp_path), KNOBS, START - timedelta(days=28))


def test_a_look_tells_changes_intervals_and_what_is_missing_and_decides_nothing(tmp_path: Path) -> None:
    requests = traffic(6_000, arms=("treatment", "control"))
    write(tmp_path, "requests", requests, REQUESTS)
    exposures = exposures_of(requests)
    write(tmp_path, "exposures", exposures, EXPOSURES)
    outcomes = outcomes_of(exposures)
    lifted = (exposures["arm"] == "treatment").to_numpy() & (np.random.default_rng(5).random(len(outcomes)) < 0.1)
    write_outcomes(tmp_path, outcomes.assign(click=np.where(lifted, 1, outcomes["click"])))

    seen = read_at(tmp_path, 6)

    assert seen.readout is not None
    assert seen.readout.verdict is TestVerdict.CONTINUE
    assert seen.readout.clicks.relative is not None
    assert seen.readout.clicks.relative.value > 0.2
    text = look_markdown(seen)
    assert "150 users in A, 150 in B" in text
    assert "missing: 6.8 more days until the registered horizon." in text
    assert seen.daily is not None
    assert set(seen.daily["arm"]) == {"control", "treatment"}
    assert seen.daily["impressions"].sum() == len(exposures)
    assert look_picture(seen).startswith(PNG)


def test_a_test_without_final_labels_says_so(tmp_path: Path) -> None:
    (tmp_path / "online").mkdir()
    seen = read_at(tmp_path, 1)
    assert "No impression with a final label yet." in look_markdown(seen)
    assert look_picture(seen).startswith(PNG)


def test_a_canary_is_no_ab_test(tmp_path: Path) -> None:
    with pytest.raises(PromotionRefused, match="is in stage '1 %', which is no A/B test"):
        read_at(tmp_path, 1, Canary())


def test_users_with_a_click_are_compared_as_proportions(tmp_path: Path) -> None:
    requests = traffic(400, arms=("treatment", "control"))
    write(tmp_path, "requests", requests, REQUESTS)
    exposures = exposures_of(requests)
    write(tmp_path, "exposures", exposures, EXPOSURES)
    outcomes = outcomes_of(exposures)
    write_outcomes(tmp_path, outcomes)
    seen = read_at(tmp_path, 6)
    assert seen.clickers is not None
    clicked = pd.Series(outcomes["click"].to_numpy()).groupby(exposures["user"].to_numpy()).max()
    arm = requests.groupby("user")["arm"].first()
    assert seen.clickers.treatment == pytest.approx(clicked[arm == "treatment"].mean())
    assert "Users with a click (z-test)" in look_markdown(seen)
