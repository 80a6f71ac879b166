"""What the gateway makes of the ledger and of tables of features, in this process, with a real registry."""

import asyncio
import gc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from deployments.gateway.features import RequestFeatures
from deployments.gateway.serving import Serving
from deployments.gateway.shadowing import Shadow
from deployments.gateway.state import Gateway
from deployments.gateway.store import Store
from deployments.gateway.watching import Watcher
from ranking.bundle import Bundle, Facts
from ranking.encoder_fitting import fit_encoder
from ranking.features import FeatureSpec
from ranking.models import DeepMLPKnobs, build_ranker
from ranking.results import ModelRef
from ranking.serving_features import ServingFeatures
from settings.loading import load
from tasks.adapters.exposure_log import ExposureLog
from tasks.adapters.feature_tables import publish
from tests.deployments.running_gateway import Place, rollout
from tests.ranking.test_serving_features import HOUR, START, engine, on_disk, spec
from tests.tasks.tiny_models import LEARNT, NOW, snapshot, training_of

__all__ = ["engine"]  # the fixture, under the name by which tests ask for it

CONTEXT = {"device": "phone"}
ASKED_AT = START + 6 * HOUR


def bundle_for(wanted: FeatureSpec, sample: pa.Table, seed: int) -> Bundle:
    encoder = fit_encoder(sample, wanted, min_count=1)
    knobs = DeepMLPKnobs(dimension=4, hidden=(8,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_ranker(knobs, encoder).eval()
        torch.nn.init.normal_(net.deep[0].weight, std=1.0)
    return Bundle(net, encoder, Facts(architecture=knobs, spec=wanted, learnt=LEARNT, seed=seed))


class Desk:
    """A gateway without a server, whose watcher looks when it is told to."""

    def __init__(self, folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
        self.place = Place(folder / "project")
        self.settings = load(self.place.folder / "feedloop.toml")
        self.folder, self.engine = folder, engine
        self._written = 0
        store = Store(self.settings.gateway_folder)
        log = ExposureLog(self.settings.online_folder, store.journals, NOW)
        knobs = self.settings.serving
        self.gateway = Gateway(knobs, log, Shadow(knobs, log, store.bundles))
        self.watcher = Watcher(self.settings, store, self.gateway)

    def register(self, wanted: FeatureSpec, seed: int) -> ModelRef:
        features = ServingFeatures.load(self.files(wanted))
        sample = features.rows(1, ["i", "j", "k"], CONTEXT, ASKED_AT)
        bundle = bundle_for(wanted, sample, seed)
        bundle.save(self.folder / f"bundle-{seed}")
        return self.place.shop.registry.register(
            self.folder / f"bundle-{seed}",
            training_of(bundle),
            snapshot=snapshot(),
            sample=sample.to_pandas(),
            files={},
            tags={},
            request=f"request-{seed}",
        )

    def files(self, wanted: FeatureSpec) -> Path:
        self._written += 1
        folder = self.folder / f"features-{self._written}"
        folder.mkdir()
        on_disk(self.engine, folder, wanted)
        return folder

    def publish(self, wanted: FeatureSpec, later: timedelta = timedelta(0)) -> str:
        folder = self.files(wanted)
        made = ServingFeatures.load(folder).manifest
        manifest = made.model_copy(update={"as_of": made.as_of + later})
        return publish(folder, manifest, self.settings.workspace).digest

    def look(self) -> Serving | None:
        """One look; what serves from now on, None if that did not change."""
        before = self.gateway.serving
        asyncio.run(self.watcher.look())
        return None if self.gateway.serving is before else self.gateway.serving


@pytest.fixture
def desk(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> Iterator[Desk]:
    made = Desk(tmp_path, engine)
    yield made
    made.gateway.champions.close()
    made.gateway.challengers.close()
    gc.unfreeze()


def test_without_a_champion_nothing_serves_and_it_says_what_to_do(desk: Desk) -> None:
    assert desk.look() is None
    assert "There is no champion yet. `feedloop retrain` proposes one." in desk.gateway.troubles["serving"]


def test_what_was_loaded_before_the_first_answer_is_none_of_the_garbage_collectors_business(desk: Desk) -> None:
    desk.place.promote(desk.register(spec(), 1))
    assert desk.look() is not None
    frozen = gc.get_freeze_count()
    assert frozen > len(gc.get_objects()), "nearly everything is a library's, and no collection walks through it"
    desk.publish(spec())
    assert desk.look() is not None
    assert gc.get_freeze_count() <= frozen, "what a replaced state leaves behind is collected"


def test_a_new_table_of_features_is_swapped_in_with_the_same_model(desk: Desk) -> None:
    desk.place.promote(desk.register(spec(), 1))
    first = desk.look()
    assert first is not None
    assert isinstance(first.champion.features, RequestFeatures)
    assert "Write it with `feedloop features`" in desk.gateway.troubles["features"]

    mark = desk.publish(spec())
    second = desk.look()
    assert second is not None
    assert second.champion.features.digest == mark
    assert second.champion.bundle is first.champion.bundle
    assert desk.gateway.troubles == {}
    rows = second.champion.features.rows(1, ["i", "j"], CONTEXT, ASKED_AT)
    assert rows["hist_item_impressions"].to_pylist() == [1.0, 1.0]
    assert np.array_equal(second.champion.scorer.score(rows), second.champion.bundle.score(rows))
    assert desk.look() is None, "nothing changed"

    newer = desk.publish(spec(), later=HOUR)
    third = desk.look()
    assert third is not None
    assert third.champion.features.digest == newer
    assert second.champion.features.digest == mark, "whoever still answers from the old state is not disturbed"


def test_a_table_that_was_changed_keeps_the_one_in_memory(desk: Desk) -> None:
    desk.publish(spec())
    desk.place.promote(desk.register(spec(), 1))
    first = desk.look()
    assert first is not None
    desk.publish(spec(), later=HOUR)
    for path in Path(desk.settings.workspace).glob("serving/features/*/*/users.parquet"):
        path.write_bytes(b"changed")
    assert desk.look() is None
    assert desk.gateway.serving is first
    assert "The champion's features are not the newest" in desk.gateway.troubles["features"]


def test_a_challenger_whose_history_nobody_wrote_is_no_candidate_until_it_is_written(desk: Desk) -> None:
    other = spec(windows_days=(1,))
    desk.publish(spec())
    champion, challenger = desk.register(spec(), 1), desk.register(other, 2)
    desk.place.promote(champion)
    desk.place.roll_out(champion, challenger, rollout(stage=2))
    serving = desk.look()
    assert serving is not None
    assert set(serving.models) == {"1"}
    assert "there is no table of its history" in serving.broken["2"]
    assert "its users get the champion" in desk.gateway.troubles["models"]

    desk.publish(other)
    assert desk.look() is None, "it is tried again after a minute"
    desk.watcher._retry_at = 0.0
    again = desk.look()
    assert again is not None
    assert (set(again.models), again.broken) == ({"1", "2"}, {})


def test_a_broken_ledger_changes_nothing_and_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3
    from contextlib import closing

    champion = desk.register(spec(), 1)
    desk.place.promote(champion)
    assert desk.look() is not None
    with closing(sqlite3.connect(Path(desk.settings.workspace) / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE params SET value = replace(value, 'ann', 'eve') WHERE key = '00000001'")
    assert desk.look() is None
    assert "cannot be trusted" in desk.gateway.troubles["routing"]
    assert desk.gateway.serving is not None


def test_a_champion_that_does_not_verify_is_refused_until_its_bytes_are_restored(desk: Desk) -> None:
    desk.publish(spec())
    desk.place.promote(desk.register(spec(), 1))
    first = desk.look()
    assert first is not None
    second = desk.register(spec(), 2)
    weights = max(Path(desk.settings.workspace).rglob("model.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    desk.place.promote(second)
    assert [desk.look(), desk.look()] == [None, None], "the old one serves on, look after look"
    assert "was changed after it was saved" in desk.gateway.troubles["serving"]
    weights.write_bytes(sound)
    restored = desk.look()
    assert restored is not None
    assert restored.routing.table.champion == "2"
    assert desk.gateway.troubles == {}


def test_a_bundle_that_was_changed_on_the_gateway_s_own_disk_is_fetched_again(desk: Desk) -> None:
    ref = desk.register(spec(), 1)
    registry = desk.place.shop.registry
    store = desk.watcher.store
    store.load(ref, registry)
    (store.path(ref) / "model.safetensors").write_bytes(b"changed")
    assert store.load(ref, registry).digest == ref.digest
    assert Bundle.load(store.path(ref), expected_digest=ref.digest).digest == ref.digest
