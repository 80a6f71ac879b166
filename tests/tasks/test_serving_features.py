"""Tables of serving features are written whole, found by their specification, and score as training does."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ranking.errors import (
    EmptyWindow,
    FeaturesError,
    InvalidInteractions,
    MissingColumn,
    SettingsError,
    TamperedBundle,
    UnknownModel,
)
from ranking.features import FeatureSpec, HistoryKnobs, resolve
from ranking.models import DeepMLPKnobs
from ranking.serving_features import ServingTable
from ranking.serving_folder import USERS, specification_key
from ranking.times import Window
from ranking.training import TrainingKnobs, fit
from settings.effects import DataKnobs, RegistryKnobs
from tasks.adapters.feature_tables import KEPT, fetch, latest, load_latest, place
from tasks.data import build_features, load_rows, take_snapshot
from tasks.serving_features import served_specifications, write_serving_features
from tests.ranking.small_log import ROLES, click_log
from tests.tasks.tiny_models import open_shop, tiny_bundle, with_database

START = datetime(2026, 1, 5, tzinfo=UTC)
NOW = START + timedelta(days=8)
TODAY = START + timedelta(days=7)
ENGINE = "duckdb://?memory_limit=500MB&threads=1"


def week() -> pa.Table:
    """The small log spread over eight days; the last of them is today."""
    rows = click_log(1600)
    times = [START + timedelta(seconds=431 * number) for number in range(len(rows))]
    return rows.set_column(2, "timestamp", pa.array(times, pa.timestamp("us", "UTC")))


def spec(log: pa.Table, **history: object) -> FeatureSpec:
    knobs = {"item_attributes": ("item_genre",), "windows_days": (3,), "grain": "day", **history}
    return FeatureSpec(
        log=resolve(ROLES, log.column_names), history=HistoryKnobs.model_validate(knobs), label_delay_hours=2
    )


@pytest.fixture
def data(tmp_path: Path) -> DataKnobs:
    pa.parquet.write_table(week(), tmp_path / "log.parquet")
    return DataKnobs(uri=str(tmp_path / "log.parquet"), columns=ROLES, warehouse=ENGINE, label_delay_hours=2)


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    return str(tmp_path / "workspace")


def write(data: DataKnobs, workspace: str, wanted: FeatureSpec, as_of: datetime = TODAY) -> ServingTable:
    return write_serving_features.fn(data=data, spec=wanted, as_of=as_of, now=NOW, workspace=workspace)


def test_looked_up_rows_get_the_scores_that_training_rows_get(data: DataKnobs, workspace: str) -> None:
    wanted = spec(week())
    snapshot = take_snapshot.fn(data=data, cutoff=None, now=NOW, workspace=workspace)
    table = build_features.fn(snapshot=snapshot, spec=wanted, workspace=workspace, warehouse=ENGINE)
    rows = load_rows(table, Window(start=START, end=NOW))
    earlier, today = (rows.filter(mask) for mask in (_before(rows, TODAY), pc.invert(_before(rows, TODAY))))
    knobs = TrainingKnobs(batch_rows=128, max_epochs=2, accelerator="cpu")
    learnt = Window(start=START, end=TODAY)
    bundle = fit(earlier, today, spec=wanted, learnt=learnt, model=DeepMLPKnobs(), knobs=knobs, seed=0).bundle

    write(data, workspace, wanted, as_of=TODAY + timedelta(hours=1))
    features = load_latest(workspace, wanted)
    assert features is not None
    differences = []
    for number, row in enumerate(today.to_pylist()):
        known = {name: row[name] for name in ("user_city", "user_age")}
        own = [{name: row[name] for name in ("item_genre", "item_price")}]
        asked = features.rows(
            row["user_id"], [row["item_id"]], {"ctx_hour": row["ctx_hour"]}, row["timestamp"], known, own
        )
        differences.append(float(bundle.score(asked)[0] - bundle.score(today.slice(number, 1))[0]))
    assert len(differences) > 150
    assert np.abs(differences).max() <= 1e-6


def _before(rows: pa.Table, moment: datetime) -> pa.ChunkedArray:
    return pc.less(rows["timestamp"], pa.scalar(moment, pa.timestamp("us", "UTC")))


def test_a_version_with_a_field_more_finds_and_reads_the_tables_of_the_one_before(
    data: DataKnobs, workspace: str
) -> None:
    wanted = spec(week())
    table = write(data, workspace, wanted)
    folder = Path(table.uri)
    # As a version wrote it that did not know the field yet.
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["spec"]["log"]["exploration"]
    content = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(content)
    older = table.model_copy(update={"digest": hashlib.sha256(content).hexdigest()})
    assert fetch(older).digest == older.digest
    assert fetch(older).spec == wanted
    assert specification_key(wanted) == table.spec_digest
    named = wanted.model_copy(update={"log": wanted.log.model_copy(update={"exploration": "explored"})})
    assert specification_key(named) != table.spec_digest


def test_a_table_is_found_by_its_specification_and_by_no_other(data: DataKnobs, workspace: str) -> None:
    daily, hourly = spec(week()), spec(week(), grain="event")
    assert latest(workspace, specification_key(daily)) is None
    written = write(data, workspace, daily)
    assert latest(workspace, specification_key(daily)) == written
    assert load_latest(workspace, hourly) is None
    features = fetch(written)
    assert (features.digest, features.spec_digest, features.as_of) == (written.digest, specification_key(daily), TODAY)
    assert (written.users, written.items) == (60, 40)


def test_the_same_rows_at_the_same_moment_give_the_same_table(data: DataKnobs, workspace: str) -> None:
    assert write(data, workspace, spec(week())) == write(data, workspace, spec(week()))


def test_an_older_table_never_takes_the_place_of_a_newer_one(data: DataKnobs, workspace: str) -> None:
    newer = write(data, workspace, spec(week()))
    assert write(data, workspace, spec(week()), as_of=TODAY - timedelta(days=1)) == newer
    assert latest(workspace, newer.spec_digest) == newer


def test_only_the_last_tables_are_kept(data: DataKnobs, workspace: str) -> None:
    wanted = spec(week())
    for hour in range(KEPT + 2):
        last = write(data, workspace, wanted, as_of=TODAY + timedelta(hours=hour))
    kept = sorted(entry.name for entry in Path(place(workspace, specification_key(wanted))).iterdir())
    assert len(kept) == KEPT + 1
    assert last.uri.rsplit("/", 1)[-1] in kept
    assert fetch(last).as_of == TODAY + timedelta(hours=KEPT + 1)


def test_what_was_changed_torn_or_taken_away_is_refused(data: DataKnobs, workspace: str) -> None:
    table = write(data, workspace, spec(week()))
    with pytest.raises(FeaturesError, match="was expected"):
        fetch(table.model_copy(update={"digest": "0" * 64}))
    file = Path(table.uri) / USERS
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FeaturesError, match=r"users\.parquet has the sha256"):
        fetch(table)
    file.unlink()
    with pytest.raises(FeaturesError, match=r"users\.parquet cannot be read"):
        fetch(table)
    (Path(place(workspace, table.spec_digest)) / "latest.json").write_text("{")
    with pytest.raises(FeaturesError, match="names no table of features"):
        latest(workspace, table.spec_digest)


def test_a_log_that_breaks_the_rules_leaves_the_earlier_table_in_service(
    data: DataKnobs, workspace: str, tmp_path: Path
) -> None:
    earlier = write(data, workspace, spec(week()), as_of=TODAY - timedelta(days=1))
    pa.parquet.write_table(pa.concat_tables([week(), week()]), tmp_path / "log.parquet")
    with pytest.raises(InvalidInteractions, match="repeat the key"):
        write(data, workspace, spec(week()))
    pa.parquet.write_table(week().drop(["item_genre"]), tmp_path / "log.parquet")
    with pytest.raises(MissingColumn, match="reads 'item_genre', which the log does not have"):
        write(data, workspace, spec(week()))
    assert latest(workspace, earlier.spec_digest) == earlier


def test_a_moment_after_the_log_or_in_the_future_is_refused_with_a_hint(data: DataKnobs, workspace: str) -> None:
    with pytest.raises(SettingsError, match="cannot be known"):
        write(data, workspace, spec(week()), as_of=NOW + timedelta(hours=1))
    late = data.model_copy(update={"window_days": 0.001})
    with pytest.raises(EmptyWindow, match="feedloop features --as-of"):
        write_serving_features.fn(
            data=late,
            spec=spec(week()),
            as_of=NOW + timedelta(days=1),
            now=NOW + timedelta(days=2),
            workspace=workspace,
        )


def test_tables_go_to_an_object_store_as_well(data: DataKnobs) -> None:
    fsspec.filesystem("memory").store.clear()
    wanted = spec(week())
    for hour in range(KEPT + 1):
        table = write(data, "memory://bucket/feed", wanted, as_of=TODAY + timedelta(hours=hour))
    assert table.uri.startswith("memory://bucket/feed/serving/features/")
    loaded = load_latest("memory://bucket/feed", wanted)
    assert loaded is not None
    assert loaded.digest == table.digest
    left = fsspec.filesystem("memory").ls(place("memory://bucket/feed", specification_key(wanted)), detail=False)
    assert len(left) == KEPT + 1


def test_features_are_written_for_whoever_may_have_to_answer(tmp_path: Path) -> None:
    shop = open_shop(with_database(tmp_path))
    store = {"registry": RegistryKnobs(), "workspace": str(tmp_path)}
    first, second = shop.register(1), shop.register(2)
    assert served_specifications.fn(champion=None, also=(), **store) == []
    shop.registry.point("challenger", second.version)
    # Both read the same, so one table is enough.
    (found,) = served_specifications.fn(champion=first, also=("1",), **store)
    assert found == tiny_bundle().facts.spec
    with pytest.raises(UnknownModel, match="9"):
        served_specifications.fn(champion=first, also=("9",), **store)


def test_a_challenger_whose_bytes_do_not_verify_does_not_cost_the_champion_its_features(tmp_path: Path) -> None:
    shop = open_shop(with_database(tmp_path))
    first, second = shop.register(1), shop.register(2)
    shop.registry.point("challenger", second.version)
    for weights in (tmp_path / "artifacts").rglob("model.safetensors"):
        if hashlib.sha256((weights.parent / "manifest.json").read_bytes()).hexdigest() == second.digest:
            weights.write_bytes(b"other")
    store = {"registry": RegistryKnobs(), "workspace": str(tmp_path)}
    assert served_specifications.fn(champion=first, also=(), **store) == [tiny_bundle().facts.spec]
    with pytest.raises(TamperedBundle):
        served_specifications.fn(champion=second, also=(), **store)
