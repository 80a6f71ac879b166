"""The assignment as SQL expressions (DuckDB), for analyses that stay in the warehouse.

Salts and namespaces enter as numbers (the hash's state after them), so no text has to be quoted.
Ids must be text or whole numbers; a missing id gives NULL.
"""

from ranking.assignment import REST, RoutingTable
from ranking.hashing import BUCKETS, MODULUS, NAMESPACE_PARTS, OFFSET, PRIME, fnv1a


def bucket_sql(salt: str, user: str) -> str:
    """Expression for the bucket, 0…9999.

    Args:
        salt: of the rollout.
        user: SQL of the user id, such as a quoted column name.
    """
    inner = _fnv1a_sql(_bytes_sql(user), fnv1a(salt))
    digits = f"list_transform(string_split(CAST({inner} AS VARCHAR), ''), lambda c: CAST(ord(c) AS UBIGINT))"
    return f"CASE WHEN ({user}) IS NOT NULL THEN CAST({_fnv1a_sql(digits, OFFSET)} % {BUCKETS} AS INTEGER) END"


def arm_sql(table: RoutingTable, user: str) -> str:
    """Expression for the name of a user's arm.

    Args:
        table: the routing table.
        user: SQL of the user id, such as a quoted column name.
    """
    place = f"({bucket_sql(table.salt, user)})"
    arms = " ".join(f"WHEN b >= {arm.start} AND b < {arm.end} THEN {_text(arm.name)}" for arm in table.arms)
    chosen = f"list_transform([{place}], lambda b: CASE WHEN b IS NULL THEN NULL {arms} ELSE {_text(REST)} END)[1]"
    if table.namespace is None:
        return chosen
    low, high = table.namespace.start, table.namespace.end
    suffix = ", ".join(str(byte) for byte in f"__{table.namespace.name}".encode())
    numbers = f"list_concat({_bytes_sql(user)}, CAST([{suffix}] AS UBIGINT[]))"
    part = f"{_fnv1a_sql(numbers, OFFSET)} % {NAMESPACE_PARTS}"
    return (
        f"CASE WHEN ({user}) IS NULL THEN NULL WHEN {part} BETWEEN {low} AND {high - 1} THEN {chosen} "
        f"ELSE {_text(REST)} END"
    )


def _bytes_sql(user: str) -> str:
    """UTF-8 bytes of an id as a list of numbers."""
    pairs = f"regexp_extract_all(hex(encode(CAST({user} AS VARCHAR))), '..')"
    return f"list_transform({pairs}, lambda p: CAST('0x' || p AS UBIGINT))"


def _fnv1a_sql(numbers: str, start: int) -> str:
    step = f"(xor(h, n) * {PRIME}) % {MODULUS}"
    return f"list_reduce(list_prepend(CAST({start} AS UBIGINT), {numbers}), lambda h, n: {step})"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
