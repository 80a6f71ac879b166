"""PostgreSQL for everything that a team keeps: Prefect's database, and an MLflow server with one for each project."""

from contextlib import ExitStack
from pathlib import Path

from tests.postgres import Postgres
from tests.tasks.mlflow_server import mlflow_server


class Databases:
    """Hands out databases and MLflow servers; the servers end with ``stack``."""

    def __init__(self, postgres: Postgres, stack: ExitStack) -> None:
        self._postgres = postgres
        self._stack = stack
        self._servers: dict[Path, str] = {}
        self._tables = _mlflow_tables(postgres)

    def prefect(self) -> str:
        """Address of an empty database, as Prefect's server takes it."""
        return _with_driver(self._postgres.fresh_database(), "asyncpg")

    def mlflow_database(self) -> str:
        """Address of a database with MLflow's tables and nothing in them."""
        return _with_driver(self._postgres.fresh_database(self._tables), "psycopg")

    def mlflow(self, folder: Path) -> str:
        """Tracking URI of the project in ``folder``: an MLflow server of its own, with its artifacts beside it."""
        if folder not in self._servers:
            files = folder.with_name(f"{folder.name}-mlflow")
            files.mkdir()
            self._servers[folder] = self._stack.enter_context(mlflow_server(files, self.mlflow_database()))
        return self._servers[folder]


def _mlflow_tables(postgres: Postgres) -> str:
    """Name of the database that others are copied from: making the tables takes MLflow seconds."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    url = postgres.fresh_database()
    store = SqlAlchemyStore(_with_driver(url, "psycopg"), "mlflow-artifacts:/")
    store.engine.dispose()
    return url.rsplit("/", 1)[1]


def _with_driver(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)
