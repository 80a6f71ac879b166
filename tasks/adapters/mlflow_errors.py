"""What MLflow and the libraries under it raise, translated once into feedloop's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ranking.errors import AccessDenied, FeedloopError, RegistryError, RegistryUnavailable, StorageError, UnknownModel
from settings.addresses import shown, without_password

SQLITE = "sqlite:///"


@contextmanager
def answered(uri: str) -> Iterator[None]:
    """Translate what MLflow and the libraries under it raise.  The only place that does.

    Raises:
        RegistryUnavailable: no answer, or "try again later".
        UnknownModel: it answered that there is no such thing.
        StorageError: a file cannot be written.
        RegistryError: any other "no".
    """
    import requests
    import sqlalchemy
    from mlflow.exceptions import MlflowException

    try:
        yield
    except FeedloopError:
        raise
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _translated(uri, error) from error
    except requests.HTTPError as error:
        # From the artifact store behind the server, which MLflow does not translate.
        code = error.response.status_code if error.response is not None else 503
        if code in (401, 403):
            raise _denied(uri, str(error)) from error
        if code < 500:
            raise RegistryError(f"{shown(uri)} answered with {code}: {_first_line(str(error))}") from error
        raise RegistryUnavailable(unanswered(uri, str(error))) from error
    except (requests.RequestException, ConnectionError, TimeoutError) as error:
        raise RegistryUnavailable(unanswered(uri, str(error))) from error
    except OSError as error:
        raise StorageError(f"A file of the model registry cannot be read or written: {error}.") from error


_FILE_TROUBLE = ("readonly database", "database or disk is full", "disk I/O error", "unable to open database file")
_NO_TABLES = ("no such table", "file is not a database", "database disk image is malformed")
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_NO_ANSWER = ("API request to", "Max retries exceeded", "timed out")


def _translated(uri: str, error: Exception) -> FeedloopError:
    text = without_password(str(error), uri)  # the libraries put the whole address into their messages
    code = getattr(error, "error_code", "TEMPORARILY_UNAVAILABLE")
    path = sqlite_path(uri)
    if path is not None and any(sign in text for sign in _NO_TABLES):
        return RegistryError(unusable(path, _first_line(text)))
    if path is not None and any(sign in text for sign in _FILE_TROUBLE):
        return StorageError(
            f"The MLflow database {path} cannot be written: {_first_line(text)}. Check space and permissions."
        )
    if code in _NOT_THERE:
        return UnknownModel(f"{shown(uri)} answered: {_first_line(text)}")
    if code in ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED") or (
        code == "INTERNAL_ERROR" and any(sign in text for sign in _NO_ANSWER)
    ):
        return RegistryUnavailable(unanswered(uri, _first_line(text)))
    if code in ("PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"):
        return _denied(uri, text)
    return RegistryError(f"{shown(uri)} answered with {code}: {_first_line(text)}")


def _denied(uri: str, text: str) -> AccessDenied:
    return AccessDenied(
        f"{shown(uri)} refused the request: {_first_line(text)}. "
        "Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and that user's permissions."
    )


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0][:500]


def unanswered(uri: str, why: str) -> str:
    """The sentence for a registry that did not answer."""
    return (
        f"The model registry at {shown(uri)} did not answer: {_first_line(without_password(why, uri))} "
        "Check that it runs, and that registry.tracking_uri is right; repeating is safe."
    )


def sqlite_path(uri: str) -> Path | None:
    """The file behind an SQLite URI; None for any other store."""
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).split("?")[0]).absolute()


def unusable(path: Path, why: str) -> str:
    """The sentence for a database file that cannot be used."""
    return (
        f"{path} is not a usable MLflow database: {why}. Restore it from a backup; "
        "moving it away starts a new registry without the models and the history of this one."
    )
