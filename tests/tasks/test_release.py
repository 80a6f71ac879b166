"""The released copy: what serves is out of the trainer's reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ranking.errors import PromotionRefused
from tasks.adapters.serving_check import verify_serving
from tests.tasks.promoting import back, push, put, shop, stocked
from tests.tasks.tiny_models import NAME, Shop, evidence_about, sample_rows, tiny_bundle

__all__ = ["shop", "stocked"]  # the fixtures, under the names by which tests ask for them


class TestRelease:
    def test_what_serves_is_a_copy_that_the_trainer_cannot_reach(self, shop: Shop) -> None:
        done = put(shop, 1)
        assert shop.registry.address(done.champion) == f"models:/{NAME}/1"
        with challengers_copy_spoiled(shop, "1"):
            verify_serving(shop.registry, shop.registry.model("champion"))
        assert done.entry.release_digest == done.champion.package_digest

    def test_plain_mlflow_loads_it_by_alias_and_answers_as_in_training(self, shop: Shop) -> None:
        import mlflow.pyfunc
        from mlflow import MlflowClient

        put(shop, 1)
        put(shop, 2)
        back(shop)
        source = MlflowClient(shop.registry.tracking_uri).get_model_version_by_alias(NAME, "champion").source
        scores = mlflow.pyfunc.load_model(source).predict(sample_rows()[["user_id", "item_id", "age", "device"]])
        assert abs(scores - tiny_bundle(1).score(sample_rows())).max() <= 1e-6

    def test_releasing_twice_copies_once(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        ref = shop.registry.model("1")
        assert shop.registry.release(ref) == shop.registry.release(ref) == ref.package_digest
        versions = MlflowClient(shop.registry.tracking_uri).search_model_versions(f"name = '{NAME}'")
        assert [str(version.version) for version in versions] == ["1"]

    def test_code_and_its_digest_changed_together_do_not_pass(self, shop: Shop) -> None:
        """The trainer owns the version's tags; the evidence remembers what was compared."""
        challenger = shop.registry.model("1")
        evidence = evidence_about(challenger, None)
        shop.registry.annotate(challenger, {"package_digest": "0" * 64})
        with pytest.raises(PromotionRefused, match="evidence is about version 1"):
            push(shop, shop.registry.model("1"), evidence)

    def test_a_released_copy_that_was_deleted_is_made_again_from_the_challenger(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        put(shop, 1)
        put(shop, 2)
        MlflowClient(shop.registry.tracking_uri).delete_model_version(NAME, "1")
        assert back(shop).champion.version == "1"
        assert shop.registry.champion().version == "1"

    def test_a_champion_whose_copies_are_all_gone_does_not_keep_one_from_going_back(self, shop: Shop) -> None:
        from mlflow import MlflowClient

        put(shop, 1)
        champion = put(shop, 2).champion
        client = MlflowClient(shop.registry.tracking_uri)
        client.delete_model_version(NAME, "2")
        with challengers_copy_spoiled(shop, champion.version):
            assert back(shop).champion.version == "1"


@contextmanager
def challengers_copy_spoiled(shop: Shop, version: str) -> Iterator[None]:
    """Overwrite what the trainer registered, and not the released copy."""
    from mlflow import MlflowClient

    client = MlflowClient(shop.registry.tracking_uri)
    folder = Path(client.get_model_version_download_uri(f"{NAME}-challengers", version))
    (path,) = folder.rglob("model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"???")
    try:
        yield
    finally:
        path.write_bytes(content)
