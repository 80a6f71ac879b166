"""Retrain, or why not: the one place that weighs all signals.

``arbitrate`` is a pure function of what one check saw, what is remembered, the knobs and the time.  It
first asks every trigger of ``TRIGGERS``, then, for each one that fires, every veto of ``VETOES``; the
first trigger without a veto wins.  Every answer is kept with its reason, whatever is decided.  A new
trigger or veto is one function and one line in its tuple.
"""

from datetime import UTC, datetime, timedelta

from ranking.times import Window
from ranking.triggers.asking import combined, drift, manual, performance, schedule, volume
from ranking.triggers.memory import (
    FAULTY,
    RECENT,
    STARTS,
    Flight,
    ManualRequest,
    Memory,
    Outcome,
    Recorded,
    Signals,
    TriggerKnobs,
    Watch,
    settle,
    without_lost_flight,
)
from ranking.triggers.refusing import cool_down, daily_budget, data_incident, single_flight
from ranking.triggers.values import Answer, Arbitration, Case, Refusal, Trigger, Veto

__all__ = [
    "TRIGGERS",
    "VETOES",
    "Arbitration",
    "ManualRequest",
    "Memory",
    "Outcome",
    "Signals",
    "TriggerKnobs",
    "arbitrate",
    "settle",
]

TRIGGERS: tuple[Trigger, ...] = (manual, schedule, drift, performance, combined, volume)

VETOES: tuple[Veto, ...] = (data_incident, single_flight, cool_down, daily_budget)


def arbitrate(
    signals: Signals,
    memory: Memory,
    knobs: TriggerKnobs,
    now: datetime,
    *,
    triggers: tuple[Trigger, ...] = TRIGGERS,
    vetoes: tuple[Veto, ...] = VETOES,
) -> tuple[Arbitration, Memory]:
    """Decide whether to retrain.

    Args:
        signals: what this check saw.
        memory: what the last call returned; ``Memory()`` the first time.
        knobs: thresholds.
        now: the present.
        triggers: what may ask for a retraining, in the order in which one is named.
        vetoes: what may refuse it.

    Returns:
        The decision, and the memory to keep.  If it says ``retrain``, the memory already holds the flight:
        keep it first (compare-and-set on ``revision``), start the run second, under the key of the flight.
    """
    landed = without_lost_flight(memory, knobs, now)
    lost = memory.flight if landed.flight is None else None
    known = _observed(landed, signals, knobs, now)
    case = Case(signals, known, knobs, now)
    answers = tuple(trigger(case) for trigger in triggers)
    refusals: list[Refusal] = []
    chosen = None
    for answer in answers:
        refusal = _refused(case, answer, vetoes) if answer.fires else None
        if refusal is not None:
            refusals.append(refusal)
        elif answer.fires and chosen is None:
            chosen = answer
    flight = None
    if chosen is not None:
        key = f"retrain-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{known.revision + 1}"
        flight = Flight(key=key, trigger=chosen.trigger, champion=signals.champion, started_at=now)
    decided = Arbitration(
        at=now,
        decision="retrain" if chosen else "wait",
        trigger=chosen.trigger if chosen else None,
        reason=_reason(case, chosen, answers, tuple(refusals)) + _given_up(lost),
        champion=signals.champion,
        window=signals.window,
        answers=answers,
        refusals=tuple(refusals),
        flight=flight,
    )
    return decided, _remembered(known, decided)


def _refused(case: Case, answer: Answer, vetoes: tuple[Veto, ...]) -> Refusal | None:
    """The first veto against a trigger that fires."""
    for veto in vetoes:
        reason = veto(case, answer)
        if reason is not None:
            return Refusal(trigger=answer.trigger, veto=veto.__name__, reason=reason)
    return None


def _reason(case: Case, chosen: Answer | None, answers: tuple[Answer, ...], refusals: tuple[Refusal, ...]) -> str:
    """One paragraph for whoever asks at 3 a.m. why it did, or did not."""
    if chosen is not None:
        return f"Retrain, by {chosen.trigger}: {chosen.reason}."
    if refusals:
        wanted = {answer.trigger: answer.reason for answer in answers}
        told = (f"{refusal.trigger} asks ({wanted[refusal.trigger]}), but {refusal.reason}" for refusal in refusals)
        return f"No retraining: {' '.join(told)}"
    quality = case.signals.quality
    incident = f" Data incident: {quality.sentence}" if quality is not None and quality.blocks else ""
    return f"No retraining.{incident} {'; '.join(f'{answer.trigger}: {answer.reason}' for answer in answers)}."


def _given_up(lost: Flight | None) -> str:
    return f" Retraining {lost.key} never reported back and was given up." if lost else ""


def _remembered(memory: Memory, decided: Arbitration) -> Memory:
    line = Recorded(at=decided.at, decision=decided.decision, trigger=decided.trigger, reason=decided.reason)
    update: dict[str, object] = {
        "revision": memory.revision + 1,
        "recent": (*memory.recent, line)[-RECENT:],
    }
    if decided.flight is not None:
        update |= {"flight": decided.flight, "starts": (*memory.starts, decided.at)[-STARTS:]}
    return memory.model_copy(update=update)


def _observed(memory: Memory, signals: Signals, knobs: TriggerKnobs, now: datetime) -> Memory:
    """The memory with what this check saw.

    Numbers from faulty or unchecked data, or about another champion, count as not measured.
    """
    update: dict[str, object] = {"champion": signals.champion}
    watches = {"drift": memory.drift, "performance": memory.performance}
    if signals.champion != memory.champion:
        watches = {"drift": Watch(), "performance": Watch()}
    gap = timedelta(hours=knobs.max_window_gap_hours)
    faulty = signals.quality is None or signals.quality.blocks
    needed = {"drift": knobs.drift_windows, "performance": knobs.performance_windows}
    for name, found in (("drift", signals.drift), ("performance", signals.performance)):
        usable = found is not None and not faulty and found.champion == signals.champion
        level = found.level if found is not None and usable else None
        window = signals.window if found is None or found.window is None else found.window
        if window is not None:
            update[name] = watches[name].after(level, window.end, needed[name], gap)
    update["faulty"] = _faulty(memory.faulty, signals, knobs, now)
    return memory.model_copy(update=watches | update)


def _faulty(known: tuple[Window, ...], signals: Signals, knobs: TriggerKnobs, now: datetime) -> tuple[Window, ...]:
    """Windows with an open incident: those that a check of the same window did not find repaired."""
    kept = [window for window in known if now - window.end < timedelta(hours=knobs.incident_hold_hours)]
    if signals.quality is not None:
        kept = [window for window in kept if window != signals.quality.window]
        if signals.quality.blocks:
            kept.append(signals.quality.window)
    return tuple(kept[-FAULTY:])
