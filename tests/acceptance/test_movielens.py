"""MovieLens 100K, as a user would run it with examples/movielens.toml.  Skips without the data."""

import os
from pathlib import Path

import numpy as np
import pytest

from examples.walk_forward import prepared, walk
from ranking.features import ColumnKnobs, FeatureGroup
from ranking.metrics import auc, log_loss
from ranking.models import DeepMLPKnobs, ModelKnobs, TwoTowerKnobs
from ranking.training import fit
from settings.loading import load
from settings.model import Settings
from tasks.data import load_rows, plan_split

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("FEEDLOOP_TEST_MOVIELENS", ROOT / "data" / "ml100k.parquet"))

pytestmark = pytest.mark.skipif(not DATA.is_file(), reason="needs data/ml100k.parquet (see examples/movielens.toml)")
MODELS = pytest.mark.parametrize("model", [DeepMLPKnobs(), TwoTowerKnobs()], ids=lambda knobs: knobs.kind)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    example = load(ROOT / "examples" / "movielens.toml", data_uri=str(DATA))
    return example.model_copy(update={"workspace": str(tmp_path_factory.mktemp("movielens"))})


def quality(settings: Settings, model: ModelKnobs) -> tuple[float, float]:
    """AUC and log loss on the last fifth by time, of a model that learnt from the rest."""
    snapshot, features = prepared(settings)
    split = plan_split.fn(features=features, cutoff=snapshot.cutoff, knobs=settings.split)
    assert split.holdout_rows == pytest.approx(20_000, abs=50)
    bundle = fit(
        load_rows(features, split.train),
        load_rows(features, split.validation),
        spec=features.spec,
        learnt=split.learnt,
        model=model,
        knobs=settings.training,
        seed=settings.seed,
    ).bundle
    rows = load_rows(features, split.holdout)
    labels, scores = rows[features.spec.log.label].to_numpy().astype(bool), bundle.score(rows)
    area = auc(labels, scores)
    assert area is not None
    return area, log_loss(labels, scores)


@MODELS
def test_with_history_both_architectures_reach_the_quality_of_the_reference(
    settings: Settings, model: ModelKnobs
) -> None:
    area, loss = quality(settings, model)
    assert area >= 0.735
    assert loss <= 0.596


@MODELS
def test_with_logged_columns_only_both_architectures_reach_the_quality_of_the_reference(
    settings: Settings, model: ModelKnobs
) -> None:
    logged = settings.model_copy(update={"history": settings.history.model_copy(update={"enabled": False})})
    assert quality(logged, model)[0] >= 0.64


def test_retraining_every_week_beats_the_frozen_model(settings: Settings) -> None:
    weeks = walk(settings, every=3)
    assert len(weeks) >= 7
    retrained, frozen = (np.mean([getattr(week, f"{who}_auc") for week in weeks]) for who in ("retrained", "frozen"))
    assert retrained > frozen + 0.004
    losses = [np.mean([getattr(week, f"{who}_log_loss") for week in weeks]) for who in ("retrained", "frozen")]
    assert losses[0] < losses[1]


def test_the_example_names_columns_that_the_data_have(settings: Settings) -> None:
    assert settings.data.columns == ColumnKnobs(
        user_features=FeatureGroup(categorical=("user_gender", "user_occupation", "user_zip1"), numeric=("user_age",)),
        item_features=FeatureGroup(categorical=("item_main_genre",), numeric=("item_release_year",)),
        context_features=FeatureGroup(categorical=("ctx_hour", "ctx_weekday")),
    )
