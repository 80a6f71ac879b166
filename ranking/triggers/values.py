"""What a decision consists of, and what the rules look at."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from ranking.times import Window
from ranking.triggers.memory import Flight, Memory, Signals, TriggerKnobs
from ranking.values import Value


class Answer(Value):
    """What one trigger says.  ``fires`` is ``None`` when its signal was not measured."""

    trigger: str
    fires: bool | None
    reason: str


class Refusal(Value):
    """Why a trigger that fires may not retrain."""

    trigger: str
    veto: str
    reason: str


class Arbitration(Value):
    """A decision, or a non-decision, with everything it rests on."""

    at: AwareDatetime
    decision: Literal["retrain", "wait"]
    trigger: str | None
    reason: str
    champion: str | None
    window: Window | None
    answers: tuple[Answer, ...]
    refusals: tuple[Refusal, ...]
    flight: Flight | None

    @property
    def dedupe_key(self) -> str:
        """Equal for events that say the same: one champion, one window, one trigger."""
        end = "none" if self.window is None else self.window.end.isoformat()
        return f"{self.champion}/{end}/{self.trigger or 'wait'}"


@dataclass(frozen=True)
class Case:
    """What triggers and vetoes look at.  ``memory`` already knows what this check saw."""

    signals: Signals
    memory: Memory
    knobs: TriggerKnobs
    now: datetime


Trigger = Callable[[Case], Answer]
Veto = Callable[[Case, Answer], str | None]
