"""Put two registered models side by side on the newest rows that neither has seen."""

from datetime import datetime
from typing import Annotated

from prefect import flow
from pydantic import Field

from ranking.results import Evidence
from settings.loading import load
from tasks.clock import moment
from tasks.data import build_features, plan_split, take_snapshot
from tasks.evaluation import compare_models, judge
from tasks.registry import features_read_by, find_model
from tasks.version import code_version


@flow(name="compare", flow_run_name="compare-{champion}-{challenger}")
def compare(
    champion: Annotated[str, Field(description="Version or alias in the champion's place.")],
    challenger: Annotated[str, Field(description="Version or alias in the challenger's place.")],
    config: Annotated[str | None, Field(description="Settings file; without one, feedloop.toml here.")] = None,
    data: Annotated[str | None, Field(description="Another log than the configured one: path or URI.")] = None,
    cutoff: Annotated[datetime | None, Field(description="Use rows before this moment.")] = None,
    now: Annotated[datetime | None, Field(description="Pretend it is this moment (for replays).")] = None,
) -> Evidence:
    """Compare two registered models.  Nothing is registered, recorded or promoted."""
    settings = load(config, data_uri=data)

    old, new = find_model(champion, **settings.store), find_model(challenger, **settings.store)
    snapshot = take_snapshot(
        data=settings.data,
        cutoff=cutoff,
        now=moment(now),
        workspace=settings.workspace,
        also=(*features_read_by(old, **settings.store), *features_read_by(new, **settings.store)),
    )
    features = build_features(snapshot=snapshot, spec=settings.feature_spec(snapshot.log), **settings.engine)
    split = plan_split(features=features, cutoff=snapshot.cutoff, knobs=settings.split)
    comparison = compare_models(
        challenger=new,
        champion=old,
        snapshot=snapshot,
        features=features,
        split=split,
        gate=settings.gate,
        registry=settings.registry,
        **settings.engine,
    )
    verdict = judge(comparison, settings.gate)
    return Evidence(
        comparison=comparison,
        verdict=verdict,
        policy_digest=settings.policy_digest,
        policy=settings.policy,
        code_version=code_version(),
    )
