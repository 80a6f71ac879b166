"""Verified bundles and the last routing on the local disk, so that a gateway starts while MLflow is down.

Every bundle is verified again each time it is read, against the digest that the routing names.  The cached
routing itself was read from the ledger by an earlier gateway and is trusted as much as this folder is:
only the gateway's own user may write it.
"""

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ranking.bundle import Bundle
from ranking.errors import BundleError, StorageError
from ranking.results import ModelRef
from tasks.adapters.registry import Registry
from tasks.routing import Routing

KEPT_BUNDLES = 6
"""Bundles kept on the disk besides those that serve."""


@dataclass(frozen=True)
class Store:
    """The gateway's own folder."""

    folder: Path

    def __post_init__(self) -> None:
        try:
            self.bundles.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
        except OSError as error:
            raise StorageError(f"The gateway's folder {self.folder} cannot be used: {error}. Allow writing.") from error

    @property
    def bundles(self) -> Path:
        """Folders of bundles, each named after its digest."""
        return self.folder / "bundles"

    @property
    def journals(self) -> Path:
        """Answers that are not in the log yet."""
        return self.folder / "journals"

    def path(self, ref: ModelRef) -> Path:
        """Where a bundle is kept."""
        return self.bundles / (ref.digest or "unknown")

    def load(self, ref: ModelRef, registry: Registry | None) -> Bundle:
        """A verified bundle: from the disk, or from the registry.

        Args:
            ref: the model, with the digest that the ledger says.
            registry: where to fetch it; None: the disk alone.

        Raises:
            TamperedBundle: its bytes are not those of the ledger.
            BundleError: it cannot be used, or is not on the disk and there is no registry.
            RegistryError: the registry does not give it.
        """
        if self.path(ref).is_dir():
            try:
                return Bundle.load(self.path(ref), expected_digest=ref.digest)
            except BundleError:
                if registry is None:
                    raise
                shutil.rmtree(self.path(ref), ignore_errors=True)
        if registry is None:
            raise BundleError(
                f"Version {ref.version} is not in {self.bundles}, and there is no registry to fetch it from."
            )
        return self._fetched(ref, registry)

    def _fetched(self, ref: ModelRef, registry: Registry) -> Bundle:
        arriving = self.bundles / f".{uuid.uuid4().hex}"
        try:
            arrived = registry.download(ref, arriving)
            bundle = Bundle.load(arrived, expected_digest=ref.digest)
            try:
                arrived.rename(self.path(ref))
            except OSError:
                # Another worker was first; its copy is verified whenever it is read.
                if not self.path(ref).is_dir():
                    raise
            return bundle
        except OSError as error:
            raise StorageError(f"{self.bundles} cannot be written: {error}. Free the disk, allow writing.") from error
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    def remember(self, routing: Routing) -> None:
        """Keep a routing whose champion serves, and forget bundles that served long ago."""
        temporary = self.folder / f".routing-{uuid.uuid4().hex}"
        temporary.write_text(routing.model_dump_json(), encoding="utf-8")
        temporary.rename(self.folder / "routing.json")
        wanted = {ref.digest for ref in routing.models}
        for ref in routing.models:
            if self.path(ref).is_dir():
                os.utime(self.path(ref))
        old = sorted((path for path in self.bundles.glob("[!.]*") if path.name not in wanted), key=_age, reverse=True)
        for path in old[KEPT_BUNDLES:]:
            shutil.rmtree(path, ignore_errors=True)

    def remembered(self) -> Routing | None:
        """The last routing whose champion served; None if there is none that can be read."""
        try:
            return Routing.model_validate_json((self.folder / "routing.json").read_bytes())
        except (OSError, ValidationError):
            return None


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
