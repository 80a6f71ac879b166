"""Lines of the ledger: the append-only history of who serves."""

from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from ranking.values import Value, digest


class Operation(StrEnum):
    """What a ledger entry records."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    DECLINE = "decline"
    REFUSE = "refuse"
    ROLLOUT = "rollout"

    @property
    def moves(self) -> bool:
        """Whether such an entry says who serves from then on; the others only record that nothing changed."""
        return self in {Operation.PROMOTE, Operation.ROLLBACK}


class LedgerEntry(Value):
    """One line of the append-only history of who serves."""

    number: int = Field(ge=1)
    operation: Operation
    before: str | None = Field(description="Version that served before; None for the first champion.")
    after: str | None = Field(description="Version that serves after this entry.")
    subject: str = Field(description="Version the entry is about: the challenger, or the target of a rollback.")
    digest: str = Field(description="Manifest digest of the subject's bundle.")
    evidence_digest: str | None
    forced: bool
    actor: str
    reason: str
    at: AwareDatetime
    previous_hash: str = Field(description="Hash of the entry before; empty for the first.")
    release_digest: str | None = Field(default=None, description="Digest of the released copy, code and all.")
    approval_digest: str | None = Field(default=None, description="Digest of the approval that was used up.")
    channel: str | None = Field(default=None, description="How the approval was given.")
    requested_by: str | None = Field(default=None, description="Who asked for it.")
    request: str | None = Field(default=None, description="The run that did it; a repeated run does it once.")
    rollout: dict[str, JsonValue] | None = Field(
        default=None, description="State of a rollout from here on; see :mod:`ranking.rollout`."
    )

    @model_serializer(mode="wrap")
    def _without_what_older_entries_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The hash of an entry must not change when a later feedloop adds a field: absent stays absent.
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value is not None or name in _FIRST_FIELDS}

    @property
    def hash(self) -> str:
        """sha256 of this entry, chained through ``previous_hash``."""
        return digest(self)


_FIRST_FIELDS = {"before", "after", "evidence_digest"}
"""Fields that are written even when they are None, as they were in the first version of the ledger."""


class Service(Value):
    """A stretch of time in which one version served."""

    version: str
    start: AwareDatetime
    end: AwareDatetime | None = Field(description="None while it serves.")
    started_by: LedgerEntry
