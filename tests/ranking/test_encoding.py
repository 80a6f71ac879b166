import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.encoder_fitting import fit_encoder
from ranking.encoding import MISSING, RESERVED, UNSEEN, Encoder, Vocabulary
from ranking.errors import BundleError, TrainingError
from ranking.features import ColumnKnobs, FeatureGroup, FeatureSpec, HistoryKnobs, Owner, resolve
from tests.ranking.small_log import click_log, specification


def vocabulary(column: pa.Array, min_count: int = 1) -> Vocabulary:
    return encoder_of(column, min_count).vocabularies[-1]


def encoder_of(column: pa.Array, min_count: int = 1, numeric: bool = False) -> Encoder:
    size = len(column)
    log = pa.table(
        {"user_id": range(size), "item_id": range(size), "timestamp": range(size), "click": [0] * size, "x": column}
    )
    group = FeatureGroup(numeric=("x",)) if numeric else FeatureGroup(categorical=("x",))
    roles = ColumnKnobs(context_features=group)
    spec = FeatureSpec(log=resolve(roles, log.column_names), history=HistoryKnobs(enabled=False))
    return fit_encoder(log, spec, min_count=min_count)


def slots(known: Vocabulary, values: pa.Array) -> list[int]:
    return known.encode(pa.chunked_array([values])).tolist()


def numbers(fitted_on: list[float | None], later: list[float | None]) -> np.ndarray:
    scaler = encoder_of(pa.array(fitted_on, pa.float64()), numeric=True).scalers[0]
    return scaler.encode(np.array([np.nan if value is None else value for value in later]))


def test_a_vocabulary_is_ordered_by_frequency_and_then_by_value():
    known = vocabulary(pa.array(["b", "c", "a", "c", "b", "d", "c"]))
    assert known.values.tolist() == ["c", "b", "a", "d"]


def test_rare_values_share_the_slot_of_the_unseen():
    known = vocabulary(pa.array(["often", "often", "once"]), min_count=2)
    assert slots(known, pa.array(["often", "once", "never"])) == [RESERVED, UNSEEN, UNSEEN]


def test_null_has_its_own_slot_only_if_train_showed_it():
    assert slots(vocabulary(pa.array(["a", None])), pa.array(["a", None])) == [RESERVED, MISSING]
    assert slots(vocabulary(pa.array(["a", "b"])), pa.array(["a", None])) == [RESERVED, UNSEEN]


@pytest.mark.parametrize("train", [pa.array([3, 3, 5]), pa.array(["3", "3", "5"]), pa.array([3.0, 3.0, 5.0])])
@pytest.mark.parametrize(
    "later",
    [
        pa.array([3, 5, 4]),
        pa.array([3.0, 5.0, 4.5]),
        pa.array(["3", "5", "05"]),
        pa.array([3, 5, 7], pa.uint8()),
        pa.array([3, 5, 2**64 - 1], pa.uint64()),
        pa.array(["3", "5", "x"]).dictionary_encode(),
        pa.array(["3", "5", "3.0"], pa.large_string()),
    ],
)
def test_a_value_meets_the_same_slot_whatever_type_it_comes_in(train, later):
    assert slots(vocabulary(train), later) == [2, 3, UNSEEN]


def test_booleans_meet_their_numbers():
    assert slots(vocabulary(pa.array([True, True, False])), pa.array([1.0, 0.0, 2.0])) == [2, 3, UNSEEN]


def test_numbers_that_are_not_whole_are_known_by_their_text():
    assert slots(vocabulary(pa.array([1.5, 2.0, 2.0])), pa.array([2, 1])) == [2, UNSEEN]
    assert slots(vocabulary(pa.array([1.5, 2.0, 2.0])), pa.array([1.5, None])) == [3, UNSEEN]


def test_a_column_of_lists_is_refused_with_its_name():
    with pytest.raises(TrainingError, match="'x' holds list"):
        vocabulary(pa.array([[1], [2]]))


def test_ids_beyond_what_a_float_holds_are_not_confused():
    known = vocabulary(pa.array([2**53, 2**53 + 1]))
    assert sorted(slots(known, pa.array([2**53, 2**53 + 1]))) == [2, 3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1), st.lists(st.text(max_size=3)))
def test_encoding_agrees_with_a_dictionary(train, later):
    known = vocabulary(pa.array(train, pa.string()))
    oracle = {value: place + RESERVED for place, value in enumerate(known.values)}
    expected = [MISSING if value is None else oracle[value] for value in train] + [oracle.get(v, UNSEEN) for v in later]
    assert slots(known, pa.array([*train, *later], pa.string())) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1), st.randoms())
def test_row_order_does_not_change_a_vocabulary(values, random):
    shuffled = random.sample(values, len(values))
    assert vocabulary(pa.array(values)).values.tolist() == vocabulary(pa.array(shuffled)).values.tolist()


def test_a_number_is_standardised_by_train():
    train = [1.0, 2.0, 3.0, 4.0]
    scaled = numbers(train, [2.5, 4.0])
    np.testing.assert_allclose(scaled[:, 0], [0, 1.5 / np.std(train)], rtol=1e-6)


def test_a_heavy_tail_is_read_through_a_logarithm_and_a_symmetric_column_is_not():
    tail = np.random.default_rng(0).lognormal(2, 1.5, 500)
    assert encoder_of(pa.array(tail), numeric=True).scalers[0].log is True
    assert encoder_of(pa.array(tail - 100), numeric=True).scalers[0].log is False
    assert encoder_of(pa.array(np.log(tail)), numeric=True).scalers[0].log is False


def test_a_missing_number_is_the_mean_with_an_indicator_only_if_train_had_one():
    assert numbers([1.0, 3.0, None], [None, 3.0]).tolist() == [[0, 1], [1, 0]]
    assert numbers([1.0, 3.0], [None, 3.0]).tolist() == [[0], [1]]


@pytest.mark.parametrize("train", [[7.0, 7.0], [None, None]])
def test_a_column_that_taught_nothing_stays_zero_whatever_comes_later(train):
    assert numbers(train, [7.0, 9.0, None])[:, 0].tolist() == [0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=64), min_size=1), st.lists(st.floats(width=64), min_size=1))
def test_no_number_leaves_the_scaler_infinite(train, later):
    assert np.isfinite(numbers([v if abs(v) < 1e100 else 0.0 for v in train], later)).all()


def test_text_in_a_numeric_column_is_refused_with_its_name():
    with pytest.raises(TrainingError, match="numeric column 'x' holds string"):
        encoder_of(pa.array(["one", "two"]), numeric=True)


def test_columns_are_offset_into_one_table_without_overlap():
    log = click_log()
    encoder = fit_encoder(log, specification(log))
    ids = encoder.encode(log).ids
    assert ids.dtype == np.int64
    assert encoder.encode(log).numbers.dtype == np.float32
    ends = [*encoder.offsets[1:], encoder.table_rows]
    for column, start, end in zip(ids.T, encoder.offsets, ends, strict=True):
        assert column.min() >= start
        assert column.max() < end


def test_columns_stand_grouped_by_owner_and_owners_name_each_of_them():
    log = click_log()
    encoder = fit_encoder(log, specification(log))
    columns = encoder.encode(log)
    assert encoder.id_owners == (Owner.USER, Owner.USER, Owner.ITEM, Owner.ITEM, Owner.CONTEXT)
    assert len(encoder.number_owners) == columns.numbers.shape[1]
    assert encoder.number_owners == (Owner.USER, Owner.USER, Owner.ITEM)  # the age has an indicator


def test_missing_columns_are_all_named():
    log = click_log()
    encoder = fit_encoder(log, specification(log))
    with pytest.raises(BundleError, match=r"lack 2 of the 7 columns.*user_city, item_price"):
        encoder.encode(log.drop_columns(["user_city", "item_price"]))


def test_an_encoder_comes_back_from_json_the_same():
    log = click_log()
    encoder = fit_encoder(log, specification(log))
    back = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert back.to_json() == encoder.to_json()
    np.testing.assert_array_equal(back.encode(log).ids, encoder.encode(log).ids)
    np.testing.assert_array_equal(back.encode(log).numbers, encoder.encode(log).numbers)


def test_json_of_something_else_is_refused():
    with pytest.raises(BundleError, match="does not describe an encoder"):
        Encoder.from_json({"vocabularies": [{"name": "x"}], "scalers": []})


def test_an_encoder_learns_nothing_from_rows_it_was_not_fitted_on():
    log = click_log()
    encoder = fit_encoder(log.slice(0, 500), specification(log))
    before = encoder.to_json()
    encoder.encode(log)
    assert encoder.to_json() == before


def test_a_row_is_encoded_alike_alone_and_among_others():
    log = click_log(200)
    encoder = fit_encoder(log, specification(log))
    together = encoder.encode(log)
    for place in (0, 7, 199):
        alone = encoder.encode(log.slice(place, 1))
        np.testing.assert_array_equal(alone.ids[0], together.ids[place])
        np.testing.assert_array_equal(alone.numbers[0], together.numbers[place])


def test_no_rows_to_fit_on_is_refused():
    log = click_log()
    with pytest.raises(TrainingError, match="0 train rows"):
        fit_encoder(log.slice(0, 0), specification(log))


def test_pandas_text_and_chunks_are_read_like_arrow_text():
    log = click_log()
    encoder = fit_encoder(log, specification(log))
    chunked = pa.concat_tables([log.slice(0, 10), log.slice(10)])
    from_pandas = pa.Table.from_pandas(log.drop_columns(["timestamp"]).to_pandas(), preserve_index=False)
    np.testing.assert_array_equal(encoder.encode(chunked).ids, encoder.encode(log).ids)
    np.testing.assert_array_equal(encoder.encode(from_pandas).ids, encoder.encode(log).ids)
