"""Commands about the gate itself: tell stored evidence, decide it again, and show what the thresholds do."""

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from deployments.session import Session
from ranking.errors import ComparisonError, UnknownModel
from ranking.ledger import LedgerEntry
from ranking.results import ModelRef
from ranking.times import as_utc

if TYPE_CHECKING:
    from ranking.gate_check import GateCheck, Scenario
    from ranking.gate_world import HoldoutShape
    from ranking.verdict import GateKnobs
    from tasks.evidence import KeptEvidence

SECONDS = 60
"""About how long a gate check takes when nobody says how many repetitions."""


def explain(session: Session, *, identifier: str) -> int:
    """``feedloop explain``."""
    from tasks.registry import find_evidence, ledger_entries

    settings = session.settings
    kept = find_evidence(identifier, **settings.store)
    entries = [entry for entry in ledger_entries(**settings.store) if entry.evidence_digest == kept.digest]
    session.output.markdown("\n".join(_explained(kept, entries, policy_now=settings.policy_digest)))
    session.output.finish(
        version=kept.ref.version, evidence_digest=kept.digest, evidence=kept.evidence, ledger_entries=entries
    )
    return 0


def _explained(kept: "KeptEvidence", entries: list[LedgerEntry], *, policy_now: str) -> list[str]:
    """The evidence as Markdown: the report's words, then where every number came from."""
    from tasks.reports import evidence_markdown

    evidence = kept.evidence
    comparison = evidence.comparison
    policy = "the same as configured now" if evidence.policy_digest == policy_now else "another than configured now"
    detectable = evidence.verdict.minimum_detectable_effect
    lines = [evidence_markdown(evidence), "", "## Where it comes from", ""]
    if detectable is not None:
        lines.append(f"- Smallest true AUC gain that this holdout promotes with 80 % probability: {detectable:.4f}")
    lines += [f"- Challenger: {_model(comparison.challenger)}"]
    lines += [f"- Champion: {_model(comparison.champion)}" if comparison.champion else "- Champion: none"]
    lines += [
        f"- Holdout: {comparison.rows:,} rows, digest `{comparison.holdout_digest}`",
        f"- Snapshot: `{comparison.snapshot_fingerprint}`",
        f"- Policy: `{evidence.policy_digest}`, {policy}",
        f"- Code: {evidence.code_version or 'not recorded'}",
        f"- Evidence: `{kept.digest}`, kept with version {kept.ref.version}",
    ]
    lines += [
        f"- Ledger entry {entry.number}: {entry.operation} by {entry.actor}, {as_utc(entry.at)}: {entry.reason}"
        for entry in entries
    ]
    return lines if entries else [*lines, "- Ledger: nothing was decided on this evidence"]


def _model(ref: ModelRef) -> str:
    learnt = f"{as_utc(ref.learnt.start)} to {as_utc(ref.learnt.end)}" if ref.learnt else "nobody recorded when"
    return f"version {ref.version}, learnt from {learnt}, digest `{ref.digest}`"


def recheck(session: Session, *, identifier: str) -> int:
    """``feedloop recheck``: a ComparisonError (4) names the first thing that differs."""
    from tasks.evidence import recheck as again
    from tasks.registry import find_evidence

    kept = find_evidence(identifier, **session.settings.store)
    result = again(kept.evidence, kept.digest)
    if not result.same:
        raise ComparisonError(
            f"The evidence {kept.digest[:16]}… about version {kept.ref.version} does not come out as it was recorded: "
            f"{result.difference}. Compare again before anything rests on it."
        )
    session.output.say(
        f"The same: {result.verdict.decision} ({result.verdict.confidence} confidence), evidence digest "
        f"{result.digest}, from the stored comparison of version {kept.ref.version} and the policy of then "
        f"({kept.evidence.policy_digest[:16]})."
    )
    session.output.finish(version=kept.ref.version, recheck=result)
    return 0


def replay(session: Session) -> int:
    """``feedloop replay``."""
    from tasks.replay import replay_markdown, replay_verdicts

    settings = session.settings
    done = replay_verdicts.fn(gate=settings.gate, **settings.store)
    session.output.markdown(replay_markdown(done))
    session.output.finish(replay=done)
    return 0


def gate_check(session: Session, *, repetitions: int | None, seed: int) -> int:
    """``feedloop gate-check``."""
    from ranking.gate_check import SCENARIOS, check_gate

    settings, output = session.settings, session.output
    shape, known = _shape(session)
    number = repetitions or affordable(shape.rows)
    output.say(
        f"Holdouts like yours: {shape.rows:,} rows, {shape.users:,} users, {shape.items:,} items, "
        f"{shape.click_rate:.1%} clicks, champion of AUC {shape.auc:.3f} ({known}). {number} of them per scenario."
    )
    gate = settings.gate
    if settings.data.columns.exploration:
        # The comparison would be on random impressions, so the cap on chosen ones does not apply.
        gate = gate.model_copy(update={"exploration_holdout": True})
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Simulating", total=SCENARIOS * number)
        result = check_gate(shape, gate, repetitions=number, seed=seed, after_each=lambda: progress.advance(bar))
    output.markdown("\n".join(_told(result, settings.gate)))
    output.finish(gate_check=result)
    return 0


def affordable(rows: int) -> int:
    """Repetitions per scenario that take about a minute on one core: 10 to 200.

    From the rows and not from a clock, so that the same holdout gives the same numbers.  One holdout takes
    about 2 microseconds a row.
    """
    return int(min(max(SECONDS / 4 / (0.005 + 2e-6 * rows), 10), 200))


def _shape(session: Session) -> "tuple[HoldoutShape, str]":
    """The holdout that the next challenger would be compared on, and in words what is known of the champion."""
    from deployments.times import now_of
    from tasks.data import build_features, plan_split, take_snapshot
    from tasks.evaluation import holdout_shape
    from tasks.registry import champion_now, features_read_by

    settings = session.settings
    champion = champion_now(**settings.store)
    if champion is not None and not champion.digest:
        # Made champion by hand, from outside feedloop: there is no bundle to score with.
        champion = None
    other = _other(session, champion)
    also = (*features_read_by(champion, **settings.store), *features_read_by(other, **settings.store))
    snapshot = take_snapshot.fn(
        data=settings.data,
        cutoff=None,
        now=now_of(session) or datetime.now(UTC),
        workspace=settings.workspace,
        also=also,
    )
    features = build_features.fn(snapshot=snapshot, spec=settings.feature_spec(snapshot.log), **settings.engine)
    shape = holdout_shape(
        champion=champion,
        other=other,
        snapshot=snapshot,
        features=features,
        split=plan_split.fn(features=features, cutoff=snapshot.cutoff, knobs=settings.split),
        gate=settings.gate,
        registry=settings.registry,
        **settings.engine,
    )
    if champion is None:
        return shape, "assumed: there is no champion to score with"
    seen = f"as unlike as versions {champion.version} and {other.version}" if other else "as unlike as models often are"
    return shape, f"version {champion.version}; challengers are {seen}"


def _other(session: Session, champion: ModelRef | None) -> ModelRef | None:
    """A second version to score: the newest challenger, or the champion before."""
    from tasks.registry import find_model

    for alias in ("challenger", "previous"):
        try:
            found = find_model(alias, **session.settings.store)
        except UnknownModel:
            continue
        if champion is not None and found.digest not in {"", champion.digest}:
            return found
    return None


def _told(result: "GateCheck", gate: "GateKnobs") -> list[str]:
    """The error rates as Markdown."""
    equal, harmful = result.false_promotion_rate, result.harmful_promotion_rate
    lines = [
        "| challenger | true AUC gain | promoted | 95 % interval | A/B test | rejected | promoted if shown at random |",
        "| --- | ---: | ---: | :---: | ---: | ---: | ---: |",
        *(_row(scenario) for scenario in result.scenarios),
        "",
        f"- False promotions: {equal:.1%} of the equal and {harmful:.1%} of the harmful challengers.",
        f"- Power: {result.power:.1%} of the clearly better challengers are promoted.",
    ]
    if result.minimum_detectable_effect is not None:
        lines.append(
            f"- Smallest true AUC gain that is promoted with 80 % probability: about "
            f"{result.minimum_detectable_effect:.4f}, if no guardrail objects."
        )
    return [*lines, f"- Slices: {_slices(result.shape)}.", f"- Not simulated: {_not_simulated(result, gate)}"]


def _slices(shape: "HoldoutShape") -> str:
    """The simulated slices: standing ones by name, those of a column counted."""
    columns = Counter(name.split("=", 1)[0] for name in shape.slices if "=" in name)
    named = [name for name in shape.slices if "=" not in name]
    return ", ".join([*named, *(f"{column} ({count} values)" for column, count in columns.items())]) or "none"


def _not_simulated(result: "GateCheck", gate: "GateKnobs") -> str:
    """What a simulation cannot know, and the budgets that therefore were not asked."""
    limits = {"latency": gate.max_latency_p99_milliseconds, "size": gate.max_size_megabytes}
    units = {"latency": "ms", "size": "MB"}
    budgets = [f"{name} (budget {limit:g} {units[name]})" for name, limit in limits.items() if limit is not None]
    names = [name for name in result.not_simulated if name not in limits] + (budgets or ["latency and size"])
    return (
        f"{', '.join(names)}. A simulated model has no files: these are measured on every registered challenger, "
        "and what they refuse comes off the rates above."
    )


def _row(scenario: "Scenario") -> str:
    promoted, random = scenario.promoted, scenario.promoted_on_exploration
    low, high = promoted.low or 0.0, 1.0 if promoted.high is None else promoted.high
    return (
        f"| {scenario.name} | {scenario.auc_gain:+.4f} | {promoted.value:.1%} | {low:.1%} to {high:.1%} "
        f"| {scenario.a_b_tested:.1%} | {scenario.rejected:.1%} | {random.value:.1%} |"
    )
