"""Commands about a challenger on its way to its users: the tick, pausing and aborting, and A/B tests."""

from collections.abc import Callable

from deployments.cli_app import Config, Json, Reason, Verbose, session_of

COMMAND = "deployments.rollout_commands"


def advance(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """One tick of the rollout: look at its stage, make at most one step, promote what is completed."""
    return session_of(config, json, verbose).do(f"{COMMAND}:advance", runs_flows=True)


def status(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Where the rollout stands, every step with its reason, and who is routed where."""
    return session_of(config, json, verbose).do(f"{COMMAND}:status")


def pause(reason: Reason, config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Keep the shares as they are until resumed; proven harm still rolls back."""
    return session_of(config, json, verbose).do(f"{COMMAND}:steer", verb="pause", reason=reason)


def resume(reason: Reason, config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """Go on after a pause."""
    return session_of(config, json, verbose).do(f"{COMMAND}:steer", verb="resume", reason=reason)


def abort(reason: Reason, config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """End the rollout now: the champion serves everybody.  Waits for nobody."""
    return session_of(config, json, verbose).do(f"{COMMAND}:steer", verb="abort", reason=reason)


def plan(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """How many users and weeks an A/B test needs, from your own log; with a picture."""
    return session_of(config, json, verbose).do(f"{COMMAND}:plan")


def read(config: Config = None, json: Json = False, verbose: Verbose = False) -> int:
    """The running A/B test as it stands, with pictures.  Decides nothing."""
    return session_of(config, json, verbose).do(f"{COMMAND}:read")


COMMANDS: tuple[tuple[str, Callable[..., int]], ...] = (
    ("advance", advance),
    ("rollout status", status),
    ("rollout pause", pause),
    ("rollout resume", resume),
    ("rollout abort", abort),
    ("ab plan", plan),
    ("ab read", read),
)
