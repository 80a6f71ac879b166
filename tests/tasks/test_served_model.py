"""The logged model in the hands of a stranger: plain MLflow, another folder, no feedloop on the path."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ranking.errors import TamperedBundle
from tasks.adapters.mlflow_package import BUNDLE_FOLDER, copy_scoring_code, read_golden
from tasks.adapters.serving_check import TOLERANCE
from tests.tasks.mlflow_server import wait_for
from tests.tasks.tiny_models import Shop, open_shop, sample_rows, tiny_bundle, with_database

COLUMNS = ["user_id", "item_id", "age", "device"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = open_shop(with_database(tmp_path_factory.mktemp("workspace")))
    shop.registry.release(shop.register(1))
    shop.registry.point("champion", "1")
    return shop


@pytest.fixture(scope="module")
def package(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.registry.package(shop.registry.model("champion"), tmp_path_factory.mktemp("package"))


def stranger(shop: Shop, **more: str) -> dict[str, str]:
    """The environment of somebody who has MLflow and a tracking URI, and nothing else of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW", "FEEDLOOP"))}
    return kept | {"MLFLOW_TRACKING_URI": shop.registry.tracking_uri} | more


_STRANGER = """
import importlib.util, json, sys
# A stranger has no editable install of this project.
ours = lambda finder: str(getattr(finder, "__module__", "")).startswith("__editable__")
sys.meta_path = [finder for finder in sys.meta_path if not ours(finder)]
answer = {"ours_on_the_path": importlib.util.find_spec("ranking") is not None}
import mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model("models:/feed_ranker@champion")
scores = model.predict(pd.read_parquet("rows.parquet"))
answer["scores"], answer["dtype"] = scores.tolist(), str(scores.dtype)
import ranking
answer["ranking"] = ranking.__file__
heavy = ("lightning", "sklearn", "ibis", "pandera", "prefect", "duckdb")
answer["loaded"] = [name for name in heavy if name in sys.modules]

def ask(**columns):
    return [float(score) for score in model.predict(pd.DataFrame(columns))]

odd = answer["odd"] = {}
odd["known"] = ask(user_id=[1, 2], item_id=["item-1", "item-2"], age=[30.0, 40.0], device=["phone", "desktop"])
odd["one"] = ask(user_id=[2], item_id=["item-2"], age=[40.0], device=["desktop"])
odd["unknown"] = ask(user_id=[10**12, -1], item_id=["new", "other"], age=[30.0, 30.0], device=["phone", "phone"])
odd["text_ids"] = ask(user_id=["1", "nobody"], item_id=["item-1", "new"], age=[30.0, 30.0], device=["phone"] * 2)
odd["nulls"] = ask(user_id=[1, None], item_id=["item-1", None], age=[30.0, None], device=["phone", None])
odd["absent"] = ask(user_id=[1], item_id=["item-1"])
odd["null_instead"] = ask(user_id=[1], item_id=["item-1"], age=[None], device=[None])
odd["none"] = ask(user_id=[], item_id=[], age=[], device=[])
odd["no_columns"] = [float(score) for score in model.predict(pd.DataFrame())]
with open("answer.json", "w") as file:
    json.dump(answer, file)
"""


@pytest.fixture(scope="module")
def answer(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh interpreter in another folder got from plain MLflow."""
    folder = tmp_path_factory.mktemp("stranger")
    asked_rows().to_parquet(folder / "rows.parquet")
    done = subprocess.run(
        [sys.executable, "-c", _STRANGER],
        cwd=folder,
        env=stranger(shop, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    found: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return found


def asked_rows() -> pd.DataFrame:
    return sample_rows(rows=100, seed=5)[COLUMNS]


def test_a_plain_load_model_elsewhere_scores_like_the_bundle_in_training(answer: dict[str, Any]) -> None:
    expected = tiny_bundle(1).score(asked_rows())
    assert np.abs(np.array(answer["scores"]) - expected).max() <= TOLERANCE
    assert answer["dtype"] == "float64"
    assert np.ptp(expected) > 0.01, "the rows must tell models apart"


def test_it_runs_on_the_code_that_travelled_with_it_and_on_nothing_heavy(answer: dict[str, Any]) -> None:
    assert not answer["ours_on_the_path"]
    assert "/code/ranking/" in answer["ranking"]
    assert answer["loaded"] == []


def test_unknown_ids_nulls_missing_columns_one_row_and_no_rows_are_answered(answer: dict[str, Any]) -> None:
    odd = answer["odd"]
    assert odd["one"][0] == pytest.approx(odd["known"][1], abs=1e-6)
    assert odd["unknown"][0] == pytest.approx(odd["unknown"][1], abs=1e-6), "all unknown ids are one"
    assert odd["text_ids"][0] == pytest.approx(odd["nulls"][0], abs=1e-6), '1, 1.0 and "1" are one id'
    assert odd["absent"] == pytest.approx(odd["null_instead"], abs=1e-6)
    assert odd["none"] == odd["no_columns"] == []
    assert all(0 < score < 1 for scores in odd.values() for score in scores)


@pytest.fixture(scope="module")
def server(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``mlflow models serve`` as a stranger starts it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/feed_ranker@champion"]
    # The venv's own programs: `serve` starts uvicorn by name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=folder,
            env=stranger(shop, PATH=path),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=30)


def invoke(server: str, body: dict[str, Any]) -> list[float]:
    request = urllib.request.Request(  # noqa: S310 (our own loopback server)
        f"{server}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 (our own loopback server)
        answer = json.load(response)
    assert set(answer) == {"predictions"}
    return answer["predictions"]


def test_mlflow_models_serve_answers_both_shapes_like_the_bundle(server: str) -> None:
    rows = sample_rows(rows=20, seed=9)[COLUMNS]
    plain = rows.astype(object).where(rows.notna(), None)
    split = invoke(server, {"dataframe_split": {"columns": COLUMNS, "data": plain.to_numpy().tolist()}})
    records = invoke(server, {"dataframe_records": plain.to_dict("records")})
    assert split == pytest.approx(tiny_bundle(1).score(rows).tolist(), abs=TOLERANCE)
    assert records == pytest.approx(split, abs=TOLERANCE)


def test_mlflow_models_serve_answers_odd_requests_too(server: str) -> None:
    whole_age = {"user_id": 1, "item_id": "item-1", "age": 30, "device": "phone"}
    (score,) = invoke(server, {"dataframe_records": [whole_age]})
    again, unknown = invoke(server, {"dataframe_records": [whole_age, {"user_id": None, "item_id": "never seen"}]})
    assert again == pytest.approx(score, abs=TOLERANCE)
    assert 0 < unknown < 1
    assert invoke(server, {"dataframe_split": {"columns": COLUMNS, "data": []}}) == []


def test_nothing_in_the_logged_model_is_a_pickle(package: Path) -> None:
    files = [path for path in package.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pt2", ".pth", ".joblib")]
    assert not [path for path in files if path.read_bytes()[:2] in (b"\x80\x03", b"\x80\x04", b"\x80\x05")]
    assert "served_model.py" in (package / "MLmodel").read_text()


def test_the_requirements_are_exactly_what_scoring_imports_and_pinned(package: Path) -> None:
    lines = (package / "requirements.txt").read_text().split()
    assert sorted(line.split("==")[0] for line in lines) == sorted(
        ["mlflow", "torch", "numpy", "pandas", "pyarrow", "safetensors", "pydantic"]
    )
    assert all("==" in line and "+" not in line for line in lines), "a local version such as +cpu cannot be installed"


def test_the_signature_names_numbers_as_double_and_requires_nothing(package: Path) -> None:
    import yaml

    inputs = json.loads(yaml.safe_load((package / "MLmodel").read_text())["signature"]["inputs"])
    assert [(column["name"], column["type"], column["required"]) for column in inputs] == [
        ("user_id", "any", False),
        ("item_id", "any", False),
        ("device", "any", False),
        ("age", "double", False),
    ]


def test_only_the_scoring_part_of_ranking_travels(tmp_path: Path) -> None:
    copied = {str(path.relative_to(tmp_path / "ranking")) for path in copy_scoring_code(tmp_path).rglob("*.py")}
    assert {"__init__.py", "bundle.py", "encoding.py", "values.py", "models/deep_mlp.py"} <= copied
    assert not copied & {"world.py", "training.py", "comparison.py", "module.py"}


def test_golden_requests_hold_the_scores_of_training(package: Path) -> None:
    golden = read_golden(package)
    assert list(golden.columns) == ["user_id", "item_id", "device", "age", "__score"]
    assert golden["__score"].to_numpy() == pytest.approx(tiny_bundle(1).score(golden), abs=1e-12)


def test_a_model_whose_weights_were_changed_refuses_to_load(package: Path) -> None:
    from tasks.adapters.served_model import ServedModel

    class Context:
        artifacts = {"bundle": str(package / BUNDLE_FOLDER)}  # noqa: RUF012 (a stand-in for MLflow's own)
        model_config = {"bundle_digest": "0" * 64}  # noqa: RUF012 (a stand-in for MLflow's own)

    with pytest.raises(TamperedBundle, match="was expected"):
        ServedModel().load_context(Context())
