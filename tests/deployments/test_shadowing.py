"""The shadow in its own process: what it logs, what its faults cost, and what its log shows of a planted bug."""

import asyncio
import os
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from deployments.gateway import shadowing
from deployments.gateway.breaker import Breaker
from deployments.gateway.features import RequestFeatures
from deployments.gateway.query import Query
from deployments.gateway.serving import Loaded, Serving
from deployments.gateway.shadow_process import Child
from deployments.gateway.shadowing import Shadow
from ranking.assignment import RoutingTable
from ranking.bundle import Bundle
from ranking.findings import Status
from ranking.results import ModelRef
from ranking.shadow import FeatureCoverage, ShadowSums, compare_shadow
from ranking.shadow_checks import ShadowKnobs, check_shadow
from settings.serving import ServingKnobs
from tasks.adapters.exposure_log import ExposureLog
from tasks.routing import Routing
from tests.tasks.tiny_models import sample_rows, tiny_bundle

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ITEMS = [f"item-{number}" for number in range(1, 7)]
MODULE = "tests.deployments.faulty_shadow"


@dataclass
class Box:
    """Models on a disk, and a log."""

    folder: Path
    knobs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = ExposureLog(str(self.folder / "online"), self.folder / "journals", NOW)
        self.loaded = {version: self._loaded(version) for version in "12"}
        table = RoutingTable(rollout="r", champion="1", salt="r:", shadow="2", shadow_share=1.0)
        refs = tuple(loaded.ref for loaded in self.loaded.values())
        self.serving = Serving(Routing(model="m", entry=1, table=table, models=refs), self.loaded, NOW)

    def _loaded(self, version: str) -> Loaded:
        bundle: Bundle = tiny_bundle(int(version))
        folder = self.folder / "bundles" / bundle.digest
        bundle.save(folder)
        ref = ModelRef(name="m", version=version, run_id="", digest=bundle.digest, learnt=None)
        return Loaded(ref, bundle, RequestFeatures(bundle.facts.spec))

    def query(self, number: int) -> Query:
        random = np.random.default_rng(number)
        return Query(
            request_id=f"r{number}",
            user=int(random.integers(1, 9)),
            items=list(ITEMS),
            context={"device": "phone"},
            user_features={"age": float(random.integers(18, 70))},
            item_features=None,
            item_names=frozenset(),
            length=6,
            at=NOW,
        )

    def run(self, requests: int, *, gap: float = 0.0) -> Shadow:
        """Offer so many requests and wait until each has an outcome."""
        knobs = ServingKnobs.model_validate(
            {"shadow_queue": 5_000, "shadow_milliseconds_per_second": 1_000, **self.knobs}
        )
        shadow = Shadow(knobs, self.log, self.folder / "bundles", MODULE)
        asyncio.run(self._run(shadow, requests, gap))
        self.log.rotate(NOW)
        return shadow

    async def _run(self, shadow: Shadow, requests: int, gap: float) -> None:
        working = asyncio.create_task(shadow.run())
        await shadow.prepare(self.loaded["2"])
        champion = self.loaded["1"]
        slowest = 0.0
        for number in range(requests):
            query = self.query(number)
            scores = champion.scorer.score(query.rows(champion))
            started = time.perf_counter()
            shadow.offer(self.serving, query, np.argsort(-scores, kind="stable"), scores)
            slowest = max(slowest, time.perf_counter() - started)
            await asyncio.sleep(gap)
        while shadow.waiting:
            await asyncio.sleep(0.01)
        await shadow.close()
        working.cancel()
        self.slowest_offer = slowest

    def rows(self, name: str) -> pa.Table:
        return ds.dataset(self.folder / "online" / name, format="parquet", partitioning="hive").to_table()

    def outcomes(self) -> dict[str, int]:
        found = self.rows("shadow_requests")["outcome"].to_pylist()
        return {outcome: found.count(outcome) for outcome in sorted(set(found))}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def findings(box: Box) -> dict[str, Status]:
    """What the rules say of what was logged, with the challenger's own holdout beside it."""
    chosen, rows = box.rows("shadow_requests"), box.rows("shadow")
    known = [{feature["name"]: feature["known"] for feature in told} for told in chosen["features"].to_pylist() if told]
    features = tuple(
        FeatureCoverage(name=name, live=float(np.mean([told[name] for told in known])), training=1.0)
        for name in known[0]
    )
    outcomes = chosen["outcome"].to_pylist()
    latencies = [latency for latency in chosen["latency_ms"].to_pylist() if latency is not None]
    sums = ShadowSums(
        requests=len(outcomes),
        scored=outcomes.count("scored"),
        failed=outcomes.count("failed"),
        latency_p99_milliseconds=float(np.percentile(latencies, 99)),
        features=features,
    )
    holdout = sample_rows(rows=4_000, seed=3)
    holdout["device"] = "phone"
    compared = compare_shadow(
        sums,
        rows["champion_score"].to_numpy(),
        rows["challenger_score"].to_numpy(),
        np.unique(rows["request_id"].to_pylist(), return_inverse=True)[1],
        holdout_scores=box.loaded["2"].bundle.score(holdout),
    )
    return {
        finding.rule: finding.status
        for finding in check_shadow(compared, ShadowKnobs(max_latency_p99_milliseconds=1e4))
    }


def test_a_sound_challenger_scores_every_request_and_passes(box: Box) -> None:
    box.run(400)
    assert box.outcomes() == {"scored": 400}
    rows = box.rows("shadow").to_pylist()
    assert len(rows) == 400 * len(ITEMS)
    for row in rows[:60]:
        query = box.query(int(row["request_id"][1:]))
        place = ITEMS.index(row["item"])
        for version, score in (("1", row["champion_score"]), ("2", row["challenger_score"])):
            expected = box.loaded[version].scorer.score(query.rows(box.loaded[version]))[place]
            assert score == pytest.approx(expected, abs=1e-9)
    assert [row["position"] for row in rows[:6]] == [1, 2, 3, 4, 5, 6]
    found = findings(box)
    assert {found[rule] for rule in ("coverage", "feature_coverage", "errors", "own_shift")} == {Status.OK}


@pytest.mark.parametrize(("fault", "rule"), [("nulls", "feature_coverage"), ("months", "own_shift")])
def test_a_planted_bug_of_a_feature_is_found_in_the_log_of_400_requests(
    box: Box, monkeypatch: pytest.MonkeyPatch, fault: str, rule: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    box.run(400)
    assert findings(box)[rule] is Status.HARM


def test_a_shadow_that_hangs_is_killed_and_what_it_did_not_score_is_counted(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "hang")
    box.knobs = {"shadow_timeout_milliseconds": 200, "breaker_failures": 2, "breaker_seconds": 60}
    shadow = box.run(50)
    found = box.outcomes()
    assert found["timeout"] >= 1
    assert found["timeout"] + found["dropped"] == 50, "each request has an outcome"
    assert shadow.pid is None
    assert box.slowest_offer < 0.05, "whoever answers users only puts a request into a queue"
    assert box.rows("shadow")["challenger_score"].null_count == box.rows("shadow").num_rows


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise", "exit", "leak", "sleep", "load"])
def test_whatever_else_is_wrong_with_it_every_request_has_an_outcome(
    box: Box, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    box.knobs = {"breaker_failures": 3, "breaker_seconds": 60, "shadow_megabytes": 900, "shadow_queue": 20}
    box.run(200, gap=0.002)
    found = box.outcomes()
    print(fault, found)
    assert sum(found.values()) == 200
    if fault in ("raise", "exit", "load"):
        assert found.get("scored", 0) == 0
        assert found["dropped"] > 150, "the breaker keeps it from being asked again and again"
    if fault == "leak":
        assert found["failed"] >= 1
    if fault == "sleep":
        assert found["dropped"] > 100, "a full queue drops"


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_attempt_through_after_its_pause() -> None:
    breaker = Breaker(failures=3, seconds=10)
    assert [breaker.failed(0.0), breaker.failed(0.0)] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(1.0) for _ in range(3)] == [False, False, True]
    assert not breaker.allows(5.0)
    assert breaker.allows(11.5), "half open"
    assert not breaker.allows(12.0), "one attempt only"
    breaker.failed(12.0)
    assert not breaker.allows(21.0)
    assert breaker.allows(22.5)
    breaker.succeeded()
    assert breaker.allows(22.6)
    assert not breaker.open


def test_after_the_stage_nothing_is_scored_and_no_process_is_kept(box: Box) -> None:
    async def ended() -> Shadow:
        shadow = Shadow(ServingKnobs(), box.log, box.folder / "bundles", MODULE)
        working = asyncio.create_task(shadow.run())
        await shadow.prepare(box.loaded["2"])
        assert shadow.pid is not None
        await shadow.prepare(None)
        assert shadow.pid is None
        query = box.query(1)
        scores = box.loaded["1"].scorer.score(query.rows(box.loaded["1"]))
        shadow.offer(box.serving, query, np.argsort(-scores), scores)
        while shadow.waiting:
            await asyncio.sleep(0.01)
        working.cancel()
        return shadow

    assert asyncio.run(ended()).pid is None
    box.log.rotate(NOW)
    assert box.outcomes() == {"dropped": 1}


def test_a_request_that_is_being_scored_when_the_gateway_ends_has_one_outcome_too(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "sleep")

    async def ended() -> None:
        shadow = Shadow(ServingKnobs(), box.log, box.folder / "bundles", MODULE)
        working = asyncio.create_task(shadow.run())
        await shadow.prepare(box.loaded["2"])
        query = box.query(1)
        scores = box.loaded["1"].scorer.score(query.rows(box.loaded["1"]))
        for _ in range(3):
            shadow.offer(box.serving, query, np.argsort(-scores), scores)
        while shadow.waiting == 3 and shadow._asked is None:
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await shadow.close()

    asyncio.run(ended())
    box.log.rotate(NOW)
    assert box.outcomes() == {"dropped": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a class of processes for idle time")
@pytest.mark.parametrize("idle", [False, True])
def test_the_process_steps_back_from_its_first_import_on(idle: bool) -> None:
    async def started() -> tuple[int, int]:
        child = await Child.start("deployments.gateway.shadow_child", cast(Loaded, None), idle=idle)
        try:
            pid = child.process.pid
            return os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid)
        finally:
            await child.kill()

    assert asyncio.run(started()) == (10, os.SCHED_IDLE if idle else os.SCHED_OTHER)


def test_who_fails_twice_in_a_row_gets_idle_time_and_the_next_challenger_does_not_pay_for_it(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "exit")
    monkeypatch.setattr(shadowing, "LONGEST_PAUSE", 0.2)
    starts: list[bool] = []
    start = Child.start

    async def noted(module: str, loaded: Loaded, *, idle: bool = False) -> Child:
        starts.append(idle)
        return await start(module, loaded, idle=idle)

    monkeypatch.setattr(Child, "start", noted)

    async def failing() -> None:
        shadow = Shadow(ServingKnobs(), box.log, box.folder / "bundles", MODULE)
        working = asyncio.create_task(shadow.run())
        await shadow.prepare(box.loaded["2"])
        query = box.query(1)
        scores = box.loaded["1"].scorer.score(query.rows(box.loaded["1"]))
        while len(starts) < 3 or shadow.waiting:
            shadow.offer(box.serving, query, np.argsort(-scores), scores)
            await asyncio.sleep(0.05)
        await shadow.prepare(box.loaded["1"])
        await shadow.close()
        working.cancel()

    asyncio.run(asyncio.wait_for(failing(), 120))
    assert starts[:3] == [False, False, True]
    assert all(starts[2:-1]), "as long as it fails"
    assert starts[-1] is False
