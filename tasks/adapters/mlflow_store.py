"""Where MLflow keeps its tables and files: opened safely.

Importing this module does not import MLflow (it takes seconds); :func:`open_store` does.
"""

import logging
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ranking.errors import RegistryError, RegistryUnavailable, StorageError
from settings.addresses import shown, without_password
from tasks.adapters.mlflow_errors import SQLITE, answered, sqlite_path, unanswered, unusable

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Loading a pickle runs whatever code is in it.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Standard output belongs to the command line's JSON.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own default blocks 247 s on a refused connection.  These give up after at most
    # (2 + 1) tries x 8 s + 4 s of waiting, so that an outage is known within half a minute.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
}
"""What MLflow needs to hear; a variable that the user has set is left alone."""

DATABASE_NAME = "mlflow.db"
CREATE_TIMEOUT_SECONDS = 120.0
CONNECT_TIMEOUT_SECONDS = 10
_SQLITE_HEADER = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Store:
    """An opened MLflow store.

    ``artifact_root`` is where the files of new experiments go; ``None`` leaves that to the server.
    """

    uri: str
    client: "MlflowClient"
    artifact_root: Path | None

    def experiment(self, name: str) -> str:
        """The id of the experiment ``name``, created if it is not there."""
        with answered(self.uri):
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                if found.lifecycle_stage != "active":
                    raise RegistryError(
                        f"The MLflow experiment {name!r} (id {found.experiment_id}) was deleted. Restore it with "
                        f"`mlflow experiments restore --experiment-id {found.experiment_id}`."
                    )
                return str(found.experiment_id)
        self.create_experiment(name, tags={})
        return self.experiment(name)

    def create_experiment(self, name: str, tags: dict[str, str]) -> bool:
        """Create the experiment with its tags in one step; False when the name is taken.

        Names are unique in MLflow, so of any number of callers exactly one gets True, and everybody
        reads that caller's tags afterwards.
        """
        from mlflow.exceptions import MlflowException

        folder = str(self.artifact_root / name) if self.artifact_root else None
        with answered(self.uri):
            try:
                self.client.create_experiment(name, artifact_location=folder, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return False
        return True


def open_store(tracking_uri: str | None, workspace: Path) -> Store:
    """Open MLflow, creating the embedded store on first use.

    Args:
        tracking_uri: any MLflow tracking URI, used as it is; ``None`` for ``mlflow.db`` in the workspace.
        workspace: local folder of the embedded store, and of the artifacts of a database without a server.

    Raises:
        RegistryUnavailable: the server or database did not answer.
        RegistryError: it answered, and cannot be used (not a database, or of another version).
        StorageError: the folder or file cannot be written.
    """
    workspace = workspace.absolute()
    uri = tracking_uri or embedded_uri(workspace)
    prepare_environment()
    remote = urlsplit(uri).scheme in ("http", "https", "databricks")
    if remote:
        root = None
    else:
        root = workspace / "artifacts"
        _prepare_database(uri, root)
    from mlflow import MlflowClient

    with answered(uri):
        # Given explicitly: MLflow's global tracking URI belongs to the user's own code.
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return Store(uri=uri, client=client, artifact_root=root)


def embedded_uri(workspace: Path) -> str:
    """Tracking URI of the store in a workspace, which is used when none is configured."""
    return f"{SQLITE}{workspace.absolute() / DATABASE_NAME}"


def prepare_environment() -> None:
    """Set what MLflow reads from the environment, unless the user has set it; quieten its loggers."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # MLflow reads its level when it is imported, which may have been before.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It logs a traceback for every database error; those are translated and raised by us.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _prepare_database(uri: str, artifact_root: Path) -> None:
    path = sqlite_path(uri)
    if path is not None:
        create_sqlite(path, artifact_root)
        _check_sqlite(path)
    else:
        _check_connection(uri)


def create_sqlite(path: Path, artifact_root: Path) -> None:
    """Create an MLflow database at ``path`` unless there is one.

    MLflow migrates a fresh file table by table, which neither a second process nor a ``kill -9``
    survives.  So one process at a time works on a temporary file, and the finished one takes its
    name in a single step.

    Raises:
        StorageError: the folder cannot be written, or another process holds the lock for too long.
    """
    if _has_content(path):
        return
    from filelock import FileLock, Timeout

    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=CREATE_TIMEOUT_SECONDS):
            if _has_content(path):
                return
            # Left behind by a process that was killed: the lock says that nobody works on it.
            for leftover in path.parent.glob(f"{unfinished.name}*"):
                leftover.unlink()
            with answered(f"{SQLITE}{unfinished}"):
                _create_tables(f"{SQLITE}{unfinished}", artifact_root)
            os.replace(unfinished, path)
    except Timeout as error:
        raise StorageError(
            f"Another process has been creating {path} for {CREATE_TIMEOUT_SECONDS:.0f} s. "
            "Try again; if it never ends, stop that process."
        ) from error
    except OSError as error:
        raise StorageError(
            f"The MLflow database {path} cannot be created: {error}. Choose a workspace you can write."
        ) from error


def _has_content(path: Path) -> bool:
    # An empty file is what a killed first use of plain MLflow leaves; there is nothing in it to lose.
    return path.exists() and path.stat().st_size > 0


def _create_tables(uri: str, artifact_root: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, str(artifact_root))  # type: ignore[no-untyped-call]  # MLflow's own omission
    store.engine.dispose()
    # MLflow keeps every engine for the life of the process; this one's file is about to be renamed.
    SqlAlchemyStore._engine_map.pop(uri, None)


def _check_sqlite(path: Path) -> None:
    # MLflow retries a file that is no database for 100 s before it says so.
    try:
        with path.open("rb") as file:
            header = file.read(len(_SQLITE_HEADER))
        if header != _SQLITE_HEADER:
            raise RegistryError(unusable(path, "it is not an SQLite file"))
        # A process killed in the middle of a write leaves a journal, and only who may write can roll it back.
        mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
        with closing(sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=20)) as connection:
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
            connection.execute("SELECT experiment_id FROM experiments LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RegistryUnavailable(f"The MLflow database {path} is locked by another process. Try again.") from error
        raise RegistryError(unusable(path, str(error))) from error
    except sqlite3.DatabaseError as error:
        raise RegistryError(unusable(path, str(error))) from error
    except OSError as error:
        raise StorageError(f"The MLflow database {path} cannot be read: {error}. Check its permissions.") from error


def _check_connection(uri: str) -> None:
    # One try with a time limit: MLflow itself tries ten times over 100 s.
    import sqlalchemy

    network = uri.startswith(("postgresql", "mysql"))
    options = {"connect_timeout": CONNECT_TIMEOUT_SECONDS} if network and "connect_timeout" not in uri else {}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=options)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except sqlalchemy.exc.OperationalError as error:
        raise RegistryUnavailable(unanswered(uri, str(error.orig))) from error
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        why = without_password(str(error), uri)
        raise RegistryError(
            f"{shown(uri)} is not a tracking URI that works here: {why}. Set registry.tracking_uri to a server "
            "(http://…), an SQLite file (sqlite:////…) or a database (postgresql+psycopg://…)."
        ) from error
