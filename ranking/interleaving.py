"""Team-draft interleaving: both models rank for the same user, and clicks vote.

Every list mixes both models' picks, so user and moment are the same for both; a preference shows with
far fewer users than an A/B test needs.  It says which ranking is preferred, not by how much the
click-through rate would change: a cheap first stage, never a promotion.

Radlinski, Kurup & Joachims, "How does clickthrough data reflect retrieval quality?" (CIKM 2008);
Chapelle, Joachims, Radlinski & Yue, "Large-scale validation and analysis of interleaved search
evaluation" (ACM TOIS 2012).
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeInt

from ranking.errors import ComparisonError
from ranking.hashing import fnv1a
from ranking.measurements import Estimate
from ranking.placements import IntArray, checked_codes
from ranking.values import Value

Item = TypeVar("Item", bound=Hashable)

A, B, NOBODY = 0, 1, -1
"""Whose pick an item was: the champion's, the challenger's, or both would have picked it."""


@dataclass(frozen=True)
class Draft(Generic[Item]):
    """A mixed list: its items in order, and whose pick each was."""

    items: tuple[Item, ...]
    teams: tuple[int, ...]


def draft(champion: Sequence[Item], challenger: Sequence[Item], length: int, *, salt: str, request: str) -> Draft[Item]:
    """Mix two rankings of the same candidates: in each round a coin says who picks first.

    The coins follow from salt and request, so that a repeated request gets the same list.  As long as both
    models name the same item on the same place it is nobody's pick, since a click on it says nothing.

    Args:
        champion: items in the champion's order.
        challenger: items in the challenger's order.
        length: of the mixed list; shorter when the items run out.
        salt: of the rollout.
        request: id of the request.
    """
    same = 0
    while same < min(length, len(champion), len(challenger)) and champion[same] == challenger[same]:
        same += 1
    items, teams = list(champion[:same]), [NOBODY] * same
    taken = set(items)
    queues = {A: iter(champion), B: iter(challenger)}
    coins = _coins(salt, request)
    while len(items) < length:
        first = next(coins)
        before = len(items)
        for team in (first, 1 - first):
            picked = next((item for item in queues[team] if item not in taken), None)
            if picked is not None and len(items) < length:
                items.append(picked)
                teams.append(team)
                taken.add(picked)
        if len(items) == before:
            break
    return Draft(tuple(items), tuple(teams))


def _coins(salt: str, request: str) -> Iterator[int]:
    """An endless row of fair coins, the same for the same request."""
    state = fnv1a(request, fnv1a(salt))
    while True:
        # FNV's low bits mix badly; hashing the digits once more does what it does for buckets.
        state = fnv1a(str(state))
        yield state >> 16 & 1


class Preferred(StrEnum):
    """Whose ranking users prefer."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    UNDECIDED = "undecided"


class Preference(Value):
    """Which ranking won the clicks."""

    preferred: Preferred
    reason: str
    surplus: Estimate | None = Field(
        description="Share of requests won by the challenger plus half of the ties, less one half; None without one."
    )
    z: float | None
    users: NonNegativeInt
    requests: NonNegativeInt
    challenger_wins: NonNegativeInt
    champion_wins: NonNegativeInt


def preference(
    users: ArrayLike, champion_clicks: ArrayLike, challenger_clicks: ArrayLike, *, critical: float = 1.96
) -> Preference:
    """Sign test of requests, clustered by user.  One look: repeated looks need a stricter ``critical``.

    Args:
        users: (N,) code of the user of each request.
        champion_clicks: (N,) clicks on the champion's picks.
        challenger_clicks: (N,) clicks on the challenger's picks.
        critical: |z| that decides.

    Raises:
        ComparisonError: not one code and two counts per request.
    """
    a, b = np.asarray(champion_clicks, dtype=np.float64), np.asarray(challenger_clicks, dtype=np.float64)
    codes = checked_codes(np.asarray(users), len(a), "user")
    if a.shape != b.shape:
        raise ComparisonError(f"{a.shape} and {b.shape} clicks: every request has one count for each model.")
    surplus, z = _surplus(np.sign(b - a), codes, critical)
    wins, losses, people = int((b > a).sum()), int((a > b).sum()), len(np.unique(codes))
    counted = f"the challenger won {wins:,} and lost {losses:,} of {len(a):,} requests of {people:,} users"
    if surplus is None or z is None:
        preferred, reason = Preferred.UNDECIDED, f"Nothing to compare: {counted}."
    else:
        side = Preferred.CHALLENGER if z > 0 else Preferred.CHAMPION
        preferred = side if abs(z) > critical else Preferred.UNDECIDED
        words = "No preference is proven" if preferred is Preferred.UNDECIDED else f"Users prefer the {preferred}"
        reason = f"{words}: {counted} (surplus {surplus.value:+.2%}, z = {z:+.2f} against ±{critical:.2f})."
    return Preference(
        preferred=preferred,
        reason=reason,
        surplus=surplus,
        z=z,
        users=people,
        requests=len(a),
        challenger_wins=wins,
        champion_wins=losses,
    )


def _surplus(signs: np.ndarray, users: IntArray, critical: float) -> tuple[Estimate | None, float | None]:
    """Half the mean sign, with an error between users; none without a win or with one user."""
    if not signs.any():
        return None, None
    mean = float(signs.mean())
    residuals = np.bincount(users, signs - mean)
    clusters = len(np.unique(users))
    if clusters < 2:
        return None, None
    se = float(np.sqrt(clusters / (clusters - 1) * (residuals**2).sum())) / len(signs)
    if se == 0:
        return None, None
    value, half = mean / 2, se / 2
    return Estimate(value=value, se=half, low=value - critical * half, high=value + critical * half), mean / se
