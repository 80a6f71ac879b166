"""The command that writes the features that servers look up."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import typer

from deployments.cli_app import Config, Data, Json, Verbose, session_of


def features(
    version: Annotated[
        list[str] | None,
        typer.Argument(help="More versions or aliases. [default: champion, challenger and the version before]"),
    ] = None,
    as_of: Annotated[datetime | None, typer.Option(help="Moment they answer for (UTC). [default: now]")] = None,
    config: Config = None,
    data: Data = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Write the features that servers look up: history and profiles of all users and items, as of now."""
    return session_of(config, json, verbose, data).do(
        "deployments.features_commands:write", runs_flows=True, versions=tuple(version or ()), as_of=as_of
    )


COMMANDS: tuple[tuple[str, Callable[..., int]], ...] = (("features", features),)
