"""The command line: ``feedloop``.  Every command takes ``--json`` and exits with a number that means something.

0 done · 2 settings or usage · 3 data · 4 training, comparison or recheck · 5 a bundle · 6 registry · 7 not promoted or
nothing to roll back to · 8 storage.  Heavy imports stand inside the commands, so that ``--help`` is quick.
"""

import sys
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


def command(name: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a command whose errors are told in one paragraph and become its exit code."""

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            raise typer.Exit(function(*args, **kwargs) or 0)

        return app.command(name)(run)

    return register


def _session(
    config: Path | None, as_json: bool, verbose: bool, data: str | None = None, read_settings: bool = True
) -> "Session":
    from deployments.session import Session

    return Session(config=config, data=data, as_json=as_json, verbose=verbose, read_settings=read_settings)


@command("run")
def run(
    config: Config = None, data: Data = None, yes: Yes = False, json: Json = False, verbose: Verbose = False
) -> int:
    """The whole loop, embedded: first champion, later data, challenger, verdict, approval, new champion.

    Without data it plays on a seeded sample feed; run again, it goes on where it stopped.
    """
    return _session(config, json, verbose, data).do("deployments.story:tell", runs_flows=True, yes=yes)


@command("retrain")
def retrain(
    config: Config = None,
    data: Data = None,
    cutoff: Cutoff = None,
    yes: Yes = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """One turn of the loop: train a challenger, compare it with the champion, ask for its promotion."""
    return _session(config, json, verbose, data).do(
        "deployments.commands:retrain", runs_flows=True, cutoff=cutoff, yes=yes
    )


@command("compare")
def compare(
    champion: Annotated[str, typer.Argument(help="Version or alias in the champion's place.")],
    challenger: Annotated[str, typer.Argument(help="Version or alias in the challenger's place.")],
    config: Config = None,
    data: Data = None,
    cutoff: Cutoff = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Compare two registered models on the newest rows that neither has seen.  Changes nothing."""
    return _session(config, json, verbose, data).do(
        "deployments.commands:compare", runs_flows=True, champion=champion, challenger=challenger, cutoff=cutoff
    )


@command("promote")
def promote(
    version: Annotated[str, typer.Argument(help="Version to make the champion.")],
    force: Annotated[
        bool, typer.Option("--force", help="Although the verdict is not PROMOTE; needs --reason.")
    ] = False,
    reason: Reason = "",
    config: Config = None,
    yes: Yes = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Make a compared challenger the champion, if its verdict is PROMOTE and somebody approves."""
    return _session(config, json, verbose).do(
        "deployments.commands:promote", runs_flows=True, version=version, force=force, reason=reason, yes=yes
    )


@command("rollback")
def rollback(
    to: Annotated[
        str | None, typer.Option("--to", help="Version to put back. [default: the previous champion]")
    ] = None,
    *,
    reason: Reason,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Put the previous champion, or a named one, back.  Needs no approval; everything is recorded."""
    return _session(config, json, verbose).do("deployments.commands:rollback", to=to, reason=reason)


@command("status")
def status(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Who serves, since when and why, and which challengers there are."""
    return _session(config, json, verbose).do("deployments.ledger_commands:status")


@command("history")
def history(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Every promotion, refusal and rollback, from the ledger."""
    return _session(config, json, verbose).do("deployments.ledger_commands:history")


@command("who-served")
def who_served(
    at: Annotated[datetime, typer.Option("--at", help="The moment (UTC).")],
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Which version served at a moment, and what put it there."""
    return _session(config, json, verbose).do("deployments.ledger_commands:who_served", at=at)


@command("verify")
def verify(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Is the ledger as it was written?  6 and the entry's number if one was edited or is gone."""
    return _session(config, json, verbose).do("deployments.ledger_commands:verify")


@command("doctor")
def doctor(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Mend what a crash left, and check everything that a promotion or a rollback needs; 6 if something is wrong."""
    return _session(config, json, verbose).do("deployments.doctor:doctor")


@command("prune")
def prune(
    version: Annotated[str | None, typer.Option("--version", help="Delete only this one, if it may be.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Delete models that are no longer needed; 7 for one that serves, could be gone back to, or is new."""
    return _session(config, json, verbose).do("deployments.ledger_commands:prune", version=version, dry_run=dry_run)


@command("explain")
def explain(
    identifier: Evidence,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Tell stored evidence in words: the decision and why, who was compared with whom on what, and what was missing."""
    return _session(config, json, verbose).do("deployments.evidence_commands:explain", identifier=identifier)


@command("recheck")
def recheck(
    identifier: Evidence,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Decide again from the stored comparison and the policy of then; 4 if anything comes out differently."""
    return _session(config, json, verbose).do("deployments.evidence_commands:recheck", identifier=identifier)


@command("gate-check")
def gate_check(
    repetitions: Annotated[
        int | None,
        typer.Option(help="Holdouts drawn per scenario. [default: as many as take about a minute]", min=1, max=10_000),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.", min=0)] = 0,
    config: Config = None,
    data: Data = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """How often would this gate promote an equal, a better and a harmful challenger?  On holdouts like yours.

    Simulates challengers whose true quality is known, on holdouts of the same shape as the configured log's.
    """
    return _session(config, json, verbose, data).do(
        "deployments.evidence_commands:gate_check", repetitions=repetitions, seed=seed
    )


@command("init")
def init(
    path: Annotated[str, typer.Argument(help="Interaction log: parquet file, folder, glob or URI.")],
    output: Annotated[Path, typer.Option("--output", help="File to write.")] = Path("feedloop.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Draft a feedloop.toml by looking at the data."""
    # The settings file that this command is about to write may not exist, or be wrong: it is not read.
    session = _session(None, json, verbose, read_settings=False)
    return session.do("deployments.commands:init", path=path, output=output, force=force)


@command("simulate")
def simulate(
    days: Annotated[int, typer.Option(help="Days to add.", min=1, max=365)] = 7,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Let the current champion (or, before there is one, newest first) serve more days of the sample feed."""
    return _session(config, json, verbose).do("deployments.commands:simulate", days=days)


def main() -> None:
    """Console entry point."""
    sys.exit(app())


if __name__ == "__main__":
    main()
