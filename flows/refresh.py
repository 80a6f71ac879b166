"""Bring the features that servers look up to the present."""

from datetime import datetime

from prefect import flow

from ranking.serving_features import ServingTable
from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.clock import moment
from tasks.resuming import RESUMABLE
from tasks.service import current_champion
from tasks.serving_features import served_specifications, write_serving_features


@flow(name="refresh", flow_run_name="refresh", **RESUMABLE, timeout_seconds=12 * 3600, **LEAVES_WORD)
def refresh(
    config: str | None = None,
    data: str | None = None,
    models: tuple[str, ...] = (),
    as_of: datetime | None = None,
    now: datetime | None = None,
) -> list[ServingTable]:
    """Write the serving features of the champion, of the challenger, and of the version before.

    Args:
        config: settings file; without one, feedloop.toml in the working directory.
        data: another log than the configured one: path or URI.
        models: more versions or aliases to write features for.
        as_of: the moment they answer for; without one, now.
        now: pretend it is this moment (for replays).
    """
    settings = load(config, data_uri=data)
    at = moment(now)

    champion = current_champion(**settings.store)
    specs = served_specifications(champion=champion, also=models, **settings.store)
    states = [
        write_serving_features(
            data=settings.data, spec=spec, as_of=as_of or at, now=at, workspace=settings.workspace, return_state=True
        )
        for spec in specs
    ]
    # All were tried before the first failure is told: a challenger's must not cost the champion its features.
    return [state.result() for state in states]
