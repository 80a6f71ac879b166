"""The registry on a real embedded MLflow: opening it safely, keeping models, and telling "no" from "no answer"."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ranking.errors import (
    BundleError,
    RegistryError,
    RegistryUnavailable,
    StorageError,
    TamperedBundle,
    UnknownModel,
)
from tasks.adapters.mlflow_store import ENVIRONMENT, open_store
from tasks.adapters.registry import open_registry
from tests.tasks.tiny_models import (
    LEARNT,
    NAME,
    Shop,
    evidence_about,
    open_shop,
    sample_rows,
    snapshot,
    tiny_bundle,
    training_of,
    with_database,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return with_database(tmp_path)


@pytest.fixture
def shop(workspace: Path) -> Shop:
    return open_shop(workspace)


class TestOpening:
    def test_importing_the_ports_does_not_import_mlflow(self) -> None:
        code = (
            "import sys, tasks.adapters.registry, tasks.adapters.ledger, tasks.adapters.mlflow_store\n"
            "assert not {'mlflow', 'torch', 'pandas', 'prefect'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_the_first_use_makes_an_empty_registry_and_leaves_nothing_unfinished(self, tmp_path: Path) -> None:
        registry = open_registry(None, NAME, tmp_path / "not" / "there" / "yet")
        assert registry.champion() is None
        assert registry.versions() == ()
        left = {path.name for path in (tmp_path / "not" / "there" / "yet").iterdir()}
        assert left == {"mlflow.db", ".mlflow.db.lock"}

    def test_what_a_killed_first_use_left_is_cleared_away(self, tmp_path: Path) -> None:
        (tmp_path / ".mlflow.db.unfinished").write_bytes(b"SQLite format 3\x00 half a database")
        (tmp_path / ".mlflow.db.unfinished-journal").write_bytes(b"half a journal")
        (tmp_path / ".mlflow.db.lock").touch()
        (tmp_path / "mlflow.db").touch()
        assert open_registry(None, NAME, tmp_path).versions() == ()
        assert not list(tmp_path.glob("*unfinished*"))

    def test_variables_that_the_user_set_are_left_alone(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
        monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
        open_store(None, workspace)
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"] == "true"

    def test_a_uri_is_used_as_it_is(self, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        uri = f"sqlite:///{workspace / 'mlflow.db'}"
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        registry = open_registry(uri, NAME, elsewhere)
        assert registry.tracking_uri == uri
        assert not (elsewhere / "mlflow.db").exists()

    def test_the_password_of_a_uri_is_never_shown(self) -> None:
        uri = "postgresql+psycopg://ada:s3cret@localhost:1/models?connect_timeout=1"
        with pytest.raises(RegistryError, match=r"ada:\*\*\*@localhost") as caught:
            open_store(uri, Path())
        assert "s3cret" not in str(caught.value)

    def test_an_unknown_version_does_not_tell_the_password_of_the_registry(self, shop: Shop) -> None:
        shop.registry.tracking_uri = "postgresql+psycopg://ada:s3cret@localhost:1/models"
        with pytest.raises(UnknownModel, match=r"no version or alias '7' in postgresql\+psycopg://ada:\*\*\*@local"):
            shop.registry.model("7")


_OPENER = """
import sys
from pathlib import Path
from tasks.adapters.registry import open_registry
print("RESULT", len(open_registry(None, "feed_ranker", Path(sys.argv[1])).versions()))
"""


def _opening(workspace: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", _OPENER, str(workspace)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_eight_processes_may_open_a_fresh_workspace_at_once(tmp_path: Path) -> None:
    openers = [_opening(tmp_path / "workspace") for _ in range(8)]
    results = [(opener.communicate(timeout=180)[0], opener.returncode) for opener in openers]
    assert results == [("RESULT 0\n", 0)] * 8


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [0, 100, 400, 1200, 2000])
def test_a_first_use_killed_half_way_does_not_hurt_the_next(tmp_path: Path, milliseconds: int) -> None:
    opener = _opening(tmp_path)
    for _ in range(6000):
        if (tmp_path / ".mlflow.db.unfinished").exists():
            break
        time.sleep(0.01)
    time.sleep(milliseconds / 1000)
    opener.send_signal(signal.SIGKILL)
    opener.wait()
    after, again = _opening(tmp_path), _opening(tmp_path)
    assert (after.communicate(timeout=120)[0], again.communicate(timeout=120)[0]) == ("RESULT 0\n", "RESULT 0\n")


_KILLED_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE spill (text)")
connection.executemany("INSERT INTO spill VALUES (?)", [("x" * 4000,)] * 200)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_writer_killed_in_the_middle_left_is_rolled_back_at_the_next_use(shop: Shop) -> None:
    shop.register(1)
    database = shop.workspace / "mlflow.db"
    subprocess.run([sys.executable, "-c", _KILLED_WRITER, str(database)], check=False)
    assert database.with_name("mlflow.db-journal").exists()
    assert [ref.version for ref in open_registry(None, NAME, shop.workspace).versions()] == ["1"]
    with closing(sqlite3.connect(database)) as connection:
        assert not connection.execute("SELECT name FROM sqlite_master WHERE name = 'spill'").fetchall()


class TestTrouble:
    def test_a_dead_server_is_an_outage_within_half_a_minute(self, tmp_path: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(RegistryUnavailable, match=rf"127\.0\.0\.1:{port} did not answer.*Check that it runs"):
            open_registry(f"http://127.0.0.1:{port}", NAME, tmp_path)
        assert time.monotonic() - start < 30, "a bound on hanging, not a measurement of speed"

    @pytest.mark.slow
    def test_a_server_that_accepts_and_never_answers_is_an_outage_within_half_a_minute(self, tmp_path: Path) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            start = time.monotonic()
            with pytest.raises(RegistryUnavailable, match="did not answer"):
                open_registry(f"http://127.0.0.1:{silent.getsockname()[1]}", NAME, tmp_path)
        assert time.monotonic() - start < 30, "a bound on hanging, not a measurement of speed"

    def test_a_server_that_dies_later_is_an_outage_and_never_no_champion(self, shop: Shop, dead: None) -> None:
        for question in (shop.registry.champion, shop.registry.versions, lambda: shop.registry.model("1")):
            with pytest.raises(RegistryUnavailable, match="did not answer"):
                question()
        with pytest.raises(RegistryUnavailable, match="did not answer"):
            shop.ledger.head()

    @pytest.fixture
    def dead(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        assert shop.registry.champion() is None

        def refuse(*_: object, **__: object) -> None:
            raise MlflowException("API request to /x failed with exception HTTPConnectionPool: Max retries exceeded")

        for name in ("get_registered_model", "search_model_versions", "get_experiment_by_name"):
            monkeypatch.setattr(MlflowClient, name, refuse)

    def test_a_file_that_is_no_database_is_named_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_bytes(b"PAR1 this is something else")
        with pytest.raises(RegistryError, match=r"mlflow\.db is not a usable MLflow database: it is not an SQLite"):
            open_registry(None, NAME, tmp_path)

    def test_a_database_cut_short_is_named_at_once(self, workspace: Path) -> None:
        content = (workspace / "mlflow.db").read_bytes()
        (workspace / "mlflow.db").write_bytes(content[: len(content) // 3])
        with pytest.raises(RegistryError, match=r"not a usable MLflow database.*Restore it from a backup"):
            open_registry(None, NAME, workspace)

    def test_a_database_of_something_else_is_named_at_once(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
            connection.execute("CREATE TABLE songs (title TEXT)")
        with pytest.raises(RegistryError, match="not a usable MLflow database: no such table"):
            open_registry(None, NAME, tmp_path)

    def test_a_database_of_another_mlflow_says_how_to_upgrade_it(self, workspace: Path) -> None:
        with closing(sqlite3.connect(workspace / "mlflow.db")) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'older'")
        with pytest.raises(RegistryError, match="mlflow db upgrade"):
            open_registry(None, NAME, workspace)

    def test_a_database_removed_while_open_is_an_error_and_never_an_empty_registry(self, shop: Shop) -> None:
        (shop.workspace / "mlflow.db").unlink()
        (shop.workspace / "mlflow.db").touch()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore._engine_map[shop.registry.tracking_uri].dispose()
        with pytest.raises(RegistryError, match="not a usable MLflow database"):
            shop.ledger.head()

    def test_a_workspace_that_cannot_be_a_folder_is_a_storage_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="cannot be created"):
            open_registry(None, NAME, tmp_path / "file" / "workspace")

    def test_nonsense_as_uri_says_what_would_do(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=r"not a tracking URI that works here.*registry\.tracking_uri"):
            open_registry("nonsense", NAME, tmp_path)


class TestRegistering:
    def test_a_version_carries_digest_window_fingerprint_and_commit(self, shop: Shop) -> None:
        ref = shop.register(1)
        assert (ref.name, ref.version, ref.digest, ref.learnt) == (NAME, "1", tiny_bundle(1).digest, LEARNT)
        tags = shop.registry.tags(ref)
        assert tags["fingerprint"] == "f" * 64
        assert tags["git_commit"] == "abc123"
        assert tags["architecture"] == "deep_mlp"
        assert shop.registry.model("1") == ref
        assert shop.registry.versions() == (ref,)

    def test_the_run_shows_parameters_curves_and_our_fingerprint_as_the_data_set(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(shop.registry.tracking_uri)
        ref = shop.register(1)
        run = client.get_run(ref.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params["seed"] == "1"
        assert run.data.params["fingerprint"] == "f" * 64
        assert run.data.tags["mlflow.source.git.commit"] == "abc123"
        (data,) = run.inputs.dataset_inputs
        assert data.dataset.digest == "f" * 36, "MLflow keeps 36 characters"
        assert {tag.key: tag.value for tag in data.tags}["fingerprint"] == "f" * 64
        curve = client.get_metric_history(ref.run_id, "train_log_loss")
        assert [(point.step, point.value) for point in curve] == [(0, 0.6), (1, 0.58)]
        model = client.get_logged_model(shop.registry.tags(ref)["model_id"])
        assert model.status == "READY"
        assert {metric.key for metric in model.metrics} >= {"train_log_loss", "validation_auc"}

    def test_the_same_request_gives_the_same_version_and_another_one_a_new_version(self, shop: Shop) -> None:
        first = shop.register(1, request="run 7")
        assert shop.register(1, request="run 7") == first
        assert shop.register(1, request="run 8").version == "2"

    def test_a_version_made_twice_by_a_lost_answer_is_kept_once(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mlflow import MlflowClient

        create = MlflowClient.create_model_version

        def create_twice(*arguments: object, **named: object) -> object:
            create(*arguments, **named)
            return create(*arguments, **named)

        monkeypatch.setattr(MlflowClient, "create_model_version", create_twice)
        assert shop.register(1).version == "1"
        assert [ref.version for ref in shop.registry.versions()] == ["1"]

    def test_a_full_disk_registers_nothing(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflow import MlflowClient

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(MlflowClient, "log_model_artifacts", fail)
        with pytest.raises(StorageError, match="No space left on device"):
            shop.register(1)
        assert shop.registry.versions() == ()
        (run,) = MlflowClient(shop.registry.tracking_uri).search_runs(["1"])
        assert run.info.status == "FAILED"

    def test_a_bundle_changed_since_training_is_not_registered(self, shop: Shop, tmp_path: Path) -> None:
        tiny_bundle(2).save(tmp_path / "another")
        with pytest.raises(TamperedBundle, match="was expected"):
            shop.registry.register(
                tmp_path / "another",
                training_of(tiny_bundle(1)),
                snapshot=snapshot(),
                sample=sample_rows(),
                files={},
                tags={},
                request="x",
            )
        assert shop.registry.versions() == ()

    def test_no_sample_rows_are_refused_with_a_reason(self, shop: Shop, tmp_path: Path) -> None:
        tiny_bundle(1).save(tmp_path / "bundle")
        with pytest.raises(RegistryError, match="there are 0"):
            shop.registry.register(
                tmp_path / "bundle",
                training_of(tiny_bundle(1)),
                snapshot=snapshot(),
                sample=sample_rows().head(0),
                files={},
                tags={},
                request="x",
            )

    def test_nothing_is_printed_and_mlflows_global_state_is_not_touched(
        self, workspace: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        import mlflow

        before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run())
        open_shop(workspace).register(1)
        assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run()) == before
        captured = capfd.readouterr()
        assert captured.out == ""
        assert "INFO mlflow" not in captured.err


@contextmanager
def overwritten(shop: Shop, pattern: str) -> Iterator[None]:
    """Replace bytes of a registered model behind everybody's back, as anyone with write access can."""
    (file,) = (shop.workspace / "artifacts").rglob(pattern)
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes(255 - byte for byte in content[-3:]))
    yield
    file.write_bytes(content)


class TestFetching:
    def test_a_downloaded_bundle_is_the_one_that_was_registered(self, shop: Shop, tmp_path: Path) -> None:
        from ranking.bundle import Bundle

        ref = shop.register(1)
        bundle = Bundle.load(shop.registry.download(ref, tmp_path / "here"), ref.digest)
        assert bundle.score(sample_rows()).tolist() == tiny_bundle(1).score(sample_rows()).tolist()

    def test_overwritten_weights_are_refused(self, shop: Shop, tmp_path: Path) -> None:
        ref = shop.register(1)
        with overwritten(shop, "model.safetensors"), pytest.raises(TamperedBundle, match=r"model\.safetensors"):
            shop.registry.download(ref, tmp_path / "here")

    @pytest.mark.parametrize("pattern", ["served_model.py", "encoding.py", "golden.parquet", "MLmodel"])
    def test_overwritten_files_around_the_weights_are_refused(self, shop: Shop, tmp_path: Path, pattern: str) -> None:
        ref = shop.register(1)
        shop.registry.package(ref, tmp_path / "before")
        with overwritten(shop, pattern), pytest.raises(TamperedBundle, match="they were changed since"):
            shop.registry.package(ref, tmp_path / "here")

    def test_a_file_planted_beside_the_code_is_refused(self, shop: Shop, tmp_path: Path) -> None:
        ref = shop.register(1)
        (code,) = (shop.workspace / "artifacts").rglob("code")
        (code / "torch.py").write_text("import os")
        with pytest.raises(TamperedBundle, match="they were changed since"):
            shop.registry.package(ref, tmp_path / "here")

    def test_missing_files_are_a_clear_error(self, shop: Shop, tmp_path: Path) -> None:
        import shutil

        ref = shop.register(1)
        (folder,) = (shop.workspace / "artifacts").rglob("bundle")
        shutil.rmtree(folder)
        with pytest.raises(BundleError, match=r"files of version 1 of 'feed_ranker' cannot be fetched.*Restore them"):
            shop.registry.download(ref, tmp_path / "here")

    def test_a_version_that_does_not_exist_lists_those_that_do(self, shop: Shop) -> None:
        shop.register(1)
        shop.registry.release(shop.register(2))
        shop.registry.point("champion", "2")
        for wanted in ("7", "previous", "no such thing"):
            with pytest.raises(UnknownModel, match=rf"{wanted}.*Versions: 1, 2\. Aliases: champion \(version 2\)"):
                shop.registry.model(wanted)

    def test_an_alias_can_be_set_moved_and_taken_away(self, shop: Shop) -> None:
        first, second = shop.register(1), shop.register(2)
        assert shop.registry.champion() is None
        with pytest.raises(UnknownModel, match="Version 1 of 'feed_ranker' has no released copy"):
            shop.registry.point("champion", first.version)
        for ref in (first, second):
            shop.registry.release(ref)
        shop.registry.point("champion", first.version)
        assert shop.registry.champion() == first == shop.registry.model("champion")
        shop.registry.point("champion", second.version)
        assert shop.registry.champion() == second
        shop.registry.point("champion", None)
        shop.registry.point("champion", None)
        assert shop.registry.champion() is None

    def test_a_version_from_somewhere_else_has_no_window_and_cannot_be_scored(self, shop: Shop, tmp_path: Path) -> None:
        ref = foreign_version(shop)
        assert (ref.digest, ref.learnt) == ("", None)
        with pytest.raises(RegistryError, match="not registered by feedloop"):
            shop.registry.download(ref, tmp_path)


def foreign_version(shop: Shop) -> object:
    from mlflow import MlflowClient

    client = MlflowClient(shop.registry.tracking_uri)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, source=str(shop.workspace), await_creation_for=0)
    return shop.registry.model("release-1")


class TestEvidence:
    def test_evidence_comes_back_whole_and_the_newest_first(self, shop: Shop) -> None:
        champion, challenger = shop.register(1), shop.register(2)
        assert shop.registry.evidence(challenger) is None
        old, new = evidence_about(challenger, None), evidence_about(challenger, champion)
        shop.registry.record(challenger, old)
        shop.registry.record(challenger, new)
        assert shop.registry.evidence(challenger) == new
        assert shop.registry.evidence(challenger, old.digest) == old
        assert shop.registry.evidence(challenger, "0" * 64) is None
        assert shop.registry.evidence(champion) is None

    def test_edited_evidence_is_refused(self, shop: Shop) -> None:
        challenger = shop.register(1)
        evidence = evidence_about(challenger, None)
        shop.registry.record(challenger, evidence)
        (file,) = (shop.workspace / "artifacts").rglob(f"{evidence.digest}.json")
        file.write_text(file.read_text().replace("0.72", "0.92"))
        with pytest.raises(RegistryError, match="was changed after it was recorded"):
            shop.registry.evidence(challenger, evidence.digest)

    def test_its_metrics_become_the_models_metrics(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        champion, challenger = shop.register(1), shop.register(2)
        shop.registry.record(challenger, evidence_about(challenger, champion))
        client = MlflowClient(shop.registry.tracking_uri)
        model = client.get_logged_model(shop.registry.tags(challenger)["model_id"])
        measured = {metric.key: metric.value for metric in model.metrics}
        assert measured["challenger_auc"] == 0.72
        assert measured["difference_auc"] == 0.02

    def test_files_can_be_kept_beside_a_version(self, shop: Shop, tmp_path: Path) -> None:
        ref = shop.register(1)
        (tmp_path / "notes").write_text("hello")
        shop.registry.attach(ref, {"report/notes.md": tmp_path / "notes"})
        (kept,) = (shop.workspace / "artifacts").rglob("report/notes.md")
        assert kept.read_text() == "hello"
