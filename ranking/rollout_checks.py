"""The ordered list of checks that a stage must pass before a rollout goes on.

Each answers ``ok`` (proven fine), ``unproven`` (not enough seen, or not measured) or ``harm`` (proven bad),
with its numbers and a sentence; or ``None`` where it does not apply.  A new check is one function and one
line in ``CHECKS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from math import log

from pydantic import Field, NonNegativeInt

from ranking import health, shadow_checks
from ranking.experiment import ExperimentEvidence, Readout, read
from ranking.findings import Finding, Status
from ranking.health import HealthWindow
from ranking.interleaving import Preference, Preferred
from ranking.ratios import Effect, RatioSums, effect
from ranking.rollout import Rollout
from ranking.sequential import confidence_sequence_bound, imbalance_log_evidence
from ranking.shadow import ShadowComparison
from ranking.strategies import AbStage, InterleavingStage, RampStage, ShadowStage, Stage, SwitchStage
from ranking.values import Value


class StageEvidence(Value):
    """What was seen since the stage was entered, and nothing older.  ``None`` is not measured."""

    stage: NonNegativeInt
    windows: tuple[HealthWindow, ...] = Field(default=(), description="Sessions of both arms, window by window.")
    control_users: NonNegativeInt | None = Field(default=None, description="Distinct users seen in the control.")
    canary_users: NonNegativeInt | None = None
    control_clicks: RatioSums | None = Field(default=None, description="Clicks over impressions, final labels only.")
    canary_clicks: RatioSums | None = None
    shadow: ShadowComparison | None = None
    interleaving: Preference | None = None
    experiment: ExperimentEvidence | None = None


@dataclass(frozen=True)
class Situation:
    """A rollout, its evidence and the time: what a check looks at."""

    rollout: Rollout
    evidence: StageEvidence
    now: datetime

    @property
    def stage(self) -> Stage:
        """The stage that is judged."""
        return self.rollout.current

    @property
    def share(self) -> float:
        """The challenger's share of the users."""
        stage = self.stage
        if isinstance(stage, AbStage):
            return stage.experiment.share
        return stage.share if isinstance(stage, RampStage) else 0.0

    @property
    def paired(self) -> bool:
        """Whether users see the challenger beside a control."""
        return 0 < self.share < 1

    @cached_property
    def readout(self) -> Readout | None:
        """The look at an A/B test; ``None`` in another stage or without evidence."""
        stage, evidence = self.stage, self.evidence.experiment
        if not isinstance(stage, AbStage) or evidence is None:
            return None
        rollout = self.rollout
        return read(evidence, stage.experiment, start=rollout.entered, now=self.now, looks=rollout.looks)


Check = Callable[[Situation], Finding | None]

USUAL_DROP = 0.10
"""Drop of the click-through rate that a stage without a demand of its own is most sensitive to."""


def metrics(situation: Situation) -> Finding | None:
    """Metrics of the stage still come."""
    rollout = situation.rollout
    if not situation.share:
        return None
    windows, now = situation.evidence.windows, situation.now
    return health.arriving(windows, rollout.entered, now, rollout.knobs, paired=situation.paired)


def breaker(situation: Situation) -> Finding | None:
    """The challenger is not plainly broken."""
    if not situation.share:
        return None
    return health.breaker(situation.evidence.windows, situation.rollout.knobs, situation.rollout.control_bad_share)


def bad_sessions(situation: Situation) -> Finding | None:
    """The challenger has not many more bad sessions than the control."""
    return health.bad_sessions(situation.evidence.windows, situation.rollout.knobs) if situation.paired else None


def sample_ratio(situation: Situation) -> Finding | None:
    """Canary and control are equally large, as they were split."""
    if not isinstance(situation.stage, RampStage) or not situation.paired:
        return None
    canary, control = situation.evidence.canary_users, situation.evidence.control_users
    if canary is None or control is None:
        return _finding("sample_ratio", Status.UNPROVEN, "Users of both arms were not counted.")
    proof = imbalance_log_evidence(canary, control)
    broken = proof >= -log(situation.rollout.knobs.imbalance_alpha)
    return _finding(
        "sample_ratio",
        Status.HARM if broken else Status.OK,
        f"{canary:,} users in the canary and {control:,} in its control "
        f"{'cannot' if broken else 'can'} be an even split.",
    )


def click_rate(situation: Situation) -> Finding | None:
    """The click-through rate did not fall, as far as this stage must be able to see."""
    from scipy.special import ndtri

    stage, knobs = situation.stage, situation.rollout.knobs
    if not isinstance(stage, RampStage) or not situation.paired:
        return None
    asked, drop = stage.detectable_ctr_drop is not None, stage.detectable_ctr_drop or USUAL_DROP
    control, canary = situation.evidence.control_clicks, situation.evidence.canary_clicks
    measured = Effect(note="no final labels yet") if control is None or canary is None else effect(control, canary)
    if measured.z is None or measured.relative is None or not measured.relative.se:
        sentence = f"Click-through rate could not be compared: {measured.note}."
        return _finding("click_rate", Status.UNPROVEN, sentence) if asked else None
    planned = drop / (confidence_sequence_bound(1.0, knobs.ctr_alpha) + float(ndtri(knobs.ctr_detection)))
    information = (planned / measured.relative.se) ** 2
    bound = confidence_sequence_bound(information, knobs.ctr_alpha)
    status, words = Status.OK, "no drop is proven" if not asked else f"enough to have seen a drop of {drop:.0%}"
    if measured.z < -bound:
        status, words = Status.HARM, "a drop is proven"
    elif asked and information < 1:
        status, words = Status.UNPROVEN, f"{information:.0%} of what shows a drop of {drop:.0%}"
    return _finding(
        "click_rate",
        status,
        f"Click-through rate changed by {measured.relative.value:+.2%} against the concurrent control "
        f"(z = {measured.z:+.2f} against ±{bound:.2f}): {words}.",
        change_relative=measured.relative.value,
        z=measured.z,
        bound=bound,
        information=information,
    )


def shadowed(situation: Situation) -> Finding | None:
    """The first rule of the shadow that is not ok, or that all are."""
    stage, compared = situation.stage, situation.evidence.shadow
    if not isinstance(stage, ShadowStage):
        return None
    seen = compared.sums.requests if compared is not None else 0
    if compared is None or seen < stage.min_requests:
        return _finding("shadow", Status.UNPROVEN, f"{seen:,} of {stage.min_requests:,} requests were chosen so far.")
    found = shadow_checks.check_shadow(compared, stage.checks)
    for status in (Status.HARM, Status.UNPROVEN):
        for finding in found:
            if finding.status is status:
                return finding
    return _finding("shadow", Status.OK, f"{seen:,} requests in the shadow, and every rule is ok.")


def interleaved(situation: Situation) -> Finding | None:
    """Users who were shown mixed lists do not prefer the champion's picks.  Looked at once, when enough were shown."""
    stage, seen = situation.stage, situation.evidence.interleaving
    if not isinstance(stage, InterleavingStage):
        return None
    requests = 0 if seen is None else seen.requests
    spent = situation.now - situation.rollout.entered
    if seen is None or requests < stage.min_requests or spent < stage.min_wait:
        return _finding(
            "interleaving",
            Status.UNPROVEN,
            f"{requests:,} of {stage.min_requests:,} mixed requests have final labels, after "
            f"{spent / timedelta(hours=1):.1f} of {stage.min_hours:g} hours.",
        )
    worse = seen.preferred is Preferred.CHAMPION
    return _finding("interleaving", Status.HARM if worse else Status.OK, seen.reason, z=seen.z)


def traffic(situation: Situation) -> Finding | None:
    """Enough sessions came in both arms."""
    stage = situation.stage
    if not isinstance(stage, RampStage) or not stage.min_sessions:
        return None
    windows = situation.evidence.windows
    canary = sum(window.canary.total for window in windows if window.canary)
    control = sum(window.control.total for window in windows if window.control)
    fewest = min(canary, control) if situation.paired else canary
    return _finding(
        "traffic",
        Status.OK if fewest >= stage.min_sessions else Status.UNPROVEN,
        f"{fewest:,} of {stage.min_sessions:,} sessions in the smaller arm.",
    )


def duration(situation: Situation) -> Finding | None:
    """The stage lasted long enough."""
    stage, spent = situation.stage, situation.now - situation.rollout.entered
    if isinstance(stage, SwitchStage | AbStage | InterleavingStage):
        return None
    return _finding(
        "duration",
        Status.OK if spent >= stage.min_wait else Status.UNPROVEN,
        f"{spent / timedelta(hours=1):.1f} of {stage.min_hours:g} hours in stage {stage.name!r}.",
    )


CHECKS: tuple[Check, ...] = (
    breaker, bad_sessions, metrics, sample_ratio, click_rate, shadowed, interleaved, traffic, duration,
)  # fmt: skip
"""In order of precedence: the first harm decides."""

INVALIDATING = (*shadow_checks.INVALIDATING, "sample_ratio")
"""Rules whose harm says that the measurement is broken, not the model."""

BLAMELESS = ("metrics", "interleaving")
"""Rules whose harm rolls back, but proves nothing against the model."""


def _finding(rule: str, status: Status, sentence: str, **numbers: float | None) -> Finding:
    return Finding(rule=rule, status=status, sentence=sentence, numbers=numbers)
