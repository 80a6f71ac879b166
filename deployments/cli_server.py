"""Commands about a Prefect server: what waits for an answer, answering, registering, checking, starting one."""

from collections.abc import Callable
from typing import Annotated

import typer

from deployments.cli_app import Config, Data, Json, Reason, Verbose, Yes, session_of

Which = Annotated[str, typer.Argument(help="Flow run (id, its first 6 or more characters, or name), or version.")]
Pool = Annotated[
    str, typer.Option("--pool", help="Work pool. It is made, of type process, if there is none of that name.")
]
Port = Annotated[
    int | None, typer.Option(help="Where it listens. [default: its usual port, or the next free one]", min=1, max=65535)
]
As = Annotated[str | None, typer.Option("--as", help="Who answers. [default: the user of this terminal]")]


def pending(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """What waits for an approval on the Prefect server: challenger, verdict, evidence, who asked, until when."""
    return session_of(config, json, verbose).do("deployments.approvals:pending")


def approve(
    run_or_version: Which,
    reason: Reason = "",
    digest: Annotated[
        str | None, typer.Option("--digest", help="Approve only this evidence: its digest, or the start of it.")
    ] = None,
    name: As = None,
    config: Config = None,
    yes: Yes = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Show the evidence of a promotion that waits, and approve it."""
    return session_of(config, json, verbose).do(
        "deployments.approvals:answer",
        which=run_or_version,
        approved=True,
        reason=reason,
        digest=digest,
        name=name,
        yes=yes,
    )


def reject(
    run_or_version: Which,
    reason: Reason = "",
    name: As = None,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Reject a promotion that waits: the champion stays."""
    return session_of(config, json, verbose).do(
        "deployments.approvals:answer",
        which=run_or_version,
        approved=False,
        reason=reason,
        digest=None,
        name=name,
        yes=True,
    )


def deploy(
    pool: Pool = "feedloop",
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Register the flows at the Prefect server, so that its workers can run them.  Repeating it changes nothing."""
    return session_of(config, json, verbose).do("deployments.deploying:deploy", pool=pool)


def monitor(config: Config = None, data: Data = None, json: Json = False, verbose: Verbose = False) -> int:
    """Check the last whole day: data, drift, performance, and whether to retrain.  Trains and promotes nothing."""
    return session_of(config, json, verbose, data).do("deployments.monitor_commands:monitor", runs_flows=True)


def up(
    config: Config = None,
    pool: Pool = "feedloop",
    prefect_port: Port = None,
    mlflow_port: Port = None,
    gateway_port: Port = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Start everything on this machine: Prefect and MLflow with their pages, a worker, the gateway.  Ctrl-C stops it.

    Without a settings file it plays on the sample feed.  9 when one of them ends by itself.
    """
    ports = {"prefect": prefect_port, "mlflow": mlflow_port, "gateway": gateway_port}
    return session_of(config, json, verbose).do("deployments.stack.up:up", pool=pool, ports=ports)


COMMANDS: tuple[tuple[str, Callable[..., int]], ...] = (
    ("pending", pending),
    ("approve", approve),
    ("reject", reject),
    ("deploy", deploy),
    ("monitor", monitor),
    ("up", up),
)
