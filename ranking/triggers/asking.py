"""The triggers: each looks at one signal and says whether it asks for a retraining, and why."""

from datetime import timedelta

from ranking.drift import Drift
from ranking.levels import Level
from ranking.performance import Performance
from ranking.triggers.memory import Watch
from ranking.triggers.values import Answer, Case

DAY = timedelta(days=1)
ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth")


def manual(case: Case) -> Answer:
    """Somebody asks."""
    asked = case.signals.manual
    if asked is None:
        return Answer(trigger="manual", fires=False, reason="nobody asked")
    why = f": {asked.reason}" if asked.reason.strip() else " without giving a reason"
    return Answer(trigger="manual", fires=True, reason=f"{asked.requester} asked for it{why}")


def schedule(case: Case) -> Answer:
    """The cron is due, or the last retraining is too long ago."""
    if case.signals.scheduled:
        return Answer(trigger="schedule", fires=True, reason="the schedule is due")
    most, last = case.knobs.max_days_without_retrain, max(case.memory.starts, default=None)
    if most is None or last is None:
        return Answer(trigger="schedule", fires=False, reason="the schedule is not due")
    age = (case.now - last) / DAY
    reason = f"the last retraining started {age:.1f} days ago, of at most {most:g}"
    return Answer(trigger="schedule", fires=age >= most, reason=reason)


def drift(case: Case) -> Answer:
    """Drift in enough windows in a row, until it is calm again."""
    found = case.signals.drift
    if found is None:
        return Answer(trigger="drift", fires=None, reason="drift was not looked at")
    summary = f"drift of {len(found.drifted)} of {len(found.columns)} columns"
    return _watched(case, case.memory.drift, found, summary, case.knobs.drift_windows)


def performance(case: Case) -> Answer:
    """The champion got worse, in enough checks in a row, until it is calm again."""
    found = case.signals.performance
    if found is None:
        return Answer(trigger="performance", fires=None, reason="performance was not looked at")
    summary = "a proven loss of AUC" if found.auc is None else f"a change of AUC by {found.auc.value:+.4f}"
    return _watched(case, case.memory.performance, found, summary, case.knobs.performance_windows)


def _watched(case: Case, watch: Watch, found: Drift | Performance, summary: str, needed: int) -> Answer:
    """A signal that must last."""
    name, said = ("drift" if isinstance(found, Drift) else "performance"), found.sentence.rstrip(".")
    if found.level is None:
        return Answer(trigger=name, fires=None, reason=said)
    if found.window is None or watch.last_end != found.window.end:
        return Answer(trigger=name, fires=False, reason="a later window was looked at before")
    if watch.level is None:
        return Answer(trigger=name, fires=None, reason=f"{_unusable(case, found)} ({said})")
    return Answer(trigger=name, fires=watch.active, reason=_told(watch, summary, said, needed))


def _unusable(case: Case, found: Drift | Performance) -> str:
    """Why numbers that were measured do not count."""
    quality = case.signals.quality
    if quality is None:
        return "it does not count, since data quality was not measured"
    if quality.blocks:
        return "it does not count, since the data have an incident"
    return f"it does not count: it is about champion {found.champion}, and {case.signals.champion} serves"


def _told(watch: Watch, summary: str, said: str, needed: int) -> str:
    if watch.level is not Level.ALARM:
        return f"it has not been calm since the alarm: {said}" if watch.active else said
    if not watch.active:
        now, then = _ordinal(watch.streak), _ordinal(watch.streak + 1)
        more = "" if watch.streak + 1 == needed else f" of {needed}"
        return f"{summary} in the {now} window; needs a {then}{more} in a row"
    return f"{summary} {f'in {watch.streak} windows in a row' if watch.streak > 1 else 'in this window'}: {said}"


def _ordinal(number: int) -> str:
    return ORDINALS[number] if number < len(ORDINALS) else f"{number}th"


def combined(case: Case) -> Answer:
    """Two signals that are too weak alone: drift in one window, and a proven if small loss of AUC."""
    shift, loss = case.memory.drift.level, case.memory.performance.level
    change = None if case.signals.performance is None else case.signals.performance.auc
    if shift is None or loss is None:
        return Answer(trigger="combined", fires=None, reason="drift and performance were not both measured")
    proven = loss is not Level.CALM and change is not None and change.high is not None and change.high < 0
    if shift is not Level.ALARM or not proven or change is None:
        return Answer(trigger="combined", fires=False, reason="drift and a proven loss of AUC did not come together")
    return Answer(
        trigger="combined",
        fires=True,
        reason=f"drift in this window together with a proven change of AUC by {change.value:+.4f}",
    )


def volume(case: Case) -> Answer:
    """Enough new labelled rows."""
    wanted, rows = case.knobs.volume_rows, case.signals.new_labelled_rows
    if wanted is None:
        return Answer(trigger="volume", fires=False, reason="triggers.volume_rows is not set")
    if rows is None:
        return Answer(trigger="volume", fires=None, reason="new labelled rows were not counted")
    return Answer(trigger="volume", fires=rows >= wanted, reason=f"{rows:,} new labelled rows of {wanted:,}")
