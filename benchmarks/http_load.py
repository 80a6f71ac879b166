"""A lean HTTP client that keeps so many connections busy, and the times of its answers."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Load:
    """What one round saw: seconds of each answer (N,), and how long the round took."""

    seconds: np.ndarray
    round_seconds: float
    failed: int

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.seconds) / self.round_seconds

    def milliseconds(self, percentile: float) -> float:
        """A percentile of the answers' times."""
        return float(np.percentile(self.seconds, percentile)) * 1000


def together(loads: list[Load]) -> Load:
    """Several rounds as one."""
    return Load(
        np.concatenate([load.seconds for load in loads]),
        sum(load.round_seconds for load in loads),
        sum(load.failed for load in loads),
    )


def drive(
    port: int, path: str, bodies: list[bytes], *, clients: int, seconds: float, per_second: float | None = None
) -> Load:
    """Ask again and again.

    Args:
        port: on loopback.
        path: of the address.
        bodies: JSON, asked in turn.
        clients: connections that each wait for their answer.
        seconds: for how long.
        per_second: requests a second in all, evenly; None asks as fast as it is answered.
    """
    return asyncio.run(_drive(port, path, bodies, clients, seconds, per_second))


async def _drive(
    port: int, path: str, bodies: list[bytes], clients: int, seconds: float, per_second: float | None
) -> Load:
    times: list[float] = []
    failed = 0
    start = time.perf_counter()
    end = start + seconds
    requests = [_request(path, body) for body in bodies]
    turn = 0

    async def client(number: int) -> None:
        nonlocal failed, turn
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        pause = clients / per_second if per_second else 0.0
        due = time.perf_counter() + pause * number / clients
        while (now := time.perf_counter()) < end:
            if pause:
                await asyncio.sleep(max(due - now, 0))
                due += pause
            turn += 1
            asked = time.perf_counter()
            writer.write(requests[turn % len(requests)])
            status = await _read(reader)
            times.append(time.perf_counter() - asked)
            failed += status != 200
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return Load(np.array(times), time.perf_counter() - start, failed)


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _read(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])
