"""The fair-comparison contract: each breach is refused by name, with numbers."""

from datetime import timedelta

import numpy as np
import pytest

from ranking.errors import ComparisonError, ImmatureLabels, LeakageError, MismatchedRows, SplitError
from ranking.fairness import assert_fair
from tests.ranking.gate_values import START, days, model

ROWS = np.arange(100, 200)


def fair(**changes):
    """A fair comparison, unless changed: learnt until day 8, 24 h gap, holdout on day 9, cut-off on day 11."""
    fields = {
        "holdout": days(9, 10),
        "cutoff": START + timedelta(days=11),
        "gap_hours": 24.0,
        "label_maturity_hours": 24.0,
        "champion": model("1", days(0, 7)),
        "challenger": model("2", days(1, 8)),
        "challenger_features": days(1, 8),
        "challenger_row_ids": ROWS,
        "champion_features": days(0, 7),
        "champion_row_ids": ROWS.copy(),
        "trained_row_ids": np.arange(100),
    }
    assert_fair(**(fields | changes))


def test_a_fair_comparison_passes():
    fair()
    fair(champion=None, champion_row_ids=None)


def test_one_day_of_overlap_with_the_champions_training_window_is_refused_by_name():
    with pytest.raises(LeakageError) as refused:
        fair(champion=model("1", days(0, 10)))
    assert "champion version 1" in str(refused.value)


def test_a_challenger_inside_the_gap_is_refused_by_name():
    with pytest.raises(LeakageError) as refused:
        fair(challenger=model("2", days(1, 8.5)))
    assert "challenger version 2" in str(refused.value)
    assert "12" in str(refused.value)


def test_a_champion_without_a_recorded_window_is_left_to_the_verdict():
    fair(champion=model("1", learnt=None))


def test_a_challenger_without_a_recorded_window_is_refused():
    with pytest.raises(LeakageError, match="Challenger version 2 has no recorded training window"):
        fair(challenger=model("2", learnt=None))


@pytest.mark.parametrize("who", ["champion", "challenger"])
def test_features_fitted_on_the_holdouts_time_are_refused_by_name(who):
    fair(**{f"{who}_features": days(1, 9)})
    with pytest.raises(LeakageError, match=rf"vocabularies and scalers of {who} version \d .* 2\.4 h of the holdout"):
        fair(**{f"{who}_features": days(1, 9.1)})


def test_a_champion_without_a_recorded_window_is_still_asked_what_its_bundle_was_fitted_on():
    with pytest.raises(LeakageError, match="vocabularies and scalers of champion version 1"):
        fair(champion=model("1", learnt=None), champion_features=days(0, 10))
    with pytest.raises(LeakageError, match="champion version 1 does not say"):
        fair(champion=model("1", learnt=None), champion_features=None)


def test_labels_that_may_still_turn_into_clicks_are_refused_with_how_much_too_late():
    with pytest.raises(ImmatureLabels, match="its last 6 h may still turn into clicks"):
        fair(label_maturity_hours=30.0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS[:-1], "The champion scored 99 rows and the challenger 100, of which 99 are the same"),
        (ROWS + 50, "of which 50 are the same"),
        (ROWS[::-1], "in the same order"),
        (None, "came without row ids"),
    ],
)
def test_models_that_scored_different_rows_are_refused(rows, said):
    with pytest.raises(MismatchedRows, match=said):
        fair(champion_row_ids=rows)


def test_a_random_split_is_refused():
    with pytest.raises(LeakageError, match="trained on 5 of the 100 holdout rows, such as row 100"):
        fair(trained_row_ids=np.arange(50, 105))


def test_the_errors_belong_to_the_tree():
    assert issubclass(MismatchedRows, ComparisonError)
    assert issubclass(ImmatureLabels, SplitError)
