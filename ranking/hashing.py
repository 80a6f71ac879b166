"""Stable hashes of users: the same answer in every process, machine and language.

FNV-1a with 32 bits (Fowler, Noll & Vo, RFC 9923), in the two forms of GrowthBook's SDK specification
0.8: version 2 for buckets and version 1 for namespaces, so that a service that already speaks GrowthBook
splits users the same way.  Python's own ``hash`` changes with every process and is never used.
Texts are hashed as UTF-8.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ranking.cells import canonical
from ranking.errors import InvalidInteractions
from ranking.placements import IntArray

Users: TypeAlias = Sequence[str] | Sequence[int] | NDArray[Any] | pa.Array | pa.ChunkedArray

BUCKETS = 10_000
"""Buckets that the users of one salt fall into."""

NAMESPACE_PARTS = 1_000
"""Parts that a namespace can be cut into."""

OFFSET, PRIME, MODULUS = 2166136261, 16777619, 2**32


def fnv1a(text: str, start: int = OFFSET) -> int:
    """32-bit FNV-1a of a text's UTF-8 bytes; ``start`` continues an earlier text."""
    state = start
    for byte in text.encode():
        state = (state ^ byte) * PRIME % MODULUS
    return state


def bucket(salt: str, user: str | int) -> int:
    """Bucket of a user, 0…9999 (GrowthBook's hash version 2).

    Args:
        salt: of the rollout; another salt shuffles the users anew.
        user: the id; ``7`` and ``"7"`` are the same user, ``"07"`` is another.
    """
    return fnv1a(str(fnv1a(text_of(user), fnv1a(salt)))) % BUCKETS


def namespace_part(namespace: str, user: str | int) -> int:
    """Part of a namespace that a user lies in, 0…999 (GrowthBook's hash version 1)."""
    return fnv1a(f"{text_of(user)}__{namespace}") % NAMESPACE_PARTS


def buckets(salt: str, users: Users) -> IntArray:
    """:func:`bucket` of many users at once: (N,) 0…9999.

    Raises:
        InvalidInteractions: a user is missing.
    """
    states = _of_texts(texts(users), np.uint32(fnv1a(salt)))
    return _of_decimals(states).astype(np.int64) % BUCKETS


def namespace_parts(namespace: str, users: Users) -> IntArray:
    """:func:`namespace_part` of many users at once: (N,) 0…999.

    Raises:
        InvalidInteractions: a user is missing.
    """
    states = _of_texts(texts(users), np.uint32(OFFSET))
    for byte in f"__{namespace}".encode():
        states = (states ^ np.uint32(byte)) * np.uint32(PRIME)
    return states.astype(np.int64) % NAMESPACE_PARTS


def text_of(user: str | int) -> str:
    """A user id as the text that is hashed."""
    return user if isinstance(user, str) else str(int(user))


def texts(users: Users) -> pa.LargeStringArray:
    """User ids as the (N,) texts that are hashed: whole numbers, however stored, as their digits.

    Raises:
        InvalidInteractions: a user is missing.
    """
    column = users if isinstance(users, pa.ChunkedArray) else pa.chunked_array([pa.array(users, from_pandas=True)])
    if column.null_count:
        raise InvalidInteractions(
            f"{column.null_count} of {len(column)} users are missing, so they have no arm. Leave such rows out."
        )
    return canonical(column, "user").cast(pa.large_string())


def _of_texts(column: pa.LargeStringArray, start: np.uint32) -> NDArray[np.uint32]:
    """FNV-1a of every text, one byte position at a time; uint32 wraps like the modulus does."""
    _, offsets, data = column.buffers()
    states = np.full(len(column), start, dtype=np.uint32)
    if data is None:
        return states
    ends = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    characters = np.frombuffer(data, dtype=np.uint8)
    first, length = ends[:-1], np.diff(ends)
    for place in range(int(length.max(initial=0))):
        rows = np.flatnonzero(length > place)
        states[rows] = (states[rows] ^ characters[first[rows] + place]) * np.uint32(PRIME)
    return states


def _of_decimals(numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """FNV-1a of each number written in decimal, without writing it."""
    states = np.full(len(numbers), OFFSET, dtype=np.uint32)
    for exponent in range(9, -1, -1):
        power = np.uint32(10**exponent)
        character = numbers // power % np.uint32(10) + np.uint32(ord("0"))
        written = (numbers >= power) | (exponent == 0)
        states = np.where(written, (states ^ character) * np.uint32(PRIME), states)
    return states
