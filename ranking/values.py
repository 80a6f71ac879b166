"""The two frozen bases: ``Value`` for what is computed, ``Knobs`` for what is configured."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A result: frozen, closed, and never NaN.  "Not measured" is ``None``, never a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Knobs(BaseModel):
    """A group of settings: frozen, unknown keys refused, every field described and bounded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(value: BaseModel | dict[str, Any]) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8 kept.

    Equal values give equal texts, so the text can be hashed.
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: BaseModel | dict[str, Any]) -> str:
    """Hex sha256 of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
