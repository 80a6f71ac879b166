"""Two models on a simulated holdout whose true difference is known.

Labels come from a logit with effects of user, item and row; each model sees that logit with errors
of its own, which also differ by user, by item and by row; the stronger model sees one more signal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from ranking import metrics
from ranking.placements import BoolArray, FloatArray, IntArray
from ranking.scored import Scored
from ranking.values import Value

_SAMPLE = 20_000
"""Rows drawn to find how much signal gives a wanted AUC; its error is about 0.003 AUC."""


_OWNED = 0.9
"""Intraclass correlation above which being in a slice belongs to the user, or to the item."""


class Shares(Value):
    """How a variance divides among users, items and single rows; the three add up to 1."""

    user: float = Field(ge=0, le=1)
    item: float = Field(ge=0, le=1)

    @property
    def row(self) -> float:
        """What is left for single rows."""
        return max(1 - self.user - self.item, 0.0)


class SliceShape(Value):
    """How large a slice is, and what it is made of."""

    share: float = Field(ge=0, le=1, description="Share of the users, items or rows in it.")
    of: Literal["users", "items", "rows"] = Field(
        default="users", description="Whole users, whole items, or single rows."
    )


class HoldoutShape(Value):
    """What matters of a holdout for the error of a comparison."""

    rows: PositiveInt
    users: PositiveInt
    items: PositiveInt
    click_rate: float = Field(gt=0, lt=1)
    auc: float = Field(gt=0.5, lt=1, description="Of the champion.")
    user_spread: float = Field(default=1.0, ge=0, description="Standard deviation of log impressions per user.")
    item_spread: float = Field(default=1.0, ge=0, description="Standard deviation of log impressions per item.")
    signal: Shares = Field(default=Shares(user=0.3, item=0.3), description="Where the champion's logits vary.")
    change: Shares = Field(default=Shares(user=0.1, item=0.2), description="Where the two models' logits differ.")
    change_sd: float = Field(default=0.3, gt=0, description="Standard deviation of the logits' difference.")
    slices: dict[str, SliceShape] = Field(
        default={"new_users": SliceShape(share=0.1), "cold_items": SliceShape(share=0.1, of="items")},
        description="By name; the slices of one column, such as device=phone and device=tv, do not overlap.",
    )


@dataclass(frozen=True)
class World:
    """A shape with its free numbers found, ready to be drawn from.

    ``weak`` and ``strong`` are intercept and slope that calibrate each model's logits.
    """

    shape: HoldoutShape
    intercept: float
    signal_sd: float
    extra_sd: float
    weak: tuple[float, float]
    strong: tuple[float, float]


@dataclass(frozen=True)
class Draw:
    """Labels, logits and clusters of simulated rows, all (N,)."""

    labels: FloatArray
    weak: FloatArray
    strong: FloatArray
    users: IntArray
    items: IntArray


def world(shape: HoldoutShape, auc_gap: float, seed: int) -> World:
    """Find the signals that give the weaker model ``shape.auc`` and the stronger ``auc_gap`` more."""

    def weak_auc(signal_sd: float) -> float:
        return _population(shape, signal_sd, 0.0, seed).auc(strong=False)

    def gap(extra_sd: float) -> float:
        sample = _population(shape, signal_sd, extra_sd, seed)
        return sample.auc(strong=True) - sample.auc(strong=False)

    signal_sd = _bisect(weak_auc, shape.auc, 0.05, 8.0)
    # without an extra signal the models are equal; what the sample says then is the sample's error
    none = gap(0.0)
    extra_sd = _bisect(lambda extra: gap(extra) - none, auc_gap, 0.0, 4.0) if auc_gap > 0 else 0.0
    found = _population(shape, signal_sd, extra_sd, seed)
    return World(
        shape,
        found.intercept,
        signal_sd,
        extra_sd,
        weak=_calibrated(found.chance, found.weak),
        strong=_calibrated(found.chance, found.strong),
    )


def draw(found: World, rows: int, rng: np.random.Generator) -> Draw:
    """Draw rows of a world."""
    shape = found.shape
    users = _clusters(shape.users, shape.user_spread, rows, rng)
    items = _clusters(shape.items, shape.item_spread, rows, rng)

    def effect(shares: Shares, sd: float) -> FloatArray:
        parts = (
            np.sqrt(shares.user) * rng.standard_normal(shape.users)[users]
            + np.sqrt(shares.item) * rng.standard_normal(shape.items)[items]
            + np.sqrt(shares.row) * rng.standard_normal(rows)
        )
        return np.asarray(sd * parts)

    common = found.intercept + effect(shape.signal, found.signal_sd)
    extra = effect(shape.change, found.extra_sd)
    error_sd = shape.change_sd / np.sqrt(2)
    labels = rng.random(rows) < _sigmoid(common + extra)
    weak, strong = common + effect(shape.change, error_sd), common + extra + effect(shape.change, error_sd)
    return Draw(labels.astype(np.float64), weak, strong, users, items)


def scored(found: World, seed: int, *, challenger_is_better: bool) -> Scored:
    """One simulated holdout, scored by both models."""
    rng = np.random.default_rng(seed)
    shape = found.shape
    drawn = draw(found, shape.rows, rng)
    weak = _sigmoid(found.weak[0] + found.weak[1] * drawn.weak)
    strong = _sigmoid(found.strong[0] + found.strong[1] * drawn.strong)
    return Scored(
        labels=drawn.labels,
        champion=weak if challenger_is_better else strong,
        challenger=strong if challenger_is_better else weak,
        users=drawn.users,
        items=drawn.items,
        row_ids=np.arange(shape.rows),
        slices=_slices(shape, drawn, rng),
    )


def _slices(shape: HoldoutShape, drawn: Draw, rng: np.random.Generator) -> dict[str, BoolArray]:
    """Masks (N,): each user, item or row falls into one value of a column at most."""
    codes = {"users": drawn.users, "items": drawn.items, "rows": np.arange(shape.rows)}
    sizes = {"users": shape.users, "items": shape.items, "rows": shape.rows}
    families: dict[tuple[str, str], list[str]] = {}
    for name, part in shape.slices.items():
        families.setdefault((name.split("=", 1)[0], part.of), []).append(name)
    masks: dict[str, BoolArray] = {}
    for (_, of), names in families.items():
        edges = np.cumsum([shape.slices[name].share for name in names])
        # A place beyond the last edge is in none of them.
        place = np.searchsorted(edges, rng.random(sizes[of]), side="right")[codes[of]]
        masks |= {name: place == number for number, name in enumerate(names)}
    return masks


def shape_of(holdout: Scored) -> HoldoutShape:
    """Describe a holdout, so that others like it can be simulated.

    Raises:
        ComparisonError: the arrays are wrong, as in :meth:`Scored.checked`.
    """
    rows = holdout.checked()
    users, items = rows.clusters.users, rows.clusters.items
    champion = rows.challenger if rows.champion is None else rows.champion
    area = metrics.auc(rows.labels, champion) or 0.5
    logits = _logit(champion)
    change = _logit(rows.challenger) - logits
    changed = bool(change.std() > 1e-6)
    return HoldoutShape(
        rows=len(rows.labels),
        users=int(np.count_nonzero(np.bincount(users))),
        items=int(np.count_nonzero(np.bincount(items))),
        click_rate=float(np.clip(rows.labels.mean(), 1e-4, 1 - 1e-4)),
        auc=float(np.clip(area, 0.52, 0.97)),
        user_spread=_spread(users),
        item_spread=_spread(items),
        signal=_variance_shares(logits, users, items),
        change=_variance_shares(change, users, items) if changed else Shares(user=0.1, item=0.2),
        change_sd=float(change.std()) if changed else 0.3,
        slices={name: _slice_shape(mask, users, items) for name, mask in rows.slices.items()},
    )


def _slice_shape(mask: BoolArray, users: IntArray, items: IntArray) -> SliceShape:
    """Share of the rows, and whose property it is to be in the slice: it varies between them, not within."""
    inside = mask.astype(np.float64)
    user, item = _between(inside, users), _between(inside, items)
    of: Literal["users", "items", "rows"] = "rows"
    if max(user, item) > _OWNED:
        of = "users" if user >= item else "items"
    return SliceShape(share=float(inside.mean()), of=of)


def _variance_shares(values: FloatArray, users: IntArray, items: IntArray) -> Shares:
    """Shares of user and item by one-way analysis of variance (method of moments), each on its own."""
    user, item = _between(values, users), _between(values, items)
    total = max(user + item, 1.0)
    return Shares(user=user / total, item=item / total)


def _between(values: FloatArray, codes: IntArray) -> float:
    """Intraclass correlation of values in clusters, within [0, 1]."""
    rows = np.bincount(codes).astype(np.float64)
    sums = np.bincount(codes, values)[rows > 0]
    rows = rows[rows > 0]
    number, groups = rows.sum(), len(rows)
    if groups < 2 or number <= groups:
        return 0.0
    between = float((rows * (sums / rows - values.mean()) ** 2).sum())
    within = float(((values - values.mean()) ** 2).sum()) - between
    mean_between, mean_within = between / (groups - 1), within / (number - groups)
    size = (number - (rows**2).sum() / number) / (groups - 1)
    variance = max((mean_between - mean_within) / size, 0.0)
    return float(variance / (variance + mean_within)) if variance + mean_within > 0 else 0.0


def _spread(codes: IntArray) -> float:
    rows = np.bincount(codes)
    return float(np.log(rows[rows > 0]).std())


def _clusters(number: int, spread: float, rows: int, rng: np.random.Generator) -> IntArray:
    """Codes (rows,) of clusters whose sizes are log-normal."""
    edges = np.cumsum(np.exp(spread * rng.standard_normal(number)))
    return np.asarray(np.searchsorted(edges[:-1], rng.random(rows) * edges[-1], side="right"), dtype=np.int64)


@dataclass(frozen=True)
class _Population:
    """Many rows without clusters: chance of a click and both models' logits, all (N,)."""

    intercept: float
    chance: FloatArray
    weak: FloatArray
    strong: FloatArray

    def auc(self, *, strong: bool) -> float:
        """AUC with each row a click by its chance and a non-click by the rest."""
        both = np.repeat([1.0, 0.0], len(self.chance))
        logits = np.tile(self.strong if strong else self.weak, 2)
        return metrics.auc(both, logits, np.concatenate((self.chance, 1 - self.chance))) or 0.5


def _population(shape: HoldoutShape, signal_sd: float, extra_sd: float, seed: int) -> _Population:
    """The same random rows for every signal, so that what is sought is smooth in the signal."""
    common, extra, first, second = np.random.default_rng(seed).standard_normal((4, _SAMPLE))
    logits, error_sd = signal_sd * common + extra_sd * extra, shape.change_sd / np.sqrt(2)
    intercept = _bisect(lambda shift: float(_sigmoid(shift + logits).mean()), shape.click_rate, -15.0, 15.0, steps=16)
    weak = intercept + signal_sd * common + error_sd * first
    return _Population(intercept, _sigmoid(intercept + logits), weak, intercept + logits + error_sd * second)


def _calibrated(chance: FloatArray, logits: FloatArray) -> tuple[float, float]:
    """Intercept and slope of a logistic regression of clicks on logits, by Newton's method."""
    columns = np.column_stack((np.ones(len(logits)), logits))
    line = np.array([0.0, 1.0])
    for _ in range(20):
        predicted = _sigmoid(columns @ line)
        slope = columns.T @ (chance - predicted)
        curvature = (columns * (predicted * (1 - predicted))[:, None]).T @ columns
        line = line + np.linalg.solve(curvature, slope)
    return float(line[0]), float(line[1])


def _bisect(rising: Callable[[float], float], wanted: float, low: float, high: float, steps: int = 12) -> float:
    """Where a rising function reaches a value; the nearer end when it does not."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _logit(scores: FloatArray) -> FloatArray:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))
