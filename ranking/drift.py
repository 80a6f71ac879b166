"""Has the traffic moved away from what the champion learnt from?

A column has drifted when its PSI against the frozen reference exceeds ``column_psi``, what its own days
usually show, and what chance shows with this many users.  The window is an alarm when a critical
column or the score has drifted beyond ``alarm_psi``, or when ``alarm_share`` of the columns have drifted.
One alarm retrains nothing: ``ranking.triggers`` asks for the next window.
"""

from datetime import timedelta

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from ranking.bins import ColumnBins, ColumnKind
from ranking.counts import ColumnCounts, Counts
from ranking.distances import (
    chi_square_p,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    null_stability,
    population_stability,
)
from ranking.errors import SettingsError
from ranking.levels import Level
from ranking.placements import IntArray
from ranking.reference import DAY, Reference, ReferenceKnobs, compared
from ranking.times import Window
from ranking.values import Value

NAMED = 5
"""Columns that a sentence names; a report has them all."""


class DriftKnobs(ReferenceKnobs):
    """When traffic has drifted."""

    column_psi: float = Field(default=0.1, gt=0, le=5, description="A column with a smaller PSI has not drifted.")
    alarm_psi: float = Field(
        default=0.2, gt=0, le=5, description="PSI of a critical column or of the score that is an alarm by itself."
    )
    leave_psi: float = Field(
        default=0.15, gt=0, le=5, description="An alarm lasts until every critical column is at or below this PSI."
    )
    alarm_share: float = Field(default=0.10, gt=0, le=1, description="Share of drifted columns that is an alarm.")
    leave_share: float = Field(
        default=0.05, gt=0, le=1, description="An alarm lasts until the share of drifted columns is below this."
    )
    noise_quantile: float = Field(
        default=0.99, gt=0.5, lt=1, description="A column drifted when chance alone stays below its PSI this often."
    )
    min_users: PositiveInt = Field(default=100, description="With fewer effective users no drift is measured.")
    critical_columns: tuple[str, ...] = Field(
        default=(), description="Columns whose drift is an alarm by itself. The score always is."
    )


class ColumnDrift(Value):
    """One column against the reference.  ``None`` is not measured; ``note`` says why.

    Only ``psi`` decides; the other distances are reported.
    """

    name: str
    kind: ColumnKind
    critical: bool
    psi: NonNegativeFloat | None = None
    usual_psi: NonNegativeFloat | None = Field(default=None, description="Quantile of its own days in the reference.")
    noise_psi: NonNegativeFloat | None = Field(default=None, description="Quantile of PSI by chance.")
    threshold: NonNegativeFloat | None = Field(default=None, description="The largest of the three bounds.")
    drifted: bool | None = None
    chi_square_p: float | None = Field(default=None, description="With counts scaled to effective users.")
    hellinger: float | None = None
    jensen_shannon: float | None = None
    kolmogorov_smirnov: float | None = Field(default=None, description="Of numbers, between bins.")
    mean_shift: float | None = Field(default=None, description="Of numbers, in the reference's standard deviations.")
    note: str = ""


class Drift(Value):
    """One window against the champion's reference."""

    champion: str
    reference_digest: str
    window: Window
    rows: NonNegativeInt
    users: NonNegativeFloat = Field(description="Effective number of users.")
    columns: tuple[ColumnDrift, ...]
    level: Level | None = Field(description="None when too little was measured to say.")
    sentence: str

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The drifted columns, strongest first."""
        moved = [column for column in self.columns if column.drifted]
        return tuple(sorted(moved, key=lambda column: -(column.psi or 0.0)))


def measure_drift(reference: Reference, current: Counts, knobs: DriftKnobs) -> Drift:
    """Compare a window with the champion's reference.

    Args:
        reference: the champion's, frozen.
        current: counts of the window in the reference's bins; the window must be whole days, since a
            morning differs from a day without any drift.
        knobs: thresholds.

    Raises:
        SettingsError: a critical column is not watched.
    """
    unknown = set(knobs.critical_columns) - {column.name for column in reference.layout.columns}
    if unknown:
        raise SettingsError(
            f"drift.critical_columns names {', '.join(sorted(unknown))}, and the reference of version "
            f"{reference.champion} does not watch it. Name a feature that the champion reads."
        )
    units = current.users.effective
    excuse = _excuse(current, units, knobs)
    columns = tuple(_column(column, reference, current, excuse, knobs) for column in reference.layout.columns)
    level, sentence = (None, f"Drift was not measured: {excuse}.") if excuse else _level(columns, knobs)
    return Drift(
        champion=reference.champion,
        reference_digest=reference.digest,
        window=current.window,
        rows=current.rows,
        users=units,
        columns=columns,
        level=level,
        sentence=sentence,
    )


def _excuse(current: Counts, units: float, knobs: DriftKnobs) -> str:
    """Why nothing can be said about the whole window."""
    length = current.window.end - current.window.start
    if not length or length % DAY:
        return f"the window is {length / timedelta(hours=1):g} hours long, and only whole days are comparable"
    if units < knobs.min_users:
        return f"the window has {units:,.0f} effective users, and {knobs.min_users:,} are needed"
    return ""


def _column(bins: ColumnBins, reference: Reference, current: Counts, excuse: str, knobs: DriftKnobs) -> ColumnDrift:
    critical = bins.kind is ColumnKind.SCORE or bins.name in knobs.critical_columns
    found = current.columns.get(bins.name)
    if excuse or found is None:
        note = excuse or current.broken.get(bins.name, "it was not counted")
        return ColumnDrift(name=bins.name, kind=bins.kind, critical=critical, note=note)
    old, new = compared(reference.counts, bins), compared(current, bins)
    psi = population_stability(old, new)
    if psi is None:
        note = f"it has {int(old.sum()):,} cells in the reference and {int(new.sum()):,} in the window"
        return ColumnDrift(name=bins.name, kind=bins.kind, critical=critical, note=note)
    units = current.users.effective
    filled = int(((old > 0) | (new > 0)).sum())
    noise = null_stability(reference.units[bins.name], units, filled, knobs.noise_quantile)
    usual = reference.usual_psi[bins.name]
    threshold = max(knobs.column_psi, usual or 0.0, noise or 0.0)
    return ColumnDrift(
        name=bins.name,
        kind=bins.kind,
        critical=critical,
        psi=max(psi, 0.0),
        usual_psi=None if usual is None else max(usual, 0.0),
        noise_psi=noise,
        threshold=threshold,
        drifted=psi > threshold,
        **_reported(bins, old, new, units),
        mean_shift=_mean_shift(reference.counts.columns[bins.name], found) if bins.is_number else None,
    )


def _reported(bins: ColumnBins, old: IntArray, new: IntArray, units: float) -> dict[str, float | None]:
    return {
        "chi_square_p": chi_square_p(old, new * (units / new.sum())),
        "hellinger": hellinger(old, new),
        "jensen_shannon": jensen_shannon(old, new),
        "kolmogorov_smirnov": kolmogorov_smirnov(old[:-1], new[:-1]) if bins.is_number else None,
    }


def _mean_shift(old: ColumnCounts, new: ColumnCounts) -> float | None:
    known, others = old.rows - old.bins[-1], new.rows - new.bins[-1]
    if not known or not others:
        return None
    mean = old.total / known
    variance = old.squares / known - mean**2
    return float((new.total / others - mean) / variance**0.5) if variance > 0 else None


def _level(columns: tuple[ColumnDrift, ...], knobs: DriftKnobs) -> tuple[Level | None, str]:
    """The rule, from loud to quiet; what was not measured is counted as if it had drifted before it is calm."""
    # labels arrive late, so a fresh window has none; that says nothing about the features
    judged = [column for column in columns if column.psi is not None or column.kind is not ColumnKind.LABEL]
    moved = sorted((column for column in judged if column.drifted), key=lambda column: -(column.psi or 0.0))
    unknown = [column for column in judged if column.psi is None]
    share = len(moved) / max(len(judged), 1)
    critical = [column for column in moved if column.critical]
    loud = [column for column in critical if (column.psi or 0.0) > knobs.alarm_psi]
    said = f"{len(moved)} of {len(judged)} columns drifted{_named(moved)}"
    if loud:
        return Level.ALARM, f"{said}; {_names(loud)} alone is an alarm beyond {knobs.alarm_psi:g}."
    if judged and share >= knobs.alarm_share:
        return Level.ALARM, f"{said}: at least {knobs.alarm_share:.0%} of the columns."
    if (
        not judged
        or any(column.critical for column in unknown)
        or (unknown and (len(moved) + len(unknown)) / len(judged) >= knobs.alarm_share)
    ):
        return None, (
            f"{said}, but {len(unknown)} were not measured, and they could make it an alarm: "
            f"{'; '.join(f'{column.name}: {column.note}' for column in unknown[:NAMED]) or 'no column is watched'}."
        )
    if share >= knobs.leave_share or any((column.psi or 0.0) > knobs.leave_psi for column in critical):
        return Level.RAISED, f"{said}: no alarm, but not calm either."
    return Level.CALM, f"{said}."


def _named(columns: list[ColumnDrift]) -> str:
    return f" ({_names(columns)})" if columns else ""


def _names(columns: list[ColumnDrift]) -> str:
    named = ", ".join(f"{column.name} PSI {column.psi:.3f}" for column in columns[:NAMED])
    return named + (f" and {len(columns) - NAMED} more" if len(columns) > NAMED else "")
