"""A thread that scores: requests that wait at the same time share one pass through the network.

The event loop never scores, so a slow model delays no health check, and an answer that takes too long can
be given up.  A lane that hangs in one model is left behind and replaced by a new thread.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from deployments.gateway.serving import Loaded
from ranking.errors import FeedloopError

Rows = Callable[[], pa.Table]
Scores = np.ndarray


@dataclass(eq=False)
class Job:
    """Rows to score by one model."""

    loaded: Loaded
    rows: Rows
    count: int
    future: "asyncio.Future[Scores]"


class Lane:
    """One thread and its queue.

    Args:
        name: of the thread.
        most_rows: rows that are scored at once.
        wait_seconds: how long a first request waits for others.
    """

    def __init__(self, name: str, most_rows: int, wait_seconds: float = 0.0) -> None:
        self.name = name
        self._most = most_rows
        self._wait = wait_seconds
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._start()

    def submit(self, loaded: Loaded, rows: Rows, count: int) -> "asyncio.Future[Scores]":
        """Score rows; from the event loop.

        Args:
            loaded: the model.
            rows: makes the rows, in the lane's thread.
            count: how many they are.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.put(Job(loaded, rows, count, future))
        return future

    def replace(self) -> None:
        """Leave the thread behind, with what waits for it: it hangs."""
        self._waiting = queue.SimpleQueue()
        self._start()

    def close(self) -> None:
        """End the thread once it has scored what waits."""
        self._waiting.put(None)

    def _start(self) -> None:
        waiting = self._waiting
        threading.Thread(target=self._run, args=(waiting,), name=self.name, daemon=True).start()

    def _run(self, waiting: "queue.SimpleQueue[Job | None]") -> None:
        with torch.inference_mode():
            while True:
                first = waiting.get()
                if first is None:
                    return
                jobs, ended = self._gather(first, waiting)
                for some in _same_model(jobs):
                    _settle([(job, answer) for job, answer in _scored(some) if not job.future.cancelled()])
                if ended:
                    return

    def _gather(self, first: Job, waiting: "queue.SimpleQueue[Job | None]") -> tuple[list[Job], bool]:
        jobs, rows = [first], first.count
        end = time.monotonic() + self._wait if self._wait else None
        while rows < self._most:
            try:
                left = 0.0 if end is None else end - time.monotonic()
                following = waiting.get(timeout=left) if left > 0 else waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return jobs, True
            jobs.append(following)
            rows += following.count
        return [job for job in jobs if not job.future.cancelled()], False


def _same_model(jobs: list[Job]) -> Iterator[list[Job]]:
    by_model: dict[int, list[Job]] = {}
    for job in jobs:
        by_model.setdefault(id(job.loaded), []).append(job)
    yield from by_model.values()


def _scored(jobs: list[Job]) -> list[tuple[Job, Scores | Exception]]:
    """The scores of each job, or why it has none.  One request that cannot be scored spoils no other."""
    try:
        tables = [job.rows() for job in jobs]
        together = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
        scores = checked(jobs[0].loaded.scorer.score(together))
        ends = np.cumsum([len(table) for table in tables])
        return list(zip(jobs, np.split(scores, ends[:-1]), strict=True))
    except Exception as error:  # noqa: BLE001 (whatever a model raises is the answer to its request)
        if len(jobs) > 1:
            return [pair for job in jobs for pair in _scored([job])]
        return [(jobs[0], error)]


class NoNumbers(Exception):
    """Raised when a model answers with scores that are no numbers."""


def checked(scores: Scores) -> Scores:
    """Scores that are numbers.

    Raises:
        NoNumbers: some are not.
    """
    if not np.isfinite(scores).all():
        raise NoNumbers(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are no numbers.")
    return scores


def _settle(answers: list[tuple[Job, Scores | Exception]]) -> None:
    if answers:
        loop = answers[0][0].future.get_loop()
        try:
            loop.call_soon_threadsafe(_deliver, answers)
        except RuntimeError:  # the loop has ended, and nobody waits any more
            return


def _deliver(answers: list[tuple[Job, Scores | Exception]]) -> None:
    for job, answer in answers:
        if job.future.done():
            continue
        if isinstance(answer, Exception):
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)


def told(error: Exception) -> str:
    """An error in words for the log."""
    return str(error) if isinstance(error, FeedloopError) else f"{type(error).__name__}: {error}"
