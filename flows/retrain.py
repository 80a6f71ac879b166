"""One turn of the loop: read, validate, learn, compare, decide, and ask for a promotion."""

from datetime import datetime
from typing import Literal

from prefect import flow

from flows.approval import request_approval
from flows.outcome import refused
from flows.promote import promote
from ranking.results import Evidence, Retraining
from settings.loading import load
from tasks.aftermath import leave_word
from tasks.arbiter import land, take_off
from tasks.clock import moment
from tasks.data import build_features, plan_split, take_snapshot
from tasks.evaluation import compare_models, judge
from tasks.lookups import features_read_by
from tasks.registry import record_evidence, register_challenger
from tasks.reports import write_report
from tasks.resuming import RESUMABLE
from tasks.service import current_champion
from tasks.serving import check_serving
from tasks.serving_features import write_serving_features
from tasks.training import train_challenger
from tasks.version import code_of_this_run

Trigger = Literal["manual", "schedule", "drift", "performance", "combined", "volume"]


@flow(
    name="retrain",
    flow_run_name="retrain-{trigger}",
    on_completion=[land],
    on_failure=[land, leave_word],
    on_cancellation=[land, leave_word],
    on_crashed=[land, leave_word],
    **RESUMABLE,
)
def retrain(
    config: str | None = None,
    trigger: Trigger = "manual",
    cutoff: datetime | None = None,
    data: str | None = None,
    requested_by: str | None = None,
    reason: str = "",
    flight: str | None = None,
    now: datetime | None = None,
) -> Retraining:
    """Train a challenger on recent interactions and let it replace the champion if that is proven and approved.

    Args:
        config: settings file; without one, feedloop.toml in the working directory.
        trigger: what asked for this run.
        cutoff: use rows before this moment; without one, up to the newest row.
        data: another log than the configured one: path or URI.
        requested_by: who wants it; with approval.requester_may_approve = false somebody else has to approve.
        reason: what was seen, in words; the run shows it.
        flight: key of the arbiter's decision that started this run; no other run may take it up.
        now: pretend it is this moment (for replays).
    """
    settings = load(config, data_uri=data)
    at = moment(now)
    refusal = take_off(trigger=trigger, flight=flight, knobs=settings.triggers, now=at, **settings.store)
    if refusal is not None:
        return refused(refusal)

    champion = current_champion(**settings.store)
    snapshot = take_snapshot(
        data=settings.data,
        cutoff=cutoff,
        now=at,
        workspace=settings.workspace,
        also=features_read_by(champion, **settings.store),
    )
    features = build_features(snapshot=snapshot, spec=settings.feature_spec(snapshot.log), **settings.engine)
    split = plan_split(features=features, cutoff=snapshot.cutoff, knobs=settings.split)
    trained = train_challenger(
        features=features,
        split=split,
        model=settings.model,
        knobs=settings.training,
        seed=settings.seed,
        champion=champion,
        **settings.store,
    )
    challenger = register_challenger(
        trained=trained, snapshot=snapshot, features=features, split=split, **settings.store
    )
    serving = check_serving(
        challenger=challenger,
        snapshot=snapshot,
        features=features,
        split=split,
        registry=settings.registry,
        **settings.engine,
    )
    comparison = compare_models(
        challenger=challenger,
        champion=champion,
        snapshot=snapshot,
        features=features,
        split=split,
        gate=settings.gate,
        registry=settings.registry,
        serving=serving,
        **settings.engine,
    )
    verdict = judge(comparison, settings.gate)
    plan = settings.rollout.after(verdict.decision, first=champion is None)
    evidence = Evidence(
        comparison=comparison,
        verdict=verdict,
        policy_digest=settings.policy_digest,
        policy=settings.policy,
        code_version=code_of_this_run(),
        training=trained.training,
        split=split,
        plan=plan.kept if plan else {},
    )
    report = write_report(evidence=evidence, gate=settings.gate, workspace=settings.workspace)
    record_evidence(challenger=challenger, evidence=evidence, report=report, **settings.store)
    # Servers need them to look the challenger's features up.  Without them the verdict is the same, and the next
    # `refresh` tries again: a failure shows in the run and does not end it.
    write_serving_features(
        data=settings.data,
        spec=features.spec,
        as_of=at,
        now=at,
        workspace=settings.workspace,
        return_state=True,
    )
    promotion = None
    if plan is not None:
        approval = request_approval(evidence, settings=settings, forced=False, requested_by=requested_by, now=now)
        promotion = promote(challenger.version, approval, config=config, now=now)
    return Retraining(
        trigger=trigger,
        cutoff=snapshot.cutoff,
        snapshot=snapshot,
        split=split,
        training=trained.training,
        challenger=challenger,
        evidence=evidence,
        promotion=promotion,
        report=report,
    )
