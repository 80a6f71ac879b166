"""kill -9 of a tick before and after every write it makes: the next tick goes on from the same stage."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ranking.ledger import Operation
from ranking.results import Promotion
from tasks import promotion as promotions
from tasks import rollout_end
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tests.tasks.kill_harness import deadly, in_a_process
from tests.tasks.test_rollouts import begun, finish, stocked, tick
from tests.tasks.tiny_models import NOW, Shop, open_shop

__all__ = ["stocked"]

HOUR = timedelta(hours=1)


def acting(workspace: Path, steps: int, at_call: int | None) -> dict[str, Any]:
    """The tick after ``steps`` of them, in this process; dies at a write, or tells how many it made."""
    # The threads on which this process scored before did not come along in the fork, and torch would wait for them.
    torch.set_num_threads(1)
    promotions.verify_serving = rollout_end.verify_serving = verify_bundle  # type: ignore[assignment]  # the same question
    shop = open_shop(workspace)
    writes = deadly(at_call)
    act(shop, steps)
    return {"writes": writes()}


def act(shop: Shop, steps: int) -> None:
    """From the approval on: to the bake, to its end, to the promotion."""
    if steps < 2:
        tick(shop, NOW + (steps + 1) * HOUR)
    else:
        assert isinstance(finish(shop, NOW + 2 * HOUR), Promotion)


def prepared(stocked: Path, folder: Path, steps: int) -> Shop:
    folder.mkdir()
    shutil.copy(stocked / "mlflow.db", folder / "mlflow.db")
    shop = open_shop(folder)
    begun(shop)
    for done in range(steps):
        act(shop, done)
    return shop


def copied(source: Shop, folder: Path) -> Shop:
    """A copy of a shop's database; the models' files stay where they are."""
    folder.mkdir()
    shutil.copy(source.workspace / "mlflow.db", folder / "mlflow.db")
    return open_shop(folder)


@pytest.mark.parametrize(
    ("steps", "every"),
    [
        pytest.param(0, False, id="step"),
        pytest.param(0, True, id="step at every write", marks=pytest.mark.slow),
        pytest.param(2, True, id="promotion at every write", marks=pytest.mark.slow),
    ],
)
def test_a_tick_that_is_killed_at_any_write_is_made_once_all_the_same(
    stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, every: bool
) -> None:
    monkeypatch.setattr(promotions, "verify_serving", verify_bundle)
    monkeypatch.setattr(rollout_end, "verify_serving", verify_bundle)
    before = prepared(stocked, tmp_path / "before", steps)
    whole = copied(before, tmp_path / "whole")
    status, told = in_a_process(lambda: acting(whole.workspace, steps, None))
    assert status == 0, told
    wanted = [(entry.operation, entry.reason) for entry in whole.ledger.entries()]
    # The ledger's entry is the first write of a step; all that follows is told again from there.
    places = range(1, told["writes"] + 1 if every else 2)
    for place in [sign * place for place in places for sign in (-1, 1)]:
        shop = copied(before, tmp_path / f"killed{place}")
        status, told = in_a_process(lambda: acting(shop.workspace, steps, place))  # noqa: B023 (called at once)
        # The files of a released copy are shared: who comes later finds them and has a write or two less.
        assert status == -9 or told["writes"] < abs(place), told
        survivor = open_shop(shop.workspace)
        assert survivor.ledger.verify() == ()
        if len(survivor.ledger.entries()) < len(wanted):
            act(survivor, steps)
        elif steps == 2:
            assert finish(survivor, NOW + 2 * HOUR) is None
        entries = survivor.ledger.entries()
        assert [(entry.operation, entry.reason) for entry in entries] == wanted, f"killed at write {place}"
        champion = serving(survivor.registry, survivor.ledger)
        assert champion is not None
        assert champion.version == ("2" if steps == 2 else "1")
        assert entries[-1].operation is (Operation.PROMOTE if steps == 2 else Operation.ROLLOUT)
