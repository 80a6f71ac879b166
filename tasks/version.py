"""Which code ran: feedloop's version and, from a checkout, its commit."""

from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prefect import task

from tasks.resuming import RESUMED


@cache
def code_version() -> str | None:
    """Such as ``feedloop 0.1.0, commit 0123456789abcdef``; None when neither is known.

    The commit is that of feedloop's own checkout, never of the project that uses an installed feedloop.
    Changes that were not committed do not show.
    """
    parts = []
    # Not found: run from a checkout that was never installed.
    with suppress(PackageNotFoundError):
        parts.append(f"feedloop {version('feedloop')}")
    root = Path(__file__).parents[1]
    if (root / ".git").exists():
        from mlflow.utils.git_utils import get_git_commit

        commit = get_git_commit(str(root))
        parts += [f"commit {commit[:16]}"] if commit else []
    return ", ".join(parts) or None


@task(name="code version", timeout_seconds=60, **RESUMED)
def code_of_this_run() -> str | None:
    """The :func:`code_version` with which this run began, also when the code is edited while it waits."""
    return code_version()
