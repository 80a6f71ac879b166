"""What the shadow costs the users: times of the champion's answers with and without one, at a modest rate.

Two gateways of the same models are asked in turn, the same number of requests a second; in one of them a
challenger scores along, sound or with a fault.  Theirs is the gateway without a shadow.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.http_load import Load, drive, together
from benchmarks.table import Row

PER_SECOND, CLIENTS, ROUNDS = 100.0, 4, 8
REST_SECONDS = 1.0
"""Between two rounds: a shadow's process that is being started again must not burden the other gateway's round."""
FAULTS = ("none", "raise", "hang", "leak", "sleep")


def run(scale: float) -> list[Row]:
    """Ask both for each kind of challenger; ``scale`` shortens the rounds."""
    return [row for fault in FAULTS for row in _compared(fault, max(4 * scale, 0.5))]


def _compared(fault: str, seconds: float) -> list[Row]:
    from ranking.strategies import Shadow
    from tests.deployments.running_gateway import Place, question, rollout, running

    bodies = [json.dumps(question(f"user-{number}", _items())).encode() for number in range(50)]
    knobs = {"refresh_seconds": 5.0, "log_seconds": 30.0, "shadow_megabytes": 900, "shadow_timeout_milliseconds": 300.0}
    with tempfile.TemporaryDirectory(prefix="feedloop-shadow-") as name:
        places = [Place(Path(name) / which, dict(knobs)) for which in ("with", "without")]
        for place in places:
            champion, challenger = place.add(1), place.add(2)
            place.promote(champion)
            if place is places[0]:
                place.roll_out(champion, challenger, rollout(strategy=Shadow()))
        with (
            running(places[0], *_program(), environment={"FAULT": fault}) as shadowed,
            running(places[1], *_program(), environment={"FAULT": fault}) as plain,
        ):
            loads: dict[int, list[Load]] = {shadowed.port: [], plain.port: []}
            for turn in range(ROUNDS):
                order = (shadowed.port, plain.port) if turn % 2 else (plain.port, shadowed.port)
                for port in order:
                    time.sleep(REST_SECONDS)
                    loads[port].append(
                        drive(port, "/rank", bodies, clients=CLIENTS, seconds=seconds, per_second=PER_SECOND)
                    )
        return _rows(fault, loads[shadowed.port], loads[plain.port])


def _rows(fault: str, shadowed: list[Load], plain: list[Load]) -> list[Row]:
    failed = together(shadowed).failed
    assert failed == 0
    rows = []
    for percentile in (50, 99):
        # The median of the rounds: one round that another program disturbed does not decide.
        mine, other = (
            float(np.median([load.milliseconds(percentile) for load in loads])) for loads in (shadowed, plain)
        )
        note = f"{mine - other:+.2f} ms; {len(together(shadowed).seconds)} answers, {failed} failed"
        rows.append(Row(f"challenger: {fault}, p{percentile}", mine, other, other / mine, "ms", note))
    return rows


def _items() -> list[str]:
    return [f"item-{number}" for number in range(100)]


def _program() -> tuple[str, str]:
    return ("-m", "tests.deployments.faulty_gateway")
