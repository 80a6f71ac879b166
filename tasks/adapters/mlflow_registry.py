"""The registry on MLflow: runs for training, logged models for the files, versions, tags and aliases.

Everything goes through a client with its own address; MLflow's global state is left to the user.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ranking.errors import BundleError, RegistryError, RegistryUnavailable, StorageError, TamperedBundle, UnknownModel
from ranking.results import Evidence, ModelRef, Snapshot, Training, Window
from ranking.values import canonical_json
from settings.addresses import shown
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.mlflow_package import BUNDLE_FOLDER, Contents, package_digest, write_package
from tasks.adapters.mlflow_store import Store
from tasks.adapters.mlflow_tracking import evidence_metrics, log_curves, log_inputs, log_metrics
from tasks.adapters.registry import CHAMPION, TAG
from tasks.adapters.storage import temporary_folder

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


_EVIDENCE_FOLDER = "evidence"
_NEWEST_EVIDENCE = "newest.json"


class MlflowRegistry:
    """See :class:`tasks.adapters.registry.Registry`."""

    def __init__(self, store: Store, model_name: str) -> None:
        self.name = model_name
        self.tracking_uri = store.uri
        self._store = store
        self._client = store.client

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
        earlier = self._requested(request)
        if earlier is not None:
            return earlier
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
            version = self._create_version(run_id, model, own | dict(tags))
        return _ref(version)

    def champion(self) -> ModelRef | None:
        """See :meth:`Registry.champion`."""
        version = self.aliases().get(CHAMPION)
        return None if version is None else self.model(version)

    def model(self, version_or_alias: str) -> ModelRef:
        """See :meth:`Registry.model`."""
        aliases = self.aliases()
        wanted = aliases.get(version_or_alias, version_or_alias)
        try:
            if not wanted.isdecimal():
                raise UnknownModel(wanted)
            with answered(self.tracking_uri):
                return _ref(self._client.get_model_version(self.name, wanted))
        except UnknownModel as error:
            numbers = ", ".join(ref.version for ref in self.versions()) or "none"
            named = ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items())) or "none"
            raise UnknownModel(
                f"The model {self.name!r} has no version or alias {version_or_alias!r} in {shown(self.tracking_uri)}. "
                f"Versions: {numbers}. Aliases: {named}."
            ) from error

    def versions(self) -> tuple[ModelRef, ...]:
        """See :meth:`Registry.versions`."""
        return tuple(sorted((_ref(version) for version in self._search("")), key=lambda ref: int(ref.version)))

    def aliases(self) -> dict[str, str]:
        """See :meth:`Registry.aliases`."""
        try:
            with answered(self.tracking_uri):
                found = self._client.get_registered_model(self.name).aliases
        except UnknownModel:
            return {}
        return {alias: str(version) for alias, version in found.items()}

    def point(self, alias: str, version: str | None) -> None:
        """See :meth:`Registry.point`."""
        if version is None:
            with answered(self.tracking_uri):
                self._client.delete_registered_model_alias(self.name, alias)
            return
        self._upsert(lambda: self._client.set_registered_model_alias(self.name, alias, version))

    def _upsert(self, write: Callable[[], object]) -> None:
        """Set an alias or a tag that others may be setting for the first time at this moment.

        MLflow reads before it inserts, so two first writers collide; the row is there the next time.
        """
        for last in (False, False, True):
            try:
                with answered(self.tracking_uri):
                    write()
                return
            except RegistryError as error:
                if last or "unique constraint" not in str(error).lower():
                    raise

    def download(self, ref: ModelRef, folder: Path) -> Path:
        """See :meth:`Registry.download`."""
        bundle = self._fetch(ref, BUNDLE_FOLDER, folder)
        _verify(bundle, ref)
        return bundle

    def package(self, ref: ModelRef, folder: Path) -> Path:
        """See :meth:`Registry.package`."""
        package = self._fetch(ref, "", folder)
        _verify(package / BUNDLE_FOLDER, ref)
        recorded, found = self.tags(ref).get("package_digest"), package_digest(package)
        if found != recorded:
            raise TamperedBundle(
                f"The files around the bundle of version {ref.version} of {self.name!r} (code, signature, golden "
                f"requests) have the digest {found[:12]}…, and {recorded} was registered: they were changed since. "
                "Do not serve it; register the model again."
            )
        return package

    def attach(self, ref: ModelRef, files: Mapping[str, Path]) -> None:
        """See :meth:`Registry.attach`."""
        with answered(self.tracking_uri):
            self._attach(ref.run_id, files)

    def record(self, ref: ModelRef, evidence: Evidence) -> None:
        """See :meth:`Registry.record`."""
        text = canonical_json(evidence)
        with temporary_folder() as folder:
            file = folder / "evidence.json"
            file.write_text(text, encoding="utf-8")
            names = (f"{evidence.digest}.json", _NEWEST_EVIDENCE)
            self.attach(ref, {f"{_EVIDENCE_FOLDER}/{name}": file for name in names})
        # From our tag: a version whose source is a path, and not models:/…, has no model_id of its own.
        model_id = self.tags(ref).get("model_id")
        with answered(self.tracking_uri):
            log_metrics(self._client, ref.run_id, model_id, evidence_metrics(evidence))

    def evidence(self, ref: ModelRef, digest: str | None = None) -> Evidence | None:
        """See :meth:`Registry.evidence`."""
        wanted = f"{digest}.json" if digest else _NEWEST_EVIDENCE
        if wanted not in self._evidence_files(ref):
            return None
        with answered(self.tracking_uri), temporary_folder() as folder:
            file = self._client.download_artifacts(ref.run_id, f"{_EVIDENCE_FOLDER}/{wanted}", str(folder))
            text = Path(file).read_text(encoding="utf-8")
        try:
            found = Evidence.model_validate_json(text)
        except ValueError as error:
            raise RegistryError(
                f"The evidence about version {ref.version} of {self.name!r} cannot be read: {error}. Compare again."
            ) from error
        # The text, not the value: a later feedloop may add fields with defaults.
        if digest is not None and hashlib.sha256(text.encode()).hexdigest() != digest:
            raise RegistryError(
                f"The evidence {digest[:12]}… about version {ref.version} of {self.name!r} was changed after it was "
                "recorded. Compare again."
            )
        return found

    def evidence_digests(self, ref: ModelRef) -> tuple[str, ...]:
        """See :meth:`Registry.evidence_digests`."""
        names = self._evidence_files(ref) - {_NEWEST_EVIDENCE}
        return tuple(sorted(name.removesuffix(".json") for name in names))

    def _evidence_files(self, ref: ModelRef) -> set[str]:
        if not ref.run_id:
            # A version that somebody made by hand from a folder belongs to no run.
            return set()
        with answered(self.tracking_uri):
            files = self._client.list_artifacts(ref.run_id, _EVIDENCE_FOLDER)
        return {PurePosixPath(file.path).name for file in files}

    def annotate(self, ref: ModelRef, tags: Mapping[str, str], description: str | None = None) -> None:
        """See :meth:`Registry.annotate`."""
        write = self._client.set_model_version_tag
        for key, value in tags.items():
            self._upsert(partial(write, ref.name, ref.version, f"{TAG}{key}", value))
        if description is not None:
            with answered(self.tracking_uri):
                self._client.update_model_version(ref.name, ref.version, description)

    def tags(self, ref: ModelRef) -> dict[str, str]:
        """See :meth:`Registry.tags`."""
        with answered(self.tracking_uri):
            found = self._client.get_model_version(ref.name, ref.version).tags
        return {key.removeprefix(TAG): value for key, value in found.items() if key.startswith(TAG)}

    def _requested(self, request: str) -> ModelRef | None:
        found = self._search(f" and tags.`{TAG}request` = '{request}'")
        return min((_ref(version) for version in found), key=lambda ref: int(ref.version), default=None)

    def _search(self, condition: str) -> "list[ModelVersion]":
        found: list[ModelVersion] = []
        token: str | None = None
        with answered(self.tracking_uri):
            while True:
                page = self._client.search_model_versions(f"name = '{self.name}'{condition}", page_token=token)
                found += page
                token = page.token
                if not token:
                    return found

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

    def _create_version(self, run_id: str, model: "LoggedModel", tags: Mapping[str, str]) -> "ModelVersion":
        self._ensure_registered_model()
        self._client.create_model_version(
            self.name,
            source=model.artifact_location,
            run_id=run_id,
            model_id=model.model_id,
            tags={f"{TAG}{key}": value for key, value in tags.items()},
            await_creation_for=0,
        )
        # A lost answer makes the client ask twice, and MLflow then makes two versions: keep the first.
        first, *surplus = sorted(self._search(f" and run_id = '{run_id}'"), key=lambda found: int(found.version))
        for version in surplus:
            self._client.delete_model_version(self.name, version.version)
        # What MLflow's fluent API leaves, so that the UI leads from the logged model to its version.
        known_as = json.dumps([{"name": self.name, "version": int(first.version)}])
        self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": known_as})
        return first

    def _ensure_registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _fetch(self, ref: ModelRef, path: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        if not ref.digest:
            raise RegistryError(
                f"Version {ref.version} of {self.name!r} was not registered by feedloop: it carries no bundle digest, "
                "so it cannot be scored or compared. Train and register a model, and force its promotion with a reason."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with answered(self.tracking_uri):
            root = self._client.get_model_version_download_uri(ref.name, ref.version).rstrip("/")
        try:
            with answered(self.tracking_uri):
                fetched = download_artifacts(
                    artifact_uri=f"{root}/{path}" if path else root,
                    dst_path=tempfile.mkdtemp(prefix=f"version-{ref.version}-", dir=folder),
                    tracking_uri=self.tracking_uri,
                    registry_uri=self.tracking_uri,
                )
        except RegistryUnavailable:
            raise
        except (RegistryError, StorageError) as error:
            raise BundleError(
                f"The files of version {ref.version} of {self.name!r} cannot be fetched from {root}: {error} "
                "Restore them, or register the model again."
            ) from error
        return Path(fetched)


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


def _ref(version: "ModelVersion") -> ModelRef:
    tags = version.tags
    start, end = tags.get(f"{TAG}learnt_from"), tags.get(f"{TAG}learnt_until")
    return ModelRef(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or "",
        digest=tags.get(f"{TAG}digest", ""),
        learnt=Window.model_validate({"start": start, "end": end}) if start and end else None,
    )
