"""What a stack works with: its settings file, its folder, its ports, and the environment its programs get."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ranking.errors import SettingsError, StorageError
from settings.loading import load, settings_file
from settings.model import PREFIX, Settings

MARK = "UP_OF_FEEDLOOP"
"""Variable in the environment of everything a stack starts: the workspace and the service.

It finds what was left behind: a worker gives each flow run a session of its own, so no process group holds them all.
"""

ELSEWHERE = ("PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_API_DATABASE_CONNECTION_URL", "MLFLOW_TRACKING_URI")
"""Variables that would lead the stack's programs to other servers than its own."""

SAMPLE_FILE = """\
# Written by `feedloop up`: the sample feed. For your own log: feedloop init PATH, then feedloop up --config FILE.
workspace = "."

[data]
uri = "sample"
"""


@dataclass(frozen=True)
class Place:
    """Where a stack lives."""

    config: Path
    settings: Settings
    ports: Mapping[str, int]
    pool: str

    @property
    def workspace(self) -> Path:
        """Folder of everything that is kept."""
        return Path(self.settings.workspace)

    @property
    def logs(self) -> Path:
        """Folder of the programs' logs, one file each."""
        return self.workspace / "logs"

    @property
    def prefect_api(self) -> str:
        """Address of the stack's own Prefect API."""
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    @property
    def environment(self) -> dict[str, str]:
        """What every program of the stack gets, and this process too before it imports Prefect."""
        home = self.workspace / "prefect"
        found = {
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_HOME": str(home),
            # A profile of the user's could name another server.
            "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        if f"{PREFIX}WORKSPACE" in os.environ:
            # A relative one starts at the settings file, and that may be another than the one read here.
            found[f"{PREFIX}WORKSPACE"] = self.settings.workspace
        return found

    def of_service(self, service: str, own: Mapping[str, str]) -> dict[str, str]:
        """The whole environment of a service: what this process has, then the stack's, then its own."""
        inherited = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        mark = mark_of(self.settings.workspace, service)
        return inherited | self.environment | dict(own) | dict([mark.split("=", 1)])


def mark_of(workspace: str, service: str = "") -> str:
    """The entry of the environment by which a service's processes are found; without a service, how all begin."""
    return f"{MARK}={workspace}:{service}"


def find_settings(config: str | None) -> tuple[Path, Settings, bool]:
    """The settings file, in full, what is in it, and whether it was written now.

    Without a file anywhere the stack plays on the sample feed, and a file that says so is written to the workspace:
    a worker runs flows in a folder of its own, so a deployment has to name one.

    Raises:
        SettingsError: the file is wrong, or its workspace is not a folder on this machine.
        StorageError: the workspace cannot be written.
    """
    file, written = settings_file(config), False
    settings = load(config)
    if "://" in settings.workspace:
        raise SettingsError(
            f"workspace = {settings.workspace!r} is no folder on this machine, and `feedloop up` keeps its servers' "
            "state there. Give it a local one, or run the servers by themselves (docs/production.md)."
        )
    if file is None:
        file = Path(settings.workspace) / "feedloop.toml"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.write_text(SAMPLE_FILE, encoding="utf-8")
                written = True
        except OSError as error:
            raise StorageError(f"{file} cannot be written: {error.strerror}. Allow it, or use --config.") from error
        settings = load(file).model_copy(update={"workspace": settings.workspace})
    return file.resolve(), settings, written


@contextmanager
def alone(workspace: Path) -> Iterator[None]:
    """Within the block this is the only stack of the workspace: two would share their databases.

    Raises:
        StorageError: another one runs.
    """
    from filelock import FileLock, Timeout

    try:
        workspace.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace / ".up.lock", timeout=0):
            yield
    except Timeout as error:
        raise StorageError(
            f"Another `feedloop up` runs in {workspace}. Stop it with Ctrl-C where it runs, or use another workspace."
        ) from error
