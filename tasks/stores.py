"""The two stores behind a promotion, opened from the settings: the registry of models, and the ledger.

No Prefect here: a rollback from the command line waits for no library that it does not need.
"""

from pathlib import Path

import fsspec

from ranking.errors import SettingsError
from settings.effects import RegistryKnobs
from tasks.adapters.ledger import Ledger, open_ledger
from tasks.adapters.registry import Registry, open_registry


def open_both(registry: RegistryKnobs, workspace: str) -> tuple[Registry, Ledger]:
    """The registry of models, and the ledger of who serves."""
    folder = _local(registry, workspace)
    return (
        open_registry(registry.tracking_uri, registry.model_name, folder),
        open_ledger(registry.tracking_uri, registry.model_name, folder, registry.ledger_uri),
    )


def open_models(registry: RegistryKnobs, workspace: str) -> Registry:
    """The registry of models."""
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
