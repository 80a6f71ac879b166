"""Write the features that a server looks up: the log's history as of one moment, for one specification."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from ranking.errors import BundleError, EmptyWindow, MissingColumn, RegistryUnavailable, SettingsError
from ranking.features import FeatureSpec, Owner
from ranking.interactions import canonical, check_rows, check_types
from ranking.results import ModelRef
from ranking.serving_features import ServingTable
from ranking.serving_folder import ITEMS, USERS, FeaturesManifest, history_file, specification_key
from ranking.serving_tables import history_tables, profiles
from ranking.times import Window, as_utc
from settings.effects import DataKnobs, RegistryKnobs
from tasks.adapters.feature_tables import checksum, publish
from tasks.adapters.registry import CHALLENGER, PREVIOUS
from tasks.adapters.storage import temporary_folder
from tasks.adapters.warehouse import Warehouse, open_warehouse
from tasks.registry import download_bundle, find_model
from tasks.resuming import RESUMED
from tasks.retries import RETRY
from tasks.stores import open_models

if TYPE_CHECKING:
    import ibis.expr.types as ir

logger = logging.getLogger("feedloop.serving_features")


@task(name="write serving features", timeout_seconds=6 * 3600, **RETRY.options, **RESUMED)
def write_serving_features(
    *, data: DataKnobs, spec: FeatureSpec, as_of: datetime, now: datetime, workspace: str
) -> ServingTable:
    """Make the table of one specification as of a moment, and let servers find it.

    It is made from the rows that a retraining at that moment would read, held to the same rules; rows after it are
    not looked at.  A log that breaks them leaves the earlier table in service.

    Args:
        data: where the log is and how far back to read.
        spec: what a model reads.
        as_of: the moment.
        now: the present.
        workspace: the table goes to ``serving/features`` under it.

    Returns:
        The table that servers find now: this one, unless a newer one is there already.

    Raises:
        SettingsError: the moment lies in the future.
        DataError: the log cannot be used.
        StorageError: the workspace cannot be written; the earlier table stays in service.
    """
    as_of = as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
    if as_of > now:
        raise SettingsError(f"Features as of {as_utc(as_of)} cannot be known at {as_utc(now)}. Name a past moment.")
    window = Window(start=as_of - timedelta(days=data.window_days), end=as_of)
    with temporary_folder() as folder, open_warehouse(data.warehouse) as engine, engine.guard(data.uri):
        rows = _recent(engine, data, spec, window)
        files = _written(engine, rows, spec, as_of, folder)
        facts = rows.aggregate(users=rows[spec.log.user].nunique(), items=rows[spec.log.item].nunique()).execute()
        manifest = FeaturesManifest(
            spec=spec,
            as_of=as_of,
            window=window,
            users=int(facts["users"].iloc[0]),
            items=int(facts["items"].iloc[0]),
            files={name: checksum(folder / name) for name in files},
        )
        table = publish(folder, manifest, workspace)
    logger.info(
        "Serving features as of %s: %s users, %s items, digest %s",
        as_utc(table.as_of),
        f"{table.users:,}",
        f"{table.items:,}",
        table.digest[:12],
    )
    return table


@task(name="served specifications", timeout_seconds=1800, **RETRY.options, **RESUMED)
def served_specifications(
    *, champion: ModelRef | None, also: tuple[str, ...], registry: RegistryKnobs, workspace: str
) -> list[FeatureSpec]:
    """What the models read that may have to answer: the champion, the challenger, and who would come back.

    Args:
        champion: who serves; without one, nothing is needed but what ``also`` names.
        also: more versions or aliases.
        registry: where models are.
        workspace: of the embedded registry.

    Returns:
        Each specification once, the champion's first.

    Raises:
        UnknownModel: ``also`` names no version.
        BundleError: the champion's bytes, or those of a named version, do not verify.
    """
    refs = [*([champion] if champion else []), *(find_model(name, registry, workspace) for name in also)]
    found = [_specification(ref, registry, workspace) for ref in refs]
    aliases = open_models(registry, workspace).aliases()
    known = {ref.version for ref in refs}
    for alias in (CHALLENGER, PREVIOUS):
        if alias not in aliases or aliases[alias] in known:
            continue
        try:
            found.append(_specification(find_model(alias, registry, workspace), registry, workspace))
        except RegistryUnavailable:
            raise
        except BundleError as error:
            # It cannot serve either; the champion's features must not wait for it.
            logger.warning("No features for the %s: %s", alias, error)
    return list({specification_key(spec): spec for spec in found}.values())


def _specification(ref: ModelRef, registry: RegistryKnobs, workspace: str) -> FeatureSpec:
    from ranking.bundle import Bundle

    with temporary_folder() as folder:
        bundle = Bundle.load(download_bundle(ref, registry, workspace, folder / "bundle"), expected_digest=ref.digest)
    return bundle.facts.spec


def _recent(engine: Warehouse, data: DataKnobs, spec: FeatureSpec, window: Window) -> "ir.Table":
    """The window's rows, as the specification reads them; one copy, so that what is checked is what is used."""
    import ibis

    log = engine.read(data.uri)
    attributes = (column for key in spec.history_keys for column in key.columns)
    missing = [name for name in dict.fromkeys((*spec.log.columns, *attributes)) if name not in log.columns]
    if missing:
        raise MissingColumn(
            f"The model reads {', '.join(map(repr, missing))}, which the log does not have. It has: "
            f"{', '.join(log.columns)}. Without them no features can be served to it."
        )
    check_types(log, spec.log)
    rows = canonical(log, spec.log)
    time = rows[spec.log.time]
    recent = engine.stage(rows.filter((time >= ibis.literal(window.start)) & (time < ibis.literal(window.end))))
    try:
        check_rows(recent, spec.log, window=window, log_rows=int(rows.count().execute()))
    except EmptyWindow as error:
        raise EmptyWindow(
            f"{error} To serve a log that has ended, name a moment within it: feedloop features --as-of MOMENT."
        ) from error
    return recent


def _written(engine: Warehouse, rows: "ir.Table", spec: FeatureSpec, as_of: datetime, folder: Path) -> list[str]:
    tables = {history_file(n): table for n, table in enumerate(history_tables(rows, spec, as_of, engine.stage))}
    for owner, name in ((Owner.USER, USERS), (Owner.ITEM, ITEMS)):
        table = profiles(rows, spec, owner)
        if table is not None:
            tables[name] = table
    for name, table in tables.items():
        engine.write(table, str(folder / name))
    return list(tables)
