"""What a run that goes on finds again: the same call of the same run, as the same frozen value."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast, get_args, get_type_hints
from uuid import uuid4

import pytest
from prefect import Task, flow, task
from prefect.context import TaskRunContext
from prefect.serializers import JSONSerializer
from pydantic import BaseModel, ValidationError

from ranking.results import Approval, Evidence, Promotion
from tasks import clock, data, evaluation, registry, reports, service, serving, training, version
from tasks.resuming import RESUMED
from tests.examples import NOW, evidence

MODULES = (clock, data, evaluation, registry, reports, service, serving, training, version)
TASKS = [found for module in MODULES for found in vars(module).values() if isinstance(found, Task)]


def key(name: str, run: Any, **inputs: Any) -> str:
    context = SimpleNamespace(task=SimpleNamespace(name=name), task_run=SimpleNamespace(flow_run_id=run, id=uuid4()))
    found = RESUMED["cache_policy"].compute_key(cast(TaskRunContext, context), inputs, {})
    assert found is not None
    return found


def test_a_call_is_the_same_by_task_run_and_inputs_and_not_by_the_code_of_the_task() -> None:
    run = uuid4()
    assert key("train", run, seed=1) == key("train", run, seed=1)
    assert key("train", run, seed=1) != key("train", run, seed=2)
    assert key("train", run, seed=1) != key("train", uuid4(), seed=1)
    assert key("train", run, seed=1) != key("compare", run, seed=1)
    assert key("code version", run) != key("moment", run)


@pytest.mark.usefixtures("prefect_server")
def test_an_edited_task_is_not_repeated_within_its_run_and_another_with_the_same_inputs_is() -> None:
    seen: list[str] = []

    @task(name="train", **RESUMED)
    def first(seed: int) -> str:
        seen.append("first")
        return f"model of {seed}"

    @task(name="train", **RESUMED)
    def edited(seed: int) -> str:
        seen.append("edited")
        return f"another model of {seed}"

    @task(name="compare", **RESUMED)
    def other(seed: int) -> str:
        seen.append("other")
        return f"comparison of {seed}"

    @flow
    def turn() -> list[str]:
        return [first(1), edited(1), other(1), edited(2)]

    assert turn() == ["model of 1", "model of 1", "comparison of 1", "another model of 2"]
    assert seen == ["first", "other", "edited"]


def test_every_task_of_a_flow_that_may_wait_keeps_its_result_as_json_under_a_name_of_its_own() -> None:
    names = {id(found): found.name for found in TASKS}
    assert len(set(names.values())) == len(names) > 12
    for found in TASKS:
        assert found.persist_result is True, found.name
        assert found.result_serializer == "json", found.name
        assert found.cache_policy is RESUMED["cache_policy"], found.name


@pytest.mark.parametrize("value", [NOW, datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC), None, "feedloop 1.0", evidence()])
def test_a_result_comes_back_as_it_was(value: Any) -> None:
    serializer = JSONSerializer()
    assert serializer.loads(serializer.dumps(value)) == value


def test_a_promotion_comes_back_frozen_and_with_the_same_digests() -> None:
    proof = evidence()
    approval = Approval(
        approved=True,
        approver="ann",
        seconded_by=("bob",),
        reason="clear",
        channel="prefect",
        evidence_digest=proof.digest,
        at=NOW,
        expires_at=NOW,
    )
    promotion = Promotion(
        status="refused",
        reason="late",
        champion=None,
        previous=None,
        challenger=proof.comparison.challenger,
        approval=approval,
        entry=None,
    )
    serializer = JSONSerializer()
    back, proof_back = (serializer.loads(serializer.dumps(value)) for value in (promotion, proof))
    assert isinstance(back, Promotion)
    assert back.approval is not None
    assert back.approval.digest == approval.digest
    assert isinstance(proof_back, Evidence)
    assert proof_back.digest == proof.digest
    with pytest.raises(ValidationError, match="frozen"):
        back.status = "promoted"


def test_every_result_of_a_task_is_a_plain_value_or_a_frozen_model() -> None:
    plain = {datetime, str, type(None)}
    for found in TASKS:
        result = get_type_hints(found.fn)["return"]
        for kind in getattr(result, "__args__", (result,)):
            assert kind in plain or (issubclass(kind, BaseModel) and kind.model_config["frozen"]), (found.name, kind)


KEPT_NAMES = {
    "ranking.approval.ApprovalRules",
    "ranking.features.Feature",
    "ranking.features.FeatureSpec",
    "ranking.models.DeepMLPKnobs",
    "ranking.models.TwoTowerKnobs",
    "ranking.results.Approval",
    "ranking.results.Comparison",
    "ranking.results.Evidence",
    "ranking.results.FeatureTable",
    "ranking.results.ModelRef",
    "ranking.results.Promotion",
    "ranking.results.Report",
    "ranking.results.Rollback",
    "ranking.results.ServingCheck",
    "ranking.results.Snapshot",
    "ranking.results.Split",
    "ranking.results.Trained",
    "ranking.results.Verdict",
    "ranking.rollout.ReleasePlan",
    "ranking.split.SplitKnobs",
    "ranking.training.TrainingKnobs",
    "ranking.verdict.GateKnobs",
    "settings.effects.DataKnobs",
    "settings.effects.RegistryKnobs",
}
"""What Prefect writes beside results and into the keys that they are found by."""


def own_classes(hint: Any) -> set[type]:
    inner = get_args(hint)
    if inner:
        return set().union(*map(own_classes, inner))
    return {hint} if isinstance(hint, type) and issubclass(hint, BaseModel) else set()


def test_what_a_waiting_run_keeps_has_the_same_names_after_an_upgrade() -> None:
    """A class that moves to another file loses the results of runs that wait: they would train once more."""
    found = {kind for one in TASKS for hint in get_type_hints(one.fn).values() for kind in own_classes(hint)}
    assert {f"{kind.__module__}.{kind.__qualname__}" for kind in found} == KEPT_NAMES
