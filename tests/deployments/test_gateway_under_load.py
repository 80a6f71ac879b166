"""The gateway while users ask: a hundred swaps, a stopped MLflow, challengers that fail, live or in the shadow."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from ranking.strategies import Shadow
from tests.deployments.running_gateway import (
    ITEMS,
    Answer,
    Place,
    Running,
    expected_scores,
    question,
    rollout,
    running,
    scores_of,
)
from tests.servers import wait_until
from tests.tasks.mlflow_server import free_port, mlflow_server
from tests.tasks.tiny_models import with_database

SWAPS, CLIENTS = 100, 4
FAULTY = ("-m", "tests.deployments.faulty_gateway")
EXPECTED = {seed: expected_scores(seed, 3, ITEMS) for seed in (1, 2)}


@contextmanager
def asked(gateway: Running, users: int = 1) -> Iterator[list[Answer]]:
    """Users who ask and ask until the block ends; what they got."""
    answers: list[Answer] = []
    stop = threading.Event()

    def ask_on(number: int) -> None:
        with gateway.connected() as ask:
            while not stop.is_set():
                answers.append(ask(question(3 if users == 1 else f"user-{number}-{len(answers) % users}")))

    with ThreadPoolExecutor(CLIENTS) as pool:
        running_ones = [pool.submit(ask_on, number) for number in range(CLIENTS)]
        try:
            yield answers
        finally:
            stop.set()
        for one in running_ones:
            one.result()


def check_whole(answers: list[Answer]) -> dict[str, int]:
    """Every answer has the scores of exactly the model that it names; answers per model."""
    per_version: dict[str, int] = {}
    for answer in answers:
        assert answer.status == 200, answer
        version = answer.body["version"]
        assert scores_of(answer) == pytest.approx(EXPECTED[int(version)], abs=1e-6)
        per_version[version] = per_version.get(version, 0) + 1
    return per_version


@pytest.mark.slow
def test_a_hundred_swaps_under_load_fail_no_request_and_mix_no_answer(tmp_path: Path) -> None:
    assert EXPECTED[1] != pytest.approx(EXPECTED[2], abs=0.01), "the models can be told apart"
    place = Place(tmp_path / "project", {"refresh_seconds": 0.05})
    models = [place.add(1), place.add(2)]
    place.promote(models[0])
    with running(place) as gateway:
        with asked(gateway) as answers:
            for number in range(SWAPS):
                place.promote(models[(number + 1) % 2])
                gateway.until_entry()
        per_version = check_whole(answers)
        swaps = [line for line in gateway.get("/metrics").body.splitlines() if line.startswith("feedloop_swaps_total")]
    print(f"{SWAPS} swaps, {len(answers)} answers {per_version}, 0 failed, 0 mixed; {swaps}")
    assert min(per_version.values()) > 100
    assert float(swaps[0].split()[1]) == SWAPS + 1
    entries = [(row["version"], row["entry"]) for row in place.logged("requests").to_pylist()]
    assert all(int(version) == 1 + (entry + 1) % 2 for version, entry in entries), "the log says which entry it was"


@pytest.mark.slow
def test_with_mlflow_stopped_it_serves_on_and_starts_again(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    with_database(server)
    port = free_port()
    with mlflow_server(server, port=port) as uri:
        place = Place(tmp_path / "project", tracking_uri=uri)
        champion, challenger = place.add(1), place.add(2)
        place.promote(champion)
        place.roll_out(champion, challenger, rollout(stage=2))
        first = Running(place, ["-m", "deployments.cli", "serve"]).wait()
        assert first.until_entry()["broken"] == {}
    try:
        with asked(first, users=50) as answers:
            wait_until(lambda: "serves on" in str(first.get("/health").body["reasons"]), told=first.log.read_text)
            wait_until(lambda: len(answers) > 500)
    finally:
        first.stop()
    assert {answer.status for answer in answers} == {200}
    assert {answer.body["version"] for answer in answers} == {"1", "2"}, "the rollout goes on too"
    with running(place) as again:
        health = again.get("/health").body
        assert (health["ready"], health["status"]) == (True, "degraded")
        with asked(again) as answers:
            wait_until(lambda: len(answers) > 100)
        check_whole(answers)
        with mlflow_server(server, port=port):
            wait_until(lambda: again.get("/health").body["status"] == "ok", told=again.log.read_text)
            place.promote(challenger)
            again.until_entry()
            assert again.rank().body["version"] == "2", "and follows the ledger as soon as it answers"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise", "nan", "slow", "hang"])
def test_a_challenger_that_fails_before_its_users_is_answered_for_by_the_champion(tmp_path: Path, fault: str) -> None:
    place = Place(tmp_path / "project", {"timeout_milliseconds": 200.0, "breaker_failures": 5, "breaker_seconds": 0.5})
    champion, challenger = place.add(1), place.add(2)
    place.promote(champion)
    place.roll_out(champion, challenger, rollout(stage=2))
    environment = {"LIVE_FAULT": fault}
    with running(place, *FAULTY, environment=environment) as gateway, asked(gateway, users=50) as answers:
        wait_until(lambda: len(answers) > 400, told=gateway.log.read_text)
    assert {answer.status for answer in answers} == {200}
    assert {answer.body["version"] for answer in answers} == {"1"}
    assert {(answer.body["arm"], answer.body["fallback"]) for answer in answers} == {
        ("treatment", True),
        ("control", False),
    }
    logged = place.logged("requests")
    treated = logged.filter(pc.equal(logged["arm"], "treatment"))
    assert set(treated["outcome"].to_pylist()) == {"fallback"}
    assert all(treated["bad"].to_pylist())
    assert "it is not asked for 0.5 s" in " ".join(gateway.log.read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise", "hang", "leak", "sleep", "exit"])
def test_a_shadow_with_a_fault_fails_no_request_of_a_user(tmp_path: Path, fault: str) -> None:
    knobs: dict[str, Any] = {"shadow_timeout_milliseconds": 300, "shadow_megabytes": 900}
    place = Place(tmp_path / "project", knobs)
    champion, challenger = place.add(1), place.add(2)
    place.promote(champion)
    place.roll_out(champion, challenger, rollout(strategy=Shadow()))
    environment = {"FAULT": fault}
    with running(place, *FAULTY, environment=environment) as gateway:
        with asked(gateway) as answers:
            wait_until(lambda: len(answers) > 2_000, told=gateway.log.read_text)
        assert check_whole(answers) == {"1": len(answers)}
    chosen = place.logged("shadow_requests")
    found = {outcome: chosen["outcome"].to_pylist().count(outcome) for outcome in set(chosen["outcome"].to_pylist())}
    print(fault, len(answers), "answers, 0 failed; in the shadow", found)
    assert sum(found.values()) == len(answers) == place.logged("requests").num_rows
    assert found.get("scored", 0) < 0.99 * len(answers)
