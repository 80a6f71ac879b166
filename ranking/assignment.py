"""Who gets which model: stable arms, and the routing table that says so.

A user's bucket never changes while a rollout runs; an arm is a range of buckets that only grows at its
end.  So raising the challenger's share moves nobody out of it, and the control, as large as the
challenger's arm, grows beside it the same way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isclose
from typing import Self

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from ranking.errors import SettingsError
from ranking.hashing import BUCKETS, NAMESPACE_PARTS, Users, bucket, buckets, namespace_part, namespace_parts
from ranking.placements import IntArray
from ranking.values import Value

TREATMENT, CONTROL, REST = "treatment", "control", "rest"
"""Arms: the challenger's users, as many users of the champion to compare with, and everybody else."""

Range = tuple[int, int]
"""A half-open range of buckets, ``(start, end)``."""


class Namespace(Value):
    """A slice of all users.  Rollouts with the same name and ranges that do not overlap share no user."""

    name: str = Field(min_length=1)
    start: int = Field(default=0, ge=0, le=NAMESPACE_PARTS, description="First of 1000 parts.")
    end: int = Field(default=NAMESPACE_PARTS, ge=0, le=NAMESPACE_PARTS, description="Part after the last.")

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"the namespace ends ({self.end}) before it starts ({self.start})")
        return self

    @property
    def share(self) -> float:
        """Share of all users inside."""
        return (self.end - self.start) / NAMESPACE_PARTS

    def holds(self, user: str | int) -> bool:
        """Whether a user lies inside."""
        return self.start <= namespace_part(self.name, user) < self.end


class Arm(Value):
    """A range of buckets and the model version that its users get."""

    name: str
    version: str
    start: int = Field(ge=0, le=BUCKETS)
    end: int = Field(ge=0, le=BUCKETS)

    @property
    def share(self) -> float:
        """Share of the buckets."""
        return max(self.end - self.start, 0) / BUCKETS


class RoutingTable(Value):
    """Everything a gateway needs to know to route a request; it changes only when a rollout makes a step."""

    rollout: str = Field(description="Which rollout this is; empty when none runs.")
    champion: str = Field(description="Version that everybody outside the arms gets.")
    salt: str = Field(description="Shuffles the users; kept for the whole rollout.")
    namespace: Namespace | None = Field(default=None, description="Only these users take part; None is everybody.")
    arms: tuple[Arm, ...] = ()
    stage: NonNegativeInt = 0
    stage_name: str = ""
    shadow: str | None = Field(default=None, description="Version that scores along and is shown to nobody.")
    shadow_share: float = Field(default=0.0, ge=0, le=1, description="Share of requests that it scores.")
    interleaved: str | None = Field(default=None, description="Version whose ranking is mixed with the champion's.")
    interleaved_share: float = Field(default=0.0, ge=0, le=1, description="Share of requests that are mixed.")

    @model_validator(mode="after")
    def _arms_do_not_overlap(self) -> Self:
        for left, right in pairwise(sorted((arm for arm in self.arms if arm.share), key=lambda arm: arm.start)):
            if right.start < left.end:
                raise ValueError(f"the arms {left.name} and {right.name} overlap at bucket {right.start}")
        if len({arm.name for arm in self.arms} | {REST}) <= len(self.arms):
            raise ValueError(f"arms need names of their own, other than {REST!r}")
        return self

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that has to be loaded, the champion first."""
        named = (self.champion, *(arm.version for arm in self.arms if arm.share), self.shadow, self.interleaved)
        return tuple(dict.fromkeys(version for version in named if version is not None))

    def share_of(self, arm: str) -> float:
        """Share of all users that are in an arm: the propensity to log with an exposure."""
        inside = 1.0 if self.namespace is None else self.namespace.share
        shares = {named.name: named.share * inside for named in self.arms}
        return shares[arm] if arm in shares else 1.0 - sum(shares.values())


class Assignment(Value):
    """What one user gets."""

    arm: str
    version: str
    bucket: int
    propensity: float = Field(description="Share of all users that are in this arm.")


@dataclass(frozen=True)
class Assignments:
    """What many users get: ``arms[codes[i]]`` is the arm of user i."""

    arms: tuple[str, ...]
    codes: IntArray

    def users_in(self, arm: str) -> int:
        """How many of them are in an arm."""
        return int(np.count_nonzero(self.codes == self.arms.index(arm)))


def assign(table: RoutingTable, user: str | int) -> Assignment:
    """The arm of one user.  Same table and user, same answer: in every process, and in SQL and JavaScript."""
    place = bucket(table.salt, user)
    arm, version = REST, table.champion
    if table.namespace is None or table.namespace.holds(user):
        chosen = choose(place, [(arm.start, arm.end) for arm in table.arms])
        if chosen is not None:
            arm, version = table.arms[chosen].name, table.arms[chosen].version
    return Assignment(arm=arm, version=version, bucket=place, propensity=table.share_of(arm))


def assign_many(table: RoutingTable, users: Users) -> Assignments:
    """:func:`assign` for the analysis of many users: (N,) codes.

    Raises:
        InvalidInteractions: a user is missing.
    """
    places = buckets(table.salt, users)
    codes = np.full(len(places), len(table.arms), dtype=np.int64)
    for code, arm in enumerate(table.arms):
        codes[(places >= arm.start) & (places < arm.end)] = code
    if table.namespace is not None:
        part = namespace_parts(table.namespace.name, users)
        codes[(part < table.namespace.start) | (part >= table.namespace.end)] = len(table.arms)
    return Assignments((*(arm.name for arm in table.arms), REST), codes)


def choose(place: int, ranges: Sequence[Range]) -> int | None:
    """Index of the range that a bucket lies in; ``None`` outside of all."""
    return next((index for index, (start, end) in enumerate(ranges) if start <= place < end), None)


def bucket_ranges(weights: Sequence[float], coverage: float = 1.0) -> tuple[Range, ...]:
    """Ranges of buckets for arms of these weights (GrowthBook's ``getBucketRange``).

    Each arm starts where the weights before it end and is filled from its start, so that a higher
    coverage only appends buckets.

    Args:
        weights: share of each arm at full coverage; they sum to 1.
        coverage: share of the users that take part, 0…1.

    Raises:
        SettingsError: weights or coverage that cannot be; nothing is repaired in silence.
    """
    if not 0 <= coverage <= 1:
        raise SettingsError(f"A coverage of {coverage:g} is no share of users: give a number from 0 to 1.")
    if not weights or min(weights) < 0 or not isclose(sum(weights), 1.0, abs_tol=1e-3):
        raise SettingsError(f"Arms of {list(weights)} sum to {sum(weights):g}: weights are positive and sum to 1.")
    starts = np.concatenate(([0.0], np.cumsum(weights)[:-1]))
    return tuple(
        (round(start * BUCKETS), min(round((start + coverage * weight) * BUCKETS), BUCKETS))
        for start, weight in zip(starts.tolist(), weights, strict=True)
    )


def split(champion: str, challenger: str, share: float) -> tuple[Arm, ...]:
    """The challenger's arm and a control of the same size, at one stage of a ramp.

    Args:
        champion: version the control gets.
        challenger: version the treatment gets.
        share: of the users in each arm: 0 to 0.5, or 1 for everybody (then nobody is left to compare with).

    Raises:
        SettingsError: a share above one half that leaves a smaller control.
    """
    if share == 1:
        return (Arm(name=TREATMENT, version=challenger, start=0, end=BUCKETS),)
    if not 0 <= share <= 0.5:
        raise SettingsError(
            f"A share of {share:g} leaves no control of the same size: use at most 0.5, or 1 for everybody."
        )
    treatment, control = bucket_ranges((0.5, 0.5), coverage=2 * share)
    return (
        Arm(name=TREATMENT, version=challenger, start=treatment[0], end=treatment[1]),
        Arm(name=CONTROL, version=champion, start=control[0], end=control[1]),
    )


def reserve(name: str, share: float, taken: Iterable[Namespace]) -> Namespace:
    """A free slice of a namespace, so that the rollout that gets it shares no user with the others.

    Args:
        name: of the namespace.
        share: of all users wanted.
        taken: slices in use; those of other names do not count.

    Raises:
        SettingsError: no gap is wide enough.
    """
    parts = round(share * NAMESPACE_PARTS)
    used = sorted((slice_.start, slice_.end) for slice_ in taken if slice_.name == name)
    start = widest = 0
    for low, high in (*used, (NAMESPACE_PARTS, NAMESPACE_PARTS)):
        widest = max(widest, low - start)
        if low - start >= parts:
            return Namespace(name=name, start=start, end=start + parts)
        start = max(start, high)
    raise SettingsError(
        f"Namespace {name!r} has no gap of {share:.1%} of the users left; the widest is "
        f"{widest / NAMESPACE_PARTS:.1%}. End a running experiment, or ask for a smaller share."
    )


def may_share_users(one: Namespace | None, other: Namespace | None) -> bool:
    """Whether two rollouts can meet the same user; slices of differently named namespaces can."""
    if one is None or other is None or one.name != other.name:
        return True
    return max(one.start, other.start) < min(one.end, other.end)
