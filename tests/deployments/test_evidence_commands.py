"""``explain``, ``recheck`` and ``gate-check`` as a user meets them, on a real embedded registry."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deployments.cli import app
from deployments.evidence_commands import affordable
from ranking.decision import Confidence
from ranking.errors import UnknownModel
from ranking.results import Evidence, ModelRef
from ranking.values import canonical_json, digest
from ranking.verdict import GateKnobs, decide
from settings.loading import load
from tasks.adapters import serving_evidence
from tasks.evidence import find
from tasks.version import code_version
from tests.deployments.test_cli import TOML as RETRAIN_TOML
from tests.deployments.test_cli import log as world_log
from tests.examples import evidence as example
from tests.tasks.tiny_models import NOW, Shop, open_shop, with_database

TOML = """
[data]
uri = "log.parquet"
[data.columns]
user = "user_id"
item = "item_id"
label = "click"
time = "timestamp"
[data.columns.user_features]
numeric = ["age"]
[data.columns.context_features]
categorical = ["device"]
[history]
enabled = false
"""


def recorded(shop: Shop, ref: ModelRef, champion: ModelRef | None = None, **changes: Any) -> Evidence:
    """Evidence about a version, decided by the default policy and stored."""
    small = example(rows=3_000, champion="1" if champion else None).comparison
    comparison = small.model_copy(update={"challenger": ref, "champion": champion})
    policy = load().policy
    made = Evidence(
        comparison=comparison,
        verdict=decide(comparison, GateKnobs()),
        policy=policy,
        policy_digest=digest(policy),
        code_version="feedloop 0.0.1, commit abc",
    ).model_copy(update=changes)
    shop.registry.record(ref, made)
    return made


def rows(number: int = 4_000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user_id": rng.integers(1, 200, number),
            "item_id": [f"item-{n}" for n in rng.integers(1, 60, number)],
            "age": rng.integers(18, 70, number).astype("float64"),
            "device": rng.choice(["phone", "desktop"], number),
            "timestamp": NOW - pd.to_timedelta(rng.uniform(0, 30 * 86_400, number), unit="s"),
            "click": (rng.random(number) < 0.3).astype(int),
        }
    )


class Desk:
    """A project folder with a registry of two versions, and the commands run in it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capfd = folder, capfd
        (folder / "feedloop.toml").write_text(TOML)
        workspace = folder / ".feedloop"
        workspace.mkdir()
        self.shop = open_shop(with_database(workspace))
        self.first, self.second = self.shop.register(1), self.shop.register(2)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, words and errors, each on one line."""
        self.capfd.readouterr()
        code = app([*arguments, "--config", str(self.folder / "feedloop.toml")], standalone_mode=False)
        captured = self.capfd.readouterr()
        return code, " ".join(captured.out.split()), " ".join(captured.err.split())

    def json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and the one JSON object."""
        code, out, _ = self.run(*arguments, "--json")
        return code, json.loads(out)


@pytest.fixture
def desk(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capfd)


def test_evidence_is_found_by_version_alias_and_the_start_of_its_digest(desk: Desk) -> None:
    old = recorded(desk.shop, desk.second, desk.first, code_version="older")
    new = recorded(desk.shop, desk.second, desk.first)
    desk.shop.registry.point("challenger", "2")
    for identifier, wanted in (("2", new), ("challenger", new), (old.digest[:6], old), (new.digest, new)):
        kept = find(desk.shop.registry, identifier)
        assert (kept.evidence, kept.digest, kept.ref) == (wanted, wanted.digest, desk.second)


def test_what_cannot_be_found_says_what_there_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recorded(desk.shop, desk.second, desk.first)
    registry = desk.shop.registry
    for identifier, says in (
        ("99", "Versions: 1, 2.*6 or more"),
        (made.digest[:5] if not made.digest[:5].isdecimal() else "abcde", "6 or more"),
        ("f00dfeed", "No evidence has a digest that starts so either"),
        ("1", "Version 1 .* was never compared"),
    ):
        with pytest.raises(UnknownModel, match=says):
            find(registry, identifier)
    # Two digests that begin alike do not occur by themselves.
    monkeypatch.setattr(type(registry), "evidence_digests", lambda _, ref: (f"abcdef{ref.version}", "abcdef0"))
    with pytest.raises(UnknownModel, match=r"start of 4 digests: .*\(version 2\).*Give more characters"):
        find(registry, "abcdef")
    code, result = desk.json("explain", "99")
    assert (code, result["error"]["type"]) == (6, "UnknownModel")


def test_explain_tells_decision_guardrails_rows_and_where_they_came_from(desk: Desk) -> None:
    made = recorded(desk.shop, desk.second, desk.first)
    code, out, _ = desk.run("explain", "2")
    assert code == 0
    told = "".join(out.split())
    comparison = made.comparison
    for words in (
        f"{made.verdict.decision} ({made.verdict.confidence} confidence)",
        made.verdict.reason,
        *(finding.rule for finding in made.verdict.findings),
        f"on {comparison.rows:,} holdout rows",
        comparison.holdout_digest,
        comparison.snapshot_fingerprint,
        made.policy_digest,
        "same as configured now",
        "feedloop 0.0.1, commit abc",
        made.digest,
        desk.first.digest,
        "nothing was decided on this evidence",
    ):
        assert "".join(words.split()) in told, words
    code, result = desk.json("explain", made.digest[:10])
    assert (code, result["evidence_digest"], result["version"]) == (0, made.digest, "2")
    assert Evidence.model_validate(result["evidence"]) == made


def test_recheck_comes_out_the_same_under_the_policy_of_then_whatever_is_configured_now(desk: Desk) -> None:
    made = recorded(desk.shop, desk.second, desk.first)
    with (desk.folder / "feedloop.toml").open("a") as file:
        file.write("[gate]\nmin_auc_improvement = 0.4\n")
    code, result = desk.json("recheck", "2")
    assert code == 0
    assert result["recheck"]["digest"] == result["recheck"]["recorded_digest"] == made.digest
    assert result["recheck"]["difference"] is None
    assert "The same: " in desk.run("recheck", "2")[1]
    assert "another than configured now" in desk.run("explain", "2")[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"policy": {}}, "not the policy, so it cannot be decided again", id="policy was not kept"),
        pytest.param({"policy_digest": "q" * 64}, "policy_digest was qqqqqqqqqqqqqqqq…", id="another policy"),
        pytest.param({"policy": {"gate": {"min_gain": 1}}}, "min_gain: Extra inputs", id="unknown policy"),
    ],
)
def test_evidence_that_does_not_hold_its_policy_fails_the_recheck(
    desk: Desk, changes: dict[str, Any], says: str
) -> None:
    recorded(desk.shop, desk.second, desk.first, **changes)
    code, result = desk.json("recheck", "2")
    assert (code, result["error"]["type"]) == (4, "ComparisonError")
    assert says in result["error"]["message"]


def test_a_verdict_that_does_not_follow_is_named_with_both_values(desk: Desk) -> None:
    honest = recorded(desk.shop, desk.second, desk.first).verdict
    claimed = Confidence.LOW if honest.confidence is not Confidence.LOW else Confidence.HIGH
    recorded(desk.shop, desk.second, desk.first, verdict=honest.model_copy(update={"confidence": claimed}))
    code, _, err = desk.run("recheck", "2")
    assert code == 4
    assert f"verdict.confidence was '{claimed}' and comes out as '{honest.confidence}'" in err


def test_a_changed_file_is_not_taken_for_evidence(desk: Desk) -> None:
    made = recorded(desk.shop, desk.second, desk.first)
    (file,) = desk.folder.rglob("newest.json")
    forged = made.model_copy(update={"verdict": made.verdict.model_copy(update={"reason": "because"})})
    file.write_text(canonical_json(forged))
    code, _, err = desk.run("recheck", "2")
    assert code == 6
    assert "it was changed afterwards" in err


def test_evidence_of_an_earlier_feedloop_without_newer_fields_is_still_found(desk: Desk) -> None:
    made = recorded(desk.shop, desk.second, desk.first, policy={}, code_version=None)
    plain = made.model_dump(mode="json")
    del plain["policy"], plain["code_version"]
    for file in desk.folder.rglob("evidence/*.json"):
        file.unlink()
    (folder,) = desk.folder.rglob("evidence")
    text = canonical_json(plain)
    for name in (digest(plain), "newest"):
        (folder / f"{name}.json").write_text(text)
    kept = find(desk.shop.registry, "2")
    assert (kept.evidence, kept.digest) == (made, digest(plain))


def test_gate_check_simulates_holdouts_like_the_log_with_and_without_a_champion(desk: Desk) -> None:
    rows().to_parquet(desk.folder / "log.parquet")
    code, alone = desk.json("gate-check", "--repetitions", "2")
    assert code == 0, alone
    assert alone["gate_check"]["shape"]["auc"] == 0.7
    assert alone["gate_check"]["repetitions"] == 2
    names = [scenario["name"] for scenario in alone["gate_check"]["scenarios"]]
    assert names == ["equal", "slightly better", "clearly better", "harmful"]
    desk.shop.registry.release(desk.first)
    desk.shop.registry.point("champion", "1")
    desk.shop.registry.point("challenger", "2")
    code, out, _ = desk.run("gate-check", "--repetitions", "2", "--seed", "3")
    assert code == 0
    for words in ("version 1; challengers are as unlike as versions 1 and 2", "False promotions:", "Power:", "harmful"):
        assert words in out
    again = desk.json("gate-check", "--repetitions", "2", "--seed", "3")[1]["gate_check"]
    assert again == desk.json("gate-check", "--repetitions", "2", "--seed", "3")[1]["gate_check"]
    assert again["shape"]["rows"] == alone["gate_check"]["shape"]["rows"]
    assert again["shape"]["change_sd"] != alone["gate_check"]["shape"]["change_sd"]


def test_gate_check_says_which_slices_it_simulates_and_which_budgets_it_cannot(desk: Desk) -> None:
    rows().to_parquet(desk.folder / "log.parquet")
    budgets = "max_latency_p99_milliseconds = 20\nmax_size_megabytes = 5\n"
    with (desk.folder / "feedloop.toml").open("a") as file:
        file.write(f'[gate]\nslice_columns = ["device"]\n{budgets}')
    code, out, err = desk.run("gate-check", "--repetitions", "2")
    assert code == 0, err
    assert "Slices: new_users, cold_items, device (2 values)." in out
    assert "Not simulated: serving, latency (budget 20 ms), size (budget 5 MB)." in out
    checked = desk.json("gate-check", "--repetitions", "2")[1]["gate_check"]
    assert checked["shape"]["slices"]["device=phone"]["of"] == "rows"
    assert checked["not_simulated"] == ["serving", "latency", "size"]


def test_fewer_holdouts_are_drawn_the_larger_they_are() -> None:
    assert [affordable(rows) for rows in (1_000, 100_000, 1_000_000, 10**9)] == [200, 73, 10, 10]


def test_the_code_version_names_the_package_or_the_commit() -> None:
    known = code_version()
    assert known is None or known.startswith(("feedloop ", "commit "))


@pytest.mark.usefixtures("prefect_server")
def test_what_a_retraining_recorded_is_explained_and_comes_out_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feedloop.toml").write_text(RETRAIN_TOML)
    world_log().to_parquet(tmp_path / "log.parquet")
    config = ["--config", str(tmp_path / "feedloop.toml"), "--json"]

    def result(*arguments: str) -> dict[str, Any]:
        capfd.readouterr()
        assert app([*arguments, *config], standalone_mode=False) == 0
        found: dict[str, Any] = json.loads(capfd.readouterr().out)
        return found

    retraining = result("retrain", "--yes", "--cutoff", "2026-01-10")["retraining"]
    stored = retraining["evidence"]
    assert digest(stored["policy"]) == stored["policy_digest"]
    assert stored["code_version"] == code_version()
    assert result("recheck", "1")["recheck"]["difference"] is None
    explained = result("explain", "1")
    assert explained["evidence"] == stored
    assert explained["evidence_digest"] == digest(stored)
    assert explained["ledger_entries"] == ([retraining["promotion"]["entry"]] if retraining["promotion"] else [])
    assert Path(retraining["report"]["html_uri"]).is_file()
    served = stored["comparison"]["serving"]
    assert served["passed"], served["reason"]
    assert served["costs"] == stored["comparison"]["costs"]
    assert served["costs"]["latency_p99_milliseconds"] > 0
    assert [finding["status"] for finding in stored["verdict"]["findings"] if finding["rule"] == "serving"] == ["ok"]
    attached = {path.name for path in tmp_path.rglob("report/*")}
    assert attached == {"report.md", "report.html", "report.png", "evidence.png"}


@pytest.mark.usefixtures("prefect_server")
def test_a_challenger_that_does_not_serve_is_evidence_and_nobody_is_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "feedloop.toml").write_text(RETRAIN_TOML)
    world_log().to_parquet(tmp_path / "log.parquet")
    config = ["--config", str(tmp_path / "feedloop.toml"), "--json"]
    monkeypatch.setattr(serving_evidence, "_CHILD", "raise SystemExit('ImportError: no torch here.')")
    capfd.readouterr()
    assert app(["retrain", "--yes", "--cutoff", "2026-01-10", *config], standalone_mode=False) == 0
    retraining = json.loads(capfd.readouterr().out)["retraining"]
    verdict = retraining["evidence"]["verdict"]
    assert (verdict["decision"], verdict["confidence"]) == ("REJECT", "high")
    assert "does not load in a clean process by MLflow alone: ImportError: no torch here." in verdict["reason"]
    assert retraining["promotion"] is None
    assert app(["explain", "1", *config], standalone_mode=False) == 0
    explained = json.loads(capfd.readouterr().out)
    assert explained["evidence"] == retraining["evidence"]
    assert explained["ledger_entries"] == []
