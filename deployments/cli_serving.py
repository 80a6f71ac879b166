"""The command that answers requests."""

from collections.abc import Callable
from typing import Annotated

import typer

from deployments.cli_app import Config, Json, Verbose, session_of


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. [default: serving.host, only this machine]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port. [default: serving.port]", min=1, max=65_535)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer. [default: serving.workers]", min=1, max=64)
    ] = None,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Answer ranking requests with the champion, and with a challenger where a rollout says so, until stopped."""
    return session_of(config, json, verbose).do(
        "deployments.serve_command:serve", host=host, port=port, workers=workers
    )


COMMANDS: tuple[tuple[str, Callable[..., int]], ...] = (("serve", serve),)
