"""The gateway as a simulated app sees it: started for a simulation, asked for pages, waited for."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from ranking.errors import GatewayUnavailable
from ranking.traffic import CONTEXT_FEATURES, ITEM, ITEM_FEATURES, REQUEST, TIME, USER

START_SECONDS, STOP_SECONDS = 120.0, 30.0
LOG_SECONDS = 1.0
AT_ONCE = 4
"""Pages that are asked for at the same time."""

JSON = {"Content-Type": "application/json"}

HABITS = {
    "FEEDLOOP_SERVING__TRUST_REQUEST_TIME": "true",
    "FEEDLOOP_SERVING__REFRESH_SECONDS": "1",
    "FEEDLOOP_SERVING__LOG_SECONDS": f"{LOG_SECONDS:g}",
    # Simulated hours pass in seconds, so the shadow must be allowed to work all the time.
    "FEEDLOOP_SERVING__SHADOW_MILLISECONDS_PER_SECOND": "1000",
    "FEEDLOOP_SERVING__SHADOW_QUEUE": "100000",
}
"""Settings of a gateway whose clock is the simulation's."""


@contextmanager
def started(config: str | None, log: Path) -> Iterator[str]:
    """A gateway of its own on a free port of this machine; gives its address and stops it after the block.

    Args:
        config: settings file; without one, feedloop.toml in the working directory.
        log: what it prints goes here.

    Raises:
        GatewayUnavailable: it did not start; its last words are told.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port), "--workers", "1"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as words:
        process = subprocess.Popen(  # noqa: S603 (our own program)
            [*command, *(["--config", config] if config else [])],
            env={**os.environ, **HABITS},
            stdout=words,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, process, log)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
    raise GatewayUnavailable(
        f"The gateway did not start within {START_SECONDS:g} s. It said: {' '.join(said) or 'nothing'}"
    )


@dataclass(frozen=True)
class LiveGateway:
    """A gateway that takes the time from its requests."""

    address: str
    token: str | None
    online: str
    length: int

    def ask(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """Ask for every page, and give back what was shown.

        Args:
            candidates: of :meth:`ranking.traffic.Traffic.between`.

        Returns:
            The shown candidates with ``position`` (1 is the top), ``arm`` and ``version``; pages without an answer
            show nothing.

        Raises:
            GatewayUnavailable: it refuses the time of requests, or does not answer at all.
        """
        answers = asyncio.run(self._answers(page_requests(candidates, self.length)))
        rows = [
            (int(answer["request_id"]), entry["item"], entry["position"], answer["arm"], answer["version"])
            for answer in answers
            for entry in answer["items"]
        ]
        shown = pd.DataFrame(rows, columns=[REQUEST, ITEM, "position", "arm", "version"])
        return shown.merge(candidates, on=[REQUEST, ITEM], how="left")

    async def _answers(self, pages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=self.address, headers=self._headers, timeout=30) as client:

            async def ask(page: dict[str, Any]) -> dict[str, Any] | None:
                async with gate:
                    return _told(await client.post("/rank", content=orjson.dumps(page), headers=JSON))

            try:
                found = await asyncio.gather(*(ask(page) for page in pages))
            except httpx.TransportError as error:
                raise self._silent(error) from error
        return [answer for answer in found if answer is not None]

    def entry(self) -> int:
        """The ledger's entry that its routing follows.

        Raises:
            GatewayUnavailable: it does not say so.
        """
        try:
            answer = httpx.get(f"{self.address}/version", headers=self._headers, timeout=30)
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise self._silent(error) from error
        try:
            return int(answer.json()["entry"])
        except (ValueError, LookupError, TypeError) as error:
            raise GatewayUnavailable(
                f"{self.address}/version answered {answer.status_code}, not with what a gateway serves. Is `feedloop "
                "serve` running there, with a champion, and is FEEDLOOP_SERVING__TOKEN its token?"
            ) from error

    def follow(self, entry: int, seconds: float) -> None:
        """Wait until it routes by an entry of the ledger.

        Raises:
            GatewayUnavailable: it does not.
        """
        if not _until(lambda: self.entry() == entry, seconds):
            raise GatewayUnavailable(
                f"{self.address} still routes by ledger entry {self.entry()}, {seconds:g} s after entry {entry}. "
                "Does it read the same workspace?"
            )

    def logged(self, since: datetime, pages: int, seconds: float) -> None:
        """Wait until so many pages since a moment are in its log.

        Raises:
            GatewayUnavailable: they are not.
        """
        if not _until(lambda: self._pages(since) >= pages, seconds):
            raise GatewayUnavailable(
                f"{self._pages(since):,} of {pages:,} answered pages are in {self.online}/requests after {seconds:g} "
                "s. Does the gateway log there?"
            )

    def recalled(self, candidates: pd.DataFrame, since: datetime, until: datetime) -> tuple[set[int], pd.DataFrame]:
        """What its log says of pages in ``[since, until)``.

        Args:
            candidates: of :meth:`ranking.traffic.Traffic.between`.
            since: the first moment.
            until: the moment after the last.

        Returns:
            The pages among them that it was asked for, and what it showed, as :meth:`ask` gives it.
        """
        known = candidates[REQUEST].astype("string")
        asked = self._log("requests", ["request_id"], since, until)
        asked = asked[asked["request_id"].isin(known)].astype("int64")
        logged = self._log("exposures", ["request_id", "item", "position", "arm", "version"], since, until)
        logged = logged[logged["request_id"].isin(known)].rename(columns={"request_id": REQUEST, "item": ITEM})
        shown = logged.astype({REQUEST: "int64", ITEM: candidates[ITEM].dtype})
        return set(asked["request_id"]), shown.merge(candidates, on=[REQUEST, ITEM])

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _silent(self, error: Exception) -> GatewayUnavailable:
        return GatewayUnavailable(f"{self.address} does not answer: {error!r}. Is `feedloop serve` running there?")

    def _pages(self, since: datetime) -> int:
        log = self._dataset("requests")
        return 0 if log is None else int(log.count_rows(filter=_time() >= _at(since)))

    def _log(self, name: str, columns: list[str], since: datetime, until: datetime) -> pd.DataFrame:
        log = self._dataset(name)
        if log is None:
            return pd.DataFrame({column: pd.Series(dtype="object") for column in columns})
        inside = (_time() >= _at(since)) & (_time() < _at(until))
        found: pd.DataFrame = log.to_table(columns=columns, filter=inside).to_pandas()
        return found

    def _dataset(self, name: str) -> "ds.Dataset | None":
        try:
            return ds.dataset(f"{self.online}/{name}", format="parquet", exclude_invalid_files=False)
        except FileNotFoundError:
            return None


def _time() -> "ds.Expression":
    return ds.field("time")


def _at(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, pa.timestamp("us", "UTC"))


def page_requests(candidates: pd.DataFrame, length: int) -> Iterator[dict[str, Any]]:
    """The body of ``POST /rank`` for every page, ``length`` items of which will be shown.

    Args:
        candidates: of :meth:`ranking.traffic.Traffic.between`; those of one page lie together.
        length: of the list that is shown.
    """
    pages = candidates[REQUEST].to_numpy()
    starts = [0, *(np.flatnonzero(pages[1:] != pages[:-1]) + 1).tolist(), len(pages)] if len(pages) else []
    # Plain lists once: taking a frame apart page by page costs more than asking for the page.
    items, features = candidates[ITEM].tolist(), [candidates[name].tolist() for name in ITEM_FEATURES]
    firsts = candidates.iloc[starts[:-1]]
    context = [firsts[name].tolist() for name in CONTEXT_FEATURES]
    facts = zip(firsts[REQUEST].tolist(), firsts[USER].tolist(), firsts[TIME].tolist(), strict=True)
    for number, (request, user, time_) in enumerate(facts):
        place = slice(starts[number], starts[number + 1])
        cells = zip(*(column[place] for column in features), strict=True)
        yield {
            "request_id": str(request),
            "user": user,
            "items": [
                {"item": item, "features": dict(zip(ITEM_FEATURES, row, strict=True))}
                for item, row in zip(items[place], cells, strict=True)
            ],
            "context": {name: column[number] for name, column in zip(CONTEXT_FEATURES, context, strict=True)},
            "length": length,
            "time": time_.isoformat(),
        }


def _told(response: httpx.Response) -> dict[str, Any] | None:
    if response.status_code == httpx.codes.OK:
        answer: dict[str, Any] = response.json()
        return answer
    if response.status_code in (httpx.codes.UNPROCESSABLE_ENTITY, httpx.codes.UNAUTHORIZED):
        raise GatewayUnavailable(f"The gateway refuses the request: {response.json()['detail']}")
    # A timeout or an outage is what a visitor meets as well: a page without a feed.
    return None


def _until(done: Any, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
