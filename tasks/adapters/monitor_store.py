"""What monitoring keeps in the workspace: the arbiter's memory, every decision, and which run took up which retraining.

::

    monitor/<model>/memory.json          what the arbiter remembers
                    decisions/*.json     one file per decision or non-decision, never changed
                    flights/<key>.json   the run that took up a retraining
                    landings/<run>.json  how that run ended
"""

from datetime import datetime
from typing import TYPE_CHECKING, Literal

import fsspec
from pydantic import AwareDatetime

from ranking.errors import StorageError
from ranking.triggers import Arbitration, Memory
from ranking.values import Value
from tasks.adapters.storage import read_bytes, storage_error, write_bytes

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class TakeOff(Value):
    """Which run took up a retraining."""

    run: str
    at: AwareDatetime


class Landing(Value):
    """How a run of a retraining ended."""

    result: Literal["completed", "failed"]
    at: AwareDatetime


class MonitorStore:
    """Small JSON files by URI, each written whole."""

    def __init__(self, workspace: str, model_name: str) -> None:
        self._folder = f"{workspace}/monitor/{model_name}"

    def memory(self) -> Memory:
        """What the arbiter remembers; nothing before its first decision.

        Raises:
            StorageError: the file cannot be read, or is no memory.
        """
        text = read_bytes(f"{self._folder}/memory.json")
        if text is None:
            return Memory()
        try:
            return Memory.model_validate_json(text)
        except ValueError as error:
            raise StorageError(
                f"{self._folder}/memory.json cannot be read: {error}. Restore it, or remove it: the arbiter then "
                "starts afresh, without its cool-down."
            ) from error

    def keep(self, decided: Arbitration, memory: Memory, before: Memory) -> None:
        """Record a decision and keep the memory after it.

        Raises:
            StorageError: another check has decided since ``before`` was read, or the workspace cannot be written.
        """
        found = self.memory().revision
        if found != before.revision:
            raise StorageError(
                f"Another check has decided meanwhile (revision {found}, not {before.revision}): this one is dropped. "
                "Check again."
            )
        # The decision first: a memory without its decision would be a retraining without a reason.
        name = f"{decided.at:%Y%m%dT%H%M%S%f}-{memory.revision:08d}"
        write_bytes(f"{self._folder}/decisions/{name}.json", decided.model_dump_json(indent=2).encode())
        write_bytes(f"{self._folder}/memory.json", memory.model_dump_json(indent=2).encode())

    def decisions(self, last: int) -> tuple[Arbitration, ...]:
        """The last decisions and non-decisions, oldest first."""
        filesystem, files = self._decisions()
        return tuple(Arbitration.model_validate_json(filesystem.cat_file(file)) for file in files[-last:])

    def forget(self, keep: int) -> int:
        """Delete all but the last decisions, and the notes of retrainings before those; returns how many decisions.

        A retraining that is on its way keeps its notes, however old they are.

        Raises:
            StorageError: the workspace cannot be changed.
        """
        try:
            filesystem, files = self._decisions()
            surplus = files[:-keep]
            if not surplus:
                return 0
            oldest = Arbitration.model_validate_json(filesystem.cat_file(files[-keep])).at
            flight = self.memory().flight
            mine = None if flight is None else self.taken_up(flight.key)
            spared = set() if flight is None or mine is None else {f"{flight.key}.json", f"{mine.run}.json"}
            for kind, folder in ((TakeOff, "flights"), (Landing, "landings")):
                surplus += [file for file in self._older(kind, folder, oldest) if file.rsplit("/", 1)[1] not in spared]
            for file in surplus:
                filesystem.rm_file(file)
        except OSError as error:
            raise storage_error(
                f"{self._folder} cannot be tidied: {error}. Check the rights of `workspace`.", error
            ) from error
        return len(files) - keep

    def _decisions(self) -> "tuple[AbstractFileSystem, list[str]]":
        """The file system, and the decisions' files in it, oldest first."""
        filesystem, path = fsspec.core.url_to_fs(f"{self._folder}/decisions")
        return filesystem, sorted(filesystem.glob(f"{path}/*.json"), key=lambda name: str(name).rsplit("-", 1)[-1])

    def _older(self, kind: type[TakeOff] | type[Landing], folder: str, than: datetime) -> list[str]:
        filesystem, path = fsspec.core.url_to_fs(f"{self._folder}/{folder}")
        files = [str(file) for file in filesystem.glob(f"{path}/*.json")]
        return [file for file in files if kind.model_validate_json(filesystem.cat_file(file)).at < than]

    def taken_up(self, key: str) -> TakeOff | None:
        """The run that took up a retraining; None while none has."""
        text = read_bytes(f"{self._folder}/flights/{key}.json")
        return None if text is None else TakeOff.model_validate_json(text)

    def take_up(self, key: str, run: str, at: datetime) -> TakeOff:
        """Take up a retraining, unless another run has; returns whose it is."""
        taken = self.taken_up(key)
        if taken is not None:
            return taken
        mine = TakeOff(run=run, at=at)
        write_bytes(f"{self._folder}/flights/{key}.json", mine.model_dump_json().encode())
        return mine

    def landing(self, run: str) -> Landing | None:
        """How a run ended; None while it has not."""
        text = read_bytes(f"{self._folder}/landings/{run}.json")
        return None if text is None else Landing.model_validate_json(text)

    def land(self, run: str, landing: Landing) -> None:
        """Record how a run ended."""
        write_bytes(f"{self._folder}/landings/{run}.json", landing.model_dump_json().encode())
