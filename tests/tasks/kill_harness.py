"""Kill -9 whatever changes the champion, again and again, and look at what is left.

    python -m tests.tasks.kill_harness WORKSPACE --tracking-uri URI --kills 100 --seed 0

Every trial is a process of its own, forked from one that has imported everything and opened nothing.  A trial
promotes, rolls back or reconciles; it dies right before or right after one of its writes to MLflow, or at a
random moment.  ``--every`` goes through all writes of all operations instead.  Then another process checks: the
chain is intact, everything that was acknowledged is there, the one champion is the ledger's head and its bytes
verify, and reconciling makes the aliases say so.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from ranking.approval import ApprovalRules
from ranking.errors import FeedloopError
from tasks import promotion
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import reconcile, serving
from tasks.rollback import as_released, rollback
from tests.tasks.tiny_models import NOW, Shop, approval_of, evidence_about, open_shop

VERSIONS = 4
WRITES = ("create_", "set_", "log_", "delete_", "update_", "finalize_")
POLICY = "p" * 64
OPERATIONS = ("promote", "rollback", "promote", "reconcile")


@dataclass(frozen=True)
class Trial:
    """What one process does, and when it dies: after its n-th write (right before it if negative), or after a time."""

    number: int
    operation: str
    at_call: int | None = None
    after_seconds: float | None = None


def in_a_process(work: Callable[[], Any], after_seconds: float | None = None) -> tuple[int, Any]:
    """Run ``work`` in a forked process; gives its exit status (negative: the signal) and what it returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            answer = work()
            os.write(writing, json.dumps(answer).encode())
            status = 0
        except BaseException:  # noqa: BLE001 (whatever it is, the parent is told)
            os.write(writing, json.dumps({"failed": traceback.format_exc()}).encode())
        finally:
            os._exit(status)
    os.close(writing)
    if after_seconds is not None:
        time.sleep(after_seconds)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(text) if text else None


def deadly(at_call: int | None) -> Callable[[], int]:
    """Count the writes of MLflow's client, and die at one of them; gives the count so far."""
    calls = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls
            if at_call is not None and mine == -at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return original(*arguments, **named)
            finally:
                # A write that is turned away, because the name is taken, is a moment to die at too.
                if mine == at_call:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in dir(MlflowClient):
        method = getattr(MlflowClient, name)
        if name.startswith(WRITES) and callable(method):
            setattr(MlflowClient, name, counted(method))
    return lambda: calls


def work(shop: Shop, trial: Trial) -> dict[str, Any]:
    """Do the trial's operation; returns what it acknowledges."""
    now = NOW + timedelta(minutes=trial.number)
    if trial.operation == "reconcile":
        shop.registry.point("previous", None)
        reconcile(shop.registry, shop.ledger)
        return {}
    if trial.operation == "rollback":
        try:
            entry = rollback(
                shop.registry,
                shop.ledger,
                to=None,
                reason="trial",
                actor="harness",
                now=now,
                request=f"trial {trial.number}",
            ).entry
        except FeedloopError as error:
            return {"refused": f"{type(error).__name__}: {error}"}
        return {"number": entry.number, "hash": entry.hash}
    champion = serving(shop.registry, shop.ledger)
    others = [str(n) for n in range(1, VERSIONS + 1) if champion is None or str(n) != champion.version]
    challenger = shop.registry.model(others[trial.number % len(others)])
    evidence = evidence_about(challenger, champion)
    done = promotion.promote(
        shop.registry,
        shop.ledger,
        promotion.Proposal(
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence).model_copy(update={"at": now}),
            rules=ApprovalRules(),
            policy_digest=POLICY,
            forced=True,
            reason=f"trial {trial.number}",
            now=now,
        ),
    )
    assert done.entry is not None
    return {"number": done.entry.number, "hash": done.entry.hash}


def look(shop: Shop) -> dict[str, Any]:
    """What is true after a trial; raises where something must not be."""
    assert shop.ledger.verify() == ()
    entries = shop.ledger.entries()
    before = shop.registry.aliases()
    head = reconcile(shop.registry, shop.ledger)
    champion = serving(shop.registry, shop.ledger)
    if head is None:
        assert champion is None
        return {"hashes": [], "champion": None, "mended": False}
    assert champion is not None
    assert champion.version == head.after
    assert shop.registry.aliases()["champion"] == head.after
    verify_bundle(shop.registry, as_released(champion, entries))
    return {
        "hashes": [entry.hash for entry in entries],
        "champion": champion.version,
        "mended": before != shop.registry.aliases(),
    }


@dataclass(frozen=True)
class Length:
    """How long an operation is when it is not killed."""

    calls: int
    opening_seconds: float
    seconds: float


def at_random(seed: int) -> Generator[Trial, Any, None]:
    """Trials that die at a random write or moment; the first of each kind lives, to see how long it is."""
    draw = random.Random(seed)  # noqa: S311 (a repeatable draw, not a secret)
    lengths: dict[str, Length] = {}
    for number in count():
        operation = OPERATIONS[number % len(OPERATIONS)]
        length = lengths.get(operation)
        if length is None:
            answer = yield Trial(number, operation)
            if answer and "refused" not in answer:
                lengths[operation] = Length(*answer["length"])
        elif draw.random() < 0.5:
            yield Trial(number, operation, after_seconds=length.opening_seconds + draw.uniform(0, length.seconds))
        else:
            place = draw.randint(1, length.calls)
            yield Trial(number, operation, at_call=draw.choice((-place, place)))


def at_every_write() -> Generator[Trial, Any, None]:
    """Trials that die before and after each write of each operation; promotions between restock what can go back."""
    number = count()
    yield Trial(next(number), "promote")
    for operation in ("promote", "rollback", "reconcile"):
        yield Trial(next(number), "promote")
        answer = yield Trial(next(number), operation)
        for place in range(1, answer["length"][0] + 1):
            for at_call in (-place, place):
                yield Trial(next(number), "promote")
                yield Trial(next(number), operation, at_call=at_call)


def soak(opened: Callable[[], Shop], trials: Generator[Trial, Any, None], kills: int) -> dict[str, Any]:
    """Trials, one after the other on the same store, until so many were killed or there are no more."""
    promotion.verify_serving = verify_bundle  # type: ignore[attr-defined]  # the clean process has tests of its own
    seen: dict[str, Any] = {"kills": 0, "trials": 0, "mended": 0, "refused": 0}
    acknowledged: dict[int, str] = {}
    known: list[str] = []
    answer: Any = None
    while seen["kills"] < kills:
        try:
            trial = trials.send(answer)
        except StopIteration:
            break

        def once(trial: Trial = trial) -> dict[str, Any]:
            start = time.monotonic()
            shop = opened()
            calls_made = deadly(trial.at_call)
            opening = time.monotonic() - start
            done = work(shop, trial)
            return done | {"length": (calls_made(), opening, time.monotonic() - start - opening)}

        status, answer = in_a_process(once, trial.after_seconds)
        assert status in (0, -9), (trial, answer)
        seen["trials"] += 1
        seen["kills"] += status == -9
        if answer:
            seen["refused"] += "refused" in answer
            if "hash" in answer:
                acknowledged[answer["number"]] = answer["hash"]
        status, left = in_a_process(lambda: look(opened()))
        assert status == 0, (trial, left)
        assert left["hashes"][: len(known)] == known, "what was recorded stays recorded"
        known = left["hashes"]
        assert all(known[place - 1] == mark for place, mark in acknowledged.items()), "what was acknowledged is there"
        seen["mended"] += left["mended"]
    return seen | {"acknowledged": len(acknowledged), "entries": len(known)}


def race(opened: Callable[[], Shop], racers: int) -> list[str]:
    """Let processes promote different challengers at the same moment; gives how each of them ended."""
    promotion.verify_serving = verify_bundle  # type: ignore[attr-defined]  # the clean process has tests of its own
    reading, go = os.pipe()
    children: list[tuple[int, int]] = []
    for racer in range(1, racers + 1):
        answers, answering = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            try:
                text = _run_one(opened(), str(racer), reading)
            except BaseException:  # noqa: BLE001 (whatever it is, the parent is told)
                text = traceback.format_exc()
            os.write(answering, text.encode())
            os._exit(0)
        os.close(answering)
        children.append((child, answers))
    time.sleep(1)
    os.close(go)
    results = []
    for child, answers in children:
        with os.fdopen(answers, "rb") as stream:
            results.append(stream.read().decode())
        os.waitpid(child, 0)
    return results


def _run_one(shop: Shop, version: str, starting_gun: int) -> str:
    champion = serving(shop.registry, shop.ledger)
    challenger = shop.registry.model(version)
    evidence = evidence_about(challenger, champion)
    os.read(starting_gun, 1)  # comes back when the parent closes its end
    try:
        done = promotion.promote(
            shop.registry,
            shop.ledger,
            promotion.Proposal(
                challenger=challenger,
                evidence=evidence,
                approval=approval_of(evidence),
                rules=ApprovalRules(),
                policy_digest=POLICY,
                reason=f"racer {version}",
                now=NOW,
            ),
        )
    except FeedloopError as error:
        return f"{type(error).__name__}: {error}"
    return f"promoted {done.challenger.version}"


def stock(opened: Callable[[], Shop], versions: int) -> None:
    """Register what the trials promote."""

    def fill() -> None:
        shop = opened()
        for seed in range(1, versions + 1):
            shop.register(seed)

    status, answer = in_a_process(fill)
    assert status == 0, answer


def main() -> None:
    """Run the harness and print what was seen as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--tracking-uri")
    parser.add_argument("--ledger-uri")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--racers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    def opened() -> Shop:
        return open_shop(given.workspace, given.tracking_uri, given.ledger_uri)

    stock(opened, max(VERSIONS, given.racers))
    trials = at_every_write() if given.every else at_random(given.seed)
    answer: Any = race(opened, given.racers) if given.racers else soak(opened, trials, given.kills)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
