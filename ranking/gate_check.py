"""What do these thresholds do?  The configured gate, run on models whose true difference is known."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from ranking.comparison import compare
from ranking.decision import Decision
from ranking.gate_world import HoldoutShape, scored, world
from ranking.guardrails import ON_ARTIFACT, ON_SCORES
from ranking.measurements import Estimate
from ranking.results import ModelRef
from ranking.times import Window
from ranking.values import Value
from ranking.verdict import GateKnobs, decide

_LEARNT = Window(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 1, 8, tzinfo=UTC))
_HOLDOUT = Window(start=datetime(2026, 1, 9, tzinfo=UTC), end=datetime(2026, 1, 10, tzinfo=UTC))

SCENARIOS = 4
"""Equal, slightly better, clearly better, harmful."""


class Scenario(Value):
    """What the gate did with challengers of one true quality."""

    name: str
    auc_gain: float = Field(description="True AUC gain of the challenger.")
    promoted: Estimate = Field(description="Share promoted, with its 95 % interval (Wilson).")
    promoted_on_exploration: Estimate = Field(description="The same if the impressions were chosen at random.")
    a_b_tested: float
    rejected: float
    mean_gain: float = Field(description="Mean of the measured AUC gains.")
    covered: float = Field(description="Share of intervals that hold the mean of the measured gains.")

    @property
    def sentence(self) -> str:
        """One line for a person."""
        return (
            f"{self.name} ({self.auc_gain:+.4f} AUC): {self.promoted.value:.1%} promoted, "
            f"{self.a_b_tested:.1%} sent to an A/B test, {self.rejected:.1%} rejected; on exploration traffic "
            f"{self.promoted_on_exploration.value:.1%} promoted."
        )


class GateCheck(Value):
    """The gate's error rates on holdouts like the one described."""

    shape: HoldoutShape
    repetitions: PositiveInt
    seed: NonNegativeInt
    scenarios: tuple[Scenario, ...]
    false_promotion_rate: float = Field(description="Share of equal challengers that were promoted.")
    harmful_promotion_rate: float = Field(description="Share of worse challengers that were promoted.")
    power: float = Field(description="Share of clearly better challengers that were promoted.")
    minimum_detectable_effect: float | None = Field(description="Median over the equal challengers.")
    not_simulated: tuple[str, ...] = Field(
        description="Guardrails that were not asked, since they need a registered model; every real verdict asks them."
    )


def check_gate(
    shape: HoldoutShape,
    knobs: GateKnobs,
    *,
    repetitions: int,
    seed: int,
    after_each: Callable[[], None] | None = None,
) -> GateCheck:
    """Simulate equal, better and harmful challengers and count what the gate decides.

    Args:
        shape: the holdout, from ``gate_world.shape_of`` or by hand.
        knobs: the gate as configured.  What needs a registered model is not asked (``not_simulated``).
        repetitions: holdouts drawn per scenario; 200 give rates to about 2 percentage points.
        seed: of everything random.
        after_each: called after each of the ``SCENARIOS * repetitions`` holdouts, to show how far it is.
    """
    gains = {
        "equal": 0.0,
        "slightly better": knobs.min_auc_improvement,
        "clearly better": 2 * knobs.min_auc_improvement,
        "harmful": -2 * knobs.max_auc_degradation,
    }
    runs = {
        name: _run(name, shape, gain, knobs=knobs, repetitions=repetitions, seed=seed, after_each=after_each)
        for name, gain in gains.items()
    }
    by_name = {name: scenario for name, (scenario, _) in runs.items()}
    return GateCheck(
        shape=shape,
        repetitions=repetitions,
        seed=seed,
        scenarios=tuple(by_name.values()),
        false_promotion_rate=by_name["equal"].promoted.value,
        harmful_promotion_rate=by_name["harmful"].promoted.value,
        power=by_name["clearly better"].promoted.value,
        minimum_detectable_effect=runs["equal"][1],
        not_simulated=tuple(rule.__name__ for rule in ON_ARTIFACT),
    )


def _run(
    name: str,
    shape: HoldoutShape,
    gain: float,
    *,
    knobs: GateKnobs,
    repetitions: int,
    seed: int,
    after_each: Callable[[], None] | None,
) -> tuple[Scenario, float | None]:
    found = world(shape, abs(gain), seed)
    champion, challenger = (
        ModelRef(name="simulated", version=version, run_id=name, digest=version, learnt=_LEARNT)
        for version in ("champion", "challenger")
    )
    decisions, explored, gains, bounds, detectable = [], [], [], [], []
    for repetition in range(repetitions):
        comparison = compare(
            scored(found, _seed(seed, repetition), challenger_is_better=gain >= 0),
            champion=champion,
            challenger=challenger,
            holdout=_HOLDOUT,
            snapshot_fingerprint=name,
            confidence_level=knobs.confidence_level,
            report=False,
        )
        verdict = decide(comparison, knobs, ON_SCORES)
        decisions.append(verdict.decision)
        random = knobs.model_copy(update={"exploration_holdout": True})
        explored.append(decide(comparison, random, ON_SCORES).decision)
        measured = comparison.auc.difference
        if measured is not None and measured.low is not None and measured.high is not None:
            gains.append(measured.value)
            bounds.append((measured.low, measured.high))
            detectable.append(verdict.minimum_detectable_effect or 0.0)
        if after_each is not None:
            after_each()
    mean = float(np.mean(gains)) if gains else 0.0
    scenario = Scenario(
        name=name,
        auc_gain=gain,
        promoted=_share(decisions, Decision.PROMOTE),
        promoted_on_exploration=_share(explored, Decision.PROMOTE),
        a_b_tested=_share(decisions, Decision.A_B_TEST).value,
        rejected=_share(decisions, Decision.REJECT).value,
        mean_gain=mean,
        covered=float(np.mean([low <= mean <= high for low, high in bounds])) if bounds else 0.0,
    )
    return scenario, float(np.median(detectable)) if detectable else None


def _seed(seed: int, repetition: int) -> int:
    return int(np.random.SeedSequence([seed, repetition]).generate_state(1, np.uint64)[0])


def _share(decisions: list[Decision], wanted: Decision) -> Estimate:
    """Share of a decision with Wilson's (1927) interval."""
    n, z = len(decisions), 1.96
    share = sum(decision is wanted for decision in decisions) / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))) / (1 + z**2 / n)
    return Estimate(
        value=share,
        se=float(np.sqrt(share * (1 - share) / n)),
        low=max(middle - reach, 0.0),
        high=min(middle + reach, 1.0),
    )
