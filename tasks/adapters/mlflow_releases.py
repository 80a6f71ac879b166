"""Released models: copies that the promoter owns, in a registered model that no trainer needs to write.

A challenger's version can be overwritten by whoever trained it.  What serves is therefore a copy, made
and digested at promotion, under the model's own name; ``champion`` and ``previous`` are its aliases.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ranking.errors import TamperedBundle, UnknownModel
from ranking.results import ModelRef
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.mlflow_package import package_digest
from tasks.adapters.mlflow_store import Store
from tasks.adapters.mlflow_versions import Versions, tags_of
from tasks.adapters.storage import temporary_folder

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

_FOREIGN = "release-"
"""How a released version is called that feedloop did not release: it has no challenger's version."""


class Releases:
    """The released copies of one model."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store
        self._versions = Versions(store, name)
        self._experiment = f"{name}-releases"

    def find(self, version: str) -> "ModelVersion | None":
        """The released copy of a challenger's version; None if it was never released."""
        if version.startswith(_FOREIGN):
            return self._versions.get(version.removeprefix(_FOREIGN))
        # A crash between two tries may leave two; they hold the same bytes.
        return next(iter(self._versions.search(version=version)), None)

    def publish(self, ref: ModelRef, package: Path, digest: str, tags: dict[str, str]) -> None:
        """Keep a verified package as the released copy of ``ref``.

        The version is created last, so whatever fails before leaves nothing that could be pointed to.

        Raises:
            TamperedBundle: what arrived is not what was sent.
        """
        from mlflow.exceptions import MlflowException

        experiment = self._store.experiment(self._experiment)
        with answered(self._store.uri):
            run_id = self._store.client.create_run(experiment, run_name=f"release of version {ref.version}").info.run_id
            try:
                logged = self._log(experiment, run_id, ref, package)
                self._check_arrival(ref, logged.artifact_location, digest)
                self._store.client.set_terminated(run_id, "FINISHED")
            except BaseException:
                # If this fails too, the run stays "running": the first error is the one to tell.
                with suppress(MlflowException):
                    self._store.client.set_terminated(run_id, "FAILED")
                raise
        facts = {"version": ref.version, "digest": ref.digest, "package_digest": digest, "model_id": logged.model_id}
        self._versions.create(logged, tags | facts, run_id)

    def _log(self, experiment: str, run_id: str, ref: ModelRef, package: Path) -> "LoggedModel":
        client = self._store.client
        logged = client.create_logged_model(
            experiment, name=self.name, source_run_id=run_id, model_type="ranker", params={"digest": ref.digest}
        )
        client.log_model_artifacts(logged.model_id, str(package))
        return client.finalize_logged_model(logged.model_id, "READY")

    def _check_arrival(self, ref: ModelRef, source: str, digest: str) -> None:
        with temporary_folder() as folder:
            found = package_digest(fetch(self._store, source, folder))
        if found != digest:
            raise TamperedBundle(
                f"The released copy of version {ref.version} of {self.name!r} has the digest {found[:12]}…, and "
                f"{digest[:12]}… was sent. Nothing was released; look at the artifact store and try again."
            )

    def annotate(self, version: str, tags: dict[str, str], description: str | None) -> None:
        """Set tags and description of the released copy, if there is one."""
        found = self.find(version)
        if found is not None:
            self._versions.annotate(str(found.version), tags, description)

    def aliases(self) -> dict[str, str]:
        """Alias to the challenger's version that was released."""
        return {alias: self._known_as(number) for alias, number in self._versions.aliases().items()}

    def _known_as(self, number: str) -> str:
        return tags_of(self._versions.get(number)).get("version", f"{_FOREIGN}{number}")

    def point(self, alias: str, version: str | None) -> None:
        """Set an alias to the released copy of a version, or take it away with None."""
        if version is None:
            self._versions.point(alias, None)
            return
        found = self.find(version)
        if found is None:
            raise UnknownModel(
                f"Version {version} of {self.name!r} has no released copy, so {alias!r} cannot name it. "
                "Promote it again, or roll back."
            )
        self._versions.point(alias, str(found.version))

    def remove(self, version: str) -> None:
        """Delete the released copies of a version."""
        for found in self._versions.search(version=version):
            self._versions.delete(str(found.version))
            model_id = tags_of(found).get("model_id")
            if model_id:
                with answered(self._store.uri):
                    self._store.client.delete_logged_model(model_id)


def is_foreign(version: str) -> bool:
    """Whether a version was released by somebody else than feedloop."""
    return version.startswith(_FOREIGN)


def fetch(store: Store, source: str, folder: Path) -> Path:
    """Download everything behind an artifact address into a new folder under ``folder``."""
    import tempfile

    from mlflow.artifacts import download_artifacts

    folder.mkdir(parents=True, exist_ok=True)
    with answered(store.uri):
        fetched = download_artifacts(
            artifact_uri=source,
            dst_path=tempfile.mkdtemp(prefix="package-", dir=folder),
            tracking_uri=store.uri,
            registry_uri=store.uri,
        )
    return Path(fetched)
