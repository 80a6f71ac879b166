"""Clustered, heavy-tailed traffic whose truth is known, to try the online rules on.

Users differ in how often they come, in how much they click and in how often their sessions go wrong, so
nothing about one user's sessions is independent.  All of it changes with hour and weekday.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from ranking.experiment import Arms, ExperimentEvidence
from ranking.health import HealthWindow, Sessions
from ranking.ratios import RatioSums
from ranking.rollout import Rollout, Step
from ranking.rollout_changes import apply, begin
from ranking.rollout_checks import StageEvidence
from ranking.steps import next_step
from ranking.strategies import Canary, RampStage

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
WINDOW = timedelta(minutes=15)


@dataclass
class Population:
    """The users of one arm, and what each did so far."""

    rng: np.random.Generator
    users: int
    click_rate: float = 0.10
    bad_rate: float = 0.005

    def __post_init__(self) -> None:
        visits = self.rng.lognormal(0, 1, self.users)
        self.arrival = np.cumsum(visits) / visits.sum()
        self.taste = self.rng.beta(2, 2 / self.click_rate - 2, self.users)
        trouble = np.where(self.rng.random(self.users) < 0.05, 8.0, 1.0)
        self.trouble = self.bad_rate * trouble / trouble.mean()
        self.clicks, self.impressions = np.zeros(self.users), np.zeros(self.users)

    def visit(self, sessions: int, clicks: float = 1.0, bad: float = 1.0) -> Sessions:
        """Some sessions come; their click and bad rates are scaled."""
        who = np.searchsorted(self.arrival, self.rng.random(sessions)).clip(max=self.users - 1)
        shown = 1 + self.rng.poisson(8, sessions)
        clicked = self.rng.binomial(shown, np.minimum(self.taste[who] * clicks, 1))
        self.impressions += np.bincount(who, shown, minlength=self.users)
        self.clicks += np.bincount(who, clicked, minlength=self.users)
        broken = self.rng.random(sessions) < np.minimum(self.trouble[who] * bad, 1)
        return Sessions(total=sessions, bad=int(broken.sum()))

    @property
    def seen(self) -> np.ndarray:
        """(U,) whether a user came."""
        return self.impressions > 0

    @property
    def sums(self) -> RatioSums:
        """Clicks over impressions."""
        return RatioSums.of(self.clicks[self.seen], self.impressions[self.seen])


@dataclass
class Site:
    """A site with a rollout on it."""

    rng: np.random.Generator
    click_lift: float = 0.0
    bad_ratio: float = 1.0
    bad_rate: float = 0.005
    rhythm: float = 0.0
    sessions_per_hour: dict[float, int] = field(default_factory=lambda: {0.01: 1_500, 0.1: 7_500, 0.5: 4_000, 1.0: 800})
    users: dict[float, int] = field(default_factory=lambda: {0.01: 4_000, 0.1: 30_000, 0.5: 40_000, 1.0: 2_000})

    def factor(self, now: datetime) -> float:
        """Click rate at a time of day and week, relative to its mean: weekends and nights differ."""
        day = 1 + 0.8 * np.sin(2 * np.pi * now.hour / 24)
        weekend = 1.6 if now.weekday() >= 5 else 0.8
        return 1 + self.rhythm * (day * weekend - 1)


def ramp(
    site: Site, *, start: datetime = MONDAY, most_looks: int = 800, stop: int | None = None
) -> tuple[Rollout, int]:
    """Run a default canary until it ends, reaches stage ``stop`` or was looked at ``most_looks`` times."""
    rollout = begin("sim", Canary(), champion="1", challenger="2", actor="sim", reason="simulated", now=start)
    now, looks, entered = start, 0, None
    while not rollout.status.ended and looks < most_looks and rollout.stage != stop:
        if entered != rollout.entered:
            entered = rollout.entered
            share = rollout.current.share if isinstance(rollout.current, RampStage) else 0.0
            canary, control = (Population(site.rng, site.users[share], bad_rate=site.bad_rate) for _ in range(2))
            windows: tuple[HealthWindow, ...] = ()
        factor = max(site.factor(now), 0.05)
        mean = site.sessions_per_hour[share] / 4
        seen = canary.visit(site.rng.poisson(mean), factor * (1 + site.click_lift), site.bad_ratio)
        other = control.visit(site.rng.poisson(mean), factor) if share < 1 else None
        windows = (*windows, HealthWindow(start=now, end=now + WINDOW, canary=seen, control=other))
        now, looks = now + WINDOW, looks + 1
        rollout = apply(rollout, decided(rollout, windows, canary, control, now), actor="sim")
    return rollout, looks


def decided(
    rollout: Rollout, windows: tuple[HealthWindow, ...], canary: Population, control: Population, now: datetime
) -> Step:
    """The step that the evidence of a stage leads to."""
    evidence = StageEvidence(
        stage=rollout.stage,
        windows=windows,
        canary_users=int(canary.seen.sum()),
        control_users=int(control.seen.sum()),
        canary_clicks=canary.sums,
        control_clicks=control.sums,
    )
    return next_step(rollout, evidence, now)


@dataclass
class TestDays:
    """Users of an A/B test, day by day; two arms, each array (users,)."""

    __test__ = False

    rng: np.random.Generator
    users: int
    lift: float = 0.0
    before_days: int = 14

    def __post_init__(self) -> None:
        shape = (2, self.users)
        self.activity = self.rng.lognormal(-0.5, 1.0, shape)
        self.taste = self.rng.beta(2, 18, shape)
        self.shown_before = self.rng.poisson(self.activity * 3 * self.before_days)
        self.clicked_before = self.rng.binomial(self.shown_before, self.taste)
        self.shown, self.clicked = np.zeros(shape), np.zeros(shape)

    def day(self, number: int) -> None:
        """One more day."""
        weekday = 1.4 if number % 7 >= 5 else 0.9
        shown = self.rng.poisson(self.activity * 3 * weekday)
        chance = self.taste * (1 + np.array([[0.0], [self.lift]])) * weekday / 1.4
        self.shown += shown
        self.clicked += self.rng.binomial(shown, np.minimum(chance, 1))

    def evidence(self, until: datetime, *, cuped: bool = True) -> ExperimentEvidence:
        """What is known by then, of the users who came."""
        came = [self.shown[arm] > 0 for arm in range(2)]

        ones = np.ones_like(self.shown)

        def arms(*columns: np.ndarray) -> Arms:
            control, treatment = (RatioSums.of(*(c[arm][came[arm]] for c in columns)) for arm in range(2))
            return Arms(control=control, treatment=treatment)

        before = (self.clicked_before, self.shown_before) if cuped else ()
        bad = self.rng.binomial(np.maximum(self.shown, 1).astype(int), 0.01)
        return ExperimentEvidence(
            until=until,
            clicks=arms(self.clicked, self.shown, *before),
            guardrails={
                "clicks_per_user": arms(self.clicked, ones, self.clicked_before, ones),
                "impressions_per_user": arms(self.shown, ones, self.shown_before, ones),
                "bad_sessions": arms(bad, np.maximum(self.shown, 1)),
            },
            control_users=int(came[0].sum()),
            treatment_users=int(came[1].sum()),
            crossovers=0,
        )
