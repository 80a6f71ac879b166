"""A real Prefect server, real workers and a real browser, as a team would run them; all on loopback.

They are child processes with a home of their own, so that they can be killed and started again.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.databases import Databases

ROOT = Path(__file__).parents[1]
POOL = "feedloop"
Found = TypeVar("Found")


def wait_until(what: Callable[[], Found | None], *, seconds: float = 60, told: Callable[[], str] = str) -> Found:
    """The first answer of ``what`` that is true; fails with ``told`` when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s. {told()}")


class Program:
    """A child process in a group of its own, with its log."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], log: str) -> None:
        self.command, self.folder, self.environment = command, folder, environment
        self.log = folder / log
        self._mark = f"TEST_PROGRAM={uuid.uuid4()}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | self.environment | dict([self._mark.split("=")]),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def runs(self, flow_run: uuid.UUID) -> bool:
        """Whether a process of this program executes the flow run."""
        return bool({*_with_environment(self._mark)} & {*_with_environment(f"PREFECT__FLOW_RUN_ID={flow_run}")})

    def stop(self) -> None:
        """End the program politely, and then whatever it started and left behind."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(timeout=20)
        self.kill()

    def kill(self) -> None:
        """As a crashed machine would: SIGKILL to the program and everything it started."""
        if self._process is None:
            return
        # A worker gives each flow run a session of its own, so its group would not reach them; their environment does.
        self._process.kill()
        while family := _with_environment(self._mark):
            for process in family:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self._process.wait(timeout=10)
        self._process = None


def _with_environment(entry: str) -> list[int]:
    """Running processes that were started with this entry in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if entry.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


class PrefectServer(Program):
    """``prefect server start``; it can be killed and started again.

    Its database is a file in ``folder``, or on the PostgreSQL that holds everything of a team.
    """

    def __init__(
        self,
        folder: Path,
        auth: str | None = None,
        databases: "Databases | None" = None,
        database: str | None = None,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.api = f"{self.url}/api"
        self.auth = auth
        self.databases = databases
        file = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
        database = database or (file if databases is None else databases.prefect())
        environment = {
            "PREFECT_HOME": str(folder / "server"),
            "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_API_URL": self.api,
            "PREFECT_UI_ENABLED": "true",
            "PREFECT_UI_STATIC_DIRECTORY": str(folder / "ui"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            **({"PREFECT_SERVER_API_AUTH_STRING": auth} if auth else {}),
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        super().__init__(command, folder, environment, "server.log")

    def start(self) -> None:
        super().start()
        wait_until(self._answers, seconds=120, told=self.log.read_text)

    def _answers(self) -> bool:
        assert self.alive, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=2):  # noqa: S310 (our own loopback server)
                return True
        except urllib.error.HTTPError as error:
            return error.code == 401
        except (OSError, TimeoutError):
            return False

    @property
    def client_environment(self) -> dict[str, str]:
        """What a program needs to talk to this server, and to share results with others that do."""
        return {
            "PREFECT_HOME": str(self.folder / "client"),
            "PREFECT_PROFILES_PATH": str(self.folder / "profiles.toml"),
            "PREFECT_API_URL": self.api,
            "PREFECT_LOGGING_LEVEL": "INFO",
            "PYTHONPATH": str(ROOT),
            **({"PREFECT_API_AUTH_STRING": self.auth} if self.auth else {}),
        }

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        with (
            temporary_settings({PREFECT_API_AUTH_STRING: self.auth}),
            SyncPrefectClient(self.api, auth_string=self.auth) as client,
        ):
            yield client


@contextmanager
def running_server(
    folder: Path, auth: str | None = None, databases: "Databases | None" = None, database: str | None = None
) -> Iterator[PrefectServer]:
    """A Prefect server with everything it writes in ``folder``, or on PostgreSQL.

    Args:
        folder: of its files.
        auth: name and password that it asks for.
        databases: where it and its projects keep their state; files without it.
        database: where it alone does.
    """
    server = PrefectServer(folder, auth, databases, database)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def make_worker(server: PrefectServer, folder: Path, pool: str = POOL, code: Path = ROOT) -> Program:
    """A ``prefect worker`` that runs the flows of the checkout ``code`` as processes; not started yet."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool]
    settings = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    return Program(command, folder, server.client_environment | settings | {"PYTHONPATH": str(code)}, "worker.log")


@contextmanager
def running_worker(server: PrefectServer, folder: Path, pool: str = POOL, code: Path = ROOT) -> Iterator[Program]:
    """A worker of a pool, stopped at the end with every flow run it started."""
    worker = make_worker(server, folder, pool, code)
    try:
        worker.start()
        yield worker
    finally:
        worker.stop()


@contextmanager
def browser(folder: Path) -> Iterator["Chrome"]:
    """Chromium without a window; the test is skipped, visibly, where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver here: the page was not tried in a browser")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1400,1600",
        f"--user-data-dir={folder / 'browser'}",
    ):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()
