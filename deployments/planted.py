"""Challengers whose quality is known, for simulations: they are registered, compared and proposed like any other."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import pandas as pd

from ranking.bundle import Bundle
from ranking.errors import UnknownModel
from ranking.features import Feature, FeatureSpec, Kind, Owner
from ranking.fits import Training
from ranking.history import with_history
from ranking.interactions import canonical
from ranking.results import FeatureTable, ModelRef, Snapshot, Split, Trained
from ranking.times import Window
from ranking.training import fit
from ranking.world import World, as_known_at
from settings.model import Settings
from tasks.adapters.storage import published, temporary_folder
from tasks.adapters.warehouse import open_warehouse
from tasks.data import build_features, load_rows, plan_split, take_snapshot
from tasks.registry import champion_bundle, register_challenger
from tasks.sample import SampleFeed
from tasks.training import train_challenger

Planted = Literal["better", "equal", "worse", "stale", "crashing"]

MORE_VISITORS, COMING_DAYS = 8, 10
"""The better challenger learns from so many times the visitors of the sample feed, on so many days to come."""


@dataclass(frozen=True)
class Ground:
    """What a planted challenger is made from: the newest rows of the log, as a retraining sees them."""

    settings: Settings
    snapshot: Snapshot
    features: FeatureTable
    split: Split
    champion: Bundle


def plant(kind: Planted, settings: Settings, *, now: datetime, seed: int) -> ModelRef:
    """Make a challenger of known quality and register it.

    Args:
        kind: better has learnt from the days to come, which only a simulation can; equal is the champion again;
            worse is the champion without its numbers; stale learnt from histories that were fresh to the impression,
            which no table of last midnight can serve; crashing reads a column that the log has and no request brings.
        settings: of the workspace, which has a champion.
        now: the present of the sample feed.
        seed: of what is trained.

    Raises:
        UnknownModel: there is no champion.
        TrainingError: there is nothing to learn from.
        StorageError: the workspace cannot be written.
    """
    champion = champion_bundle(**settings.store)
    if champion is None:
        raise UnknownModel("Nothing serves yet, so there is nothing to challenge. Run `feedloop run --yes` first.")
    spec = _spec(kind, champion.facts.spec)
    snapshot = take_snapshot.fn(
        data=settings.data,
        cutoff=None,
        now=now,
        workspace=settings.workspace,
        also=(*champion.facts.spec.log.features, *spec.log.features),
    )
    features = build_features.fn(snapshot=snapshot, spec=spec, **settings.engine)
    split = plan_split.fn(features=features, cutoff=snapshot.cutoff, knobs=settings.split)
    trained = MAKERS[kind](Ground(settings, snapshot, features, split, champion), seed)
    return register_challenger.fn(trained=trained, snapshot=snapshot, features=features, split=split, **settings.store)


def _spec(kind: Planted, spec: FeatureSpec) -> FeatureSpec:
    """What the challenger reads, where that makes it what it is."""
    log, history = spec.log, spec.history
    match kind:
        case "stale":
            history = history.model_copy(update={"grain": "event"})
        case "crashing":
            position = Feature(name="position", owner=Owner.CONTEXT, kind=Kind.NUMERIC)
            log = log.model_copy(update={"features": (*log.features, position)})
    return spec.model_copy(update={"log": log, "history": history})


def _equal(ground: Ground, seed: int) -> Trained:
    del seed
    return _saved(ground, ground.champion)


def _worse(ground: Ground, seed: int) -> Trained:
    """No number reaches the model any more, its click rates among them: a feature pipeline that broke unnoticed."""
    del seed
    encoder = ground.champion.encoder
    numb = replace(encoder, scalers=tuple(replace(scaler, clip=0.0) for scaler in encoder.scalers))
    return _saved(ground, replace(ground.champion, encoder=numb))


def _fitted(ground: Ground, seed: int) -> Trained:
    """Fitted as usual, on what it should not read: its position an impression knows only afterwards."""
    settings = ground.settings
    return train_challenger.fn(
        features=ground.features,
        split=ground.split,
        model=settings.model,
        knobs=settings.training,
        seed=settings.seed + seed + 1,
        champion=None,
        **settings.store,
    )


def _better(ground: Ground, seed: int) -> Trained:
    """The configured model, fitted on the days to come: what many more visitors will click, shown all at random."""
    settings, spec = ground.settings, ground.features.spec
    knobs = settings.world.model_copy(
        update={"requests_per_day": MORE_VISITORS * settings.world.requests_per_day, "exploration_share": 1.0}
    )
    with temporary_folder() as folder, open_warehouse(settings.data.warehouse) as engine:
        shutil.copytree(settings.sample_folder, folder / "feed")
        feed = SampleFeed(str(folder / "feed"), settings.world, settings.data.window_days)
        first, today = feed.now, feed.days
        feed.serve(COMING_DAYS, ground.champion)
        world, last = World(knobs), feed.now - timedelta(days=1)
        seen = as_known_at(pd.concat([world.day(day) for day in range(today, feed.days)], ignore_index=True), feed.now)
        seen.to_parquet(folder / "survey.parquet", index=False)
        survey = canonical(engine.read(str(folder / "survey.parquet")), spec.log).mutate(observed=False)
        log = canonical(engine.read(str(folder / "feed" / "interactions")), spec.log).mutate(observed=True)
        rows = log.select(survey.columns).union(survey.cast(log.select(survey.columns).schema()))
        engine.write(with_history(rows, spec, engine.stage, answers_only=True), str(folder / "features.parquet"))
        table = FeatureTable(
            uri=str(folder / "features.parquet"), snapshot_fingerprint="survey", rows=len(seen), spec=spec
        )
        columns = [spec.log.label, *(name for name in (spec.log.user, spec.log.item)), *(f.name for f in spec.features)]
        fitted = fit(
            load_rows(table, Window(start=first, end=last), columns),
            load_rows(table, Window(start=last, end=feed.now), columns),
            spec=spec,
            # It is held against the log of the past, of which it has learnt no row.
            learnt=ground.split.learnt,
            model=settings.model,
            knobs=settings.training,
            seed=settings.seed + seed,
        )
    return _saved(ground, fitted.bundle, fitted.training)


def _saved(ground: Ground, bundle: Bundle, training: Training | None = None) -> Trained:
    """Put a bundle where a registration looks for it.  Without ``training`` nothing was fitted for it."""
    facts = bundle.facts
    training = training or Training(
        architecture=facts.architecture.kind,
        digest=bundle.digest,
        seed=facts.seed,
        device="cpu",
        epochs=(),
        best_epoch=0,
        rows=0,
        rows_per_second=0.0,
        parameters=sum(parameter.numel() for parameter in bundle.net.parameters()),
        learnt=facts.learnt,
    )
    with temporary_folder() as folder:
        bundle.save(folder / "bundle")
        uri = published(folder / "bundle", f"{ground.settings.workspace}/bundles/{training.digest[:16]}")
    return Trained(bundle_uri=uri, training=training)


MAKERS: dict[Planted, Callable[[Ground, int], Trained]] = {
    "better": _better,
    "equal": _equal,
    "worse": _worse,
    "stale": _fitted,
    "crashing": _fitted,
}
