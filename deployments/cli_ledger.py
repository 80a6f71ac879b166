"""Commands about who serves: the history, going back, checking it, and what may be deleted."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import typer

from deployments.cli_app import Config, Json, Reason, Verbose, session_of


def status(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Who serves, since when and why, and which challengers there are."""
    return session_of(config, json, verbose).do("deployments.ledger_commands:status")


def history(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Every promotion, refusal and rollback, from the ledger."""
    return session_of(config, json, verbose).do("deployments.ledger_commands:history")


def who_served(
    at: Annotated[datetime, typer.Option("--at", help="The moment (UTC).")],
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Which version served at a moment, and what put it there."""
    return session_of(config, json, verbose).do("deployments.ledger_commands:who_served", at=at)


def rollback(
    reason: Reason,
    to: Annotated[
        str | None, typer.Option("--to", help="Version to put back. [default: the last healthy one that served]")
    ] = None,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Put the previous champion, or a named one, back.  Needs no approval; everything is recorded."""
    return session_of(config, json, verbose).do("deployments.ledger_commands:rollback", to=to, reason=reason)


def verify(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Is the ledger as it was written?  6 and the entry's number if one was edited or is gone."""
    return session_of(config, json, verbose).do("deployments.ledger_commands:verify")


def doctor(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Mend what a crash left, and check everything that a promotion or a rollback needs; 6 if something is wrong."""
    return session_of(config, json, verbose).do("deployments.doctor:doctor")


def prune(
    version: Annotated[str | None, typer.Option("--version", help="Delete only this one, if it may be.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Delete models that are no longer needed; 7 for one that serves, could be gone back to, or is new."""
    return session_of(config, json, verbose).do("deployments.ledger_commands:prune", version=version, dry_run=dry_run)


COMMANDS: tuple[tuple[str, Callable[..., int]], ...] = (
    ("status", status),
    ("history", history),
    ("who-served", who_served),
    ("rollback", rollback),
    ("verify", verify),
    ("doctor", doctor),
    ("prune", prune),
)
