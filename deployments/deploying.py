"""``feedloop deploy``: register deployments, schedules and automations at the configured Prefect server."""

from pathlib import Path
from typing import TYPE_CHECKING

from deployments.automations import register_all
from deployments.definitions import DEPLOYMENTS, ensure_pool, register
from deployments.server import prefect_server
from deployments.session import Session
from ranking.errors import SettingsError
from ranking.values import Value
from settings.loading import settings_file
from settings.model import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


class Registered(Value):
    """What stands on the server now."""

    deployments: tuple[str, ...]
    automations: tuple[str, ...]
    pool_made: bool


def deploy(session: Session, *, pool: str) -> int:
    """Register everything; repeating it changes nothing.

    Raises:
        SettingsError: there is no settings file, or no Prefect server is configured.
        ServerUnavailable: the server does not answer, or does not let us in.
    """
    config, settings = _file(session), session.settings
    with prefect_server() as client:
        done = register_everything(client, settings, config=config, pool=pool)
    if done.pool_made:
        session.output.say(f"Made the work pool {pool}, of type process.")
    session.output.say(f"Registered {', '.join(done.deployments)}, with the settings of {config}.")
    when = settings.schedules
    session.output.say(
        f"Starts by itself: retrain at {when.retrain_cron}, monitor at {when.monitor_cron}, refresh at "
        f"{when.refresh_cron}, advance at {when.advance_cron} {when.timezone}."
    )
    session.output.say(f"Automations: {', '.join(done.automations)}.")
    session.output.say(f"Start a worker where that file and feedloop are: prefect worker start --pool {pool}")
    session.output.finish(**done.model_dump(mode="json"), pool=pool, config=str(config))
    return 0


def register_everything(client: "SyncPrefectClient", settings: Settings, *, config: Path, pool: str) -> Registered:
    """Create or update pool, deployments, schedules and automations.

    Args:
        client: of the configured server.
        settings: what is in ``config``.
        config: settings file, as the worker's machine sees it.
        pool: the work pool; made, of type process, if there is none of that name.

    Raises:
        SettingsError: a cron cannot be read, or there is no such notification block.
    """
    made = ensure_pool(client, pool)
    ids = {
        deployment.name: register(deployment, config=config, pool=pool, schedules=settings.schedules)
        for deployment in DEPLOYMENTS
    }
    automations = register_all(client, settings.registry.model_name, settings.schedules, ids)
    names = [deployment.full_name for deployment in DEPLOYMENTS]
    return Registered(deployments=tuple(names), automations=tuple(automations), pool_made=made)


def _file(session: Session) -> Path:
    """The settings file, in full: a worker starts runs elsewhere, so none may be found by chance."""
    file = settings_file(session.config)
    if file is None:
        raise SettingsError(
            "There is no feedloop.toml here. A worker runs flows in a folder of its own, so a deployment needs a "
            "settings file: name one with --config, or draft one with `feedloop init PATH`."
        )
    return file.resolve()
