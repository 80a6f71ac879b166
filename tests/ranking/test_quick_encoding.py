"""The quick encoder gives what the encoder gives, whatever the cells are."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.bundle import Bundle
from ranking.encoder_fitting import fit_encoder
from ranking.errors import BundleError
from ranking.features import Feature, FeatureSpec, HistoryKnobs, Kind, Owner, Schema
from ranking.quick_encoding import QuickEncoder, QuickScorer
from tests.tasks.tiny_models import tiny_bundle

LOG = Schema(
    user="user",
    item="item",
    time="time",
    label="label",
    request=None,
    features=(
        Feature(name="kind", owner=Owner.ITEM, kind=Kind.CATEGORICAL),
        Feature(name="price", owner=Owner.ITEM, kind=Kind.NUMERIC),
        Feature(name="age", owner=Owner.USER, kind=Kind.NUMERIC),
        Feature(name="constant", owner=Owner.USER, kind=Kind.NUMERIC),
    ),
)
TRAIN = pa.table(
    {
        "user": [1, 2, 3, 1, 2, 3, 1, 7] * 5,
        "item": ["a", "b", "07", "7", "a", "b", None, "x"] * 5,
        "kind": [None, "1", "2", "2", "1", None, "text", "2"] * 5,
        "price": [0.0, 1.0, 500.0, 2.0, None, 1.0, 0.5, 9000.0] * 5,
        "age": [20.0, 30.0, 25.0, 41.0, 33.0, 22.0, 20.5, 60.0] * 5,
        "constant": [3.0] * 40,
    }
)
ENCODER = fit_encoder(TRAIN, FeatureSpec(log=LOG, history=HistoryKnobs(enabled=False)))

WHOLE = st.one_of(st.none(), st.integers(-3, 9), st.just(2**60))
FLOATS = st.one_of(st.none(), st.sampled_from([1.0, 2.5, -1.0, float("nan"), float("inf"), 1e300]))
TEXTS = st.one_of(st.none(), st.sampled_from(["a", "b", "7", "07", "1", "2", "-3", "text", "x", "", "1.0"]))
NUMBERS = st.one_of(FLOATS, st.none())


def column(cells: st.SearchStrategy[Any], kind: pa.DataType, rows: int) -> st.SearchStrategy[pa.Array]:
    return st.lists(cells, min_size=rows, max_size=rows).map(lambda some: pa.array(some, kind))


def ids(rows: int) -> st.SearchStrategy[pa.Array]:
    return st.one_of(
        column(WHOLE, pa.int64(), rows),
        column(FLOATS, pa.float64(), rows),
        column(TEXTS, pa.string(), rows),
        column(st.none(), pa.null(), rows),
        column(st.one_of(st.none(), st.booleans()), pa.bool_(), rows),
    )


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 12))
    return pa.table(
        {name: draw(ids(rows)) for name in ("user", "item", "kind")}
        | {name: draw(column(NUMBERS, pa.float64(), rows)) for name in ("price", "age", "constant")}
    )


@settings(deadline=None, max_examples=300)
@given(tables())
def test_every_cell_gets_the_number_that_the_encoder_gives_it(rows: pa.Table) -> None:
    quick, slow = QuickEncoder(ENCODER).encode(rows), ENCODER.encode(rows)
    assert np.array_equal(quick.ids, slow.ids)
    assert np.array_equal(quick.numbers, slow.numbers)
    assert quick.numbers.dtype == slow.numbers.dtype


def test_the_encoder_above_meets_every_way_a_cell_can_go() -> None:
    assert any(scaler.log for scaler in ENCODER.scalers)
    assert any(scaler.sees_missing for scaler in ENCODER.scalers)
    assert any(scaler.clip == 0 for scaler in ENCODER.scalers)
    assert {vocabulary.values.dtype.kind for vocabulary in ENCODER.vocabularies} == {"i", "O"}
    assert {vocabulary.sees_missing for vocabulary in ENCODER.vocabularies} == {True, False}


def test_scores_are_those_of_the_bundle_to_the_last_bit() -> None:
    bundle: Bundle = tiny_bundle(1)
    rows = pa.table(
        {"user_id": [1, 2, 99], "item_id": ["item-1", "new", None], "age": [20.0, None, 30.0], "device": ["phone"] * 3}
    )
    assert np.array_equal(QuickScorer(bundle).score(rows), bundle.score(rows))
    assert QuickScorer(bundle).score(rows.slice(0, 0)).tolist() == []


def test_what_cannot_be_read_is_refused_in_the_same_words() -> None:
    for broken in (TRAIN.drop_columns(["age"]), TRAIN.set_column(4, "age", pa.array([["x"]] * 40))):
        with pytest.raises(BundleError) as slow:
            ENCODER.encode(broken)
        with pytest.raises(BundleError) as quick:
            QuickEncoder(ENCODER).encode(broken)
        assert str(quick.value) == str(slow.value)
