"""Rules on single columns: there, filled, alive, its own, known."""

from datetime import timedelta
from itertools import groupby

from ranking.bins import ColumnBins, ColumnKind
from ranking.counts import ColumnCounts, Counts
from ranking.data_quality.checks import CHANCE, Check, Health, beyond_chance, by_column, graded
from ranking.data_quality.knobs import QualityKnobs
from ranking.reference import Reference

HOUR = timedelta(hours=1)
Found = dict[str, tuple[Health, float, str]]


def present(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """Every watched column is there and can be read."""
    found: Found = {
        column.name: (Health.INCIDENT, 1.0, f"({current.broken.get(column.name, 'it was not counted').rstrip('.')})")
        for column in reference.layout.columns
        if column.name not in current.columns
    }
    return by_column(
        "present", found, f"All {len(reference.layout.columns)} columns are there.", "Absent or unreadable"
    )


def nulls(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """No column has lost its values, throughout or in the last hours of the window."""
    found: Found = {}
    for column, old, new in _features(reference, current):
        before, now = old.null_share or 0.0, new.null_share
        if now is None:
            continue
        real = beyond_chance(before, now, current.users.effective)
        health = graded(now - before, knobs.null_suspect, knobs.null_incident) if real else Health.OK
        words = f"is null in {now:.1%} (reference {before:.1%})"
        hours = _hours_behind(current, new, before)
        if hours is not None and graded(hours, knobs.stale_suspect_hours, knobs.stale_incident_hours) is not Health.OK:
            late = graded(hours, knobs.stale_suspect_hours, knobs.stale_incident_hours)
            health = Health.INCIDENT if Health.INCIDENT in {health, late} else Health.SUSPECT
            words += f" and has no value in the last {hours:.1f} h"
        found[column.name] = (health, now - before, words)
    return by_column("nulls", found, "No column is null more often than in the reference.", "Values are missing")


def _hours_behind(current: Counts, column: ColumnCounts, null_share: float) -> float | None:
    """How long before the newest row a column's values end, if that is not chance; ``None`` if it is."""
    if current.newest is None or column.newest is None or not current.window.days:
        return None
    behind = current.newest - column.newest
    units = current.users.effective * (behind / (current.window.end - current.window.start))
    return behind / HOUR if null_share**units < CHANCE else None


def constants(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """No column that used to vary has one value only."""
    found: Found = {}
    for column, old, new in _features(reference, current):
        place = _only_bin(column, new)
        if place is None or _only_bin(column, old) is not None:
            continue
        share = old.bins[place] / max(old.rows - old.bins[-1], 1)
        if share**current.users.effective < CHANCE:
            found[column.name] = (Health.INCIDENT, 1.0, f"has one value only, {_value(column, new, place)}")
    return by_column("constants", found, "No column has become constant.", "Stuck")


def _only_bin(column: ColumnBins, counts: ColumnCounts) -> int | None:
    """The bin of the only value of a column; ``None`` if it has several, or none."""
    filled = [place for place, rows in enumerate(counts.bins[:-1]) if rows]
    if len(filled) != 1:
        return None
    several = counts.lowest != counts.highest if column.is_number else filled[0] >= column.singled
    return None if several else filled[0]


def _value(column: ColumnBins, counts: ColumnCounts, place: int) -> str:
    return f"{counts.lowest:g}" if counts.lowest is not None else repr(column.values[place])


def copies(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """No column has become the copy of another, as after a wrong join."""
    varying = [
        (new.fingerprint, column.is_number, column.name, old.fingerprint)
        for column, old, new in _features(reference, current, labels=True)
        if _only_bin(column, new) is None and new.rows > new.bins[-1]
    ]
    found: Found = {}
    for _, group in groupby(sorted(varying), key=lambda entry: entry[:2]):
        same = list(group)
        for _, _, name, before in same[1:]:
            if before != same[0][3]:
                found[name] = (Health.INCIDENT, 1.0, f"equals {same[0][2]} in every row")
    return by_column("copies", found, "No column is the copy of another.", "Copied")


def unseen(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """Categories are known, but for what new values (new items, new creators) explain."""
    age = reference.age_days(current.window.end)
    found: Found = {}
    for column, old, new in _features(reference, current):
        now = new.unseen_share
        if column.is_number or now is None:
            continue
        before, daily = old.unseen_share or 0.0, reference.daily_new_share.get(column.name)
        expected = before + (1 - before) * (1 - (1 - min(1.0, knobs.unseen_growth * (daily or 0.0))) ** age)
        real = beyond_chance(expected, now, current.users.effective)
        health = graded(now - expected, knobs.unseen_suspect, knobs.unseen_incident) if real else Health.OK
        words = f"has {now:.1%} unknown values (expected up to {expected:.1%})"
        if daily is None and health is Health.INCIDENT:
            health, words = Health.SUSPECT, f"{words}; how fast new values come was not measured"
        found[column.name] = (health, now - expected, words)
    return by_column("unseen", found, "No category has more unknown values than expected.", "Unknown values")


def _features(
    reference: Reference, current: Counts, *, labels: bool = False
) -> list[tuple[ColumnBins, ColumnCounts, ColumnCounts]]:
    """The columns that both sides have; labels have a rule of their own, and come late by nature."""
    return [
        (column, reference.counts.columns[column.name], current.columns[column.name])
        for column in reference.layout.columns
        if column.name in current.columns and (labels or column.kind is not ColumnKind.LABEL)
    ]
