"""Shadow: the challenger scores the same requests and nobody sees it.  How do the two compare?

What follows from the numbers is decided in ``ranking.shadow_checks``.
"""

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from ranking import metrics, toplists
from ranking.measurements import Estimate
from ranking.placements import FloatArray, IntArray, checked_codes, checked_scores
from ranking.ratios import LEAST_USERS, RatioSums
from ranking.values import Value


class FeatureCoverage(Value):
    """How often a feature was known, live and in training."""

    name: str
    live: float = Field(ge=0, le=1)
    training: float = Field(ge=0, le=1)


class ShadowSums(Value):
    """What a gateway counted while the challenger scored along."""

    requests: NonNegativeInt = Field(description="Requests that were chosen to be scored.")
    scored: NonNegativeInt = Field(description="Of those, the ones the challenger answered.")
    failed: NonNegativeInt = Field(description="Of those, the ones on which it raised.")
    latency_p99_milliseconds: NonNegativeFloat | None = Field(description="None is not measured.")
    features: tuple[FeatureCoverage, ...] | None = Field(default=None, description="None is not counted.")


class ShadowComparison(Value):
    """Both models on the same live requests.  ``None`` is not measured."""

    sums: ShadowSums
    rank_correlation: float | None = Field(description="Mean Spearman correlation within requests.")
    top_overlap: float | None = Field(description="Share of the champion's top of a list that the challenger keeps.")
    top: PositiveInt = Field(description="Length of that top.")
    stability_index: float | None = Field(description="PSI of the challenger's scores against the champion's.")
    own_stability_index: float | None = Field(
        description="PSI of the challenger's live scores against its own on the holdout: a feature that breaks "
        "between training and serving shows here."
    )
    log_loss: Estimate | None = Field(
        default=None, description="Challenger - champion on matured labels, as a share of the champion's."
    )

    @property
    def coverage(self) -> float | None:
        """Share of the chosen requests that were scored; ``None`` without requests."""
        return self.sums.scored / self.sums.requests if self.sums.requests else None


def compare_shadow(
    sums: ShadowSums,
    champion_scores: ArrayLike,
    challenger_scores: ArrayLike,
    requests: ArrayLike,
    *,
    holdout_scores: ArrayLike | None = None,
    live_scores: ArrayLike | None = None,
    log_loss: Estimate | None = None,
    top: int = 10,
) -> ShadowComparison:
    """Compare two models' scores of the same candidates.

    Args:
        sums: what the gateway counted.
        champion_scores: (N,) scores of the candidates of the scored requests.
        challenger_scores: (N,) the challenger's.
        requests: (N,) code 0…G-1 of the request of each candidate.
        holdout_scores: (M,) the challenger's scores on its holdout.
        live_scores: (L,) its live scores of rows that came about like those; without them, of all candidates.
        log_loss: from :func:`paired_log_loss`, once labels are final.
        top: length of the top that is compared.

    Raises:
        ComparisonError: scores that are no numbers, or not one of each model per candidate.
    """
    old = checked_scores(np.asarray(champion_scores), np.size(champion_scores), "champion scores")
    new = checked_scores(np.asarray(challenger_scores), len(old), "challenger scores")
    groups = checked_codes(np.asarray(requests), len(old), "request")
    overlap = shift = own = None
    if len(old):
        overlap = toplists.top_overlap(toplists.lists(old, groups), toplists.lists(new, groups), top)
        shift = metrics.population_stability(old, new)
        alike = new if live_scores is None else live_scores
        own = None if holdout_scores is None else metrics.population_stability(holdout_scores, alike)
    return ShadowComparison(
        sums=sums,
        rank_correlation=rank_correlation(old, new, groups),
        top_overlap=overlap,
        top=top,
        stability_index=shift,
        own_stability_index=own,
        log_loss=log_loss,
    )


def rank_correlation(left: FloatArray, right: FloatArray, groups: IntArray) -> float | None:
    """Mean Spearman correlation within groups, ties sharing their mean rank; ``None`` if no group has one.

    Args:
        left: (N,) scores of one model.
        right: (N,) scores of the other.
        groups: (N,) codes 0…G-1.
    """
    if not len(groups):
        return None
    x, y = _centred_ranks(left, groups), _centred_ranks(right, groups)
    both = np.bincount(groups, x * y)
    spread = np.sqrt(np.bincount(groups, x * x) * np.bincount(groups, y * y))
    known = spread > 0
    return float((both[known] / spread[known]).mean()) if known.any() else None


def paired_log_loss(
    users: ArrayLike, labels: ArrayLike, champion_scores: ArrayLike, challenger_scores: ArrayLike
) -> Estimate | None:
    """Log loss of the challenger less the champion's, over the champion's, with an error between users.

    ``None`` with too few users.  On impressions that the champion chose: a safety check, no ranking of models.
    """
    y = np.asarray(labels).astype(bool)
    codes = checked_codes(np.asarray(users), len(y), "user")
    old = metrics.log_losses(y, checked_scores(np.asarray(champion_scores), len(y), "champion scores"))
    new = metrics.log_losses(y, checked_scores(np.asarray(challenger_scores), len(y), "challenger scores"))
    seen = np.bincount(codes) > 0
    sums = RatioSums.of(np.bincount(codes, new - old)[seen], np.bincount(codes, old)[seen])
    ratio = sums.ratio
    if sums.users < LEAST_USERS or ratio is None:
        return None
    spread = float(sums.gradient @ sums.covariance @ sums.gradient)
    se = float(np.sqrt(max(spread, 0.0) / sums.users))
    return Estimate(value=ratio, se=se, low=ratio - 1.96 * se, high=ratio + 1.96 * se)


def _centred_ranks(scores: FloatArray, groups: IntArray) -> FloatArray:
    """(N,) mid-rank of each row in its group, less the group's mean rank."""
    ranked = toplists.lists(scores, groups)
    ranks = np.empty(len(groups))
    ranks[ranked.order] = ranked.tie_first + (ranked.tie_rows - 1) / 2
    centred: FloatArray = (ranked.length[groups] - 1) / 2 - ranks
    return centred
