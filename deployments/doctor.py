"""``feedloop doctor``: what a promotion or a rollback needs, checked before it is needed."""

from deployments.session import Session
from ranking.errors import RegistryError
from tasks.checkup import Checked, check


def doctor(session: Session) -> int:
    """Check everything; RegistryError (6) when something is wrong, after all of it was told."""
    found = (*check(session.settings), _prefect())
    for one in found:
        session.output.say(f"{'ok   ' if one.fine else 'WRONG'}  {one.name}: {one.sentence}")
    session.output.finish(checks=list(found))
    return 0 if all(one.fine for one in found) else RegistryError.exit_code


def _prefect() -> Checked:
    """A configured server has to answer; without one, runs bring their own."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        return Checked(name="prefect", fine=True, sentence="No server is configured: runs are embedded.")
    with get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
    if trouble is None:
        return Checked(name="prefect", fine=True, sentence=f"{url} answers.")
    return Checked(name="prefect", fine=False, sentence=f"{url} does not answer: {trouble}. Check PREFECT_API_URL.")
