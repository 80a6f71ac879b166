"""Files by URI: whole or not at all, and what a driver raises is an error that says whether it may pass."""

import errno
from collections.abc import Iterator
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from prefect import flow, task

from ranking.errors import StorageError, StorageUnavailable, UnreadableData
from tasks.adapters.parquet_files import find_parquet
from tasks.adapters.storage import published, read_bytes, write_bytes
from tasks.retries import RetryPolicy

AWAY = [
    ConnectionResetError(errno.ECONNRESET, "reset by peer"),
    TimeoutError("no answer"),
    OSError(errno.EHOSTUNREACH, "no route to host"),
    OSError(errno.ESTALE, "stale file handle"),
]
BROKEN = [PermissionError(errno.EACCES, "denied"), OSError(errno.ENOSPC, "no space left on device")]


class Shaky(MemoryFileSystem):
    """An object store whose driver raises what is waiting in ``troubles``, one a call."""

    protocol = "shaky"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    troubles: ClassVar[list[Exception]] = []

    def _open(self, *arguments: object, **named: object) -> object:
        if self.troubles:
            raise self.troubles.pop()
        return super()._open(*arguments, **named)

    def exists(self, path: str, **named: object) -> bool:
        if self.troubles:
            raise self.troubles.pop()
        return bool(super().exists(path, **named))


@pytest.fixture(autouse=True)
def shaky() -> Iterator[type[Shaky]]:
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    yield Shaky
    Shaky.troubles.clear()
    Shaky.store.clear()


@pytest.mark.parametrize("trouble", AWAY, ids=repr)
def test_storage_that_does_not_answer_may_pass(shaky: type[Shaky], trouble: Exception) -> None:
    shaky.troubles.append(trouble)
    with pytest.raises(StorageUnavailable, match=r"shaky://place/file cannot be written: .*workspace"):
        write_bytes("shaky://place/file", b"whole")
    assert read_bytes("shaky://place/file") is None
    shaky.troubles.append(trouble)
    with pytest.raises(StorageUnavailable, match="cannot be read"):
        read_bytes("shaky://place/file")
    shaky.troubles.append(trouble)
    with pytest.raises(StorageUnavailable, match=r"did not answer: .* Repeating is safe"):
        find_parquet("shaky://place/log.parquet")


@pytest.mark.parametrize("trouble", BROKEN, ids=repr)
def test_storage_that_says_no_does_not_pass(shaky: type[Shaky], trouble: Exception) -> None:
    shaky.troubles.append(trouble)
    with pytest.raises(StorageError, match="cannot be written") as raised:
        published("shaky://place/nothing", "shaky://place/copy")
    assert type(raised.value) is StorageError
    shaky.troubles.append(trouble)
    with pytest.raises(UnreadableData, match=r"Check data\.uri and its permissions"):
        find_parquet("shaky://place/log.parquet")


@pytest.mark.usefixtures("prefect_server")
def test_a_task_writes_once_the_storage_answers_again(shaky: type[Shaky]) -> None:
    policy = RetryPolicy(errors=(StorageUnavailable,), delays_seconds=(0, 0), watched=2)
    tries: list[int] = []

    @task(**policy.options)
    def keep() -> None:
        tries.append(1)
        write_bytes("shaky://place/file", b"whole")

    @flow
    def run() -> None:
        keep()

    shaky.troubles.extend(AWAY[:2])
    run()
    assert (len(tries), read_bytes("shaky://place/file")) == (3, b"whole")
    shaky.troubles.append(BROKEN[0])
    with pytest.raises(StorageError, match="denied"):
        run()
    assert len(tries) == 4
