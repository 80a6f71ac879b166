"""One request's walk, in this process: mixed lists, late models, what counts as whose mistake."""

import asyncio
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from deployments.gateway.answering import chosen, rank
from deployments.gateway.problems import Refused
from deployments.gateway.serving import Serving
from deployments.gateway.shadowing import Shadow
from deployments.gateway.state import Gateway
from ranking.assignment import RoutingTable, split
from ranking.interleaving import draft
from ranking.quick_encoding import QuickScorer
from settings.serving import ServingKnobs
from tests.deployments.test_shadowing import ITEMS, Box

MIXED = RoutingTable(rollout="r", champion="1", salt="r:", interleaved="2", interleaved_share=1.0)
TREATED = RoutingTable(rollout="r", champion="1", salt="r:", arms=split("1", "2", 1.0))


def answers(box: Box, table: RoutingTable, bodies: list[dict[str, Any]], **knobs: Any) -> list[dict[str, Any]]:
    """What a gateway with this table answers; a refusal is its status and words."""

    async def all_of_them() -> list[dict[str, Any]]:
        allowed = ServingKnobs.model_validate({"breaker_failures": 3, **knobs})
        gateway = Gateway(allowed, box.log, Shadow(allowed, box.log, box.folder / "bundles"))
        gateway.serving = Serving(
            box.serving.routing.model_copy(update={"table": table}), box.loaded, box.serving.since
        )
        found = []
        for body in bodies:
            try:
                found.append(orjson.loads((await rank(gateway, orjson.dumps(body), None))[1]))
            except Refused as refused:
                found.append({"status": refused.status, "detail": refused.detail})
        gateway.champions.close()
        gateway.challengers.close()
        return found

    told = asyncio.run(all_of_them())
    box.log.rotate(box.serving.since)
    return told


def asking(number: int, **more: Any) -> dict[str, Any]:
    return {"request_id": f"r{number}", "user": 3, "items": ITEMS, "context": {"device": "phone"}, **more}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def fails(monkeypatch: pytest.MonkeyPatch, seed: int, how: Callable[[], Any]) -> None:
    """Let the model of a seed fail when it scores."""
    score = QuickScorer.score

    def failing(scorer: QuickScorer, rows: Any) -> Any:
        return how() if scorer._bundle.facts.seed == seed else score(scorer, rows)

    monkeypatch.setattr(QuickScorer, "score", failing)


def boom() -> None:
    raise RuntimeError("planted")


def test_a_mixed_list_is_the_draft_of_both_and_its_teams_are_logged(box: Box) -> None:
    told = answers(box, MIXED, [asking(number, length=4) for number in range(20)])
    rows = box.rows("exposures").to_pylist()
    query = box.query(0)
    scores = {}
    for version, loaded in box.loaded.items():
        features = loaded.features.rows(3, ITEMS, query.context, query.at)
        scores[version] = loaded.scorer.score(features)
    orders = {version: [ITEMS[place] for place in np.argsort(-found)] for version, found in scores.items()}
    for number, body in enumerate(told):
        expected = draft(orders["1"], orders["2"], 4, salt="r:", request=f"r{number}")
        assert tuple(item["item"] for item in body["items"]) == expected.items
        assert (body["version"], body["fallback"]) == ("1", False)
        mine = [row for row in rows if row["request_id"] == f"r{number}"]
        assert tuple(row["team"] for row in mine) == expected.teams
        for row in mine:
            picker = "2" if row["team"] == 1 else "1"
            assert row["score"] == pytest.approx(scores[picker][ITEMS.index(row["item"])], abs=1e-9)
    assert {row["team"] for row in rows} >= {0, 1}


def test_a_mixed_list_without_the_challenger_is_the_champion_s(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, 2, boom)
    (body,) = answers(box, MIXED, [asking(1)])
    assert (body["version"], body["fallback"]) == ("1", True)
    assert box.rows("exposures")["team"].to_pylist() == [-1] * len(ITEMS)


def test_a_challenger_is_not_asked_while_its_breaker_is_open(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    fails(monkeypatch, 2, lambda: attempts.append(1) or boom())
    told = answers(box, TREATED, [asking(number) for number in range(10)])
    assert {(body["version"], body["fallback"]) for body in told} == {("1", True)}
    assert len(attempts) == 3


def test_a_challenger_that_hangs_costs_half_the_time_of_a_few_answers_and_then_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, attempts = threading.Event(), []
    fails(monkeypatch, 2, lambda: attempts.append(1) or end.wait(60))
    told = answers(box, TREATED, [asking(number) for number in range(30)], timeout_milliseconds=100.0)
    end.set()
    assert {(body["version"], body["fallback"]) for body in told} == {("1", True)}
    assert len(attempts) == 1, "its thread hangs in the first request; the others waited behind it"
    latencies = sorted(box.rows("requests")["latency_ms"].to_pylist())
    assert latencies[-3] >= 50, "three waited for half of the timeout"
    assert latencies[-4] < 50, "and the rest did not wait at all"


def test_a_hundred_swaps_among_requests_fail_none_and_mix_none(box: Box) -> None:
    query = box.query(0)
    scores = {
        version: loaded.scorer.score(loaded.features.rows(3, ITEMS, query.context, query.at))
        for version, loaded in box.loaded.items()
    }
    told: list[dict[str, Any]] = []

    async def swapped() -> None:
        knobs = ServingKnobs()
        gateway = Gateway(knobs, box.log, Shadow(knobs, box.log, box.folder / "bundles"))
        states = []
        for version in "12":
            table = RoutingTable(rollout="", champion=version, salt="")
            routing = box.serving.routing.model_copy(update={"table": table, "entry": int(version)})
            states.append(Serving(routing, {version: box.loaded[version]}, box.serving.since))
        gateway.swap(states[0])
        going = True

        async def user(number: int) -> None:
            while going:
                told.append(orjson.loads((await rank(gateway, orjson.dumps(asking(number)), None))[1]))

        users = [asyncio.create_task(user(number)) for number in range(4)]
        for number in range(100):
            gateway.swap(states[(number + 1) % 2])
            answered = len(told)
            while len(told) < answered + 3:
                await asyncio.sleep(0)
        going = False
        await asyncio.gather(*users)
        gateway.champions.close()
        gateway.challengers.close()

    asyncio.run(swapped())
    assert {body["version"] for body in told} == {"1", "2"}
    for body in told:
        expected = dict(zip(ITEMS, scores[body["version"]].tolist(), strict=True))
        assert {item["item"]: item["score"] for item in body["items"]} == pytest.approx(expected, abs=1e-6)
    box.log.rotate(box.serving.since)
    assert all(str(row["entry"]) == row["version"] for row in box.rows("requests").to_pylist())


def test_a_request_that_nobody_can_answer_is_not_the_challenger_s_mistake(box: Box) -> None:
    bad = [asking(number, user_features={"age": "old"}) for number in range(5)]
    told = answers(box, TREATED, [*bad, asking(9)])
    assert [body.get("status") for body in told] == [HTTPStatus.UNPROCESSABLE_ENTITY] * 5 + [None]
    assert told[-1]["version"] == "2", "its breaker stayed closed"
    assert box.rows("requests").num_rows == 1, "and no session is bad for it"


def test_a_champion_that_fails_or_is_late_is_an_error_and_is_logged(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, 1, boom)
    (body,) = answers(box, RoutingTable(rollout="", champion="1", salt=""), [asking(1)])
    assert body["status"] is HTTPStatus.INTERNAL_SERVER_ERROR
    assert "planted" not in body["detail"]
    (row,) = box.rows("requests").to_pylist()
    assert (row["outcome"], row["bad"]) == ("error", True)


def test_the_same_request_is_always_or_never_chosen_and_the_share_holds() -> None:
    table = RoutingTable(rollout="r", champion="1", salt="r:", shadow="2", shadow_share=0.3)
    picked = [chosen(table, "shadow", 0.3, f"request-{number}") for number in range(20_000)]
    assert picked == [chosen(table, "shadow", 0.3, f"request-{number}") for number in range(20_000)]
    assert sum(picked) / len(picked) == pytest.approx(0.3, abs=0.015)
    assert not any(chosen(table, "shadow", 0.0, f"request-{number}") for number in range(100))
    assert all(chosen(table, "shadow", 1.0, f"request-{number}") for number in range(100))
