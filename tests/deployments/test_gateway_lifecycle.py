"""What the gateway survives: ``kill -9``, no MLflow, a changed model, a stop in the middle of an answer."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.deployments.running_gateway import (
    ITEMS,
    Place,
    Running,
    expected_scores,
    question,
    rollout,
    running,
    scores_of,
)
from tests.servers import wait_until

HALF = rollout(stage=2)


def tamper(place: Place, version: str) -> None:
    """Change one byte of a registered model's weights, as somebody with write access could."""
    shop = place.shop
    ref = shop.registry.model(version)
    for path in shop.workspace.rglob("model.safetensors"):
        content = bytearray(path.read_bytes())
        if "bundles" not in path.parts and ref.digest in _digest_of(path.parent):
            content[-1] ^= 1
            path.write_bytes(bytes(content))


def _digest_of(folder: Path) -> str:
    from ranking.bundle import Bundle

    return Bundle.load(folder).digest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Half of the users should get version 2, whose bytes somebody changed."""
    made = Place(tmp_path_factory.mktemp("place") / "project", {"log_seconds": 1.0})
    champion, challenger = made.add(1), made.add(2)
    made.promote(champion)
    made.roll_out(champion, challenger, HALF)
    tamper(made, challenger.version)
    return made


def logged_ids(place: Place) -> set[str]:
    return set(place.logged("requests")["request_id"].to_pylist())


def keep_asking(gateway: Running, answers: list[dict[str, Any]], stop: threading.Event) -> None:
    with suppress(OSError, ConnectionError), gateway.connected() as ask:
        while not stop.is_set():
            answers.append(ask(question(f"user-{len(answers) % 50}")).body)


def test_a_changed_challenger_is_refused_and_kill_9_and_a_dead_mlflow_lose_no_answer(place: Place) -> None:
    answers: list[dict[str, Any]] = []
    with running(place) as gateway:
        broken = gateway.get("/version").body["broken"]
        assert "the file was changed after it was saved" in broken["2"]
        health = gateway.get("/health").body
        assert health["status"] == "degraded"
        assert "version 2 is not served, its users get the champion" in health["reasons"][0]
        stop = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            for _ in range(3):
                pool.submit(keep_asking, gateway, answers, stop)
            wait_until(lambda: len(answers) > 300 and any(place.online.glob("requests/*/*.parquet")))
            gateway.stop(signal.SIGKILL)
            stop.set()
    for body in answers:
        assert body["version"] == "1", "the champion answers for a challenger that was changed"
        assert body["fallback"] is (body["arm"] == "treatment")
    assert {body["arm"] for body in answers} == {"treatment", "control"}
    for file in place.online.rglob("*.parquet"):
        pq.read_table(file, partitioning=None)

    # It starts again, and MLflow does not answer: the routing and the models on its own disk serve.
    place.tracking_uri = "http://127.0.0.1:9"
    place.write_settings()
    with running(place) as gateway:
        assert scores_of(gateway.rank()) == pytest.approx(expected_scores(1, 3, ITEMS), abs=1e-9)
        reasons = " ".join(gateway.get("/health").body["reasons"])
        assert "What was known serves on" in reasons
        wait_until(lambda: {body["request_id"] for body in answers} <= logged_ids(place), told=gateway.log.read_text)
    ids = place.logged("requests")["request_id"].to_pylist()
    assert len(ids) == len(set(ids)), "no answer twice"
    outcomes = place.logged("requests").to_pylist()
    assert {row["outcome"] for row in outcomes if row["arm"] == "treatment"} == {"fallback"}
    assert all(row["bad"] for row in outcomes if row["outcome"] == "fallback")


def test_a_stop_lets_answers_in_the_making_end_and_writes_the_log_in_every_worker(tmp_path: Path) -> None:
    # Every answer waits a second for others to be scored with, so all of these are in the making when the stop comes.
    knobs = {"batch_milliseconds": 1000.0, "timeout_milliseconds": 20_000.0, "log_seconds": 600.0, "workers": 2}
    place = Place(tmp_path / "project", knobs)
    place.promote(place.add(1))
    with running(place) as gateway:
        wait_until(lambda: "feedloop_ready_workers 2.0" in gateway.get("/metrics").body, told=gateway.log.read_text)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(gateway.rank, number, request_id=f"last-{number}") for number in range(8)]
            wait_until(lambda: "feedloop_requests_in_flight 8.0" in gateway.get("/metrics").body)
            gateway.stop(signal.SIGTERM)
            answers = [one.result() for one in asked]
    assert [answer.status for answer in answers] == [200] * 8
    assert {f"last-{number}" for number in range(8)} <= logged_ids(place)
    beats = place.logged("beats")
    assert len(set(beats["gateway"].to_pylist())) == 2, "each worker writes under a name of its own"
    assert list(place.journals.iterdir()) == []
