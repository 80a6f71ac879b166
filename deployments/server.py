"""The Prefect server that commands talk to: found in Prefect's own settings, its errors told in feedloop's words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ranking.errors import ServerUnavailable, SettingsError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_NOT_LET_IN = (401, 403)


@contextmanager
def prefect_server() -> "Iterator[SyncPrefectClient]":
    """A client of the configured server.

    Raises:
        SettingsError: none is configured.
        ServerUnavailable: it does not answer, or wants another authentication.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise SettingsError(
            "No Prefect server is configured. A run without one asks at its own terminal, and nothing waits for an "
            "answer. Set PREFECT_API_URL to the API of the server where the runs are."
        )
    place = f"The Prefect server at {urlsplit(url).hostname}"
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in _NOT_LET_IN:
            raise ServerUnavailable(f"{place} answered {error.response.status_code}. See its log.") from error
        given = "the one that is set is not the server's" if PREFECT_API_AUTH_STRING.value() else "none is set"
        raise ServerUnavailable(
            f"{place} does not let us in ({error.response.status_code}). Set PREFECT_API_AUTH_STRING to what the "
            f"server was started with (PREFECT_SERVER_API_AUTH_STRING); {given}."
        ) from error
    except httpx.TransportError as error:
        raise ServerUnavailable(f"{place} does not answer ({type(error).__name__}). Is it running?") from error
