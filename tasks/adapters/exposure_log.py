"""The log of what a gateway answered: every answer on disk before it is sent, and parquet files soon after.

A record first becomes one line of a journal, a local file of this process.  Every ``rotate`` turns the
journal into parquet files and deletes it.  A process that is killed leaves its journal, and the next
gateway that starts turns it into files; only an answer that was not yet sent can be missing.  A file
shows under its name when it is whole.  Its name follows from the journal's, so that a journal turned
into files twice gives the same files, and no row counts double.

A crash of the whole machine can take the last seconds of journals that the kernel had not yet written.
"""

import fcntl
import io
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath

import fsspec
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ranking.errors import StorageError
from ranking.exposures import Answered, Beat, Plain, Shadowed, tables

CHUNK = 200
"""Records that become rows at once: small, so that the thread that answers requests never waits long for this one."""


@dataclass
class Journal:
    """One file of lines, locked by the process that writes it."""

    path: Path
    descriptor: int
    requests: int = 0
    rows: int = 0

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self.descriptor)


@dataclass
class ExposureLog:
    """Writes the logs of one process.

    Args:
        folder: where the parquet files go; a path or any fsspec URI.
        journals: local folder of the journals of all processes that log to ``folder``.
        started: the time, for the writer's name.
    """

    folder: str
    journals: Path
    started: datetime
    writer: str = field(init=False)
    lost: int = field(default=0, init=False)
    """Records that could not be kept, because the disk is full or gone."""
    unwritten: list[Journal] = field(default_factory=list, init=False)
    """Journals that could not be turned into files yet."""

    def __post_init__(self) -> None:
        self.writer = f"{self.started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self._number = 0
        self._swapping = threading.Lock()
        self._rotating = threading.Lock()
        try:
            self.journals.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._journal = self._opened()
        except OSError as error:
            raise StorageError(f"The journal in {self.journals} cannot be written: {error}. Allow it.") from error

    @property
    def waiting(self) -> int:
        """Candidates in the journal that are not in a file yet."""
        return self._journal.rows

    def write(self, record: Answered | Shadowed) -> None:
        """Keep one record.  Never raises: a log that cannot be written must not cost an answer, it is counted."""
        line = orjson.dumps(record.model_dump()) + b"\n"
        with self._swapping:
            try:
                if os.write(self._journal.descriptor, line) < len(line):
                    raise OSError("only a part of the line was written")
            except OSError:
                self.lost += 1
                with suppress(OSError):
                    os.write(self._journal.descriptor, b"\n")
                return
            self._journal.rows += len(record.items)
            self._journal.requests += isinstance(record, Answered)

    def rotate(self, now: datetime) -> None:
        """Beat, and turn everything kept so far into parquet files.

        Args:
            now: the time of the beat.

        Raises:
            StorageError: the files cannot be written.  The rows are kept, and tried again at the next call.
        """
        with self._rotating:
            self._seal(now)
            failures = [failure for journal in tuple(self.unwritten) if (failure := self._published(journal))]
        if failures:
            raise failures[0]

    def close(self, now: datetime) -> None:
        """Write everything out; what cannot be written stays for the next gateway that starts.

        Raises:
            StorageError: the files cannot be written.
        """
        try:
            self.rotate(now)
        finally:
            for journal in (*self.unwritten, self._journal):
                journal.close()
            if not self.unwritten:
                self._journal.path.unlink(missing_ok=True)

    def _published(self, journal: Journal) -> StorageError | None:
        """Turn one journal into files; why not, if not.  One that cannot be read holds up no other."""
        try:
            publish(journal.path, self.folder)
        except StorageError as error:
            return error
        self.unwritten.remove(journal)
        journal.close()
        return None

    def _seal(self, now: datetime) -> None:
        try:
            fresh = self._opened()
        except OSError as error:
            raise StorageError(f"The journal in {self.journals} cannot be written: {error}. Free the disk.") from error
        beat = Beat(gateway=self.writer, time=microseconds(now), requests=self._journal.requests)
        with self._swapping:
            sealed, self._journal = self._journal, fresh
        with suppress(OSError):
            os.write(sealed.descriptor, orjson.dumps(beat.model_dump()) + b"\n")
        self.unwritten.append(sealed)

    def _opened(self) -> Journal:
        self._number += 1
        path = self.journals / f"{self.writer}-{self._number:06d}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return Journal(path, descriptor)


def recover(journals: Path, folder: str) -> int:
    """Turn the journals of processes that were killed into files; returns how many there were.

    A journal whose lock is held belongs to a process that lives, and is left alone.

    Raises:
        StorageError: the files cannot be written.
    """
    found = 0
    for path in sorted(journals.glob("*.jsonl")):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                publish(path, folder)
                found += 1
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return found


def publish(journal: Path, folder: str) -> None:
    """Turn a journal into parquet files, one per log and day, and delete it.

    Raises:
        StorageError: the files cannot be written; the journal stays.
    """
    parts: dict[tuple[str, str], list[pa.Table]] = {}
    try:
        for records in _chunks(journal):
            for log, rows in tables(records).items():
                for day, some in _by_day(rows):
                    parts.setdefault((log, day), []).append(some)
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise StorageError(
            f"{journal} cannot be turned into rows: {error!r}. It is kept; read it with the feedloop that wrote it."
        ) from error
    for (log, day), rows in parts.items():
        content = io.BytesIO()
        pq.write_table(pa.concat_tables(rows), content, compression="zstd")
        _put(f"{folder}/{log}/day={day}/{journal.stem}.parquet", content.getvalue())
    journal.unlink(missing_ok=True)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970."""
    return round(moment.timestamp() * 1_000_000)


def _chunks(journal: Path) -> Iterator[list[Plain]]:
    with journal.open("rb") as lines:
        some = []
        for line in lines:
            # The last line of a process that was killed may be half a line: its answer was never sent.
            with suppress(orjson.JSONDecodeError):
                some.append(orjson.loads(line))
            if len(some) == CHUNK:
                yield some
                some = []
        if some:
            yield some


def _by_day(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    days = pc.strftime(rows["time"], "%Y-%m-%d")
    for day in days.unique().to_pylist():
        yield day, rows.filter(pc.equal(days, day))


def _put(uri: str, content: bytes) -> None:
    """Write a whole file or nothing.  An object store shows objects only when they are whole; a disk needs a rename."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        if "file" not in filesystem.protocol:
            filesystem.pipe_file(path, content)
            return
        parent = PurePosixPath(path).parent
        filesystem.makedirs(str(parent), exist_ok=True)
        # Readers of a folder pass over names that start with a dot.
        temporary = f"{parent}/.{PurePosixPath(path).name}.part"
        filesystem.pipe_file(temporary, content)
        os.replace(temporary, path)
    except (OSError, ImportError) as error:
        raise StorageError(
            f"{uri} cannot be written: {error}. Check the setting serving.log and its rights."
        ) from error
