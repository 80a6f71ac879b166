"""What a user sees: the top of each group's list, champion's and challenger's.

``groups`` are (N,) codes 0…G-1 of users or requests; every function is O(N log N) and reports
``None`` when no group can be measured.  These numbers are shown, they do not gate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ranking.errors import ComparisonError
from ranking.placements import FloatArray, IntArray, ascending, checked_codes, checked_labels, checked_scores


@dataclass(frozen=True)
class Lists:
    """Rows sorted into lists: by group, best score first.

    Attributes:
        order: (N,) row numbers in list order.
        group: (N,) group of each place.
        place: (N,) 0 is the top of its list.
        tie_first: (N,) place where the run of equal scores around this one starts.
        tie_rows: (N,) length of that run.
        length: (G,) rows of each group.
    """

    order: IntArray
    group: IntArray
    place: IntArray
    tie_first: IntArray
    tie_rows: IntArray
    length: IntArray


def lists(scores: ArrayLike, groups: ArrayLike, order: IntArray | None = None) -> Lists:
    """Sort once; among equal scores the later row comes first.

    Args:
        scores: (N,) predicted click rates.
        groups: (N,) codes of users or requests.
        order: ``ascending`` of the scores and groups, when somebody sorted them already.
    """
    codes = checked_codes(np.asarray(groups), np.size(scores), "group")
    s = checked_scores(np.asarray(scores), len(codes))
    order = (ascending(s, codes) if order is None else order)[::-1]
    group, value = codes[order], s[order]
    length = np.bincount(codes)
    start = _starts(length)
    place = np.arange(len(order)) - start[group]
    new = (np.diff(group, prepend=-1) != 0) | (np.diff(value, prepend=np.nan) != 0)
    run = np.cumsum(new) - 1
    return Lists(order, group, place, place[new][run], np.bincount(run)[run], length)


def ndcg(labels: ArrayLike, ranked: Lists, k: int = 10) -> float | None:
    """Mean NDCG@k over the groups with a click and a non-click.

    Jarvelin & Kekalainen (2002), gain 1 per click, discount 1/log2(place + 2).  Tied rows share the
    discounts of their places (McSherry & Najork 2008), so the order of the rows does not matter.
    """
    y = _labels(labels, ranked, k)
    clicks = np.bincount(ranked.group, y, minlength=len(ranked.length))
    both = (clicks > 0) & (clicks < ranked.length)
    if not both.any():
        return None
    longest = int(ranked.length.max())
    discount = 1 / np.log2(np.arange(longest) + 2.0)
    discount[k:] = 0
    summed = np.concatenate(([0.0], np.cumsum(discount)))
    shared = (summed[ranked.tie_first + ranked.tie_rows] - summed[ranked.tie_first]) / ranked.tie_rows
    gained = np.bincount(ranked.group, y * shared, minlength=len(ranked.length))
    return float((gained[both] / summed[clicks[both].astype(np.int64)]).mean())


def mean_reciprocal_rank(labels: ArrayLike, ranked: Lists) -> float | None:
    """Mean of 1 / place of the first click over the groups with a click and a non-click.

    Among equal scores the click is taken to come last, so that a constant score earns nothing.
    """
    y = _labels(labels, ranked, 1)
    clicks = np.bincount(ranked.group, y, minlength=len(ranked.length))
    both = (clicks > 0) & (clicks < ranked.length)
    if not both.any():
        return None
    start = _starts(ranked.length)
    run = start[ranked.group] + ranked.tie_first  # names each run of ties by its first row
    run_clicks = np.bincount(run, y, minlength=len(run))[run]
    reciprocal = np.where(y, 1 / (ranked.tie_first + ranked.tie_rows - run_clicks + 1), 0)
    best = np.zeros(len(ranked.length))
    np.maximum.at(best, ranked.group, reciprocal)
    return float(best[both].mean())


def top_overlap(champion: Lists, challenger: Lists, k: int = 10) -> float | None:
    """Mean share of the champion's top k that is in the challenger's, over groups longer than k."""
    longer = champion.length > k
    if not longer.any():
        return None
    top = np.zeros(len(champion.order), dtype=bool)
    top[champion.order[champion.place < k]] = True
    kept = challenger.order[challenger.place < k]
    groups = challenger.group[challenger.place < k]
    shared = np.bincount(groups, top[kept], minlength=len(longer))
    return float((shared[longer] / k).mean())


def popularity_share(ranked: Lists, items: ArrayLike, k: int = 10, popular: float = 0.1) -> float | None:
    """Share of the top-k places that go to the most shown items, over groups longer than k.

    Args:
        ranked: the model's lists.
        items: (N,) item codes.
        k: places counted in each list.
        popular: share of the items called popular, by impressions on these rows.
    """
    codes = checked_codes(np.asarray(items), len(ranked.order), "item")
    seen = (ranked.place < k) & (ranked.length > k)[ranked.group]
    if not seen.any():
        return None
    impressions = np.bincount(codes)
    by_impressions = np.argsort(-impressions, kind="stable")
    is_popular = np.zeros(len(impressions), dtype=bool)
    is_popular[by_impressions[: max(1, round(popular * np.count_nonzero(impressions)))]] = True
    return float(is_popular[codes[ranked.order[seen]]].mean())


def _starts(length: IntArray) -> IntArray:
    """Where the list of each group starts; the lists stand in falling order of their groups."""
    return int(length.sum()) - np.cumsum(length)


def _labels(labels: ArrayLike, ranked: Lists, k: int) -> FloatArray:
    """Labels (N,) in list order, as 0.0 and 1.0."""
    y = checked_labels(np.asarray(labels))
    if len(y) != len(ranked.order):
        raise ComparisonError(f"{len(y)} labels for lists of {len(ranked.order)} rows.")
    if k < 1:
        raise ComparisonError(f"the top {k} of a list is nothing: k is at least 1.")
    return y[ranked.order].astype(np.float64)
