"""MLflow stops, or the disk is full, in the middle: a clear error soon, nothing half-done, and it goes on later."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.promote import promote as promote_flow
from ranking.approval import ApprovalRules
from ranking.errors import RegistryUnavailable, StorageError
from settings.loading import load
from tasks import promotion
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tasks.rollback import rollback
from tests.tasks.mlflow_server import free_port, mlflow_server
from tests.tasks.tiny_models import NOW, Shop, approval_of, evidence_about, open_shop, with_database

SOON_SECONDS = 30


@pytest.fixture
def outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Outage"]:
    monkeypatch.setattr(promotion, "verify_serving", verify_bundle)
    with ExitStack() as stack:
        yield Outage(tmp_path, stack)


class Outage:
    """A shop behind a real MLflow server that can be stopped and started again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack, self.port = folder, stack, free_port()
        (folder / "server").mkdir()
        (folder / "here").mkdir()
        self.start()
        self.shop = open_shop(folder / "here", self.uri)
        for seed in (1, 2):
            self.shop.register(seed)
        put(self.shop, "1")

    def start(self) -> None:
        self.uri = self._stack.enter_context(mlflow_server(self.folder / "server", port=self.port))

    def stop(self) -> None:
        self._stack.close()


def put(shop: Shop, version: str) -> promotion.Promotion:
    challenger = shop.registry.model(version)
    evidence = evidence_about(challenger, serving(shop.registry, shop.ledger))
    return promotion.promote(
        shop.registry,
        shop.ledger,
        promotion.Proposal(
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence),
            rules=ApprovalRules(),
            policy_digest="p" * 64,
            now=NOW,
        ),
    )


@pytest.mark.parametrize("step", ["package", "release", "point"])
def test_a_promotion_that_loses_mlflow_half_way_says_so_soon_and_is_finished_later(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before the entry (package, release) nothing happened; after it (point) the promotion stands."""
    shop = outage.shop
    original, since = getattr(MlflowRegistry, step), []

    def interrupted(self: MlflowRegistry, *arguments: object, **named: object) -> object:
        if not since:
            outage.stop()
            since.append(time.monotonic())
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowRegistry, step, interrupted)
        with pytest.raises(RegistryUnavailable, match=rf"127\.0\.0\.1:{outage.port} did not answer.*repeating is safe"):
            put(shop, "2")
    assert time.monotonic() - since[0] < SOON_SECONDS, "a bound on hanging, not a measurement of speed"
    outage.start()
    entries = shop.ledger.entries()
    assert len(entries) == (2 if step == "point" else 1)
    assert shop.ledger.verify() == ()
    assert serving(shop.registry, shop.ledger).version == ("2" if step == "point" else "1")
    if step == "point":
        assert rollback(shop.registry, shop.ledger, to=None, reason="it goes on", actor="ada", now=NOW, request="1")
        assert shop.registry.champion().version == "1"
    else:
        assert put(shop, "2").status == "promoted"
        assert shop.registry.aliases() == {"champion": "2", "previous": "1"}


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_somebody_waits_for_gives_up_within_half_a_minute(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDLOOP_REGISTRY__TRACKING_URI", outage.uri)
    monkeypatch.setenv("FEEDLOOP_WORKSPACE", str(outage.folder / "here"))
    shop = outage.shop
    challenger = shop.registry.model("2")
    evidence = evidence_about(challenger, shop.registry.model("1")).model_copy(
        update={"policy_digest": load().policy_digest}
    )
    shop.registry.record(challenger, evidence)
    outage.stop()
    start = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        promote_flow("2", approval_of(evidence))
    assert time.monotonic() - start < SOON_SECONDS, "a bound on hanging, not a measurement of speed"
    outage.start()
    assert promote_flow("2", approval_of(evidence)).status == "promoted"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, spare_kilobytes: int) -> None:
    """Leave so much room and no more."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "ballast").write_bytes(b"\0" * (free - spare_kilobytes * 1024))


def test_a_full_disk_registers_nothing_and_says_so(small_disk: Path) -> None:
    shop = open_shop(with_database(small_disk))
    shop.register(1)
    fill(small_disk, 60)
    with pytest.raises(StorageError, match=r"No space left on device|disk is full"):
        shop.register(2)
    assert [ref.version for ref in shop.registry.versions()] == ["1"]
    (small_disk / "ballast").unlink()
    assert shop.register(2).version == "2"


def test_a_full_disk_promotes_nothing_and_the_champion_stays(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "verify_serving", verify_bundle)
    shop = open_shop(with_database(small_disk))
    for seed in (1, 2):
        shop.register(seed)
    put(shop, "1")
    fill(small_disk, 60)
    with pytest.raises(StorageError, match=r"No space left on device|disk is full"):
        put(shop, "2")
    assert len(shop.ledger.entries()) == 1
    assert shop.registry.aliases() == {"champion": "1"}
    (small_disk / "ballast").unlink()
    assert put(shop, "2").status == "promoted"
