"""Versions of one registered model in MLflow: found, created once, tagged and named without losing a race."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ranking.errors import RegistryError, UnknownModel
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.mlflow_store import Store
from tasks.adapters.registry import TAG

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


class Versions:
    """The versions of the registered model ``name``."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store
        self._client = store.client

    def get(self, number: str) -> "ModelVersion":
        """One version.  Raises UnknownModel."""
        with answered(self._store.uri):
            return self._client.get_model_version(self.name, number)

    def search(self, **tags: str) -> "list[ModelVersion]":
        """All versions with these tags (without prefix), oldest first."""
        return self._search("".join(f" and tags.`{TAG}{key}` = '{value}'" for key, value in tags.items()))

    def of_run(self, run_id: str) -> "list[ModelVersion]":
        """All versions that a run made, oldest first."""
        return self._search(f" and run_id = '{run_id}'")

    def _search(self, condition: str) -> "list[ModelVersion]":
        found: list[ModelVersion] = []
        token: str | None = None
        with answered(self._store.uri):
            while True:
                page = self._client.search_model_versions(f"name = '{self.name}'{condition}", page_token=token)
                found += page
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: int(version.version))

    def create(self, model: "LoggedModel", tags: Mapping[str, str], run_id: str) -> "ModelVersion":
        """Make a version of a logged model, once.

        A lost answer makes the client ask twice, and MLflow then makes two versions: the first is kept.
        """
        with answered(self._store.uri):
            self._ensure()
            self._client.create_model_version(
                self.name,
                source=model.artifact_location,
                run_id=run_id,
                model_id=model.model_id,
                tags={f"{TAG}{key}": value for key, value in tags.items()},
                await_creation_for=0,
            )
        version, *surplus = self.of_run(run_id)
        for again in surplus:
            self.delete(str(again.version))
        with answered(self._store.uri):
            # What MLflow's fluent API leaves, so that the UI leads from the logged model to its version.
            known_as = json.dumps([{"name": self.name, "version": int(version.version)}])
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": known_as})
        return version

    def _ensure(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def delete(self, number: str) -> None:
        """Delete a version; one that is gone is fine."""
        try:
            with answered(self._store.uri):
                self._client.delete_model_version(self.name, number)
        except UnknownModel:
            return

    def aliases(self) -> dict[str, str]:
        """Alias to number; none when nothing was ever registered."""
        try:
            with answered(self._store.uri):
                found = self._client.get_registered_model(self.name).aliases
        except UnknownModel:
            return {}
        return {alias: str(version) for alias, version in found.items()}

    def point(self, alias: str, number: str | None) -> None:
        """Set an alias, or take it away with None."""
        if number is None:
            with answered(self._store.uri):
                self._client.delete_registered_model_alias(self.name, alias)
            return
        self._upsert(lambda: self._client.set_registered_model_alias(self.name, alias, number))

    def annotate(self, number: str, tags: Mapping[str, str], description: str | None) -> None:
        """Set tags (without prefix) and, if given, the description."""
        write = self._client.set_model_version_tag
        for key, value in tags.items():
            self._upsert(partial(write, self.name, number, f"{TAG}{key}", value))
        if description is not None:
            with answered(self._store.uri):
                self._client.update_model_version(self.name, number, description)

    def _upsert(self, write: Callable[[], object]) -> None:
        """Set an alias or a tag that others may be setting for the first time at this moment.

        MLflow reads before it inserts, so two first writers collide; the row is there the next time.
        """
        for last in (False, False, True):
            try:
                with answered(self._store.uri):
                    write()
                return
            except RegistryError as error:
                if last or "unique constraint" not in str(error).lower():
                    raise


def tags_of(version: "ModelVersion") -> dict[str, str]:
    """The tags that feedloop wrote on a version, without prefix."""
    return {key.removeprefix(TAG): value for key, value in version.tags.items() if key.startswith(TAG)}
