"""The frame of the command line: the application, the options that several commands share, and how a command ends."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deployments.session import Session

app = typer.Typer(
    name="feedloop",
    help="Keeps a feed ranker fresh and never ships a worse one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path | None, typer.Option("--config", help="Settings file. [default: feedloop.toml here, if any]")]
Data = Annotated[str | None, typer.Option("--data", help="Interaction log instead of the configured one: path or URI.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Also show what Prefect logs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Approve the promotion explicitly, without being asked.")]
Cutoff = Annotated[
    datetime | None, typer.Option(help="Use rows before this moment (UTC). [default: up to the newest row]")
]
Evidence = Annotated[
    str, typer.Argument(help="Version, alias, or the first 6 or more characters of the evidence's digest.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is written to the ledger.")]


GROUPS = {
    "rollout": typer.Typer(no_args_is_help=True, help="A challenger on its way to its users."),
    "ab": typer.Typer(no_args_is_help=True, help="A/B tests: plan one, read the running one."),
}
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def command(name: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a command whose errors are told in one paragraph and become its exit code.

    Args:
        name: as it is typed; ``rollout pause`` is ``pause`` in the group ``rollout``.
    """
    *group, leaf = name.split()

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            raise typer.Exit(function(*args, **kwargs) or 0)

        return (GROUPS[group[0]] if group else app).command(leaf)(run)

    return register


def session_of(
    config: Path | None, as_json: bool, verbose: bool, data: str | None = None, read_settings: bool = True
) -> "Session":
    """The surroundings of a command; see :class:`deployments.session.Session`."""
    from deployments.session import Session

    return Session(config=config, data=data, as_json=as_json, verbose=verbose, read_settings=read_settings)
