"""``feedloop serve``: the gateway, in this process or in several workers."""

import os
import shutil
from pathlib import Path

from deployments.session import Session
from ranking.errors import StorageError

DRAIN_SECONDS = 20
"""How long requests in flight may take to end after SIGTERM."""


def serve(session: Session, *, host: str | None, port: int | None, workers: int | None) -> int:
    """``feedloop serve``: answers until it is stopped."""
    settings, knobs = session.settings, session.settings.serving
    folder = settings.metrics_folder
    _emptied(folder)
    # Every worker reads the settings for itself, and Prometheus' client reads this when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    if session.config is not None:
        os.environ["FEEDLOOP_CONFIG"] = session.config
    import uvicorn

    address, place = host or knobs.host, port or knobs.port
    session.output.say(
        f"Serving {settings.registry.model_name} at http://{address}:{place} (POST /rank; /docs says how). "
        f"Answers are logged to {settings.online_folder}."
    )
    uvicorn.run(
        "deployments.gateway.app:from_settings",
        factory=True,
        host=address,
        port=place,
        workers=workers or knobs.workers,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
    )
    session.output.finish(address=f"http://{address}:{place}")
    return 0


def _emptied(folder: Path) -> None:
    """Counters start at zero with the gateway; those of an earlier one would be added to them for ever."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"The gateway's folder {folder} cannot be used: {error}. Allow writing.") from error
