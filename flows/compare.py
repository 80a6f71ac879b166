"""Put two registered models side by side on the newest rows that neither has seen."""

from datetime import datetime

from prefect import flow

from ranking.results import Evidence
from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.clock import moment
from tasks.data import build_features, plan_split, take_snapshot
from tasks.evaluation import compare_models, judge
from tasks.lookups import features_read_by, find_model
from tasks.service import current_champion
from tasks.serving import check_serving
from tasks.version import code_version


@flow(name="compare", flow_run_name="compare-{champion}-{challenger}", timeout_seconds=24 * 3600, **LEAVES_WORD)
def compare(
    champion: str,
    challenger: str,
    config: str | None = None,
    data: str | None = None,
    cutoff: datetime | None = None,
    now: datetime | None = None,
) -> Evidence:
    """Compare two registered models.  Nothing is registered, recorded or promoted.

    Args:
        champion: version or alias in the champion's place.
        challenger: version or alias in the challenger's place.
        config: settings file; without one, feedloop.toml here.
        data: another log than the configured one: path or URI.
        cutoff: use rows before this moment.
        now: pretend it is this moment (for replays).
    """
    settings = load(config, data_uri=data)

    current_champion(**settings.store)  # mends the aliases, which may be what is compared
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
    serving = check_serving(
        challenger=new,
        snapshot=snapshot,
        features=features,
        split=split,
        registry=settings.registry,
        **settings.engine,
    )
    comparison = compare_models(
        challenger=new,
        champion=old,
        snapshot=snapshot,
        features=features,
        split=split,
        gate=settings.gate,
        registry=settings.registry,
        serving=serving,
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
