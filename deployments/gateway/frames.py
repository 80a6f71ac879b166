"""Messages between the gateway and the process of its shadow: a length of four bytes, then JSON."""

import asyncio
from typing import Any, BinaryIO

import orjson

WIDTH = 4
LARGEST = 64 * 1024 * 1024


def packed(message: dict[str, Any]) -> bytes:
    """A message as it goes through the pipe."""
    content = orjson.dumps(message)
    return len(content).to_bytes(WIDTH, "big") + content


async def receive(stream: asyncio.StreamReader) -> dict[str, Any]:
    """The next message.

    Raises:
        EOFError: the other side has ended, or does not speak this language.
    """
    size = int.from_bytes(await stream.readexactly(WIDTH), "big")
    if size > LARGEST:
        raise EOFError(f"a message of {size} bytes")
    return _parsed(await stream.readexactly(size))


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None when the other side has ended."""
    head = stream.read(WIDTH)
    if len(head) < WIDTH:
        return None
    return _parsed(stream.read(int.from_bytes(head, "big")))


def _parsed(content: bytes) -> dict[str, Any]:
    message: dict[str, Any] = orjson.loads(content)
    return message
