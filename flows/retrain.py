"""One turn of the loop: read, validate, learn, compare, decide, and ask for a promotion."""

from datetime import datetime
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from flows.promote import promote
from ranking.results import Decision, Evidence, Retraining
from settings.loading import load
from tasks.clock import moment
from tasks.data import build_features, plan_split, take_snapshot
from tasks.evaluation import compare_models, judge
from tasks.registry import current_champion, record_evidence, register_challenger
from tasks.reports import write_report
from tasks.training import train_challenger

Trigger = Literal["manual", "schedule", "drift", "performance", "volume"]


@flow(name="retrain", flow_run_name="retrain-{trigger}")
def retrain(
    config: Annotated[
        str | None, Field(description="Settings file; without one, feedloop.toml in the working directory.")
    ] = None,
    trigger: Annotated[Trigger, Field(description="What asked for this run.")] = "manual",
    cutoff: Annotated[
        datetime | None, Field(description="Use rows before this moment; without one, up to the newest row.")
    ] = None,
    data: Annotated[str | None, Field(description="Another log than the configured one: path or URI.")] = None,
    now: Annotated[datetime | None, Field(description="Pretend it is this moment (for replays).")] = None,
) -> Retraining:
    """Train a challenger on recent interactions and let it replace the champion if that is proven and approved."""
    settings = load(config, **({"data": {"uri": data}} if data else {}))
    at = moment(now)
    champion = current_champion(settings.registry, settings.workspace)
    snapshot = take_snapshot(settings.data, cutoff=cutoff, now=at, workspace=settings.workspace, champion=champion)
    features = build_features(snapshot, settings.feature_spec(snapshot.log), workspace=settings.workspace)
    split = plan_split(features, settings.split)
    training = train_challenger(features, split, settings=settings, champion=champion)
    challenger = register_challenger(training, snapshot, settings.registry, workspace=settings.workspace)
    compared = compare_models(challenger, champion, snapshot, split, settings)
    verdict = judge(compared.comparison, settings.gate)
    evidence = Evidence(
        comparison=compared.comparison,
        verdict=verdict,
        policy_digest=settings.policy_digest,
        training=training,
        split=split,
    )
    report = write_report(evidence, compared.curves, gate=settings.gate, workspace=settings.workspace)
    record_evidence(challenger, evidence, report, settings.registry)
    promotion = promote(challenger.version, config=config, now=at) if verdict.decision is Decision.PROMOTE else None
    return Retraining(
        trigger=trigger,
        cutoff=snapshot.cutoff,
        snapshot=snapshot,
        split=split,
        training=training,
        challenger=challenger,
        comparison=compared.comparison,
        verdict=verdict,
        promotion=promotion,
        report=report,
    )
