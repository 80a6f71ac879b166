"""Evidence of a rollout's stage, read from real log files, against the same counted by hand."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ranking.errors import MissingColumn
from ranking.experiment_knobs import ExperimentKnobs
from ranking.exposures import BEATS, EXPOSURES, REQUESTS, SHADOW, SHADOW_REQUESTS
from ranking.features import ColumnKnobs
from ranking.rollout import Rollout
from ranking.rollout_changes import begin
from ranking.rollout_checks import StageEvidence
from ranking.strategies import AbTest, Canary, InterleavingStage, RampStage, Shadow, Strategy
from settings.effects import DataKnobs, RegistryKnobs
from tasks.stage_evidence import gather_evidence
from tests.tasks.gateway_logs import START, exposures_of, outcomes_of, traffic, write, write_outcomes

COLUMNS = ColumnKnobs(request="request_id")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "online").mkdir()
    return tmp_path


def rollout_with(strategy: Strategy) -> Rollout:
    return begin("r1", strategy, champion="1", challenger="2", actor="ada", reason="new", now=START)


def gathered(place: Path, rollout: Rollout, hours: float, maturity_hours: float = 0.0) -> StageEvidence:
    return gather_evidence.fn(
        rollout=rollout,
        online=str(place / "online"),
        outcomes=str(place / "outcomes"),
        data=DataKnobs(uri=str(place / "log"), columns=COLUMNS),
        maturity_hours=maturity_hours,
        now=START + timedelta(hours=hours),
        registry=RegistryKnobs(),
        workspace=str(place / "workspace"),
    )


CANARY = Canary(ramp=(RampStage(name="33 %", share=0.33), RampStage(name="all", share=1.0)))


def test_a_stage_without_any_log_is_not_measured(place: Path) -> None:
    found = gathered(place, rollout_with(CANARY), 1)
    assert [window.canary for window in found.windows] == [None] * 4
    assert (found.canary_users, found.canary_clicks) == (None, None)


def test_a_gateway_that_lives_without_traffic_is_measured_as_nobody(place: Path) -> None:
    beats = pd.DataFrame({"gateway": "g", "time": [START + timedelta(minutes=m) for m in (1, 20)], "requests": 0})
    write(place, "beats", beats, BEATS)
    windows = gathered(place, rollout_with(CANARY), 1).windows
    assert [None if w.canary is None else w.canary.total for w in windows] == [0, 0, None, None]


def test_sessions_users_and_clicks_are_those_counted_by_hand(place: Path) -> None:
    requests = traffic(6_000)
    # Another rollout, another stage, and what came before this stage say nothing about it.
    others = traffic(900, 5).assign(
        rollout=["r0"] * 300 + ["r1"] * 600, stage=[0] * 300 + [1] * 300 + [0] * 300, bad=True
    )
    others.loc[600:, "time"] -= timedelta(hours=7)
    write(place, "requests", pd.concat([requests, others]), REQUESTS)
    exposures = exposures_of(requests)
    write(place, "exposures", exposures, EXPOSURES)
    outcomes = outcomes_of(exposures)
    write_outcomes(place, outcomes)

    found = gathered(place, rollout_with(CANARY), 6, maturity_hours=2)

    both = requests[requests["arm"].isin(["treatment", "control"])]
    window = ((both["time"] - START) / timedelta(minutes=15)).astype(int)
    by_hand = both.groupby([window, "arm", "user"])["bad"].max().groupby(level=[0, 1]).agg(["size", "sum"])
    assert len(found.windows) == 24
    for number, measured in enumerate(found.windows):
        for arm, sessions in (("treatment", measured.canary), ("control", measured.control)):
            assert sessions is not None
            assert (sessions.total, sessions.bad) == tuple(by_hand.loc[(number, arm)])
    assert found.canary_users == both[both["arm"] == "treatment"]["user"].nunique()
    final = exposures[exposures["time"] < START + timedelta(hours=4)].merge(
        outcomes[["request_id", "item_id", "click"]], left_on=["request_id", "item"], right_on=["request_id", "item_id"]
    )
    for arm, sums in (("treatment", found.canary_clicks), ("control", found.control_clicks)):
        assert sums is not None
        mine = final[final["arm"] == arm]
        assert sums.sums[:2] == (mine["click"].sum(), len(mine))
        assert sums.users == both[both["arm"] == arm]["user"].nunique()


def test_a_full_ramp_has_no_control_and_needs_none(place: Path) -> None:
    requests = traffic(500, arms=("treatment",)).assign(stage=1)
    write(place, "requests", requests, REQUESTS)
    moved = rollout_with(CANARY).model_copy(update={"stage": 1})
    found = gathered(place, moved, 6)
    assert sum(window.canary.total for window in found.windows if window.canary) > 400
    assert all(window.control is None for window in found.windows)


def test_an_ab_test_counts_users_once_in_the_arm_they_were_first_seen_in(place: Path) -> None:
    requests = traffic(6_000, arms=("treatment", "control"))
    # Two users are seen in the other arm later on.
    late = requests["time"] > START + timedelta(hours=3)
    requests.loc[late & requests["user"].isin(["u0", "u2"]), "arm"] = "control"
    write(place, "requests", requests, REQUESTS)
    exposures = exposures_of(requests)
    write(place, "exposures", exposures, EXPOSURES)
    write_outcomes(place, outcomes_of(exposures))
    past = outcomes_of(exposures_of(traffic(3_000, 9)), 3)
    past["timestamp"] -= timedelta(days=2)
    write_outcomes(place, past, "log")

    test = AbTest(first=None, experiment=ExperimentKnobs(weeks=1))
    found = gathered(place, rollout_with(test), 6).experiment

    assert found is not None
    assert found.until == START + timedelta(hours=6)
    assert (found.control_users, found.treatment_users, found.crossovers) == (150, 150, 2)
    clicks = found.clicks.treatment
    of_first = exposures[exposures["user"].isin({f"u{n}" for n in range(0, 300, 2)})]
    assert clicks.users == 150
    assert clicks.sums[1] == len(of_first)
    before = past[past["user_id"].isin({f"u{n}" for n in range(0, 300, 2)})]
    assert clicks.sums[2:] == (before["click"].sum(), len(before))
    per_user = found.guardrails["clicks_per_user"].treatment
    assert per_user.sums == (clicks.sums[0], 150, before["click"].sum(), 150)
    window = ((requests["time"] - START) / timedelta(minutes=15)).astype(int)
    sessions = requests.groupby(["user", window])["bad"].max()
    treated = sessions[sessions.index.get_level_values(0).isin(set(of_first["user"]))]
    assert found.guardrails["bad_sessions"].treatment.sums[:2] == (treated.sum(), len(treated))


def test_outcomes_that_lack_a_column_are_refused_by_its_name(place: Path) -> None:
    requests = traffic(100)
    write(place, "requests", requests, REQUESTS)
    write(place, "exposures", exposures_of(requests), EXPOSURES)
    write_outcomes(place, outcomes_of(exposures_of(requests)).drop(columns="item_id"))
    with pytest.raises(MissingColumn, match=r"have no column 'item_id'"):
        gathered(place, rollout_with(CANARY), 6)


def test_a_shadow_compares_both_scores_and_counts_what_was_not_scored(place: Path) -> None:
    random = np.random.default_rng(4)
    requests = traffic(400)
    outcome = ["scored"] * 390 + ["failed"] * 6 + ["dropped"] * 4
    chosen = requests.assign(
        outcome=outcome, latency_ms=5.0, features=[[{"name": "device", "known": 0.5}] for _ in range(400)]
    )
    write(place, "shadow_requests", chosen, SHADOW_REQUESTS)
    rows = exposures_of(requests[:396])
    champion = random.random(len(rows))
    scored = np.repeat([one == "scored" for one in outcome[:396]], 3)
    challenger = np.where(scored, champion + 0.01 * random.random(len(rows)), np.nan)
    rows = rows.assign(champion_score=champion, challenger_score=pd.array(challenger, dtype="Float64"))
    rows.loc[~scored, "challenger_score"] = pd.NA
    write(place, "shadow", rows, SHADOW)

    found = gathered(place, rollout_with(Shadow()), 6).shadow

    assert found is not None
    assert (found.sums.requests, found.sums.scored, found.sums.failed) == (400, 390, 6)
    assert found.sums.latency_p99_milliseconds == pytest.approx(5.0)
    assert found.coverage == pytest.approx(0.975)
    assert found.rank_correlation is not None
    assert found.rank_correlation > 0.95
    # Nothing is registered here, so what training looked like is not known: unmeasured, never fine.
    assert (found.sums.features, found.own_stability_index, found.log_loss) == (None, None, None)


def test_mixed_lists_count_the_clicks_on_each_models_picks(place: Path) -> None:
    requests = traffic(900, arms=("rest",))
    write(place, "requests", requests, REQUESTS)
    exposures = exposures_of(requests)
    # Whose pick each item was: nobody's, the champion's, the challenger's; the last 300 requests were not mixed.
    exposures["team"] = np.tile([-1, 0, 1], 900)
    exposures.loc[1800:, "team"] = -1
    write(place, "exposures", exposures, EXPOSURES)
    outcomes = outcomes_of(exposures)
    write_outcomes(place, outcomes)
    mixing = AbTest(first=None, interleaving=InterleavingStage(name="mixed", min_requests=500))

    found = gathered(place, rollout_with(mixing), 6).interleaving

    assert found is not None
    clicks = outcomes["click"].to_numpy().reshape(900, 3)[:600]
    assert (found.requests, found.champion_wins, found.challenger_wins) == (
        600,
        int((clicks[:, 1] > clicks[:, 2]).sum()),
        int((clicks[:, 2] > clicks[:, 1]).sum()),
    )
