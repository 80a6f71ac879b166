import math
import os
import subprocess
import sys
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from ranking.errors import TrainingError
from ranking.features import ColumnKnobs, FeatureGroup, FeatureSpec, HistoryKnobs, resolve
from ranking.fits import Epoch
from ranking.history import with_history
from ranking.metrics import auc, log_loss
from ranking.models import DeepMLPKnobs, ModelKnobs, TwoTowerKnobs
from ranking.times import Window
from ranking.training import Fitted, TrainingKnobs, fit
from tests.ranking.small_log import WEEK, click_log, fitted, specification

BRIEF = TrainingKnobs(batch_rows=128, max_epochs=2, accelerator="cpu")
MODELS = pytest.mark.parametrize("model", [TwoTowerKnobs(), DeepMLPKnobs()], ids=lambda knobs: knobs.kind)


def fit_on(train: pa.Table, validation: pa.Table, knobs: TrainingKnobs = BRIEF, **more: object) -> Fitted:
    spec = specification(click_log(10))
    return fit(train, validation, spec=spec, learnt=WEEK, model=DeepMLPKnobs(), knobs=knobs, seed=0, **more)


def labelled(rows: int, label: object) -> pa.Table:
    log = click_log(rows)
    return log.set_column(log.column_names.index("click"), "click", pa.array([label] * rows, pa.int8()))


@MODELS
def test_a_ranker_learns_what_drives_the_clicks(model):
    result = fitted(4000, model=model, knobs=TrainingKnobs(batch_rows=128, max_epochs=6, accelerator="cpu"))
    fresh = click_log(3000)
    labels = fresh["click"].to_numpy()
    scores = result.bundle.score(fresh)
    assert auc(labels, scores) > 0.7
    assert log_loss(labels, scores) < 0.95 * log_loss(labels, np.full(3000, labels.mean()))


@MODELS
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(model):
    knobs = BRIEF.model_copy(update={"id_dropout": 0.3})
    first = fitted(600, model=model, knobs=knobs)
    torch.manual_seed(12345)
    again, other = fitted(600, model=model, knobs=knobs), fitted(600, model=model, knobs=knobs, seed=1)
    assert first.bundle.digest == again.bundle.digest
    assert first.bundle.digest != other.bundle.digest


def test_another_process_gives_the_same_bytes():
    program = "from tests.ranking.small_log import fitted; print(fitted(600).training.digest)"
    # Rounding depends on how work is shared among threads, so both sides use as many.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.stdout == fitted(600).training.digest + "\n", "nothing but the digest is on stdout"


def test_a_fit_leaves_no_trace_outside(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    fitted(600)
    printed = capfd.readouterr()
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert printed.out == ""
    assert printed.err == ""


def test_the_best_epoch_is_kept_and_patience_ends_the_fit():
    told: list[Epoch] = []
    knobs = TrainingKnobs(
        batch_rows=32, max_epochs=30, patience_epochs=2, learning_rate=0.05, embedding_learning_rate=0.3,
        accelerator="cpu",
    )  # fmt: skip
    log = click_log(1500)
    validation = log.slice(1200)
    result = fit_on(log.slice(0, 1200), validation, knobs, on_epoch=told.append)
    training = result.training
    losses = [epoch.validation_log_loss for epoch in training.epochs]
    assert tuple(told) == training.epochs
    assert [epoch.number for epoch in told] == list(range(len(told)))
    assert training.best_epoch == int(np.argmin(losses))
    assert len(losses) == training.best_epoch + 1 + knobs.patience_epochs < knobs.max_epochs
    labels, scores = validation["click"].to_numpy(), result.bundle.score(validation)
    assert log_loss(labels, scores) == pytest.approx(min(losses), abs=1e-6)
    assert auc(labels, scores) == pytest.approx(training.epochs[training.best_epoch].validation_auc, abs=1e-6)


def test_the_training_says_what_was_done():
    result = fitted(600)
    training = result.training
    assert training.digest == result.bundle.digest
    assert (training.architecture, training.device, training.seed, training.rows) == ("deep_mlp", "cpu", 0, 480)
    assert training.parameters == sum(parameter.numel() for parameter in result.bundle.net.parameters())
    assert training.learnt == WEEK
    assert training.warm_started_from is None
    assert training.rows_per_second > 0
    assert training.epochs[0].train_log_loss > training.epochs[-1].train_log_loss


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_part_without_rows_is_refused(part):
    log = click_log(100)
    parts = {"train": log, "validation": log} | {part: log.slice(0, 0)}
    with pytest.raises(TrainingError, match=f"0 {part} rows"):
        fit_on(parts["train"], parts["validation"])


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_teaches_nothing(label):
    with pytest.raises(TrainingError, match=f"All 100 train rows have the label {label}"):
        fit_on(labelled(100, label), click_log(50))


def test_null_labels_are_counted():
    with pytest.raises(TrainingError, match="100 of 100 train labels"):
        fit_on(labelled(100, None), click_log(50))


def test_a_validation_slice_of_one_class_has_no_auc():
    assert all(epoch.validation_auc is None for epoch in fit_on(click_log(400), labelled(50, 1)).training.epochs)


def test_a_fit_that_diverges_is_an_error_with_the_epoch():
    wild = BRIEF.model_copy(update={"learning_rate": 1e30, "embedding_learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"epoch 0: the fit diverged.*learning_rate"):
        fit_on(click_log(600), click_log(50), wild)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_asking_for_a_gpu_where_there_is_none_is_an_error():
    with pytest.raises(TrainingError, match="finds no GPU"):
        fit_on(click_log(100), click_log(50), BRIEF.model_copy(update={"accelerator": "gpu"}))


def test_narrow_arithmetic_learns_the_same():
    log = click_log(1500)
    scores = [
        fit_on(log, log.slice(1200), BRIEF.model_copy(update={"precision": precision})).bundle.score(log)
        for precision in ("float32", "bfloat16")
    ]
    assert np.abs(scores[0] - scores[1]).max() > 0
    assert np.corrcoef(scores)[0, 1] > 0.999


@MODELS
def test_a_warm_start_knows_the_champions_values_by_name(model):
    log = click_log(1500)
    champion = fitted(1500, model=model).bundle
    # Another order of frequencies, some values gone, some new: every slot means something else.
    later = log.filter(pa.compute.not_equal(log["user_id"], "u3")).slice(700)
    frozen = TrainingKnobs(
        batch_rows=512, max_epochs=1, learning_rate=1e-9, embedding_learning_rate=1e-9, accelerator="cpu"
    )
    result = fit(
        later, log.slice(1200), spec=specification(log), learnt=WEEK, model=model, knobs=frozen, seed=9,
        warm_start=champion,
    )  # fmt: skip
    new, old = result.bundle, champion
    assert result.training.warm_started_from == champion.digest
    for name, before in old.net.state_dict().items():
        if name != "embedding.weight":
            np.testing.assert_allclose(new.net.state_dict()[name], before, atol=1e-6)
    slot = new.encoder.vocabularies[0].index.get_loc("u7") + 2 + new.encoder.offsets[0]
    place = old.encoder.vocabularies[0].index.get_loc("u7") + 2 + old.encoder.offsets[0]
    assert slot != place
    np.testing.assert_allclose(
        new.net.embedding.weight[slot].detach(), old.net.embedding.weight[place].detach(), atol=1e-6
    )
    assert "u3" not in new.encoder.vocabularies[0].values


def test_a_warm_start_from_another_shape_is_a_fresh_start():
    champion = fitted(600, model=DeepMLPKnobs(hidden=(8,))).bundle
    log = click_log(600)
    cold, warm = (fit_on(log.slice(0, 480), log.slice(480), warm_start=start) for start in (None, champion))
    assert warm.training.warm_started_from is None
    assert warm.training.digest == cold.training.digest


def movielens() -> Path:
    return Path(os.environ.get("FEEDLOOP_TEST_MOVIELENS", Path(__file__).parents[2] / "data" / "ml100k.parquet"))


@pytest.mark.skipif(not movielens().is_file(), reason="MovieLens 100K is not there; see FEEDLOOP_TEST_MOVIELENS")
@pytest.mark.parametrize(
    ("history", "least_auc", "most_log_loss"), [(True, 0.735, 0.596), (False, 0.64, 0.66)], ids=["history", "logged"]
)
@MODELS
def test_movielens_reaches_its_marks(model: ModelKnobs, history: bool, least_auc: float, most_log_loss: float):
    log = pd.read_parquet(movielens()).sort_values(["timestamp", "user_id", "item_id"], ignore_index=True)
    roles = ColumnKnobs(
        user_features=FeatureGroup(categorical=("user_gender", "user_occupation", "user_zip1"), numeric=("user_age",)),
        item_features=FeatureGroup(categorical=("item_main_genre", "item_genres"), numeric=("item_release_year",)),
        context_features=FeatureGroup(categorical=("ctx_*",)),
    )
    known = HistoryKnobs(enabled=history, item_attributes=("item_main_genre",))
    spec = FeatureSpec(log=resolve(roles, list(log.columns)), history=known)
    built = with_history(ibis.memtable(log), spec)
    rows = built.order_by(["timestamp", "user_id", "item_id"]).to_pyarrow()
    result = fit(
        rows.slice(0, 72_000),
        rows.slice(72_000, 8_000),
        spec=spec,
        learnt=Window(start=log["timestamp"].iloc[0], end=log["timestamp"].iloc[80_000]),
        model=model,
        knobs=TrainingKnobs(accelerator="cpu"),
        seed=0,
    )
    test = rows.slice(80_000)
    labels, scores = test["click"].to_numpy(), result.bundle.score(test)
    reached = auc(labels, scores)
    assert reached is not None
    assert not math.isnan(reached)
    assert reached >= least_auc
    assert log_loss(labels, scores) <= most_log_loss
