"""Evidence beside the run of the model that it is about: one JSON file per digest, and the newest one."""

import hashlib
from pathlib import Path, PurePosixPath

from ranking.errors import RegistryError
from ranking.results import Evidence, ModelRef
from ranking.values import canonical_json
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.mlflow_store import Store
from tasks.adapters.storage import temporary_folder

_FOLDER = "evidence"
_NEWEST = "newest.json"


def write(store: Store, ref: ModelRef, evidence: Evidence) -> None:
    """Keep the evidence under its digest and as the newest."""
    with temporary_folder() as folder:
        for name in (f"{evidence.digest}.json", _NEWEST):
            (folder / name).write_text(canonical_json(evidence), encoding="utf-8")
        with answered(store.uri):
            store.client.log_artifacts(ref.run_id, str(folder), _FOLDER)


def read(store: Store, ref: ModelRef, digest: str | None) -> Evidence | None:
    """The evidence of that digest, or the newest; None if there is none.

    Raises:
        RegistryError: it cannot be read, or is not what was recorded under its digest.
    """
    wanted = f"{digest}.json" if digest else _NEWEST
    if wanted not in _files(store, ref):
        return None
    with answered(store.uri), temporary_folder() as folder:
        file = store.client.download_artifacts(ref.run_id, f"{_FOLDER}/{wanted}", str(folder))
        text = Path(file).read_text(encoding="utf-8")
    try:
        found = Evidence.model_validate_json(text)
    except ValueError as error:
        raise RegistryError(
            f"The evidence about version {ref.version} of {ref.name!r} cannot be read: {error}. Compare again."
        ) from error
    # The text, not the value: a later feedloop may add fields with defaults.
    if digest is not None and hashlib.sha256(text.encode()).hexdigest() != digest:
        raise RegistryError(
            f"The evidence {digest[:12]}… about version {ref.version} of {ref.name!r} was changed after it was "
            "recorded. Compare again."
        )
    return found


def digests(store: Store, ref: ModelRef) -> tuple[str, ...]:
    """Digests of all evidence about a version, in no order that means anything."""
    return tuple(sorted(name.removesuffix(".json") for name in _files(store, ref) - {_NEWEST}))


def attached(store: Store, ref: ModelRef, place: str) -> bytes | None:
    """Another file beside the run; None if there is none at that path."""
    path = PurePosixPath(place)
    if path.name not in _files(store, ref, str(path.parent)):
        return None
    with answered(store.uri), temporary_folder() as folder:
        return Path(store.client.download_artifacts(ref.run_id, place, str(folder))).read_bytes()


def _files(store: Store, ref: ModelRef, folder: str = _FOLDER) -> set[str]:
    if not ref.run_id:
        # A version that somebody made by hand from a folder belongs to no run.
        return set()
    with answered(store.uri):
        files = store.client.list_artifacts(ref.run_id, folder)
    return {PurePosixPath(file.path).name for file in files}
