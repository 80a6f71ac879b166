"""``feedloop deploy``: register deployments, schedules and automations at the configured Prefect server."""

from pathlib import Path

from deployments.automations import register_all
from deployments.definitions import DEPLOYMENTS, ensure_pool, register
from deployments.server import prefect_server
from deployments.session import Session
from ranking.errors import SettingsError
from settings.loading import settings_file


def deploy(session: Session, *, pool: str) -> int:
    """Register everything; repeating it changes nothing.

    Raises:
        SettingsError: there is no settings file, or no Prefect server is configured.
        ServerUnavailable: the server does not answer, or does not let us in.
    """
    config, settings = _file(session), session.settings
    with prefect_server() as client:
        made = ensure_pool(client, pool)
        ids = {
            deployment.name: register(deployment, config=config, pool=pool, schedules=settings.schedules)
            for deployment in DEPLOYMENTS
        }
        automations = register_all(client, settings.registry.model_name, settings.schedules, ids)
    names = [deployment.full_name for deployment in DEPLOYMENTS]
    if made:
        session.output.say(f"Made the work pool {pool}, of type process.")
    session.output.say(f"Registered {', '.join(names)}, with the settings of {config}.")
    when = settings.schedules
    session.output.say(
        f"Starts by itself: retrain at {when.retrain_cron}, monitor at {when.monitor_cron}, refresh at "
        f"{when.refresh_cron}, advance at {when.advance_cron} {when.timezone}."
    )
    session.output.say(f"Automations: {', '.join(automations)}.")
    session.output.say(f"Start a worker where that file and feedloop are: prefect worker start --pool {pool}")
    session.output.finish(deployments=names, automations=automations, pool=pool, pool_made=made, config=str(config))
    return 0


def _file(session: Session) -> Path:
    """The settings file, in full: a worker starts runs elsewhere, so none may be found by chance."""
    file = settings_file(session.config)
    if file is None:
        raise SettingsError(
            "There is no feedloop.toml here. A worker runs flows in a folder of its own, so a deployment needs a "
            "settings file: name one with --config, or draft one with `feedloop init PATH`."
        )
    return file.resolve()
