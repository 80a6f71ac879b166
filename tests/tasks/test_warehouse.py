"""The engine reads what people have, writes whole files, and says which file is broken."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import fsspec
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from ranking.errors import SettingsError, StorageError, StorageUnavailable, UnreadableData
from tasks.adapters.warehouse import Warehouse, open_warehouse
from tests.privileges import as_nobody

ROWS = pa.table({"user": ["a", "b", "c"], "clicks": [1, 2, 3]})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Warehouse]:
    with open_warehouse(f"duckdb://?memory_limit=500MB&threads=1&temp_directory={tmp_path / 'scratch'}") as opened:
        yield opened


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder in fsspec's memory file system, which is one for the whole process."""
    yield "memory://bucket"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def read(engine: Warehouse, uri: str) -> list[dict[str, object]]:
    table = engine.read(uri)
    with engine.guard(uri):
        return list(table.order_by(table.columns).to_pyarrow().to_pylist())


def put(uri: str, rows: pa.Table = ROWS) -> str:
    with fsspec.open(uri, "wb", auto_mkdir=True) as stream:
        pq.write_table(rows, stream)
    return uri


@pytest.mark.parametrize("place", ["local", "memory"])
class TestEveryKindOfStorage:
    @pytest.fixture
    def root(self, place: str, tmp_path: Path, bucket: str) -> str:
        return str(tmp_path / "data") if place == "local" else bucket

    def test_a_file_is_read(self, engine: Warehouse, root: str) -> None:
        assert read(engine, put(f"{root}/log.parquet")) == ROWS.to_pylist()

    def test_a_folder_is_read_with_all_below_it_and_without_unfinished_work(self, engine: Warehouse, root: str) -> None:
        put(f"{root}/a.parquet", ROWS.slice(0, 1))
        put(f"{root}/deeper/b.parquet", ROWS.slice(1))
        for name in ("_temporary/c.parquet", ".d.parquet", "_e.parquet"):
            put(f"{root}/{name}")
        with fsspec.open(f"{root}/_SUCCESS", "wb") as stream:
            stream.write(b"")
        assert read(engine, root) == ROWS.to_pylist()

    def test_partition_folders_become_columns(self, engine: Warehouse, root: str) -> None:
        put(f"{root}/day=2026-01-31/country=NL/a.parquet", ROWS.slice(0, 1))
        put(f"{root}/day=2026-02-01/country=DE/a.parquet", ROWS.slice(1, 1))
        assert [(row["user"], str(row["day"]), row["country"]) for row in read(engine, root)] == [
            ("a", "2026-01-31", "NL"),
            ("b", "2026-02-01", "DE"),
        ]

    def test_a_glob_is_read(self, engine: Warehouse, root: str) -> None:
        put(f"{root}/day-1.parquet", ROWS.slice(0, 1))
        put(f"{root}/day-2.parquet", ROWS.slice(1, 1))
        put(f"{root}/other.parquet", ROWS.slice(2))
        assert [row["user"] for row in read(engine, f"{root}/day-*.parquet")] == ["a", "b"]

    def test_what_is_written_can_be_read_and_keeps_its_order(self, engine: Warehouse, root: str) -> None:
        rows = engine.read(put(f"{root}/log.parquet"))
        engine.write(rows.order_by(ibis.desc("clicks")), f"{root}/new/sorted.parquet")
        with fsspec.open(f"{root}/new/sorted.parquet", "rb") as stream:
            assert pq.read_table(stream)["clicks"].to_pylist() == [3, 2, 1]

    def test_nothing_there_is_said_with_the_address(self, engine: Warehouse, root: str) -> None:
        with pytest.raises(UnreadableData, match=r"nowhere does not exist\. Check data\.uri"):
            engine.read(f"{root}/nowhere")

    def test_a_folder_without_parquet_is_said_with_what_it_holds(self, engine: Warehouse, root: str) -> None:
        with fsspec.open(f"{root}/log.csv", "wb", auto_mkdir=True) as stream:
            stream.write(b"user,clicks")
        with pytest.raises(UnreadableData, match="holds no parquet file \\(1 other files"):
            engine.read(root)


def test_an_s3_address_goes_through_fsspec_and_no_extension(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    class Bucket(MemoryFileSystem):
        """The memory file system under the name of S3."""

        protocol = "s3"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(MemoryFileSystem._strip_protocol(path.replace("s3://", "memory://")))

        def unstrip_protocol(self, name: str) -> str:
            return f"s3://{name.lstrip('/')}"

    monkeypatch.setitem(_registry, "s3", Bucket)
    put(f"{bucket}/log/day=3/a.parquet")
    with open_warehouse("duckdb://?threads=1") as engine:
        rows = read(engine, "s3://bucket/log")
        loaded = (
            engine.read("s3://bucket/log")
            .get_backend()
            .raw_sql(  # type: ignore[attr-defined]
                "SELECT extension_name FROM duckdb_extensions() WHERE loaded"
            )
        )
        assert "httpfs" not in {name for (name,) in loaded.fetchall()}
    assert [row["day"] for row in rows] == [3, 3, 3]


def test_a_missing_driver_names_the_extra_to_install(engine: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SettingsError, match=r"s3:// that is not installed .*pip install 'feedloop\[s3\]'"):
        engine.read("s3://bucket/log")


def test_an_unknown_storage_is_a_wrong_setting(engine: Warehouse) -> None:
    with pytest.raises(SettingsError, match="floppy:// is no storage"):
        engine.read("floppy://disk/log")


def test_files_with_different_columns_are_united_by_name(engine: Warehouse, tmp_path: Path) -> None:
    put(str(tmp_path / "log/a.parquet"), pa.table({"user": ["a"], "clicks": [1]}))
    put(str(tmp_path / "log/b.parquet"), pa.table({"age": [30], "user": ["b"]}))
    assert read(engine, str(tmp_path / "log")) == [
        {"user": "a", "clicks": 1, "age": None},
        {"user": "b", "clicks": None, "age": 30},
    ]


def test_files_that_do_not_fit_together_are_refused(engine: Warehouse, tmp_path: Path) -> None:
    put(str(tmp_path / "log/a.parquet"), pa.table({"user": [1]}))
    put(str(tmp_path / "log/b.parquet"), pa.table({"user": [[1]]}))
    with pytest.raises(UnreadableData, match=r"failed to cast column .?\"user\""):
        read(engine, str(tmp_path / "log"))


def _damaged(path: Path, how: str) -> None:
    put(str(path), pa.table({"user": [f"user {n}" * 3 for n in range(20_000)]}))
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[-100:]
    elif how == "empty":
        content.clear()
    elif how == "text":
        content[:] = b"this,is,csv\n" * 100
    elif how == "pages overwritten":
        content[2_000:30_000] = b"\xff" * 28_000
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "pages overwritten"])
def test_a_corrupt_file_is_named(engine: Warehouse, tmp_path: Path, how: str) -> None:
    put(str(tmp_path / "log/good.parquet"), pa.table({"user": ["a"]}))
    _damaged(tmp_path / "log/bad.parquet", how)
    with pytest.raises(UnreadableData, match=r"bad\.parquet.*Repair or remove that file"):
        read(engine, str(tmp_path / "log"))


def test_writing_rows_of_a_corrupt_file_blames_the_source_and_leaves_nothing(engine: Warehouse, tmp_path: Path) -> None:
    _damaged(tmp_path / "bad.parquet", "pages overwritten")
    rows = engine.read(str(tmp_path / "bad.parquet"))
    with pytest.raises(UnreadableData, match=r"bad\.parquet"), engine.guard("the log"):
        engine.write(rows, str(tmp_path / "out/new.parquet"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_without_permission_is_named(engine: Warehouse, tmp_path: Path) -> None:
    put(str(tmp_path / "log.parquet"))
    (tmp_path / "log.parquet").chmod(0)
    with as_nobody(), pytest.raises(UnreadableData, match=r"log\.parquet"):
        read(engine, str(tmp_path / "log.parquet"))


def test_a_place_that_cannot_be_written_is_said(engine: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rows = engine.read(put(str(tmp_path / "log.parquet")))
    with pytest.raises(StorageError, match=r"cannot be written.*Check its permissions"):
        engine.write(rows, str(tmp_path / "file/new.parquet"))


def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "out/rows.parquet"
    put(str(target))
    script = """
        import resource, signal, sys
        from ranking.errors import StorageError
        from tasks.adapters.warehouse import open_warehouse
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with open_warehouse("duckdb://?threads=1") as engine:
            rows = engine.read(sys.argv[1]).get_backend().sql("SELECT hash(range) AS x FROM range(2000000)")
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            try:
                engine.write(rows, sys.argv[1])
            except StorageError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert pq.read_table(target).equals(ROWS)
    assert [file.name for file in target.parent.iterdir()] == ["rows.parquet"]


def test_too_little_memory_says_which_knob_to_turn(tmp_path: Path) -> None:
    put(str(tmp_path / "log.parquet"))
    with open_warehouse(f"duckdb://?memory_limit=20MB&threads=1&temp_directory={tmp_path}") as engine:
        backend = engine.read(str(tmp_path / "log.parquet")).get_backend()
        hungry = backend.sql("SELECT list(range) AS x FROM range(20000000)")  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match=r"too little memory.*Raise memory_limit"), engine.guard("the log"):
            hungry.to_pyarrow()


def test_a_sort_larger_than_memory_spills_to_the_temporary_folder_and_leaves_it_clean(tmp_path: Path) -> None:
    put(str(tmp_path / "log.parquet"))
    scratch = tmp_path / "scratch"
    with open_warehouse(f"duckdb://?memory_limit=60MB&threads=1&temp_directory={scratch}") as engine:
        backend = engine.read(str(tmp_path / "log.parquet")).get_backend()
        many = backend.sql("SELECT hash(range) AS x, range AS y, range AS z FROM range(3000000)")  # type: ignore[attr-defined]
        engine.write(many.order_by("x"), str(tmp_path / "sorted.parquet"))
        assert list(scratch.iterdir()), "3M rows of 24 bytes do not fit into 60 MB"
    assert list(scratch.iterdir()) == []
    assert pq.read_metadata(tmp_path / "sorted.parquet").num_rows == 3_000_000


def test_a_staged_table_outlives_its_source_and_goes_with_the_engine(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with open_warehouse(f"duckdb://?threads=1&temp_directory={scratch}") as engine:
        staged = engine.stage(engine.read(put(str(tmp_path / "log.parquet"))))
        (tmp_path / "log.parquet").unlink()
        assert staged.order_by("user").to_pyarrow().to_pylist() == ROWS.to_pylist()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sparkle://host", "engine 'sparkle', which is not known. Known: duckdb://"),
        ("duckdb://?memory_limt=2GB", "the option 'memory_limt'.*Options: memory_limit, threads, temp_directory"),
        ("duckdb://?memory_limit=plenty", "DuckDB refuses.*Memory must have a number"),
        ("duckdb:///file.db", "the address '/file.db'"),
        ("", "engine '', which is not known"),
    ],
)
def test_a_wrong_warehouse_is_a_wrong_setting(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says), open_warehouse(url):
        pass


def test_a_remote_file_that_may_not_be_opened_is_said(
    engine: Warehouse, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("403 Forbidden")

    put(f"{bucket}/log.parquet")
    monkeypatch.setattr(MemoryFileSystem, "_open", forbidden)
    with pytest.raises(UnreadableData, match=r"memory://bucket/log.parquet cannot be read: .*403 Forbidden"):
        read(engine, f"{bucket}/log.parquet")


def test_a_lost_connection_is_an_error_that_tasks_retry(engine: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise ConnectionResetError("peer")

    monkeypatch.setattr(MemoryFileSystem, "exists", lost)
    with pytest.raises(StorageUnavailable, match=r"memory://bucket/log\.parquet did not answer: peer"):
        engine.read("memory://bucket/log.parquet")
