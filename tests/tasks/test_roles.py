"""Who may do what on an MLflow server with authentication: a trainer cannot touch what serves."""

import configparser
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ranking.approval import ApprovalRules
from ranking.errors import AccessDenied
from settings.effects import RegistryKnobs
from tasks import promotion, service
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tests.tasks.mlflow_server import mlflow_server
from tests.tasks.tiny_models import NAME, NOW, Shop, approval_of, evidence_about, open_shop

PASSWORDS = {name: f"{name}-has-a-long-password" for name in ("admin", "trainer", "promoter")}


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Within the block this process is somebody, as MLflow's own variables say."""
    # Checking a password is slow by design, and the first one also opens the store.
    mine = {
        "MLFLOW_TRACKING_USERNAME": name,
        "MLFLOW_TRACKING_PASSWORD": PASSWORDS[name],
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    }
    before = {key: os.environ.get(key) for key in mine}
    os.environ |= mine
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("flask_wtf", reason="MLflow's authentication needs mlflow[auth]")
    folder = tmp_path_factory.mktemp("guarded")
    config = configparser.ConfigParser()
    config["mlflow"] = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{folder / 'auth.db'}",
        "admin_username": "admin",
        "admin_password": PASSWORDS["admin"],
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    with (folder / "auth.ini").open("w") as file:
        config.write(file)
    guard = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test"}
    with mlflow_server(folder, more=guard, options=("--app-name", "basic-auth")) as uri:
        yield uri


@pytest.fixture(scope="module")
def shop(server: str, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Two challengers of the trainer's, of which the promoter has released the first."""
    from mlflow.server.auth.client import AuthServiceClient

    with acting_as("admin"):
        admin = AuthServiceClient(server)
        for name in ("trainer", "promoter"):
            admin.create_user(name, PASSWORDS[name])
    with acting_as("trainer"):
        shop = open_shop(tmp_path_factory.mktemp("here"), server)
        for seed in (1, 2):
            shop.register(seed)
    with acting_as("admin"):
        admin.grant_user_permission("promoter", "registered_model", f"{NAME}-challengers", "EDIT")
    with acting_as("promoter"):
        put(shop, "1")
    return shop


def put(shop: Shop, version: str) -> None:
    challenger = shop.registry.model(version)
    evidence = evidence_about(challenger, serving(shop.registry, shop.ledger))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "verify_serving", verify_bundle)
        promotion.promote(
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


def test_the_promoter_promotes_and_the_trainer_reads_who_serves(shop: Shop, server: str) -> None:
    with acting_as("trainer"):
        where = {"registry": RegistryKnobs(tracking_uri=server), "workspace": str(shop.workspace)}
        champion = service.current_champion.fn(**where)
        assert champion is not None
        assert champion.version == "1"
        assert shop.ledger.verify() == ()


def test_the_trainer_cannot_move_the_alias_delete_the_release_or_write_the_ledger(shop: Shop) -> None:
    with acting_as("trainer"):
        release = shop.registry._releases
        for forbidden in (
            lambda: shop.registry.point("champion", None),
            lambda: release._versions.point("champion", "1"),
            lambda: release._versions.delete("1"),
            lambda: shop.ledger.append(draft_of_a_thief(), shop.ledger.head()),
        ):
            with pytest.raises(AccessDenied, match="refused the request"):
                forbidden()
    with acting_as("promoter"):
        assert len(shop.ledger.entries()) == 1
        assert shop.registry.aliases()["champion"] == "1"


def draft_of_a_thief() -> object:
    from ranking.ledger import Operation
    from tasks.adapters.ledger import Draft

    return Draft(
        operation=Operation.PROMOTE,
        before="1",
        after="2",
        subject="2",
        digest="d",
        evidence_digest=None,
        forced=False,
        actor="thief",
        reason="mine is better",
        at=NOW,
    )


def test_the_trainer_cannot_promote_and_nothing_is_half_done(shop: Shop) -> None:
    with acting_as("trainer"), pytest.raises(AccessDenied):
        put(shop, "2")
    with acting_as("promoter"):
        assert serving(shop.registry, shop.ledger).version == "1"
        assert not shop.registry.released(shop.registry.model("2"))


def test_the_trainer_cannot_overwrite_the_released_bytes(shop: Shop, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with acting_as("promoter"):
        client = MlflowClient(shop.registry.tracking_uri)
        version = client.get_model_version_by_alias(NAME, "champion")
        model_id = version.tags["feedloop.model_id"]
    with (
        acting_as("trainer"),
        pytest.raises(AccessDenied, match="403 Client Error"),
        answered(shop.registry.tracking_uri),
    ):
        client.log_model_artifact(model_id, str(tmp_path / "model.safetensors"))
    with acting_as("promoter"):
        verify_bundle(shop.registry, shop.registry.model("champion"))


def test_a_wrong_password_is_told_without_showing_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "promoter")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open-sesame-please")
    with pytest.raises(AccessDenied, match="Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
        shop.registry.aliases()
    assert "open-sesame-please" not in str(caught.value)
