"""Environment of a run without a server: set before Prefect is imported, and only where nobody set it.

A machine that already talks to a Prefect server (``PREFECT_API_URL``, a profile) keeps doing so.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from ranking.errors import StorageError

DEFAULTS = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    # A cold start on two busy cores takes longer than Prefect's 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "feedloop",
    # Commands that need no flow, such as rollback, log to the terminal only.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DO_NOT_TRACK": "1",
}


def prepare(workspace: str | None, *, verbose: bool) -> None:
    """Fill in what an embedded run needs.

    Args:
        workspace: the configured workspace, if any; Prefect's own database goes there if it has no home yet.
        verbose: let Prefect log to the terminal; otherwise errors are told once, by the command line.

    Raises:
        StorageError: the workspace cannot be written.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    home = Path.home() / ".prefect"
    chosen = {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"} & set(os.environ)
    if workspace is not None and "://" not in workspace and not chosen and not (home / "profiles.toml").exists():
        folder = Path(workspace) / "prefect"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The workspace {workspace} cannot be written: {error.strerror}. Allow it.") from error
        os.environ["PREFECT_HOME"] = str(folder)


@contextmanager
def without_heartbeats() -> Iterator[None]:
    """Within the block, flows on an embedded server send no heartbeats.

    They tell a server that outlives the run of its crash, and this one does not; joining their thread costs a
    second per flow.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    changed = {} if PREFECT_API_URL.value() is not None else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(changed):
        yield


def start_server_early() -> Thread | None:
    """Start the embedded Prefect server while libraries are imported; a flow would wait 8 s and more for it.

    Returns:
        A thread to join before the first flow starts; ``None`` when a server is configured anyway.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value() is not None:
        return None
    thread = Thread(target=_start_server, name="prefect-server", daemon=True)
    thread.start()
    return thread


def _start_server() -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        # A failure is not told here: the first flow asks again, and tells it with its own words.
        client.api_healthcheck()
