"""What a tick saw and did, in words and tables for people."""

import re

from prefect.artifacts import create_markdown_artifact
from prefect.context import TaskRunContext

from ranking.ledger import LedgerEntry
from ranking.rollout import Rollout
from ranking.rollout_checks import StageEvidence
from ranking.shadow import ShadowComparison
from ranking.times import as_utc
from tasks.rollouts import Tick


def publish_tick(model: str, tick: Tick, steps: tuple[LedgerEntry, ...]) -> None:
    """Show a tick in Prefect's UI; the artifact's history is the ramp."""
    if TaskRunContext.get() is not None:
        key = re.sub(r"[^a-z0-9]+", "-", f"rollout {model}".lower())
        create_markdown_artifact(rollout_markdown(tick, steps), key=key, description=f"Rollout of {model}")


def rollout_markdown(tick: Tick, steps: tuple[LedgerEntry, ...]) -> str:
    """A tick, the evidence behind it, and all steps so far, as Markdown."""
    rollout, step = tick.rollout, tick.step
    lines = [
        f"# {rollout.strategy}: version {rollout.challenger} beside version {rollout.champion}",
        "",
        f"{rollout.id} is **{rollout.status}** in stage {rollout.stage + 1} of {len(rollout.stages)}, "
        f"{rollout.current.name!r}, since {as_utc(rollout.entered)}.",
        "",
        _bar(rollout),
    ]
    if step is not None:
        lines += ["", f"**{step.action}.** {step.reason}"]
        findings = (*step.findings, *(step.readout.findings if step.readout is not None else ()))
        lines += [""] if findings else []
        lines += [f"- **{finding.status}** {finding.rule}: {_cell(finding.sentence)}" for finding in findings]
    if tick.evidence is not None:
        lines += ["", *evidence_lines(tick.evidence)]
    lines += ["", "In the ledger:", ""]
    lines += [
        f"- **{entry.number}** {as_utc(entry.at)}, {_cell(entry.actor)}: {_cell(entry.reason)}" for entry in steps
    ]
    return "\n".join(lines) + "\n"


def _bar(rollout: Rollout) -> str:
    """The stages in order, the present one marked."""
    names = [stage.name for stage in rollout.stages]
    return " → ".join(f"**[{name}]**" if place == rollout.stage else name for place, name in enumerate(names))


def evidence_lines(evidence: StageEvidence) -> list[str]:
    """What was measured of both models in the stage, as a table."""
    if evidence.shadow is not None:
        return _shadow_lines(evidence.shadow)
    canary = [window.canary for window in evidence.windows if window.canary is not None]
    control = [window.control for window in evidence.windows if window.control is not None]
    clicks = (evidence.canary_clicks, evidence.control_clicks)
    if not canary:
        return ["No window of this stage was measured yet."]
    rows = [
        ("sessions", *(f"{sum(one.total for one in arm):,}" for arm in (canary, control))),
        ("bad sessions", *(f"{sum(one.bad for one in arm):,}" for arm in (canary, control))),
        ("users", *(_number(users) for users in (evidence.canary_users, evidence.control_users))),
        ("impressions with final labels", *(_number(None if arm is None else arm.sums[1]) for arm in clicks)),
        ("click-through rate", *(_share(None if arm is None else arm.ratio) for arm in clicks)),
    ]
    return [
        "| | challenger | control |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {one} | {other} |" for name, one, other in rows),
    ]


def _shadow_lines(compared: ShadowComparison) -> list[str]:
    sums, moved = compared.sums, compared.log_loss
    late = sums.latency_p99_milliseconds
    rows = [
        ("requests scored", f"{sums.scored:,} of {sums.requests:,}, failed on {sums.failed:,}"),
        ("99 % are scored within", "not known" if late is None else f"{late:.1f} ms"),
        ("rank correlation with the champion", _plain(compared.rank_correlation)),
        (f"of the champion's top {compared.top} it keeps", _share(compared.top_overlap)),
        ("PSI of its live scores against its own on the holdout", _plain(compared.own_stability_index)),
        (
            "log loss on final labels, change",
            "not known"
            if moved is None or moved.low is None or moved.high is None
            else f"{moved.value:+.2%} ({moved.low:+.2%} to {moved.high:+.2%})",
        ),
    ]
    return ["| in the shadow | |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows)]


def _plain(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "not counted" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3%}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
