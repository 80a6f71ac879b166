"""How an approved challenger reaches its users."""

from typing import Literal

from pydantic import Field

from ranking.decision import Decision
from ranking.experiment_knobs import ExperimentKnobs
from ranking.results import Evidence
from ranking.rollout import ReleasePlan, RolloutKnobs
from ranking.strategies import AbTest, Canary, Immediate, RampStage, Shadow
from ranking.values import Knobs

StrategyName = Literal["immediate", "shadow", "canary", "ab_test"]

SAMPLE_CANARY = Canary(
    ramp=(
        RampStage(name="10 %", share=0.10, min_hours=3, min_sessions=300, detectable_ctr_drop=0.40),
        RampStage(name="25 %", share=0.25, min_hours=3, min_sessions=500, detectable_ctr_drop=0.30),
        RampStage(name="50 %", share=0.50, min_hours=6, min_sessions=1000, detectable_ctr_drop=0.25),
        RampStage(name="100 %, bake", share=1.0, min_hours=6),
    )
)
"""The sample feed has 1,500 users: one in a hundred of them would be fifteen people.

A tenth of them sees a drop by 40 % within a day, half of them one by 25 % within hours.
"""

SAMPLE_AB_TEST = AbTest(
    first=RampStage(name="10 %", share=0.10, min_hours=3, min_sessions=300),
    experiment=ExperimentKnobs(weeks=1, min_users_per_arm=400),
)
"""Its first stage only shows what is broken: what users like, the test itself will say."""


class RolloutSettings(Knobs):
    """How an approved challenger reaches its users, and what an undecided verdict leads to."""

    strategy: StrategyName = Field(
        default="immediate",
        description="After an approval of a PROMOTE verdict. Every other than immediate needs the gateway (feedloop "
        "serve), or a service of your own that follows the routing table and writes the same logs.",
    )
    undecided: Literal["ab_test", "keep"] = Field(
        default="keep", description="After the verdict A_B_TEST: ask to start an A/B test, or keep the champion."
    )
    shadow: Shadow = Field(default=Shadow(), description="The strategy shadow.")
    canary: Canary = Field(default=Canary(), description="The strategy canary.")
    ab_test: AbTest = Field(default=AbTest(), description="The strategy ab_test.")
    rules: RolloutKnobs = Field(default=RolloutKnobs(), description="When a stage is left, held or rolled back.")
    outcomes: str | None = Field(
        default=None,
        description="Where the outcomes of served impressions arrive, in the columns of the log: path or URI. Without "
        "it, the interaction log itself. Its column data.columns.request names the gateway's request id.",
    )

    def plan(self, name: StrategyName) -> ReleasePlan:
        """The plan of a strategy."""
        known: dict[str, Immediate | Shadow | Canary | AbTest] = {
            "immediate": Immediate(),
            "shadow": self.shadow,
            "canary": self.canary,
            "ab_test": self.ab_test,
        }
        return ReleasePlan(strategy=known[name], knobs=self.rules)

    def proposed(self, evidence: Evidence, name: StrategyName | None) -> ReleasePlan:
        """The plan for a challenger that somebody proposes.

        Args:
            evidence: what is known of it.
            name: the strategy that was asked for; without one it follows from the evidence: at once for a first
                champion and for the winner of an A/B test, a test for an undecided one, otherwise as configured.
        """
        if evidence.compared_with is None or (name is None and evidence.trial is not None):
            return self.plan("immediate")
        undecided = evidence.verdict.decision is Decision.A_B_TEST
        return self.plan(name or ("ab_test" if undecided and self.undecided == "ab_test" else self.strategy))

    def after(self, decision: Decision, *, first: bool) -> ReleasePlan | None:
        """What a verdict leads to; ``None`` keeps the champion.

        Args:
            decision: of the verdict.
            first: there is no champion to roll out beside.
        """
        match decision:
            case Decision.PROMOTE:
                return self.plan("immediate" if first else self.strategy)
            case Decision.A_B_TEST if self.undecided == "ab_test" and not first:
                return self.plan("ab_test")
            case _:
                return None
