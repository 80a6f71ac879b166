"""A shop with four registered versions, and what its tests do with them: promote, go back, spoil, cut off."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ranking.approval import ApprovalRules
from ranking.decision import Decision
from ranking.errors import RegistryUnavailable
from ranking.results import Evidence, ModelRef, Promotion, Rollback
from tasks import promotion as promotions
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tasks.promotion import Proposal, promote
from tasks.rollback import rollback
from tests.tasks.tiny_models import NOW, Shop, approval_of, evidence_about, open_shop, with_database

ANYBODY = ApprovalRules()
POLICY = "p" * 64


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with four registered versions, made once."""
    shop = open_shop(with_database(tmp_path_factory.mktemp("stocked")))
    for seed in (1, 2, 3, 4):
        shop.register(seed)
    return shop.workspace


@pytest.fixture
def shop(stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy of the stocked shop.  The check in a clean process takes seconds and has tests of its own."""
    monkeypatch.setattr(promotions, "verify_serving", verify_bundle)
    shutil.copy(stocked / "mlflow.db", tmp_path / "mlflow.db")
    return open_shop(tmp_path)


def put(
    shop: Shop,
    version: int | str,
    *,
    decision: Decision = Decision.PROMOTE,
    forced: bool = False,
    reason: str = "",
    minutes: int = 0,
) -> Promotion:
    """Promote a version against today's champion, with everything in order unless said otherwise."""
    champion, challenger = serving(shop.registry, shop.ledger), shop.registry.model(str(version))
    return push(
        shop, challenger, evidence_about(challenger, champion, decision), forced=forced, reason=reason,
        minutes=minutes,
    )  # fmt: skip


def push(
    shop: Shop,
    challenger: ModelRef,
    evidence: Evidence,
    *,
    forced: bool = False,
    reason: str = "",
    minutes: int = 0,
) -> Promotion:
    return promote(
        shop.registry,
        shop.ledger,
        Proposal(
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence).model_copy(update={"at": NOW + timedelta(minutes=minutes)}),
            rules=ANYBODY,
            policy_digest=POLICY,
            forced=forced,
            reason=reason,
            now=NOW + timedelta(minutes=minutes),
        ),
    )


def back(shop: Shop, to: str | None = None, *, forced: bool = False, reason: str = "clicks fell") -> Rollback:
    request = str(uuid.uuid4())
    return rollback(
        shop.registry, shop.ledger, to=to, reason=reason, actor="grace", now=NOW, request=request, forced=forced
    )


def crown(shop: Shop, version: str) -> None:
    """Give a version the alias ``champion`` by hand, past the ledger."""
    shop.registry.release(shop.registry.model(version))
    shop.registry.point("champion", version)


def package_folder(shop: Shop, version: str) -> Path:
    """Where the bytes of a version lie: those of its released copy, if there is one."""
    from mlflow import MlflowClient

    _, name, number = shop.registry.address(shop.registry.model(version)).replace("models:/", "/").split("/")
    return Path(MlflowClient(shop.registry.tracking_uri).get_model_version_download_uri(name, number))


@contextmanager
def spoiled(shop: Shop, version: str, file: str = "model.safetensors") -> Iterator[None]:
    """Overwrite bytes of a version behind everybody's back, as anyone with write access can."""
    (path,) = package_folder(shop, version).rglob(file)
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes(255 - byte for byte in content[-3:]))
    try:
        yield
    finally:
        path.write_bytes(content)


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Make one call of the registry fail as in an outage; ``point:x`` only for that alias."""
    name, _, alias = step.partition(":")
    original = getattr(MlflowRegistry, name)

    def fail(self: MlflowRegistry, *arguments: object, **named: object) -> object:
        if not alias or arguments[0] == alias:
            raise RegistryUnavailable("no answer")
        return original(self, *arguments, **named)

    monkeypatch.setattr(MlflowRegistry, name, fail)
