"""The gateway's contract, at a real one: started by ``feedloop serve``, with a real registry and a running canary."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from ranking.assignment import CONTROL, TREATMENT, assign
from ranking.rollout import routing
from tests.deployments.running_gateway import (
    CONTEXT,
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
from tests.servers import browser, wait_until

TOKEN = "open sesame"  # noqa: S105 (a test's own)
TENTH = rollout(stage=1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Version 1 serves; version 2 has a tenth of the users, beside a control."""
    place = Place(
        tmp_path_factory.mktemp("place") / "project", {"token": TOKEN, "max_candidates": 50, "max_body_kilobytes": 8}
    )
    champion, challenger = place.add(1), place.add(2)
    place.promote(champion)
    place.roll_out(champion, challenger, TENTH)
    with running(place) as started:
        yield started


def wrong(answer: Answer, status: int) -> str:
    """What a refused request was told."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["status"] == status
    return str(answer.body["detail"])


def test_a_thousand_users_get_the_arm_and_the_scores_of_the_same_function_here(gateway: Running) -> None:
    table = routing(TENTH)
    scores = {seed: expected_scores(seed, 99, ITEMS) for seed in (1, 2)}
    arms: dict[str, int] = {}
    with gateway.connected() as ask:
        for number in range(1_000):
            user = f"someone-{number}"
            answer = ask(question(user))
            assigned = assign(table, user)
            body = answer.body
            assert (body["arm"], body["version"], body["fallback"]) == (assigned.arm, assigned.version, False)
            assert scores_of(answer) == pytest.approx(scores[int(assigned.version)], abs=1e-9)
            arms[assigned.arm] = arms.get(assigned.arm, 0) + 1
    assert min(arms[TREATMENT], arms[CONTROL]) > 50, "the arms must have been met"


def test_an_answer_is_sorted_and_says_who_gave_it(gateway: Running) -> None:
    answer = gateway.rank(user=7, request_id="mine", length=3)
    body = answer.body
    expected = sorted(expected_scores(int(body["version"]), 7, ITEMS).items(), key=lambda pair: -pair[1])[:3]
    assert [(item["item"], item["position"]) for item in body["items"]] == [
        (name, place) for place, (name, _) in enumerate(expected, start=1)
    ]
    assert (body["request_id"], body["model"], body["rollout"], body["stage"]) == ("mine", "feed_ranker", "r1", "10 %")
    assert answer.headers["x-request-id"] == "mine"


def test_a_request_without_an_id_gets_the_header_s_or_a_new_one(gateway: Running) -> None:
    headed = gateway.post("/rank", question(), **{"X-Request-Id": "from the header"})
    assert headed.body["request_id"] == "from the header"
    made_up = [gateway.rank().body["request_id"] for _ in range(2)]
    assert len(set(made_up)) == 2


def test_features_that_come_with_the_request_change_the_score(gateway: Running) -> None:
    plain = scores_of(gateway.rank(user=1))
    aged = scores_of(gateway.rank(user=1, user_features={"age": 60}))
    elsewhere = scores_of(gateway.rank(user=1, context={"device": "desktop"}))
    assert plain != aged
    assert plain != elsewhere
    assert scores_of(gateway.rank(user="1")) == pytest.approx(plain, abs=1e-9), "1 and '1' are one user"


def test_items_may_bring_what_only_the_caller_knows_and_ids_may_be_numbers(gateway: Running) -> None:
    answer = gateway.rank(items=[{"item": "item-1"}, 5, "item-2"])
    assert {item["item"] for item in answer.body["items"]} == {"item-1", 5, "item-2"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "The body is no JSON"),
        (b"[]", "valid dictionary"),
        (question(items=[{"item": "a", "features": {"age": [1]}}]), "features.age"),
        (question(items=[True]), "items.0"),
        ({"items": ITEMS}, "user: Field required"),
        (question(items=["a"], lenght=3), "lenght: Extra inputs are not permitted"),
        ({"user": 1, "items": []}, "items: Tuple should have at least 1 item"),
        (question(items=["a", "b", "a"]), "item 'a' is named twice"),
        (question(items=[1, "1"]), "item '1' is named twice"),
        (question(items=[f"i{n}" for n in range(51)]), "51 candidates, and at most 50 are ranked at once"),
        (question(time="2026-01-01T00:00:00Z"), "serving.trust_request_time = true"),
        (question(user_features={"agee": 3}), "No model reads agee from a request. It may bring: age, device"),
        ({"user": 1, "items": ITEMS}, "lacks the context device"),
        (question(user_features={"age": "old"}), "age"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_what_is_wrong(gateway: Running, body: Any, says: str) -> None:
    assert says in wrong(gateway.post("/rank", body), 422)


def test_a_body_that_is_too_large_is_not_read(gateway: Running) -> None:
    told = wrong(gateway.post("/rank", question(user="x" * 9_000)), 413)
    assert "at most 8192 are read (serving.max_body_kilobytes)" in told


def test_values_of_a_refused_request_are_not_repeated(gateway: Running) -> None:
    assert "secret" not in wrong(gateway.post("/rank", question(length="secret")), 422)


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_without_the_token_nobody_is_answered_and_health_and_metrics_stay_open(
    gateway: Running, header: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "token", None)
    for answer in (
        gateway.post("/rank", question(), **header),
        gateway.post("/invocations", {"inputs": {}}, **header),
        gateway.get("/version", **header),
    ):
        assert "bearer token is missing or wrong" in wrong(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert gateway.get("/health", **header).status == 200
    assert gateway.get("/metrics", **header).status == 200


ROWS = {"user_id": [1, 2], "item_id": ["item-1", "new"], "age": [30.0, None], "device": ["phone", None]}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": list(ROWS), "data": [list(row) for row in zip(*ROWS.values(), strict=True)]}},
        {"dataframe_records": [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]},
        {"instances": [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]},
        {"inputs": ROWS},
    ],
)
def test_invocations_answers_every_form_of_mlflow_with_the_champion(gateway: Running, body: dict[str, Any]) -> None:
    import pandas as pd

    from tests.tasks.tiny_models import tiny_bundle

    answer = gateway.post("/invocations", body)
    assert answer.status == 200
    assert answer.body["predictions"] == pytest.approx(tiny_bundle(1).score(pd.DataFrame(ROWS)).tolist(), abs=1e-9)


def test_invocations_answers_no_rows_and_missing_columns_as_mlflow_does(gateway: Running) -> None:
    assert gateway.post("/invocations", {"dataframe_split": {"columns": ["age"], "data": []}}).body == {
        "predictions": []
    }
    assert len(gateway.post("/invocations", {"dataframe_records": [{"user_id": 1}]}).body["predictions"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        {},
        [],
        {"inputs": {"age": [1]}, "instances": []},
        {"dataframe_split": [[1]]},
        {"dataframe_split": {"columns": ["age"], "data": [[1, 2]]}},
        {"inputs": {"age": [1], "user_id": [1, 2]}},
        {"dataframe_records": {"age": 1}},
        {"inputs": {"age": ["old"]}},
    ],
)
def test_invocations_refuses_what_mlflow_refuses_with_its_error_code(gateway: Running, body: Any) -> None:
    answer = gateway.post("/invocations", body)
    wrong(answer, 400)
    assert answer.body["error_code"] == "BAD_REQUEST"


def test_invocations_reads_json_only(gateway: Running) -> None:
    assert "Send application/json" in wrong(gateway.post("/invocations", b"a,b", **{"Content-Type": "text/csv"}), 415)


def test_version_says_what_serves_and_health_that_all_is_well(gateway: Running) -> None:
    version = gateway.get("/version").body
    assert version["table"] == routing(TENTH).model_dump(mode="json")
    assert version["entry"] == 2
    shop = gateway.place.shop
    assert {model["version"]: model["digest"] for model in version["models"]} == {
        number: shop.registry.model(number).digest for number in "12"
    }
    assert gateway.get("/health").body == {"status": "ok", "live": True, "ready": True, "reasons": []}
    assert gateway.get("/ping").status == 200


def test_metrics_count_requests_by_arm_version_and_outcome(gateway: Running) -> None:
    for user in range(20):
        gateway.rank(user)
    told = gateway.get("/metrics").body
    assert 'feedloop_requests_total{arm="treatment",endpoint="rank",outcome="ok",version="2"}' in told
    assert 'feedloop_latency_seconds_bucket{endpoint="rank",le="0.05"}' in told
    assert "feedloop_routing_entry 2.0" in told
    assert 'feedloop_breaker_open{breaker="challenger"} 0.0' in told
    assert "feedloop_ready_workers 1.0" in told


def test_the_page_of_the_interface_has_examples(gateway: Running) -> None:
    described = gateway.get("/openapi.json").body
    body = described["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/RankRequest"}
    schemas = described["components"]["schemas"]
    assert schemas["RankRequest"]["examples"][0]["items"]
    assert "#/components/schemas/Candidate" in str(schemas["RankRequest"])
    assert "Candidate" in schemas
    assert set(described["paths"]) == {"/rank", "/invocations", "/health", "/version", "/metrics"}
    assert described["paths"]["/rank"]["post"]["security"] == [{"token": []}]
    assert "security" not in described["paths"]["/health"]["get"]


def test_the_page_of_the_interface_shows_in_a_browser_without_internet(gateway: Running, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    with browser(tmp_path) as chrome:
        chrome.get(f"http://127.0.0.1:{gateway.port}/docs")
        words = wait_until(
            lambda: [part.text for part in chrome.find_elements(By.CLASS_NAME, "opblock-summary")],
            told=lambda: chrome.page_source,
        )
        chrome.save_screenshot(str(tmp_path / "page.png"))
        asked = chrome.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        title = chrome.find_element(By.TAG_NAME, "h1").text
    assert "feedloop gateway" in title
    assert any("/rank" in part and "Rank candidates for a user" in part for part in words)
    assert len(asked) >= 3
    assert all(name.startswith((f"http://127.0.0.1:{gateway.port}/", "data:")) for name in asked), asked


def test_what_was_shown_is_in_the_log_with_position_and_propensity(gateway: Running) -> None:
    answer = gateway.rank(user="logged", request_id="logged", length=2)

    def logged() -> list[dict[str, Any]] | None:
        folder = gateway.place.online / "exposures"
        if not folder.exists():
            return None
        found = ds.dataset(folder, partitioning="hive").to_table(filter=ds.field("request_id") == "logged").to_pylist()
        return found or None

    rows = wait_until(logged, told=gateway.log.read_text)
    assigned = assign(routing(TENTH), "logged")
    assert [(row["item"], row["position"], row["score"]) for row in rows] == [
        (item["item"], item["position"], item["score"]) for item in answer.body["items"]
    ]
    assert {(row["arm"], row["version"], row["propensity"], row["user"], row["stage"]) for row in rows} == {
        (assigned.arm, assigned.version, assigned.propensity, "logged", 1)
    }


def test_the_token_is_in_no_log_and_no_answer(gateway: Running) -> None:
    told = gateway.log.read_text() + str(gateway.get("/version").body) + gateway.get("/metrics").body
    assert TOKEN not in told
    assert CONTEXT["device"] not in gateway.log.read_text(), "nor what a request says"
