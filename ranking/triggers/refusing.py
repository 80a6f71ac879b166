"""The vetoes: each knows one reason why a trigger that fires may not retrain."""

from datetime import timedelta

from ranking.times import as_utc
from ranking.triggers.memory import EVIDENCE
from ranking.triggers.values import Answer, Case

DAY = timedelta(days=1)


def data_incident(case: Case, answer: Answer) -> str | None:
    """Nothing is learnt from faulty data, unless a human insists and says why."""
    trouble = _trouble(case, answer)
    asked = case.signals.manual
    if trouble is None or answer.trigger != "manual" or asked is None:
        return trouble
    if not asked.forced:
        return f"{trouble} Ask again with force and a reason if it must be."
    return None if asked.reason.strip() else f"{trouble} Force needs a reason."


def _trouble(case: Case, answer: Answer) -> str | None:
    """What is wrong with the data; ``None`` when nothing is known to be."""
    quality = case.signals.quality
    if quality is not None and quality.blocks:
        return f"the data have an incident. {quality.sentence}"
    if case.memory.faulty:
        last = max(window.end for window in case.memory.faulty)
        until = last + timedelta(hours=case.knobs.incident_hold_hours)
        return (
            f"the window until {as_utc(last)} had a data incident and was not found repaired since: "
            f"held until {as_utc(until)}."
        )
    if quality is None and answer.trigger in EVIDENCE:
        return "data quality was not measured, and a signal from unchecked data is none."
    return None


def single_flight(case: Case, answer: Answer) -> str | None:
    """One retraining at a time, whoever asks."""
    flight = case.memory.flight
    if flight is None:
        return None
    return f"retraining {flight.key} ({flight.trigger}) is on its way since {as_utc(flight.started_at)}."


def cool_down(case: Case, answer: Answer) -> str | None:
    """Time to see what the last retraining did.  A human need not wait."""
    since = case.memory.quiet_since
    if since is None or answer.trigger == "manual":
        return None
    wait = case.memory.cool_down(case.knobs, doubled=answer.trigger in EVIDENCE)
    if case.now - since >= wait:
        return None
    doubled = f", {case.memory.unpromoted} in a row not promoted" if case.memory.unpromoted else ""
    return (
        f"the last retraining ended at {as_utc(since)}{doubled}: "
        f"cool-down of {wait / timedelta(hours=1):g} h until {as_utc(since + wait)}."
    )


def daily_budget(case: Case, answer: Answer) -> str | None:
    """Not more retrainings a day than anybody can look at.  A human may."""
    today = [start for start in case.memory.starts if case.now - start < DAY]
    if answer.trigger == "manual" or len(today) < case.knobs.daily_budget:
        return None
    return f"{len(today)} retrainings started within 24 h, of at most {case.knobs.daily_budget}."
