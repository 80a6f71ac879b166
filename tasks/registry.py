"""Registering models, and changing who serves: thin tasks over the registry and the ledger.

Functions without ``@task`` answer a question; the tasks change something, or belong to a flow's story.
"""

import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
from prefect import runtime, task

from ranking.errors import StorageError, UnknownModel
from ranking.features import Feature
from ranking.ledger import LedgerEntry
from ranking.results import Evidence, FeatureTable, ModelRef, Report, Snapshot, Split, Trained
from ranking.rollout import ReleasePlan
from settings.effects import RegistryKnobs
from tasks.adapters.registry import CHALLENGER
from tasks.adapters.storage import local_copy, temporary_folder
from tasks.champion import serving
from tasks.evidence import KeptEvidence, find
from tasks.resuming import RESUMED
from tasks.retries import RETRY
from tasks.stores import open_both, open_models

if TYPE_CHECKING:
    from ranking.bundle import Bundle

logger = logging.getLogger("feedloop.registry")

GOLDEN_ROWS = 32
"""Rows of the holdout kept with a model; a promotion asks it these again."""


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
    return open_models(registry, workspace).download(ref, folder)


def features_read_by(ref: ModelRef | None, registry: RegistryKnobs, workspace: str) -> tuple[Feature, ...]:
    """The logged columns that a version reads, so that a snapshot keeps them for it; none without a version."""
    from ranking.bundle import Bundle

    if ref is None:
        return ()
    with temporary_folder() as folder:
        bundle = Bundle.load(download_bundle(ref, registry, workspace, folder / "bundle"), expected_digest=ref.digest)
    return bundle.facts.spec.log.features


def find_model(version_or_alias: str, registry: RegistryKnobs, workspace: str) -> ModelRef:
    """A version by number or alias.  Raises UnknownModel, which lists what there is."""
    return open_models(registry, workspace).model(version_or_alias)


def ledger_entries(registry: RegistryKnobs, workspace: str) -> tuple[LedgerEntry, ...]:
    """The history of who served, oldest first."""
    return open_both(registry, workspace)[1].entries()


@task(name="register challenger", timeout_seconds=1800, **RETRY.options, **RESUMED)
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

    models = open_models(registry, workspace)
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


@task(name="record evidence", timeout_seconds=600, **RETRY.options, **RESUMED)
def record_evidence(
    *, challenger: ModelRef, evidence: Evidence, report: Report | None, registry: RegistryKnobs, workspace: str
) -> None:
    """Keep comparison, verdict and report beside the model they are about.

    Raises:
        RegistryUnavailable: no answer.
        StorageError: the report cannot be read.
    """
    models = open_models(registry, workspace)
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


@task(name="read evidence", timeout_seconds=300, **RETRY.options, **RESUMED)
def read_evidence(challenger: ModelRef, registry: RegistryKnobs, workspace: str) -> Evidence:
    """The newest comparison and verdict about a version.

    Raises:
        UnknownModel: it was never compared.
    """
    found = open_models(registry, workspace).evidence(challenger)
    if found is None:
        raise UnknownModel(
            f"Version {challenger.version} of {challenger.name!r} was never compared with a champion. Compare it first."
        )
    return found


@task(name="plan release", timeout_seconds=300, **RETRY.options, **RESUMED)
def plan_release(
    challenger: ModelRef, evidence: Evidence, plan: ReleasePlan, registry: RegistryKnobs, workspace: str
) -> Evidence:
    """The evidence with the plan in it, recorded: an approval is for both."""
    planned = evidence.model_copy(update={"plan": plan.kept})
    if planned.digest != evidence.digest:
        open_models(registry, workspace).record(challenger, planned)
    return planned


def find_evidence(identifier: str, registry: RegistryKnobs, workspace: str) -> KeptEvidence:
    """Stored evidence by version, alias or the start of its digest; see :func:`tasks.evidence.find`."""
    return find(open_models(registry, workspace), identifier)
