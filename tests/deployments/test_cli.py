"""The command line as a user meets it, on a real Prefect server and a real embedded registry."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from deployments.cli import app
from ranking.world import World, WorldKnobs, as_known_at

pytestmark = pytest.mark.usefixtures("prefect_server")

KNOBS = WorldKnobs(seed=7, users=300, items=100, requests_per_day=400, slate_size=6)
DAYS = 12
ROOT = Path(__file__).parents[2]

TOML = """
[data]
uri = "log.parquet"
label_delay_hours = 2

[data.columns]
request = "request_id"

[data.columns.user_features]
categorical = ["user_device", "user_age_band"]

[data.columns.item_features]
categorical = ["item_category"]
numeric = ["item_age_hours"]

[gate]
min_first_auc = 0.52
calibration_low = 0.5
calibration_high = 2.0
calibration_harm = 0.9

[training]
max_epochs = 6
"""


def log() -> pd.DataFrame:
    world = World(KNOBS)
    days = pd.concat([world.day(number) for number in range(DAYS)], ignore_index=True)
    return as_known_at(days, KNOBS.start + timedelta(days=DAYS))


class Project:
    """A folder with a settings file and a log, and the commands run in it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capfd = capfd

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        self.capfd.readouterr()
        code = app([*arguments, "--config", str(self.folder / "feedloop.toml")], standalone_mode=False)
        captured = self.capfd.readouterr()
        return code, captured.out, captured.err

    def json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and the one JSON object on standard output."""
        code, out, _ = self.run(*arguments, "--json")
        return code, json.loads(out)

    def champion(self) -> str | None:
        """Version of the champion."""
        champion = self.json("status")[1]["champion"]
        return champion["version"] if champion else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "feedloop.toml").write_text(TOML)
    log().to_parquet(folder / "log.parquet")
    return folder


@pytest.fixture
def project(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(folder)
    return Project(folder, capfd)


@pytest.fixture
def trained(project: Project) -> Project:
    """The project with a first champion; made once for the module."""
    if project.champion() is None:
        code, result = project.json("retrain", "--yes", "--cutoff", "2026-01-11")
        assert code == 0, result
        assert result["promotion"]["status"] == "promoted", result["verdict"]
    return project


def test_without_an_approval_the_promotion_is_recorded_as_not_approved(project: Project) -> None:
    assert project.champion() is None
    code, result = project.json("retrain", "--cutoff", "2026-01-10")
    assert code == 0
    assert result["verdict"]["decision"] == "PROMOTE"
    assert result["promotion"]["status"] == "not_approved"
    assert result["promotion"]["approval"]["channel"] == "nobody"
    assert project.champion() is None
    entries = project.json("history")[1]["entries"]
    assert [(entry["operation"], entry["after"]) for entry in entries] == [("decline", None)]
    assert "no terminal" in entries[0]["reason"]


def test_promote_exits_with_seven_when_nobody_approves_and_with_zero_when_somebody_does(project: Project) -> None:
    code, result = project.json("promote", "1")
    assert (code, result["promotion"]["status"]) == (7, "not_approved")
    code, result = project.json("promote", "1", "--yes")
    assert (code, result["promotion"]["status"]) == (0, "promoted")
    assert result["promotion"]["approval"]["channel"] == "flag"
    assert project.champion() == "1"


def test_a_second_turn_compares_with_the_champion_and_tells_intervals_verdict_and_reason(trained: Project) -> None:
    before = trained.champion()
    code, out, _ = trained.run("retrain")
    assert code == 0
    for words in ("95 % interval", "against champion", "confidence)", "registered as version"):
        assert words in " ".join(out.split()), out
    assert trained.champion() == before


def test_compare_shows_two_versions_and_changes_nothing(trained: Project) -> None:
    before = trained.json("history")[1]
    code, result = trained.json("compare", "champion", "champion")
    assert code == 0
    assert result["comparison"]["auc"]["difference"]["value"] == 0
    assert result["verdict"]["decision"] == "REJECT"
    assert trained.json("history")[1] == before


def test_a_verdict_other_than_promote_is_refused_unless_forced_with_a_reason_and_rolled_back_again(
    trained: Project,
) -> None:
    before = trained.champion()
    trained.run("retrain")
    version = trained.json("status")[1]["versions"][-1]["version"]
    code, refused = trained.json("promote", version, "--yes")
    assert code == 7
    assert refused["error"]["type"] == "PromotionRefused"
    code, refused = trained.json("promote", version, "--yes", "--force")
    assert code == 7
    assert "reason" in refused["error"]["message"]
    code, forced = trained.json("promote", version, "--yes", "--force", "--reason", "a drill")
    assert code == 0, forced
    assert forced["promotion"]["entry"]["forced"] is True
    assert "a drill" in forced["promotion"]["entry"]["reason"]
    assert trained.champion() == version
    code, back = trained.json("rollback", "--reason", "the drill is over")
    assert code == 0, back
    assert back["rollback"]["champion"]["version"] == before == trained.champion()
    assert back["rollback"]["reason"] == "the drill is over"


def damaged(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        change(log()).to_parquet(path)

    return write


def corrupt(path: Path) -> None:
    log().to_parquet(path)
    content = bytearray(path.read_bytes())
    content[1000:60_000] = os.urandom(59_000)
    path.write_bytes(bytes(content))


def cut_short(path: Path) -> None:
    log().to_parquet(path)
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("write", "kind", "says"),
    [
        pytest.param(damaged(lambda f: f.drop(columns="item_id")), "MissingColumn", "'item_id'", id="missing column"),
        pytest.param(
            damaged(lambda f: f.assign(timestamp=f["timestamp"].astype(str))),
            "InvalidInteractions",
            "'timestamp'",
            id="type",
        ),
        pytest.param(
            damaged(
                lambda f: f.assign(
                    user_device=f["user_device"].where(f.index > 3), user_id=f["user_id"].astype(str).where(f.index > 3)
                )
            ),
            "InvalidInteractions",
            "'user_id' is null in 4 of",
            id="nulls",
        ),
        pytest.param(damaged(lambda f: pd.concat([f, f.tail(3)])), "InvalidInteractions", "3 of", id="duplicates"),
        pytest.param(
            damaged(lambda f: f.assign(click=np.where(f.index < 2, 5, f["click"]))),
            "InvalidInteractions",
            "neither 0 nor 1 in 2",
            id="labels",
        ),
        pytest.param(
            damaged(lambda f: f.assign(click=np.where(f.index < 2, np.nan, f["click"]))),
            "InvalidInteractions",
            "'click' is null in 2",
            id="no label",
        ),
        pytest.param(
            damaged(lambda f: f.assign(timestamp=f["timestamp"] + pd.Timedelta(days=40_000))),
            "InvalidInteractions",
            "future",
            id="future",
        ),
        pytest.param(damaged(lambda f: f.assign(click=0)), "InvalidInteractions", "is 0 in all", id="one class"),
        pytest.param(damaged(lambda f: f.head(0)), "EmptyWindow", "no row", id="empty"),
        pytest.param(corrupt, "UnreadableData", "cannot be read", id="corrupt"),
        pytest.param(cut_short, "UnreadableData", "cannot be read", id="half written"),
        pytest.param(
            lambda path: path.write_text("user_id,item_id\n1,2\n"), "UnreadableData", "cannot be read", id="not parquet"
        ),
        pytest.param(
            lambda path: pd.DataFrame({"a": [1], "b": [2]}).to_parquet(path),
            "MissingColumn",
            "They have: a, b",
            id="another schema",
        ),
        pytest.param(lambda path: None, "UnreadableData", "does not exist", id="not there"),
    ],
)
def test_a_bad_log_is_refused_in_one_paragraph_and_the_champion_is_untouched(
    trained: Project, tmp_path: Path, write: Callable[[Path], None], kind: str, says: str
) -> None:
    before = trained.json("status")[1]
    path = tmp_path / "bad.parquet"
    write(path)
    code, out, err = trained.run("retrain", "--yes", "--data", str(path))
    assert code == 3
    assert out == ""
    told = " ".join(err.split())
    assert kind in told
    assert says in told
    assert "Traceback" not in err
    assert trained.json("status")[1] == before


def test_an_unknown_settings_key_is_refused_with_the_nearest_name(project: Project, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(TOML.replace("min_first_auc", "min_frist_auc"))
    code = app(["retrain", "--config", str(bad), "--json"], standalone_mode=False)
    error = json.loads(project.capfd.readouterr().out)["error"]
    assert (code, error["type"], error["exit_code"]) == (2, "SettingsError", 2)
    assert "did you mean 'min_first_auc'" in error["message"]


@pytest.mark.parametrize("workspace", ["taken/feedloop", "/proc/feedloop"])
def test_a_workspace_that_cannot_be_written_is_a_clear_error(project: Project, tmp_path: Path, workspace: str) -> None:
    # A file where the folder should be, and a place where nobody may write: both refuse root as well.
    (tmp_path / "taken").write_text("")
    bad = tmp_path / "bad.toml"
    bad.write_text(f'workspace = "{workspace}"\n{TOML.replace("log.parquet", str(project.folder / "log.parquet"))}')
    code = app(["retrain", "--config", str(bad), "--json"], standalone_mode=False)
    error = json.loads(project.capfd.readouterr().out)["error"]
    assert (code, error["type"]) == (8, "StorageError")
    assert workspace in error["message"]


def test_init_drafts_settings_that_work(project: Project, tmp_path: Path) -> None:
    drafted = tmp_path / "drafted.toml"
    code = app(["init", str(project.folder / "log.parquet"), "--output", str(drafted), "--json"], standalone_mode=False)
    result = json.loads(project.capfd.readouterr().out)
    assert code == 0
    assert result["toml"] == drafted.read_text()
    for line in ('user = "user_id"', 'request = "request_id"', 'label = "click"', '"item_category"'):
        assert line in result["toml"]
    assert app(["init", str(project.folder / "log.parquet"), "--output", str(drafted)], standalone_mode=False) == 8
    assert "--force" in project.capfd.readouterr().err


def test_an_unknown_version_lists_what_there_is(trained: Project) -> None:
    code, result = trained.json("promote", "99", "--yes")
    assert (code, result["error"]["type"]) == (6, "UnknownModel")
    assert "1" in result["error"]["message"]


def test_the_same_log_and_seed_give_the_same_snapshot_model_and_verdict_in_another_place(
    trained: Project, tmp_path: Path
) -> None:
    copy = tmp_path / "feedloop.toml"
    copy.write_text(TOML)
    # Another order and layout of the same rows is the same log.
    rows = log()
    (tmp_path / "log.parquet").mkdir()
    shuffled = rows.sample(frac=1, random_state=1)
    for number in range(3):
        shuffled.iloc[number::3].to_parquet(tmp_path / "log.parquet" / f"part-{number}.parquet")
    results = []
    for config in (trained.folder / "feedloop.toml", copy):
        trained.capfd.readouterr()
        assert app(["retrain", "--config", str(config), "--cutoff", "2026-01-11", "--json"], standalone_mode=False) == 0
        results.append(json.loads(trained.capfd.readouterr().out)["retraining"])
    here, there = results
    assert here["snapshot"]["fingerprint"] == there["snapshot"]["fingerprint"]
    assert here["training"]["digest"] == there["training"]["digest"] == there["challenger"]["digest"]
    again = []
    for result in results:
        challenger = result["evidence"]["comparison"]["challenger"]
        again.append((challenger["digest"], result["evidence"]["comparison"]["auc"]["challenger"]))
    assert again[0] == again[1]


def test_help_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from deployments.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'pandas', 'lightning', 'ibis', 'sklearn', 'pydantic_settings'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_story_on_a_users_own_log_makes_a_first_champion_and_a_challenger(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "feedloop.toml"
    config.write_text(TOML)
    arguments = ["run", "--data", str(folder / "log.parquet"), "--config", str(config), "--yes", "--json"]
    assert app(arguments, standalone_mode=False) == 0
    result = json.loads(capfd.readouterr().out)
    first, second = result["runs"]
    assert first["evidence"]["comparison"]["champion"] is None
    assert first["promotion"]["status"] == "promoted"
    assert second["evidence"]["comparison"]["champion"]["version"] == "1"
    assert second["snapshot"]["rows"] > first["snapshot"]["rows"]
    assert result["verdict"] == second["evidence"]["verdict"]
    assert result["champion"]["version"] in {"1", "2"}


def test_simulate_adds_days_to_the_sample_feed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "feedloop.toml"
    config.write_text("[world]\nusers = 100\nitems = 60\nrequests_per_day = 50\n")
    for _ in range(2):
        assert app(["simulate", "--days", "2", "--config", str(config), "--json"], standalone_mode=False) == 0
        result = json.loads(capfd.readouterr().out)
    assert result["days"] == 4
    assert result["until"].startswith("2026-01-09")
    assert len(pd.read_parquet(result["log"])) == 4 * 50 * 8
    config.write_text("[world]\nusers = 101\n")
    assert app(["simulate", "--config", str(config), "--json"], standalone_mode=False) == 2
    assert "other [world] settings" in json.loads(capfd.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    "option",
    [
        "--challenger equal",
        "--strategy canary",
        "--requests-per-day 10",
        "--users 10",
        "--label-delay-hours 1",
        "--tick-minutes 30",
        "--speed 60",
        "--gateway http://127.0.0.1:1",
    ],
)
def test_an_option_of_visitors_is_refused_where_nobody_visits(option: str) -> None:
    refused = CliRunner().invoke(app, ["simulate", *option.split()])
    assert refused.exit_code == 2
    # The terminal breaks the sentence anywhere, and puts it in a frame.
    told = " ".join(refused.output.replace("│", " ").split())
    assert f"Without --traffic nobody visits, so {option.split(maxsplit=1)[0]} would do nothing." in told
