"""The fair-comparison contract: what must hold before two models' numbers may be put side by side.

Without it the numbers lie: a random split measured -0.08, and a champion that had seen the holdout
-0.15, where the truth was +0.02.
"""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranking.errors import ImmatureLabels, LeakageError, MismatchedRows
from ranking.results import ModelRef
from ranking.split import assert_unseen
from ranking.times import Window, as_utc


def assert_fair(
    *,
    holdout: Window,
    cutoff: datetime,
    gap_hours: float,
    label_maturity_hours: float,
    champion: ModelRef | None,
    challenger: ModelRef,
    challenger_features: Window,
    challenger_row_ids: NDArray[Any],
    champion_features: Window | None = None,
    champion_row_ids: NDArray[Any] | None = None,
    trained_row_ids: NDArray[Any] | None = None,
) -> None:
    """Refuse an unfair comparison.

    A champion whose training window nobody recorded passes: the verdict will not promote over it.

    Args:
        holdout: time span of the holdout.
        cutoff: the moment up to which the data are known.
        gap_hours: time to keep free between training and holdout.
        label_maturity_hours: time after which a label is final.
        champion: who serves; ``None`` for the first model ever.
        challenger: who was just trained.
        challenger_features: time span that its bundle says vocabularies and scalers were fitted on.  History
            features need no cut-off of their own: each is as of strictly before its row.
        challenger_row_ids: (N,) rows the challenger scored.
        champion_features: the same of the champion's bundle.
        champion_row_ids: (N,) rows the champion scored.
        trained_row_ids: (M,) rows of the same snapshot that the challenger learnt from.

    Raises:
        LeakageError: a model learnt from the holdout's time, or a holdout row was trained on.
        ImmatureLabels: the holdout ends too late for its labels to be final.
        MismatchedRows: the two models did not score the same rows in the same order.
    """
    _assert_mature(holdout, cutoff, label_maturity_hours)
    if challenger.learnt is None:
        raise LeakageError(
            f"Challenger version {challenger.version} has no recorded training window, so nobody can tell whether it "
            "has seen the holdout. Train it again with this version of feedloop."
        )
    assert_unseen(holdout, challenger.learnt, gap_hours, f"challenger version {challenger.version}")
    if champion is not None and champion.learnt is not None:
        assert_unseen(holdout, champion.learnt, gap_hours, f"champion version {champion.version}")
    _assert_features_end_before(holdout, challenger_features, f"challenger version {challenger.version}")
    if champion is not None:
        _assert_features_end_before(holdout, champion_features, f"champion version {champion.version}")
        _assert_same_rows(champion_row_ids, challenger_row_ids)
    if trained_row_ids is not None:
        _assert_not_trained_on(challenger_row_ids, trained_row_ids, challenger)


def _assert_mature(holdout: Window, cutoff: datetime, label_maturity_hours: float) -> None:
    mature = cutoff - timedelta(hours=label_maturity_hours)
    if holdout.end > mature:
        late = (holdout.end - mature) / timedelta(hours=1)
        raise ImmatureLabels(
            f"The holdout ends {as_utc(holdout.end)}, but labels are final only {label_maturity_hours:g} h before the "
            f"cut-off {as_utc(cutoff)}: its last {late:g} h may still turn into clicks. End the holdout earlier."
        )


def _assert_features_end_before(holdout: Window, fitted: Window | None, who: str) -> None:
    """The bundle's own word, which its digest covers; the registry's record could be changed."""
    if fitted is None:
        raise LeakageError(f"The bundle of {who} does not say what its vocabularies and scalers were fitted on.")
    assert_unseen(holdout, fitted, 0.0, f"the vocabularies and scalers of {who}")


def _assert_same_rows(champion: NDArray[Any] | None, challenger: NDArray[Any]) -> None:
    if champion is None:
        raise MismatchedRows("The champion's scores came without row ids: nobody can tell what they belong to.")
    if np.array_equal(champion, challenger):
        return
    shared = len(np.intersect1d(champion, challenger))
    raise MismatchedRows(
        f"The champion scored {len(champion):,} rows and the challenger {len(challenger):,}, of which {shared:,} are "
        "the same rows: both must score the same holdout rows in the same order."
    )


def _assert_not_trained_on(holdout: NDArray[Any], trained: NDArray[Any], challenger: ModelRef) -> None:
    shared = np.intersect1d(holdout, trained)
    if len(shared):
        raise LeakageError(
            f"Challenger version {challenger.version} was trained on {len(shared):,} of the {len(holdout):,} holdout "
            f"rows, such as row {shared[0]}. Split by time, not at random."
        )
