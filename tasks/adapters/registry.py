"""Where models live: the port, its tags, and the one place that opens it.

Importing this module does not import MLflow; :func:`open_registry` does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ranking.fits import Training
from ranking.results import Evidence, ModelRef, Snapshot

if TYPE_CHECKING:
    import pandas as pd

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
TAG = "feedloop."
"""Prefix of every tag that feedloop writes."""


class Registry(Protocol):
    """Registered versions of one model, with their files, tags and aliases.

    A version is one trained model.  A released one also has a copy of its bytes that the promoter owns; from
    then on its files are read from there.  ``champion`` and ``previous`` name released copies only.

    Every method raises RegistryUnavailable when there is no answer; that never means "none".
    """

    name: str
    tracking_uri: str

    def register(
        self,
        bundle_folder: Path,
        training: Training,
        *,
        snapshot: Snapshot,
        sample: "pd.DataFrame",
        files: Mapping[str, Path],
        tags: Mapping[str, str],
        request: str,
    ) -> ModelRef:
        """Make a new version of a saved bundle.

        Args:
            bundle_folder: the saved bundle; its digest must be the one in ``training``.
            training: how it was fitted.
            snapshot: what it was fitted on.
            sample: a few holdout rows with the model's columns.
            files: more files to keep beside the model, by their path there.
            tags: more tags of the version, without prefix.
            request: names this registration; repeating it gives the same version.

        Raises:
            TamperedBundle: the bundle is not the one that was trained.
            StorageError: the files cannot be written.
        """

    def champion(self) -> ModelRef | None:
        """The version behind the alias ``champion``; None only if the registry answered that there is none."""

    def model(self, version_or_alias: str) -> ModelRef:
        """One version, by number or alias.  Raises UnknownModel, which lists what there is."""

    def versions(self) -> tuple[ModelRef, ...]:
        """All versions, oldest first."""

    def aliases(self) -> dict[str, str]:
        """Alias to version."""

    def point(self, alias: str, version: str | None) -> None:
        """Set an alias, or take it away with None."""

    def release(self, ref: ModelRef) -> str:
        """Copy a verified version to where only the promoter writes; returns the copy's package digest.

        Repeating it copies nothing again.

        Raises:
            TamperedBundle: the bytes are not those that were registered, or did not arrive whole.
            StorageError: there is no room.
        """

    def released(self, ref: ModelRef) -> bool:
        """Whether there is a released copy."""

    def address(self, ref: ModelRef) -> str:
        """What a plain ``mlflow.pyfunc.load_model`` loads: the released copy if there is one."""

    def remove(self, ref: ModelRef, *, keep_record: bool) -> None:
        """Delete a version with its released copy, or only their bytes.  Whether that may be is the caller's to know.

        What is deleted can still be restored until the store is cleaned up (``mlflow gc``).
        """

    def download(self, ref: ModelRef, folder: Path) -> Path:
        """Fetch the model's bundle into ``folder``, verified against ``ref.digest``; returns the bundle's folder.

        Raises:
            TamperedBundle: the bytes are not those that were registered.
            RegistryError: the version was not registered by feedloop, so there is no bundle in it.
        """

    def package(self, ref: ModelRef, folder: Path) -> Path:
        """Fetch the whole model as MLflow serves it, verified; returns its folder.  Raises as :meth:`download`."""

    def attach(self, ref: ModelRef, files: Mapping[str, Path]) -> None:
        """Keep more files beside the version, by their path there."""

    def attached(self, ref: ModelRef, place: str) -> bytes | None:
        """One of the files kept beside the version; None if there is none at that path."""

    def record(self, ref: ModelRef, evidence: Evidence) -> None:
        """Keep the evidence about a version: as JSON, and its metrics as the version's metrics."""

    def evidence(self, ref: ModelRef, digest: str | None = None) -> Evidence | None:
        """The newest evidence about a version, or the one of that digest; None if there is none."""

    def evidence_digests(self, ref: ModelRef) -> tuple[str, ...]:
        """Digests of all evidence about a version, in no order that means anything."""

    def annotate(self, ref: ModelRef, tags: Mapping[str, str], description: str | None = None) -> None:
        """Set tags (without prefix) and, if given, the description of a version."""

    def tags(self, ref: ModelRef) -> dict[str, str]:
        """The tags that feedloop wrote on a version, without prefix."""


def open_registry(tracking_uri: str | None, model_name: str, workspace: Path) -> Registry:
    """The registry of one model.

    Args:
        tracking_uri: any MLflow tracking URI; ``None`` for the embedded store in ``workspace``.
        model_name: name of the registered model.
        workspace: local folder of the embedded store.

    Raises:
        RegistryUnavailable: the store did not answer.
        RegistryError: the store cannot be used.
        StorageError: the embedded store cannot be created.
    """
    from tasks.adapters.mlflow_registry import MlflowRegistry
    from tasks.adapters.mlflow_store import open_store

    return MlflowRegistry(open_store(tracking_uri, workspace), model_name)
