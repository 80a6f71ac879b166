"""Ticks of a rollout as flow runs, from the logs of a gateway to the new champion."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.advance import advance
from flows.approval import answered_by
from flows.propose import propose
from flows.steer import steer
from ranking.errors import PromotionRefused
from ranking.exposures import EXPOSURES, REQUESTS
from ranking.ledger import Operation
from ranking.results import Approval, Evidence, Promotion
from ranking.rollout import Action, RolloutStatus
from settings.loading import load
from tasks import promotion as promotions
from tasks import rollout_end
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tasks.rollout_entries import running
from tests.tasks.gateway_logs import exposures_of, outcomes_of, traffic, write, write_outcomes
from tests.tasks.tiny_models import NOW, Shop, approval_of, evidence_about, open_shop, with_database

pytestmark = pytest.mark.usefixtures("prefect_server")

SETTINGS = """
workspace = "."
[data]
uri = "log"
columns = {request = "request_id"}
[rollout]
strategy = "canary"
outcomes = "outcomes"
canary = {ramp = [
    {name = "33 %", share = 0.33, min_hours = 1, min_sessions = 300},
    {name = "100 %, bake", share = 1, min_hours = 1},
]}
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The check in a clean process takes seconds and has tests of its own."""
    monkeypatch.setattr(promotions, "verify_serving", verify_bundle)
    monkeypatch.setattr(rollout_end, "verify_serving", verify_bundle)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = open_shop(with_database(tmp_path_factory.mktemp("advance")))
    for seed in (1, 2):
        shop.register(seed)
    return shop.workspace


@pytest.fixture
def config(stocked: Path, tmp_path: Path) -> str:
    """A project with a champion and a challenger that is better."""
    shutil.copy(stocked / "mlflow.db", tmp_path / "mlflow.db")
    (tmp_path / "feedloop.toml").write_text(SETTINGS)
    (tmp_path / "online").mkdir()
    config = str(tmp_path / "feedloop.toml")
    shop = open_shop(tmp_path)
    for version in ("1", "2"):
        ref = shop.registry.model(version)
        known = evidence_about(ref, serving(shop.registry, shop.ledger))
        shop.registry.record(ref, known.model_copy(update={"policy_digest": load(config).policy_digest}))
        if version == "1":
            assert proposed(config, version).status == "promoted"
    return config


def yes(evidence: Evidence, _: object) -> Approval:
    return approval_of(evidence)


def proposed(config: str, version: str, **options: str) -> Promotion:
    with answered_by(yes):
        return propose(version, config=config, now=NOW, **options)


def shop_of(config: str) -> Shop:
    return open_shop(Path(config).parent)


def served(config: str, rollout: str, stage: int, hours: tuple[float, float], *, bad: float = 0.02) -> None:
    """Traffic in one stage, logged and answered by users."""
    arms = ("treatment",) if stage else ("treatment", "control", "rest")
    start, end = hours
    requests = traffic(
        3_000, stage, arms=arms, rollout=rollout, hours=end - start, start=NOW + timedelta(hours=start)
    ).assign(stage=stage)
    requests["request_id"] += f"-{stage}-{start}"
    treated = requests["arm"] == "treatment"
    requests.loc[treated, "bad"] = requests.loc[treated, "latency_ms"].rank(method="first", pct=True) < bad
    place = Path(config).parent
    write(place, "requests", requests, REQUESTS)
    exposures = exposures_of(requests)
    write(place, "exposures", exposures, EXPOSURES)
    write_outcomes(place, outcomes_of(exposures))


def test_a_canary_goes_from_its_approval_to_the_new_champion_by_ticks_alone(config: str) -> None:
    done = proposed(config, "2")
    assert done.status == "rolling_out"
    rollout = running(shop_of(config).ledger.entries())
    assert rollout is not None

    served(config, rollout.id, 0, (0, 1))
    first = advance(config, now=NOW + timedelta(hours=1))
    assert first is not None
    assert first.step is not None
    assert (first.step.action, first.rollout.current.name) == (Action.ADVANCE, "100 %, bake")
    assert first.evidence is not None
    assert first.evidence.canary_clicks is not None

    served(config, rollout.id, 1, (1, 2))
    early = advance(config, now=NOW + timedelta(hours=1, minutes=30))
    assert early is not None
    assert early.step is not None
    assert early.step.reason.startswith("Stage '100 %, bake' is held: 0.5 of 1 hours")
    last = advance(config, now=NOW + timedelta(hours=2))
    assert last is not None
    assert last.rollout.status is RolloutStatus.COMPLETED

    entries = shop_of(config).ledger.entries()
    assert [entry.operation for entry in entries] == [
        Operation.PROMOTE,
        Operation.ROLLOUT,
        Operation.ROLLOUT,
        Operation.ROLLOUT,
        Operation.PROMOTE,
    ]
    assert entries[-1].after == "2"
    assert entries[-1].reason.startswith("Its rollout is completed. COMPLETE: Every check of stage '100 %, bake' is ok")
    with get_client(sync_client=True) as client:
        shown = [found.data for found in client.read_artifacts() if found.key == "rollout-feed-ranker"]
    assert any("**[100 %, bake]**" in str(data) and "| sessions |" in str(data) for data in shown)

    assert advance(config, now=NOW + timedelta(hours=3)) is None


def test_a_bad_challenger_is_taken_back_by_the_next_tick(config: str) -> None:
    proposed(config, "2")
    rollout = running(shop_of(config).ledger.entries())
    assert rollout is not None
    served(config, rollout.id, 0, (0, 1), bad=0.3)
    tick = advance(config, now=NOW + timedelta(hours=1))
    assert tick is not None
    assert tick.rollout.status is RolloutStatus.ROLLED_BACK
    assert tick.step is not None
    assert "canary sessions were bad" in tick.step.reason
    with pytest.raises(PromotionRefused, match="it was taken out of service by advance"):
        proposed(config, "2", reason="once more")


def test_a_person_ends_it_by_a_flow_as_from_the_form(config: str) -> None:
    proposed(config, "2")
    tick = steer("abort", "marketing asked", "eve", config=config, now=NOW)
    assert tick.rollout.status is RolloutStatus.ABORTED
    assert shop_of(config).ledger.entries()[-1].reason == "abort: marketing asked"


def test_a_strategy_that_was_asked_for_goes_before_the_configured_one(config: str) -> None:
    assert proposed(config, "2", strategy="immediate").status == "promoted"
