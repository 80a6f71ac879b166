"""Two registered models on the same unseen rows, each with its own features, on real parquet and a real registry."""

from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from ranking.errors import ComparisonError, LeakageError, TamperedBundle
from ranking.features import ColumnKnobs, FeatureGroup, HistoryKnobs
from ranking.results import Comparison, FeatureTable, ModelRef, ServingCheck, Snapshot, Split
from ranking.split import SplitKnobs
from ranking.times import Window
from ranking.training import TrainingKnobs
from ranking.verdict import GateKnobs
from ranking.world import World, WorldKnobs, as_known_at
from settings.effects import DataKnobs, RegistryKnobs
from settings.model import Settings
from tasks.data import build_features, plan_split, take_snapshot
from tasks.evaluation import compare_models
from tasks.registry import features_read_by, register_challenger
from tasks.serving import check_serving
from tasks.training import train_challenger

KNOBS = WorldKnobs(users=200, items=80, requests_per_day=250)
END = KNOBS.start + timedelta(days=8)
SMALL = ColumnKnobs(request="request_id", item_features=FeatureGroup(categorical=("item_category",)))
LARGE = SMALL.model_copy(
    update={
        "exploration": "explored",
        "user_features": FeatureGroup(categorical=("user_device", "user_age_band")),
        "item_features": FeatureGroup(categorical=("item_category",), numeric=("item_age_hours",)),
    }
)


class Loop:
    """The steps of a retraining, one by one, in one workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        log = pd.concat([World(KNOBS).day(number) for number in range(8)], ignore_index=True)
        as_known_at(log, END).to_parquet(folder / "log.parquet")

    def settings(self, columns: ColumnKnobs, **history: object) -> Settings:
        return Settings.model_construct(
            workspace=str(self.folder / "state"),
            data=DataKnobs(uri=str(self.folder / "log.parquet"), columns=columns, label_delay_hours=2),
            history=HistoryKnobs(**history),
            split=SplitKnobs(),
            training=TrainingKnobs(max_epochs=1, accelerator="cpu"),
            registry=RegistryKnobs(),
            gate=GateKnobs(slice_columns=("item_category",), slice_min_positives=5),
        )

    def prepared(
        self, settings: Settings, cutoff: datetime, champion: ModelRef | None
    ) -> tuple[Snapshot, FeatureTable, Split]:
        snapshot = take_snapshot.fn(
            data=settings.data,
            cutoff=cutoff,
            now=END,
            workspace=settings.workspace,
            also=features_read_by(champion, **settings.store),
        )
        features = build_features.fn(snapshot=snapshot, spec=settings.feature_spec(snapshot.log), **settings.engine)
        return snapshot, features, plan_split.fn(features=features, cutoff=snapshot.cutoff, knobs=settings.split)

    def trained(self, settings: Settings, snapshot: Snapshot, features: FeatureTable, split: Split) -> ModelRef:
        trained = train_challenger.fn(
            features=features,
            split=split,
            model=Settings.model_fields["model"].default,
            knobs=settings.training,
            seed=1,
            champion=None,
            **settings.store,
        )
        return register_challenger.fn(
            trained=trained, snapshot=snapshot, features=features, split=split, **settings.store
        )

    def compared(
        self, settings: Settings, step: tuple[Snapshot, FeatureTable, Split], new: ModelRef, old: ModelRef | None
    ) -> Comparison:
        snapshot, features, split = step
        return compare_models.fn(
            challenger=new,
            champion=old,
            snapshot=snapshot,
            features=features,
            split=split,
            gate=settings.gate,
            registry=settings.registry,
            **settings.engine,
        )

    def serving(
        self, settings: Settings, step: tuple[Snapshot, FeatureTable, Split], challenger: ModelRef
    ) -> ServingCheck:
        snapshot, features, split = step
        return check_serving.fn(
            challenger=challenger,
            snapshot=snapshot,
            features=features,
            split=split,
            registry=settings.registry,
            **settings.engine,
        )


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    return Loop(tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def champion(loop: Loop) -> ModelRef:
    """A champion of few columns, trained on the first five days."""
    settings = loop.settings(SMALL)
    step = loop.prepared(settings, KNOBS.start + timedelta(days=5), None)
    return loop.trained(settings, *step)


def test_two_models_with_other_columns_and_other_history_are_compared_on_the_same_random_rows(
    loop: Loop, champion: ModelRef
) -> None:
    settings = loop.settings(LARGE, item_attributes=("item_category",), windows_days=(2,), prior_impressions=5)
    step = loop.prepared(settings, END, champion)
    challenger = loop.trained(settings, *step)
    comparison = loop.compared(settings, step, challenger, champion)
    rows = pd.read_parquet(step[1].uri)
    holdout = step[2].holdout
    inside = rows[(rows["timestamp"] >= holdout.start) & (rows["timestamp"] < holdout.end)]
    assert comparison.exploration
    assert comparison.rows == inside["explored"].sum() < len(inside)
    assert comparison.auc.champion != comparison.auc.challenger
    assert comparison.auc.difference is not None
    names = {part.name for part in comparison.slices}
    assert {"new_users", "cold_items"} <= names
    assert any(name.startswith("item_category=") for name in names)


@pytest.mark.parametrize("columns", [SMALL, LARGE], ids=["today's features", "other features than today's"])
def test_a_registered_version_answers_in_a_clean_process_whatever_the_features_of_today(
    loop: Loop, champion: ModelRef, columns: ColumnKnobs
) -> None:
    settings = loop.settings(columns)
    found = loop.serving(settings, loop.prepared(settings, END, champion), champion)
    assert found.passed, found.reason
    assert (found.golden_rows, found.sampled_rows) == (32, 512)


def test_a_champion_that_has_seen_a_day_of_the_holdout_is_refused_by_name(loop: Loop, champion: ModelRef) -> None:
    settings = loop.settings(SMALL)
    step = loop.prepared(settings, END, champion)
    assert champion.learnt is not None
    late = Window(start=champion.learnt.start, end=step[2].holdout.start + timedelta(days=1))
    with pytest.raises(LeakageError, match=rf"champion version {champion.version} learnt .* 24\.0 h of the holdout"):
        loop.compared(settings, step, champion, champion.model_copy(update={"learnt": late}))


def test_a_tampered_vocabulary_is_refused_by_the_name_of_its_file(loop: Loop, champion: ModelRef) -> None:
    settings = loop.settings(SMALL)
    step = loop.prepared(settings, END, None)
    honest = {path: path.read_bytes() for path in loop.folder.rglob("artifacts/bundle/encoder.json")}
    for path, content in honest.items():
        path.write_bytes(content.replace(b"1", b"7", 1))
    try:
        with pytest.raises(TamperedBundle, match=r"encoder\.json has the sha256 .* do not serve it"):
            loop.compared(settings, step, champion, None)
        found = loop.serving(settings, step, champion)
    finally:
        for path, content in honest.items():
            path.write_bytes(content)
    assert not found.passed
    assert "encoder.json has the sha256" in found.reason


def test_a_slice_column_that_is_no_feature_is_refused_by_name(loop: Loop, champion: ModelRef) -> None:
    settings = loop.settings(SMALL)
    step = loop.prepared(settings, END, None)
    wrong = settings.model_copy(update={"gate": GateKnobs(slice_columns=("item_brand",))})
    with pytest.raises(ComparisonError, match=r"gate\.slice_columns names 'item_brand'"):
        loop.compared(wrong, step, champion, None)
