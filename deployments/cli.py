"""The command line: ``feedloop``.  Every command takes ``--json`` and exits with a number that means something.

0 done · 2 settings or usage · 3 data · 4 training, comparison or recheck · 5 a bundle · 6 registry · 7 not promoted or
nothing to roll back to · 8 storage · 9 Prefect's server.  Heavy imports stand inside the
commands, so that ``--help`` is quick.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments import cli_features, cli_ledger, cli_rollout, cli_server, cli_serving
from deployments.cli_app import Config, Cutoff, Data, Evidence, Json, Reason, Verbose, Yes, app, command, session_of

__all__ = ["app", "main"]

StrategyName = Literal["immediate", "shadow", "canary", "ab_test"]
StrategyOption = Annotated[
    StrategyName | None,
    typer.Option("--strategy", help="How it reaches its users. [default: rollout.strategy]"),
]
Challenger = Annotated[
    Literal["better", "equal", "worse", "stale", "crashing"] | None,
    typer.Option(
        "--challenger",
        help="Traffic: make a challenger of this quality and let it set out. [default: equal, with --strategy]",
    ),
]


@command("run")
def run(
    config: Config = None, data: Data = None, yes: Yes = False, json: Json = False, verbose: Verbose = False
) -> int:
    """The whole loop, embedded: first champion, later data, challenger, verdict, approval, new champion.

    Without data it plays on a seeded sample feed; run again, it goes on where it stopped.
    """
    return session_of(config, json, verbose, data).do("deployments.story:tell", runs_flows=True, yes=yes)


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
    return session_of(config, json, verbose, data).do(
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
    return session_of(config, json, verbose, data).do(
        "deployments.commands:compare", runs_flows=True, champion=champion, challenger=challenger, cutoff=cutoff
    )


@command("promote")
def promote(
    version: Annotated[str, typer.Argument(help="Version to make the champion.")],
    force: Annotated[
        bool, typer.Option("--force", help="Although the verdict is not PROMOTE; needs --reason.")
    ] = False,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="immediate, shadow, canary or ab_test. [default: rollout.strategy]"),
    ] = None,
    reason: Reason = "",
    config: Config = None,
    yes: Yes = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Make a compared challenger the champion, if its verdict is PROMOTE and somebody approves."""
    return session_of(config, json, verbose).do(
        "deployments.commands:promote",
        runs_flows=True,
        version=version,
        force=force,
        strategy=strategy,
        reason=reason,
        yes=yes,
    )


@command("explain")
def explain(
    identifier: Evidence,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Tell stored evidence in words: the decision and why, who was compared with whom on what, and what was missing."""
    return session_of(config, json, verbose).do("deployments.evidence_commands:explain", identifier=identifier)


@command("recheck")
def recheck(
    identifier: Evidence,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Decide again from the stored comparison and the policy of then; 4 if anything comes out differently."""
    return session_of(config, json, verbose).do("deployments.evidence_commands:recheck", identifier=identifier)


@command("replay")
def replay(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """What would the thresholds of today have decided about every stored comparison?  Changes nothing."""
    return session_of(config, json, verbose).do("deployments.evidence_commands:replay")


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
    return session_of(config, json, verbose, data).do(
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
    session = session_of(None, json, verbose, read_settings=False)
    return session.do("deployments.commands:init", path=path, output=output, force=force)


@command("simulate")
def simulate(
    days: Annotated[
        float | None,
        typer.Option(
            help="Days to add. [default: 7; with --traffic at most 10 for an A/B test, 4 for another rollout, else 1]",
            min=0.1,
            max=365,
        ),
    ] = None,
    traffic: Annotated[
        bool, typer.Option("--traffic", help="Let visitors ask the gateway, and a rollout take its course.")
    ] = False,
    challenger: Challenger = None,
    strategy: Annotated[
        StrategyName | None,
        typer.Option(
            help="Traffic: how it reaches its users. [default: rollout.strategy; canary if that is immediate]"
        ),
    ] = None,
    requests_per_day: Annotated[
        int | None,
        typer.Option(help="Traffic: pages asked for per day. [default: 24000; 8000 in an A/B test]", min=1),
    ] = None,
    users: Annotated[int | None, typer.Option(help="Traffic: how many users come. [default: all]", min=1)] = None,
    label_delay_hours: Annotated[
        float | None, typer.Option(help="Traffic: when outcomes arrive. [default: world.label_delay_hours]", min=0)
    ] = None,
    tick_minutes: Annotated[
        int | None,
        typer.Option(help="Traffic: time between two looks. [default: 30; 240 in an A/B test]", min=1, max=1440),
    ] = None,
    seed: Annotated[int, typer.Option(help="Traffic: another seed is another crowd.", min=0)] = 0,
    speed: Annotated[
        float | None, typer.Option(help="Traffic: at most so many simulated seconds per second.", min=1)
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(help="Traffic: address of a running gateway. [default: one is started]")
    ] = None,
    config: Config = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Let the current champion (or, before there is one, newest first) serve more days of the sample feed.

    With --traffic its visitors ask the gateway for every page, click by their true tastes, and a rollout moves on.
    """
    session = session_of(config, json, verbose)
    if not traffic:
        given = {
            "--challenger": challenger,
            "--strategy": strategy,
            "--requests-per-day": requests_per_day,
            "--users": users,
            "--label-delay-hours": label_delay_hours,
            "--tick-minutes": tick_minutes,
            "--speed": speed,
            "--gateway": gateway,
        }
        alone = [name for name, value in given.items() if value is not None]
        if alone:
            raise typer.BadParameter(f"Without --traffic nobody visits, so {', '.join(alone)} would do nothing.")
        return session.do("deployments.commands:simulate", days=max(round(7 if days is None else days), 1))
    return session.do(
        "deployments.traffic:run",
        runs_flows=True,
        challenger=challenger,
        strategy=strategy,
        days=days,
        requests_per_day=requests_per_day,
        users=users,
        label_delay_hours=label_delay_hours,
        tick_minutes=tick_minutes,
        seed=seed,
        speed=speed,
        gateway=gateway,
    )


GROUPS = (cli_ledger, cli_rollout, cli_server, cli_serving, cli_features)

for name, function in (row for group in GROUPS for row in group.COMMANDS):
    command(name)(function)


def main() -> None:
    """Console entry point."""
    sys.exit(app())


if __name__ == "__main__":
    main()
