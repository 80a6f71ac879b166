"""A look at a running A/B test that decides nothing: the readout, what it rests on, and its pictures."""

from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from ranking.assignment import CONTROL, TREATMENT
from ranking.errors import ComparisonError, PromotionRefused
from ranking.experiment import ExperimentEvidence, Readout, read
from ranking.experiment_knobs import GUARDRAIL_METRICS
from ranking.measurements import Estimate
from ranking.proportions import ProportionTest, compare_proportions
from ranking.ratios import Effect, effect
from ranking.rollout import Rollout
from ranking.strategies import AbStage
from ranking.times import as_utc
from tasks.ab_evidence import daily_clicks, experiment_evidence, users_of_test
from tasks.stage_logs import Logs


@dataclass(frozen=True)
class Look:
    """One look."""

    rollout: Rollout
    readout: Readout | None
    evidence: ExperimentEvidence | None
    daily: pd.DataFrame | None
    clickers: ProportionTest | None

    @property
    def effects(self) -> dict[str, Effect]:
        """Every metric in words, with its change."""
        if self.evidence is None or self.readout is None:
            return {}
        named = {metric.name: metric.words for metric in GUARDRAIL_METRICS}
        measured = {
            named[name]: effect(arms.control, arms.treatment, critical=self.readout.critical)
            for name, arms in self.evidence.guardrails.items()
        }
        return {"Click-through rate": self.readout.clicks, **measured}


def look(logs: Logs, now: datetime) -> Look:
    """Read a running A/B test as it stands.

    Raises:
        PromotionRefused: the rollout is in no A/B test now.
    """
    rollout, stage = logs.rollout, logs.rollout.current
    if not isinstance(stage, AbStage):
        raise PromotionRefused(
            f"Rollout {rollout.id} is in stage {stage.name!r}, which is no A/B test. See `feedloop rollout status`."
        )
    evidence = experiment_evidence(logs, stage.experiment)
    readout = (
        None
        if evidence is None
        else read(evidence, stage.experiment, start=rollout.entered, now=now, looks=rollout.looks)
    )
    return Look(rollout, readout, evidence, daily_clicks(logs), _clickers(logs, stage))


def _clickers(logs: Logs, stage: AbStage) -> ProportionTest | None:
    """Users with at least one click: one outcome per user, so a two-proportion test is right here."""
    users = users_of_test(logs, stage.experiment)
    if users is None:
        return None
    counts = {arm: users[users["arm"] == arm]["clicks"] for arm in (CONTROL, TREATMENT)}
    control, treatment = counts[CONTROL], counts[TREATMENT]
    try:
        return compare_proportions(int((control > 0).sum()), len(control), int((treatment > 0).sum()), len(treatment))
    except ComparisonError:
        return None


def look_markdown(seen: Look) -> str:
    """The look as Markdown."""
    rollout, readout = seen.rollout, seen.readout
    lines = [
        f"# A/B test: version {rollout.challenger} (B) against version {rollout.champion} (A)",
        "",
        f"{rollout.id}, users split since {as_utc(rollout.entered)}. {len(rollout.looks)} looks so far.",
    ]
    if readout is None:
        return "\n".join([*lines, "", "No impression with a final label yet."]) + "\n"
    lines += [
        "",
        f"**{readout.verdict}.** {readout.reason}",
        "",
        f"Labels until {as_utc(readout.until)} are final. {readout.control_users:,} users in A, "
        f"{readout.treatment_users:,} in B (sample ratio p = {_plain(readout.sample_ratio_p)}), "
        f"{_plain(readout.crossovers)} seen in both.",
        "",
        "| metric | A | B | change | interval |",
        "| --- | ---: | ---: | ---: | :---: |",
        *(_row(name, change) for name, change in seen.effects.items()),
    ]
    if seen.clickers is not None:
        test = seen.clickers
        lines.append(
            f"| Users with a click (z-test) | {test.control:.2%} | {test.treatment:.2%} | {test.difference.value:+.2%} "
            f"| {_interval(test.difference)} |"
        )
    lines += ["", f"Intervals of the ratios are at this look's bound, {readout.critical:.2f} standard errors."]
    if readout.clicks.variance_reduction is not None:
        lines.append(
            f"CUPED took {max(readout.clicks.variance_reduction, 0):.0%} of the click-through rate's variance out."
        )
    lines += ["", *(f"- **{finding.status}** {finding.sentence}" for finding in readout.findings)]
    lines += [f"- missing: {what}" for what in readout.missing]
    return "\n".join(lines) + "\n"


def _row(name: str, change: Effect) -> str:
    moved = change.relative
    if moved is None:
        return f"| {name} | {_plain(change.control)} | {_plain(change.treatment)} | {change.note or 'not known'} | |"
    return f"| {name} | {change.control:.4g} | {change.treatment:.4g} | {moved.value:+.2%} | {_interval(moved)} |"


def _interval(moved: Estimate) -> str:
    return "not known" if moved.low is None or moved.high is None else f"{moved.low:+.2%} to {moved.high:+.2%}"


def _plain(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"
