"""Stretches of time, and moments as people read them."""

from datetime import datetime, timedelta
from typing import Self

from pydantic import AwareDatetime, model_validator

from ranking.values import Value


class Window(Value):
    """A half-open stretch of time, ``[start, end)``."""

    start: AwareDatetime
    end: AwareDatetime

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"the window ends ({self.end}) before it starts ({self.start})")
        return self

    @property
    def days(self) -> float:
        """Length in days."""
        return (self.end - self.start) / timedelta(days=1)


def as_utc(moment: datetime) -> str:
    """A moment as people read it: ``2026-01-31 23:59 UTC``."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")
