"""The log of a gateway: whole files only, nothing kept is lost or doubled, also by ``kill -9`` in the middle."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ranking.errors import StorageError
from ranking.exposures import LOGS, Answered, Outcome, Shadowed, ShadowOutcome
from tasks.adapters import exposure_log
from tasks.adapters.exposure_log import ExposureLog, microseconds, publish, recover

NOW = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
LATER = datetime(2026, 3, 2, 0, 0, 1, tzinfo=UTC)


def answered(number: int, at: datetime = NOW, **changes: object) -> Answered:
    values: dict[str, object] = {
        "request_id": f"r{number}",
        "user": f"u{number % 3}",
        "time": microseconds(at),
        "rollout": "ramp",
        "stage": 1,
        "arm": "treatment",
        "version": "2",
        "entry": 7,
        "outcome": Outcome.OK,
        "latency_ms": 3.5,
        "candidates": 5,
        "bad": False,
        "propensity": 0.1,
        "features_digest": "abc",
        "items": ("a", "b"),
        "scores": (0.9, 0.25),
    }
    return Answered.model_validate({**values, **changes})


def shadowed(number: int, outcome: ShadowOutcome, **changes: object) -> Shadowed:
    values: dict[str, object] = {
        "request_id": f"r{number}",
        "user": "u",
        "time": microseconds(NOW),
        "rollout": "ramp",
        "stage": 0,
        "outcome": outcome,
        "latency_ms": None,
    }
    return Shadowed.model_validate({**values, **changes})


@pytest.fixture
def log(tmp_path: Path) -> ExposureLog:
    return ExposureLog(str(tmp_path / "online"), tmp_path / "journals", NOW)


def rows(tmp_path: Path, name: str) -> list[dict[str, object]]:
    table = ds.dataset(tmp_path / "online" / name, format="parquet", partitioning="hive").to_table()
    assert table.select(LOGS[name].names).schema.equals(LOGS[name])
    plain: list[dict[str, object]] = table.to_pylist()
    return plain


def test_an_answer_becomes_a_request_and_one_exposure_per_item_shown(log: ExposureLog, tmp_path: Path) -> None:
    log.write(answered(1))
    log.write(answered(2, outcome=Outcome.ERROR, bad=True, items=(), scores=()))
    log.rotate(NOW)
    shown = rows(tmp_path, "exposures")
    assert [(row["request_id"], row["item"], row["position"], row["score"]) for row in shown] == [
        ("r1", "a", 1, 0.9),
        ("r1", "b", 2, 0.25),
    ]
    assert {(row["team"], row["propensity"], row["features_digest"], row["time"]) for row in shown} == {
        (-1, 0.1, "abc", NOW)
    }
    assert [(row["request_id"], row["outcome"], row["bad"]) for row in rows(tmp_path, "requests")] == [
        ("r1", "ok", False),
        ("r2", "error", True),
    ]


def test_a_mixed_list_says_whose_pick_each_item_was(log: ExposureLog, tmp_path: Path) -> None:
    log.write(answered(1, teams=(0, 1)))
    log.rotate(NOW)
    assert [row["team"] for row in rows(tmp_path, "exposures")] == [0, 1]


def test_a_shadow_has_both_scores_or_null_and_what_was_dropped_is_counted(log: ExposureLog, tmp_path: Path) -> None:
    both = {"items": ("a", "b"), "champion_scores": (0.9, 0.1)}
    scored = {"challenger_scores": (0.2, 0.3), "features": {"age": 0.5}, "latency_ms": 4.0}
    log.write(shadowed(1, ShadowOutcome.SCORED, **both, **scored))
    log.write(shadowed(2, ShadowOutcome.FAILED, **both))
    log.write(shadowed(3, ShadowOutcome.DROPPED))
    log.rotate(NOW)
    assert [(row["request_id"], row["position"], row["challenger_score"]) for row in rows(tmp_path, "shadow")] == [
        ("r1", 1, 0.2),
        ("r1", 2, 0.3),
        ("r2", 1, None),
        ("r2", 2, None),
    ]
    chosen = rows(tmp_path, "shadow_requests")
    assert [row["outcome"] for row in chosen] == ["scored", "failed", "dropped"]
    assert chosen[0]["features"] == [{"name": "age", "known": 0.5}]
    assert chosen[1]["features"] is None


def test_a_beat_is_written_at_every_rotation_even_when_nobody_came(log: ExposureLog, tmp_path: Path) -> None:
    log.rotate(NOW)
    log.write(answered(1))
    log.rotate(NOW)
    assert sorted(row["requests"] for row in rows(tmp_path, "beats")) == [0, 1]
    assert {row["gateway"] for row in rows(tmp_path, "beats")} == {log.writer}


def test_rows_lie_in_the_folder_of_their_own_day(log: ExposureLog, tmp_path: Path) -> None:
    log.write(answered(1))
    log.write(answered(2, at=LATER))
    log.rotate(LATER)
    days = sorted(path.name for path in (tmp_path / "online" / "requests").iterdir())
    assert days == ["day=2026-03-01", "day=2026-03-02"]
    assert [str(row["day"]) for row in rows(tmp_path, "requests")] == ["2026-03-01", "2026-03-02"]


def test_two_processes_in_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    logs = [ExposureLog(str(tmp_path / "online"), tmp_path / "journals", NOW) for _ in range(50)]
    assert len({log.writer for log in logs}) == 50


def test_many_answers_are_turned_into_files_in_pieces_and_none_is_lost(log: ExposureLog, tmp_path: Path) -> None:
    many = 2 * exposure_log.CHUNK + 7
    for number in range(many):
        log.write(answered(number))
    log.close(NOW)
    assert sorted(row["request_id"] for row in rows(tmp_path, "requests")) == sorted(f"r{n}" for n in range(many))
    assert list((tmp_path / "journals").iterdir()) == []


def test_files_that_cannot_be_written_are_tried_again_and_nothing_is_lost(log: ExposureLog, tmp_path: Path) -> None:
    (tmp_path / "online").write_text("in the way")
    log.write(answered(1))
    with pytest.raises(StorageError, match=r"cannot be written.*serving\.log"):
        log.rotate(NOW)
    assert len(log.unwritten) == 1
    (tmp_path / "online").unlink()
    log.write(answered(2))
    log.rotate(NOW)
    assert [row["request_id"] for row in rows(tmp_path, "requests")] == ["r1", "r2"]
    assert log.unwritten == []


def test_a_journal_that_cannot_be_written_costs_no_answer_and_is_counted(log: ExposureLog) -> None:
    os.close(log._journal.descriptor)
    log._journal.descriptor = os.open("/dev/full", os.O_WRONLY)
    log.write(answered(1))
    assert log.lost == 1


def test_a_journal_made_into_files_twice_gives_no_row_twice(log: ExposureLog, tmp_path: Path) -> None:
    log.write(answered(1))
    journal = log._journal.path
    kept = journal.read_bytes()
    publish(journal, str(tmp_path / "online"))
    # As if the process had died between the last file and the deletion of its journal.
    journal.write_bytes(kept)
    publish(journal, str(tmp_path / "online"))
    assert len(rows(tmp_path, "requests")) == 1


def test_the_journal_of_a_process_that_lives_is_left_alone(log: ExposureLog, tmp_path: Path) -> None:
    log.write(answered(1))
    assert recover(tmp_path / "journals", str(tmp_path / "online")) == 0
    assert log._journal.path.exists()


_WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tasks.adapters.exposure_log import ExposureLog
from tests.tasks.test_exposure_log import NOW, answered
folder = Path(sys.argv[1])
log = ExposureLog(str(folder / "online"), folder / "journals", NOW)
number = 0
while True:
    log.write(answered(number))
    print(number, flush=True)
    number += 1
    if number % 40 == 0:
        log.rotate(NOW)
"""


@pytest.mark.parametrize("answers", [1, 97, 163])
def test_kill_9_leaves_whole_files_and_every_answer_that_was_told_exactly_once(tmp_path: Path, answers: int) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert program.stdout is not None
    told = [program.stdout.readline() for _ in range(answers)]
    program.send_signal(signal.SIGKILL)
    told += program.stdout.readlines()
    program.wait()
    numbers = [int(line) for line in told if line.endswith("\n")]
    for file in (tmp_path / "online").rglob("*.parquet"):
        pq.read_table(file, partitioning=None)
    assert recover(tmp_path / "journals", str(tmp_path / "online")) >= 1
    found = [str(row["request_id"]) for row in rows(tmp_path, "requests")]
    assert len(found) == len(set(found)), "no row twice"
    assert {f"r{number}" for number in numbers} <= set(found), "an answer that was told is in the log"
    # One more may have been kept and not told yet.
    assert len(found) <= len(numbers) + 1
    assert list((tmp_path / "journals").iterdir()) == []
    assert len(rows(tmp_path, "exposures")) == 2 * len(found)


def test_a_journal_that_cannot_be_read_is_kept_and_holds_up_no_other(log: ExposureLog, tmp_path: Path) -> None:
    log.write(answered(1))
    with log._journal.path.open("ab") as journal:
        journal.write(b'{"kind": "answered"}\n')
    with pytest.raises(StorageError, match="cannot be turned into rows"):
        log.rotate(NOW)
    log.write(answered(2))
    with pytest.raises(StorageError):
        log.rotate(NOW)
    assert [row["request_id"] for row in rows(tmp_path, "requests")] == ["r2"]
    assert len(list((tmp_path / "journals").iterdir())) == 2, "the unreadable one, and the one that is written now"


def test_half_a_line_at_the_end_of_a_journal_is_no_row(tmp_path: Path) -> None:
    journal = tmp_path / "w-000001.jsonl"
    whole = orjson.dumps(answered(1).model_dump())
    journal.write_bytes(whole + b"\n" + whole[:50])
    assert recover(tmp_path, str(tmp_path / "online")) == 1
    assert [row["request_id"] for row in rows(tmp_path, "requests")] == ["r1"]


def test_readers_see_no_file_that_is_being_written(
    log: ExposureLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(answered(1))
    log.rotate(NOW)
    log.write(answered(2))

    def torn(*_: object) -> None:
        raise OSError("killed before the rename")

    monkeypatch.setattr(os, "replace", torn)
    with pytest.raises(StorageError):
        log.rotate(NOW)
    assert [row["request_id"] for row in rows(tmp_path, "requests")] == ["r1"]


def test_the_schemas_are_those_of_the_contract() -> None:
    assert LOGS["exposures"].names == [
        "request_id", "user", "item", "position", "rollout", "stage", "arm", "version", "score", "propensity", "time",
        "features_digest", "team",
    ]  # fmt: skip
    assert LOGS["requests"].field("time").type == pa.timestamp("us", tz="UTC")
