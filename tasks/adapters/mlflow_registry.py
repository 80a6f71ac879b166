"""The registry on MLflow: runs for training, logged models for the files, versions, tags and aliases.

Every trained model is a version of ``<name>-challengers``; what was promoted is also a version of ``<name>``,
with a copy of the bytes.  Everything goes through a client with its own address; MLflow's global state is left
to the user.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ranking.errors import BundleError, RegistryError, RegistryUnavailable, StorageError, TamperedBundle, UnknownModel
from ranking.fits import Training
from ranking.results import Evidence, ModelRef, Snapshot, challengers_of
from ranking.times import Window
from settings.addresses import shown
from tasks.adapters import mlflow_evidence
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.mlflow_package import BUNDLE_FOLDER, Contents, package_digest, write_package
from tasks.adapters.mlflow_releases import Releases, fetch, is_foreign
from tasks.adapters.mlflow_store import Store
from tasks.adapters.mlflow_tracking import evidence_metrics, log_curves, log_inputs, log_metrics
from tasks.adapters.mlflow_versions import Versions, tags_of
from tasks.adapters.registry import CHALLENGER, CHAMPION
from tasks.adapters.storage import temporary_folder

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


class MlflowRegistry:
    """See :class:`tasks.adapters.registry.Registry`."""

    def __init__(self, store: Store, model_name: str) -> None:
        self.name = model_name
        self.tracking_uri = store.uri
        self._store = store
        self._client = store.client
        self._versions = Versions(store, challengers_of(model_name))
        self._releases = Releases(store, model_name)

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
        """See :meth:`Registry.register`.

        The version is created last: whatever fails before leaves no version behind, only a failed run.
        """
        from mlflow.exceptions import MlflowException

        from ranking.bundle import Bundle

        bundle = Bundle.load(bundle_folder, expected_digest=training.digest)
        earlier = self._versions.search(request=request)
        if earlier:
            return self._ref(earlier[0])
        experiment = self._store.experiment(self.name)
        with answered(self.tracking_uri):
            run = self._client.create_run(experiment, run_name=f"{training.architecture} {training.digest[:8]}")
            run_id = run.info.run_id
            try:
                log_inputs(self._client, run_id, training, snapshot, tags)
                contents = Contents(bundle_folder, bundle, training.digest, sample)
                model, package = self._log_model(experiment, run_id, contents)
                log_curves(self._client, run_id, model.model_id, training)
                self._attach(run_id, files)
                self._client.set_terminated(run_id, "FINISHED")
            except BaseException:
                # If this fails too, the run stays "running": the first error is the one to tell.
                with suppress(MlflowException):
                    self._client.set_terminated(run_id, "FAILED")
                raise
        facts = {"package_digest": package, "model_id": model.model_id}
        own = _version_tags(training, snapshot, request) | facts
        return self._ref(self._versions.create(model, own | dict(tags), run_id))

    def champion(self) -> ModelRef | None:
        """See :meth:`Registry.champion`."""
        version = self.aliases().get(CHAMPION)
        return None if version is None else self.model(version)

    def model(self, version_or_alias: str) -> ModelRef:
        """See :meth:`Registry.model`."""
        aliases = self.aliases()
        wanted = aliases.get(version_or_alias, version_or_alias)
        try:
            if is_foreign(wanted):
                return self._foreign(wanted)
            if not wanted.isdecimal():
                raise UnknownModel(wanted)
            return self._ref(self._versions.get(wanted))
        except UnknownModel as error:
            numbers = ", ".join(ref.version for ref in self.versions()) or "none"
            named = ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items())) or "none"
            raise UnknownModel(
                f"The model {self.name!r} has no version or alias {version_or_alias!r} in {shown(self.tracking_uri)}. "
                f"Versions: {numbers}. Aliases: {named}."
            ) from error

    def _foreign(self, version: str) -> ModelRef:
        found = self._releases.find(version)
        run_id = found.run_id if found else None
        return ModelRef(name=self.name, version=version, run_id=run_id or "", digest="", learnt=None)

    def versions(self) -> tuple[ModelRef, ...]:
        """See :meth:`Registry.versions`."""
        return tuple(self._ref(version) for version in self._versions.search())

    def aliases(self) -> dict[str, str]:
        """See :meth:`Registry.aliases`."""
        mine = {alias: version for alias, version in self._versions.aliases().items() if alias == CHALLENGER}
        return mine | self._releases.aliases()

    def point(self, alias: str, version: str | None) -> None:
        """See :meth:`Registry.point`."""
        if alias == CHALLENGER:
            self._versions.point(alias, version)
        else:
            self._releases.point(alias, version)

    def release(self, ref: ModelRef) -> str:
        """See :meth:`Registry.release`."""
        with temporary_folder() as folder:
            package = self.package(ref, folder)
            digest = package_digest(package)
            if self._releases.find(ref.version) is None:
                described = {"architecture": tags_of(self._versions.get(ref.version)).get("architecture", "")}
                self._releases.publish(ref, package, digest, described)
        return digest

    def released(self, ref: ModelRef) -> bool:
        """See :meth:`Registry.released`."""
        return self._releases.find(ref.version) is not None

    def address(self, ref: ModelRef) -> str:
        """See :meth:`Registry.address`."""
        found = self._releases.find(ref.version)
        return ref.uri if found is None else f"models:/{found.name}/{found.version}"

    def remove(self, ref: ModelRef, *, keep_record: bool) -> None:
        """See :meth:`Registry.remove`."""
        model_id = self.tags(ref).get("model_id")
        self._releases.remove(ref.version)
        if keep_record:
            self._versions.annotate(ref.version, {"bytes": "dropped"}, None)
        else:
            self._versions.delete(ref.version)
        if model_id:
            with answered(self.tracking_uri):
                self._client.delete_logged_model(model_id)

    def download(self, ref: ModelRef, folder: Path) -> Path:
        """See :meth:`Registry.download`."""
        bundle = self._fetch(ref, BUNDLE_FOLDER, folder)
        _verify(bundle, ref)
        return bundle

    def package(self, ref: ModelRef, folder: Path) -> Path:
        """See :meth:`Registry.package`."""
        package = self._fetch(ref, "", folder)
        _verify(package / BUNDLE_FOLDER, ref)
        found = package_digest(package)
        if found != ref.package_digest:
            raise TamperedBundle(
                f"The files around the bundle of version {ref.version} of {self.name!r} (code, signature, golden "
                f"requests) have the digest {found[:12]}…, and {ref.package_digest} was registered: they were changed "
                "since. Do not serve it; register the model again."
            )
        return package

    def attach(self, ref: ModelRef, files: Mapping[str, Path]) -> None:
        """See :meth:`Registry.attach`."""
        with answered(self.tracking_uri):
            self._attach(ref.run_id, files)

    def attached(self, ref: ModelRef, place: str) -> bytes | None:
        """See :meth:`Registry.attached`."""
        return mlflow_evidence.attached(self._store, ref, place)

    def record(self, ref: ModelRef, evidence: Evidence) -> None:
        """See :meth:`Registry.record`."""
        mlflow_evidence.write(self._store, ref, evidence)
        # From our tag: a version whose source is a path, and not models:/…, has no model_id of its own.
        model_id = self.tags(ref).get("model_id")
        with answered(self.tracking_uri):
            log_metrics(self._client, ref.run_id, model_id, evidence_metrics(evidence))

    def evidence(self, ref: ModelRef, digest: str | None = None) -> Evidence | None:
        """See :meth:`Registry.evidence`."""
        return mlflow_evidence.read(self._store, ref, digest)

    def evidence_digests(self, ref: ModelRef) -> tuple[str, ...]:
        """See :meth:`Registry.evidence_digests`."""
        return mlflow_evidence.digests(self._store, ref)

    def annotate(self, ref: ModelRef, tags: Mapping[str, str], description: str | None = None) -> None:
        """See :meth:`Registry.annotate`."""
        self._releases.annotate(ref.version, dict(tags), description)
        if not is_foreign(ref.version):
            self._versions.annotate(ref.version, tags, description)

    def tags(self, ref: ModelRef) -> dict[str, str]:
        """See :meth:`Registry.tags`."""
        if is_foreign(ref.version):
            found = self._releases.find(ref.version)
            return tags_of(found) if found else {}
        return tags_of(self._versions.get(ref.version))

    def _log_model(self, experiment: str, run_id: str, contents: Contents) -> "tuple[LoggedModel, str]":
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        logged = self._client.create_logged_model(
            experiment, name=self.name, source_run_id=run_id, model_type="ranker", params={"digest": contents.digest}
        )
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        with temporary_folder() as folder:
            described = Model(run_id=run_id, model_id=logged.model_id, artifact_path=logged.artifact_location)
            package = write_package(folder / "model", contents, described)
            self._client.log_model_artifacts(logged.model_id, str(folder / "model"))
        return self._client.finalize_logged_model(logged.model_id, "READY"), package

    def _attach(self, run_id: str, files: Mapping[str, Path]) -> None:
        with temporary_folder() as folder:
            for place, file in files.items():
                staged = folder / place
                staged.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, staged)
            self._client.log_artifacts(run_id, str(folder))

    def _fetch(self, ref: ModelRef, path: str, folder: Path) -> Path:
        """Download from the released copy if there is one: that is what serves."""
        if not ref.digest:
            raise RegistryError(
                f"Version {ref.version} of {self.name!r} was not registered by feedloop: it carries no bundle digest, "
                "so it cannot be scored or compared. Train and register a model, and force its promotion with a reason."
            )
        version = self._releases.find(ref.version) or self._versions.get(ref.version)
        with answered(self.tracking_uri):
            root = self._client.get_model_version_download_uri(version.name, version.version).rstrip("/")
        try:
            return fetch(self._store, f"{root}/{path}" if path else root, folder)
        except RegistryUnavailable:
            raise
        except (RegistryError, StorageError) as error:
            raise BundleError(
                f"The files of version {ref.version} of {self.name!r} cannot be fetched from {root}: {error} "
                "Restore them, or register the model again."
            ) from error

    def _ref(self, version: "ModelVersion") -> ModelRef:
        tags = tags_of(version)
        start, end = tags.get("learnt_from"), tags.get("learnt_until")
        return ModelRef(
            name=self.name,
            version=str(version.version),
            run_id=version.run_id or "",
            digest=tags.get("digest", ""),
            learnt=Window.model_validate({"start": start, "end": end}) if start and end else None,
            package_digest=tags.get("package_digest"),
        )


def _verify(bundle: Path, ref: ModelRef) -> None:
    from ranking.bundle import Bundle

    Bundle.load(bundle, expected_digest=ref.digest)


def _version_tags(training: Training, snapshot: Snapshot, request: str) -> dict[str, str]:
    return {
        "digest": training.digest,
        "learnt_from": training.learnt.start.isoformat(),
        "learnt_until": training.learnt.end.isoformat(),
        "fingerprint": snapshot.fingerprint,
        "architecture": training.architecture,
        "request": request,
    }
