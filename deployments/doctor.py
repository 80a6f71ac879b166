"""``feedloop doctor``: what a promotion or a rollback needs, checked before it is needed."""

from typing import TYPE_CHECKING

from deployments.definitions import DEPLOYMENTS
from deployments.session import Session
from ranking.errors import FeedloopError, RegistryError
from settings.model import Settings
from tasks.checkup import Checked, check, where_runs_are

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def doctor(session: Session) -> int:
    """Check everything; RegistryError (6) when something is wrong, after all of it was told."""
    found = (*check(session.settings), *_prefect(session.settings))
    for one in found:
        session.output.say(f"{'ok   ' if one.fine else 'WRONG'}  {one.name}: {one.sentence}")
    session.output.finish(checks=list(found))
    return 0 if all(one.fine for one in found) else RegistryError.exit_code


def _prefect(settings: Settings) -> tuple[Checked, ...]:
    """A configured server has to answer, and its runs to find each other's files; without one, runs bring their own."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from deployments.server import prefect_server

    url = PREFECT_API_URL.value()
    if url is None:
        return (Checked(name="prefect", fine=True, sentence="No server is configured: runs are embedded."),)
    with get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
    if trouble is not None:
        sentence = f"{url} does not answer: {trouble}. Check PREFECT_API_URL."
        return (Checked(name="prefect", fine=False, sentence=sentence),)
    answers = Checked(name="prefect", fine=True, sentence=f"{url} answers.")
    try:
        with prefect_server() as client:
            return answers, where_runs_are(settings, _pools(client))
    except FeedloopError as error:
        return answers, Checked(name="where runs are", fine=False, sentence=str(error))


def _pools(client: "SyncPrefectClient") -> dict[str, str]:
    """Name and type of every work pool in which a deployment of feedloop runs."""
    from prefect.exceptions import ObjectNotFound

    found: dict[str, str] = {}
    for row in DEPLOYMENTS:
        try:
            name = client.read_deployment_by_name(row.full_name).work_pool_name
        except ObjectNotFound:
            continue
        if name is not None and name not in found:
            found[name] = client.read_work_pool(name).type
    return found
