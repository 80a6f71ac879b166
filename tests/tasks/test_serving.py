"""The registered challenger asked as it would serve: what becomes evidence, and what is never run."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from ranking.bundle import Bundle
from ranking.errors import RegistryUnavailable
from ranking.results import ServingCheck
from tasks.adapters import serving_evidence
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.serving_evidence import REQUESTS, ROUNDS, measure_serving
from tests.tasks.promoting import package_folder, spoiled
from tests.tasks.tiny_models import Shop, open_shop, sample_rows, with_database


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = open_shop(with_database(tmp_path_factory.mktemp("workspace")))
    shop.register(1)
    return shop


def sample(bundle: Bundle) -> pd.DataFrame:
    assert bundle.encoder.columns
    return sample_rows(rows=600, seed=3)


def asked(shop: Shop) -> ServingCheck:
    return measure_serving(shop.registry, shop.registry.model("1"), sample)


def test_a_healthy_version_passes_with_its_latency_size_and_what_was_asked(shop: Shop) -> None:
    found = asked(shop)
    assert found.passed, found.reason
    assert (found.golden_rows, found.sampled_rows) == (32, 512)
    assert found.worst_difference is not None
    assert found.worst_difference <= 1e-6
    assert found.edge_cases == ("ids never seen", "nothing but nulls", "one row", "no row")
    assert "answered 32 golden and 512 holdout rows as in training" in found.reason
    assert "1e-06 is allowed), and ids never seen, nothing but nulls, one row and no row sensibly." in found.reason
    assert found.costs.latency_p99_milliseconds is not None
    assert 0.1 < found.costs.latency_p99_milliseconds < 5_000
    bundle = package_folder(shop, "1") / "artifacts" / "bundle"
    assert found.costs.size_megabytes == sum(file.stat().st_size for file in bundle.iterdir()) / 1e6


@pytest.mark.parametrize("file", ["model.safetensors", "encoder.json", "served_model.py", "golden.parquet"])
def test_a_version_that_was_tampered_with_is_named_and_never_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(serving_evidence, "ask_in_clean_process", never)
    with spoiled(shop, "1", file):
        found = asked(shop)
    assert not found.passed
    assert "changed" in found.reason
    assert found.costs.latency_p99_milliseconds is None


def test_a_version_that_does_not_load_is_a_finding_and_no_crash(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_evidence, "_CHILD", "raise SystemExit('ModuleNotFoundError: no torch here')")
    found = asked(shop)
    assert not found.passed
    assert "does not load in a clean process by MLflow alone: ModuleNotFoundError: no torch here" in found.reason
    assert found.costs.latency_p99_milliseconds is None
    assert found.costs.size_megabytes is not None


def test_a_version_that_does_not_answer_in_time_is_a_finding(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.adapters.clean_process.TIMEOUT_SECONDS", 0.2)
    found = asked(shop)
    assert not found.passed
    assert "did not answer in a clean process within 0 s" in found.reason


ANSWERING = """
import json, sys
folder = sys.argv[2]
import pandas as pd
plan = json.load(open(f"{{folder}}/plan.json"))
scores = {{name: [0.5] * len(pd.read_parquet(f"{{folder}}/{{file}}")) for name, file in plan["questions"].items()}}
for name, answer in {answers}.items():
    scores[name] = answer
json.dump({{"scores": scores, "seconds": {seconds}}}, open(f"{{folder}}/answers.json", "w"))
"""


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ("{}", "asked golden rows through MLflow in a clean process, differs by 0."),
        ("{'golden rows': [0.5]}", "asked golden rows .* gave 1 scores for 32 rows"),
        ("{'golden rows': [float('nan')] * 32}", "gave 32 of 32 scores that are no probabilities, such as nan"),
        ("{'golden rows': [1.5] * 32}", "no probabilities, such as 1.5"),
        ("{'golden rows': 'ValueError: no.'}", "asked golden rows .* failed with ValueError: no."),
    ],
)
def test_a_version_that_answers_otherwise_than_in_training_is_a_finding_with_its_question(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, answers: str, says: str
) -> None:
    monkeypatch.setattr(
        serving_evidence, "_CHILD", ANSWERING.format(answers=answers, seconds=[0.001] * (ROUNDS * REQUESTS))
    )
    found = asked(shop)
    assert not found.passed

    assert re.search(says, found.reason), found.reason
    assert found.costs.latency_p99_milliseconds == 1.0


def test_the_latency_is_the_second_slowest_request_of_the_quietest_round_and_none_when_some_failed() -> None:
    quiet = [number / 1000 for number in range(1, REQUESTS + 1)]
    busy = [10 * second for second in quiet]
    assert serving_evidence._p99_milliseconds([*busy, *quiet[::-1], *busy]) == 99.0
    assert serving_evidence._p99_milliseconds([*busy, *quiet, *busy[:-1]]) is None


def test_an_outage_is_an_outage_and_never_a_finding(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: object) -> Path:
        raise RegistryUnavailable("no answer")

    ref = shop.registry.model("1")
    monkeypatch.setattr(MlflowRegistry, "package", dead)
    with pytest.raises(RegistryUnavailable):
        measure_serving(shop.registry, ref, sample)


def test_a_version_whose_files_are_gone_is_a_finding(shop: Shop, tmp_path: Path) -> None:
    kept = package_folder(shop, "1")
    moved = shutil.move(kept, tmp_path / "moved")
    try:
        found = asked(shop)
    finally:
        shutil.move(moved, kept)
    assert not found.passed
    assert "cannot be fetched" in found.reason
