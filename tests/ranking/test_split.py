from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ranking.errors import LeakageError, SplitError
from ranking.split import SplitKnobs, assert_unseen, split_by_time
from ranking.times import Window

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000
KNOBS = SplitKnobs(min_rows=1)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def times(hours: list[float]) -> np.ndarray:
    start = int(START.timestamp() * 1_000_000)
    return start + np.sort(np.array([int(hour * HOUR) for hour in hours], dtype=np.int64))


def test_eighty_percent_by_time_is_learnt_from_and_the_rest_is_held_out() -> None:
    split = split_by_time(times(list(range(100))), cutoff=at(100), knobs=KNOBS)
    assert (split.train_rows, split.validation_rows, split.holdout_rows) == (72, 8, 20)
    assert split.holdout == Window(start=at(80), end=at(100))
    assert split.learnt == Window(start=at(0), end=at(80))


def test_a_holdout_can_be_a_number_of_days() -> None:
    split = split_by_time(times(list(range(100))), cutoff=at(100), knobs=SplitKnobs(holdout_days=1, min_rows=1))
    assert split.holdout == Window(start=at(76), end=at(100))


def test_immature_labels_belong_to_nobody_and_the_larger_of_delay_and_maturity_counts() -> None:
    split = split_by_time(times(list(range(100))), cutoff=at(100), knobs=KNOBS, label_delay_hours=10)
    assert split.holdout.end == at(90)
    assert split.train_rows + split.validation_rows + split.holdout_rows == 90
    longer = KNOBS.model_copy(update={"label_maturity_hours": 20.0})
    assert split_by_time(times(list(range(100))), cutoff=at(100), knobs=longer, label_delay_hours=10).holdout.end == at(
        80
    )


def test_the_gap_is_left_out_between_learning_and_holdout() -> None:
    knobs = KNOBS.model_copy(update={"gap_hours": 5.0})
    split = split_by_time(times(list(range(100))), cutoff=at(100), knobs=knobs)
    assert split.validation.end == at(75)
    assert split.holdout.start == at(80)
    assert split.train_rows + split.validation_rows == 75


@given(st.lists(st.integers(0, 200), min_size=30, max_size=200), st.floats(0, 20), st.floats(0, 20))
def test_no_instant_is_on_two_sides_of_a_cut(hours: list[int], gap: float, maturity: float) -> None:
    rows = times([float(hour) for hour in hours])
    knobs = SplitKnobs(min_rows=1, gap_hours=gap, label_maturity_hours=maturity)
    try:
        split = split_by_time(rows, cutoff=at(201), knobs=knobs)
    except SplitError:
        return
    moments = [START + timedelta(microseconds=int(row - times([0.0])[0])) for row in rows]

    def count(window: Window) -> int:
        return sum(window.start <= moment < window.end for moment in moments)

    assert (count(split.train), count(split.validation), count(split.holdout)) == (
        split.train_rows,
        split.validation_rows,
        split.holdout_rows,
    )
    assert split.train.end == split.validation.start <= split.validation.end
    assert split.validation.end + timedelta(hours=gap) <= split.holdout.start + timedelta(microseconds=1)
    assert split.holdout.end + timedelta(hours=maturity) <= at(201) + timedelta(microseconds=1)
    assert_unseen(split.holdout, split.learnt, 0.0, "the challenger")


def test_too_few_rows_are_refused_with_their_counts() -> None:
    with pytest.raises(SplitError, match=r"20 rows cannot be split: train 14, validation 2, holdout 4 rows.*100"):
        split_by_time(times(list(range(20))), cutoff=at(20), knobs=SplitKnobs())


def test_only_immature_rows_are_refused() -> None:
    with pytest.raises(SplitError, match="None of the 20 rows is older than 48 h"):
        split_by_time(times(list(range(20))), cutoff=at(20), knobs=KNOBS, label_delay_hours=48)


def test_a_gap_that_swallows_everything_is_refused() -> None:
    with pytest.raises(SplitError, match="No row is left to learn from"):
        split_by_time(times(list(range(20))), cutoff=at(20), knobs=KNOBS.model_copy(update={"gap_hours": 100.0}))


def test_a_length_and_a_share_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="keep one of them"):
        SplitKnobs(holdout_days=3, holdout_share=0.2)


def test_a_holdout_that_a_model_has_seen_is_refused_by_name_and_by_how_much() -> None:
    learnt = Window(start=at(0), end=at(80))
    assert_unseen(Window(start=at(80), end=at(90)), learnt, 0.0, "champion version 3")
    with pytest.raises(LeakageError, match=r"champion version 3 learnt from rows until .*: 24\.0 h of the holdout"):
        assert_unseen(Window(start=at(56), end=at(90)), learnt, 0.0, "champion version 3")
    with pytest.raises(LeakageError, match=r"plus the gap of 2 h: 2\.0 h"):
        assert_unseen(Window(start=at(80), end=at(90)), learnt, 2.0, "champion version 3")


def test_rows_of_the_warm_up_give_history_and_are_not_learnt_from() -> None:
    knobs = KNOBS.model_copy(update={"warmup_days": 1.0})
    split = split_by_time(times(list(range(100))), cutoff=at(100), knobs=knobs)
    assert split.train.start == at(24)
    assert split.train_rows + split.validation_rows == 56
    assert split.holdout_rows == 20
