"""Registering models, and changing who serves: thin tasks over the registry and the ledger.

Functions without ``@task`` answer a question; the tasks change something, or belong to a flow's story.
"""

import logging
import os
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
from prefect import runtime, task

from ranking.approval import ApprovalRules
from ranking.errors import AccessDenied, SettingsError, StorageError, UnknownModel
from ranking.features import Feature
from ranking.results import (
    Approval,
    Evidence,
    FeatureTable,
    LedgerEntry,
    ModelRef,
    Promotion,
    Report,
    Rollback,
    Snapshot,
    Split,
    Trained,
)
from ranking.retention import Keeping, RetentionKnobs
from settings.effects import RegistryKnobs
from tasks import promotion
from tasks.adapters.ledger import Ledger, open_ledger
from tasks.adapters.registry import CHALLENGER, Registry, open_registry
from tasks.adapters.storage import local_copy, temporary_folder
from tasks.champion import reconcile, serving
from tasks.events import emit_entry
from tasks.evidence import KeptEvidence, find
from tasks.reports import publish_entry
from tasks.resuming import RESUMED
from tasks.retention import prune
from tasks.retries import RETRY_REGISTRY
from tasks.rollback import rollback

if TYPE_CHECKING:
    from ranking.bundle import Bundle

logger = logging.getLogger("feedloop.registry")

GOLDEN_ROWS = 32
"""Rows of the holdout kept with a model; a promotion asks it these again."""


@task(name="current champion", timeout_seconds=300, **RETRY_REGISTRY.options, **RESUMED)
def current_champion(registry: RegistryKnobs, workspace: str) -> ModelRef | None:
    """Who serves now; whatever a crash left half done is finished first.

    Returns:
        The champion; None only when registry and ledger answered that there never was one.

    Raises:
        RegistryUnavailable: no answer.
    """
    models, ledger = open_both(registry, workspace)
    try:
        reconcile(models, ledger)
    except AccessDenied as error:
        # A trainer may read who serves and not change it; the promoter's next run mends the aliases.
        logger.warning("The aliases differ from the ledger and stay so: %s", error)
    return serving(models, ledger)


def champion_now(registry: RegistryKnobs, workspace: str) -> ModelRef | None:
    """Who serves now, without changing anything."""
    return serving(*open_both(registry, workspace))


def champion_bundle(registry: RegistryKnobs, workspace: str) -> "Bundle | None":
    """The bundle that serves now, verified; None when there is no champion."""
    from ranking.bundle import Bundle

    champion = champion_now(registry, workspace)
    if champion is None:
        return None
    with temporary_folder() as folder:
        return Bundle.load(download_bundle(champion, registry, workspace, folder), expected_digest=champion.digest)


def download_bundle(ref: ModelRef, registry: RegistryKnobs, workspace: str, folder: Path) -> Path:
    """Fetch a version's bundle into ``folder``, verified against its digest; returns the bundle's folder."""
    return _registry(registry, workspace).download(ref, folder)


def features_read_by(ref: ModelRef | None, registry: RegistryKnobs, workspace: str) -> tuple[Feature, ...]:
    """The logged columns that a version reads, so that a snapshot keeps them for it; none without a version."""
    from ranking.bundle import Bundle

    if ref is None:
        return ()
    with temporary_folder() as folder:
        bundle = Bundle.load(download_bundle(ref, registry, workspace, folder / "bundle"), expected_digest=ref.digest)
    return bundle.facts.spec.log.features


@task(name="require promotable", timeout_seconds=300, **RETRY_REGISTRY.options, **RESUMED)
def require_promotable(
    challenger: ModelRef,
    evidence: Evidence,
    *,
    policy_digest: str,
    forced: bool,
    reason: str,
    registry: RegistryKnobs,
    workspace: str,
) -> None:
    """Refuse before anybody is asked what would be refused afterwards.

    Raises:
        PromotionRefused: the verdict is not PROMOTE, the policy was changed since, or the version was taken out of
            service, and it is not forced with a reason.
        StaleChampion: another version serves than the one it was compared with.
    """
    models, ledger = open_both(registry, workspace)
    promotion.overrides(
        challenger, evidence, ledger.entries(), policy_digest=policy_digest, forced=forced, reason=reason
    )
    champion = serving(models, ledger)
    # A version that serves already is a repeated promotion, which is finished and not refused.
    if champion is None or champion.version != challenger.version:
        promotion.require_champion(champion, evidence.compared_with)


def find_model(version_or_alias: str, registry: RegistryKnobs, workspace: str) -> ModelRef:
    """A version by number or alias.  Raises UnknownModel, which lists what there is."""
    return _registry(registry, workspace).model(version_or_alias)


def registered_versions(registry: RegistryKnobs, workspace: str) -> tuple[ModelRef, ...]:
    """All versions, oldest first."""
    return _registry(registry, workspace).versions()


def champion_address(champion: ModelRef, registry: RegistryKnobs, workspace: str) -> str:
    """Which MLflow version the champion is now."""
    return _registry(registry, workspace).address(champion)


def ledger_breaks(registry: RegistryKnobs, workspace: str) -> tuple[str, ...]:
    """Every entry of the ledger that was edited or is gone, in words; empty when it is intact."""
    return open_both(registry, workspace)[1].verify()


def ledger_entries(registry: RegistryKnobs, workspace: str) -> tuple[LedgerEntry, ...]:
    """The history of who served, oldest first."""
    return open_both(registry, workspace)[1].entries()


@task(name="register challenger", timeout_seconds=1800, **RETRY_REGISTRY.options, **RESUMED)
def register_challenger(
    *,
    trained: Trained,
    snapshot: Snapshot,
    features: FeatureTable,
    split: Split,
    registry: RegistryKnobs,
    workspace: str,
) -> ModelRef:
    """Make a registered version of a trained bundle, loadable by plain MLflow, and name it ``challenger``.

    A retried run gives the version it had already made.

    Args:
        trained: the bundle and how it was fitted.
        snapshot: what it was fitted on.
        features: rows with the model's features; some of the holdout become its golden requests.
        split: names the holdout.
        registry: where to.
        workspace: of the embedded registry.

    Raises:
        TamperedBundle: the bundle is not the one that was trained.
        RegistryUnavailable: no answer; nothing was registered.
        StorageError: the files cannot be written; nothing was registered.
    """
    from tasks.data import load_rows

    models = _registry(registry, workspace)
    sample = load_rows(features, split.holdout).slice(0, GOLDEN_ROWS).to_pandas()
    with local_copy(trained.bundle_uri) as folder:
        ref = models.register(
            folder,
            trained.training,
            snapshot=snapshot,
            sample=sample,
            files={},
            tags=_source(),
            request=str(runtime.task_run.id or uuid.uuid4()),
        )
    models.point(CHALLENGER, ref.version)
    logger.info("Registered %s, digest %s", ref.uri, ref.digest[:16])
    return ref


def _source() -> Mapping[str, str]:
    from mlflow.utils.git_utils import get_git_commit

    commit = get_git_commit(os.getcwd())
    return {"git_commit": commit} if commit else {}


@task(name="record evidence", timeout_seconds=600, **RETRY_REGISTRY.options, **RESUMED)
def record_evidence(
    *, challenger: ModelRef, evidence: Evidence, report: Report | None, registry: RegistryKnobs, workspace: str
) -> None:
    """Keep comparison, verdict and report beside the model they are about.

    Raises:
        RegistryUnavailable: no answer.
        StorageError: the report cannot be read.
    """
    models = _registry(registry, workspace)
    models.record(challenger, evidence)
    if report is None:
        return
    with temporary_folder() as folder:
        files = {}
        for uri in (report.markdown_uri, report.html_uri, report.picture_uri, report.evidence_picture_uri):
            name = uri.rsplit("/", 1)[-1]
            files[f"report/{name}"] = folder / name
            try:
                filesystem, path = fsspec.core.url_to_fs(uri)
                filesystem.get_file(path, str(folder / name))
            except OSError as error:
                raise StorageError(f"The report {uri} cannot be read: {error}. Run the comparison again.") from error
        models.attach(challenger, files)


@task(name="read evidence", timeout_seconds=300, **RETRY_REGISTRY.options, **RESUMED)
def read_evidence(challenger: ModelRef, registry: RegistryKnobs, workspace: str) -> Evidence:
    """The newest comparison and verdict about a version.

    Raises:
        UnknownModel: it was never compared.
    """
    found = _registry(registry, workspace).evidence(challenger)
    if found is None:
        raise UnknownModel(
            f"Version {challenger.version} of {challenger.name!r} was never compared with a champion. Compare it first."
        )
    return found


def find_evidence(identifier: str, registry: RegistryKnobs, workspace: str) -> KeptEvidence:
    """Stored evidence by version, alias or the start of its digest; see :func:`tasks.evidence.find`."""
    return find(_registry(registry, workspace), identifier)


@task(name="settle promotion", timeout_seconds=900, **RETRY_REGISTRY.options, **RESUMED)
def settle_promotion(
    *,
    challenger: ModelRef,
    evidence: Evidence,
    approval: Approval,
    rules: ApprovalRules,
    policy_digest: str,
    forced: bool,
    reason: str,
    now: datetime,
    registry: RegistryKnobs,
    workspace: str,
) -> Promotion:
    """Promote an approved challenger, or record why not; see :func:`tasks.promotion.settle`."""
    models, ledger = open_both(registry, workspace)
    done = promotion.settle(
        models,
        ledger,
        challenger=challenger,
        evidence=evidence,
        approval=approval,
        rules=rules,
        policy_digest=policy_digest,
        forced=forced,
        reason=reason,
        now=now,
    )
    logger.info("%s: %s", done.status, done.reason)
    _tell(done.challenger.name, done.entry)
    return done


@task(name="apply rollback", timeout_seconds=600, **RETRY_REGISTRY.options, **RESUMED)
def apply_rollback(
    *,
    to: str | None,
    reason: str,
    actor: str,
    now: datetime,
    registry: RegistryKnobs,
    workspace: str,
    forced: bool = False,
) -> Rollback:
    """Put an earlier champion back; see :func:`tasks.rollback.rollback`."""
    models, ledger = open_both(registry, workspace)
    done = rollback(models, ledger, to=to, reason=reason, actor=actor, now=now, forced=forced)
    logger.warning("Rolled back from version %s to %s: %s", done.replaced.version, done.champion.version, done.reason)
    _tell(done.champion.name, done.entry)
    return done


def _tell(model: str, entry: LedgerEntry | None) -> None:
    """Show in Prefect what the ledger says since; all of it can be told again from there."""
    if entry is not None:
        emit_entry(model, entry)
        publish_entry(model, entry)


@task(name="prune", timeout_seconds=3600, **RETRY_REGISTRY.options)
def prune_versions(
    *, knobs: RetentionKnobs, only: str | None, dry_run: bool, registry: RegistryKnobs, workspace: str
) -> tuple[Keeping, ...]:
    """Delete versions that nobody needs any more; see :func:`tasks.retention.prune`."""
    fates = prune(*open_both(registry, workspace), knobs, only=only, dry_run=dry_run)
    for keeping in fates:
        logger.info("Version %s: %s, %s", keeping.version, keeping.fate, keeping.reason)
    return fates


def open_both(registry: RegistryKnobs, workspace: str) -> tuple[Registry, Ledger]:
    """The registry of models, and the ledger of who serves."""
    folder = _local(registry, workspace)
    return (
        open_registry(registry.tracking_uri, registry.model_name, folder),
        open_ledger(registry.tracking_uri, registry.model_name, folder, registry.ledger_uri),
    )


def _registry(registry: RegistryKnobs, workspace: str) -> Registry:
    return open_registry(registry.tracking_uri, registry.model_name, _local(registry, workspace))


def _local(registry: RegistryKnobs, workspace: str) -> Path:
    filesystem, path = fsspec.core.url_to_fs(workspace)
    if "file" not in filesystem.protocol:
        if registry.tracking_uri is None:
            raise SettingsError(
                f"The workspace {workspace} is not a local folder, so it cannot hold the embedded registry. "
                "Set registry.tracking_uri to an MLflow server."
            )
        return Path.cwd()
    return Path(path)
