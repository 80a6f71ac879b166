"""Cut a log by time into train, validation and holdout; refuse a holdout that a model has seen.

::

    | warm-up |-------- train --------|- validation -|  gap  |--- holdout ---|  maturity  | cut-off
              '----------- learnt from here ---------'

The order is never random: tomorrow's rows must be predicted from yesterday's.
"""

from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ranking.errors import LeakageError, SplitError
from ranking.results import Split
from ranking.times import Window, as_utc
from ranking.values import Knobs

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class SplitKnobs(Knobs):
    """Which stretch of time is for what."""

    holdout_days: PositiveFloat | None = Field(
        default=None, description="Length of the holdout in days; without it, holdout_share decides."
    )
    holdout_share: float | None = Field(
        default=None, gt=0, lt=1, description="Share of the rows, by time, in the holdout. [0.2 unless a length is set]"
    )
    validation_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the rows before the holdout that decide when training stops."
    )
    warmup_days: NonNegativeFloat = Field(
        default=0.0,
        description="Nothing is learnt from the window's first days: their rows only give history to the later ones.",
    )
    gap_hours: NonNegativeFloat = Field(
        default=0.0, description="Time left out between learning and holdout, so that sessions do not straddle it."
    )
    label_maturity_hours: NonNegativeFloat = Field(
        default=0.0,
        description="Rows younger than this at the cut-off are left out; at least the label delay is applied.",
    )
    min_rows: PositiveInt = Field(default=100, description="Fewest rows in each of the three parts.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.holdout_days is not None and self.holdout_share is not None:
            raise ValueError("holdout_days and holdout_share both say how long the holdout is; keep one of them")
        return self


def split_by_time(
    times: NDArray[np.int64], *, cutoff: datetime, knobs: SplitKnobs, label_delay_hours: float = 0.0
) -> Split:
    """Cut sorted times into three parts; no instant is on two sides of a cut.

    Args:
        times: (N,) microseconds since 1970 (UTC), ascending.
        cutoff: the moment up to which the data are known.
        knobs: lengths, gap and maturity.
        label_delay_hours: labels are final only this long after the impression.

    Raises:
        SplitError: a part would have fewer than ``knobs.min_rows`` rows; the message counts them.
    """
    maturity = max(knobs.label_maturity_hours, label_delay_hours)
    mature_end = _us(cutoff - timedelta(hours=maturity))
    mature = times[: np.searchsorted(times, mature_end, side="left")]
    if len(mature) == 0:
        raise SplitError(
            f"None of the {len(times):,} rows is older than {maturity:g} h at the cut-off {as_utc(cutoff)}, so no "
            "label is final. Wait, move the cut-off, or lower split.label_maturity_hours."
        )
    holdout_start = _holdout_start(mature, mature_end, knobs)
    learn_end = min(holdout_start, _us(_at(holdout_start) - timedelta(hours=knobs.gap_hours)))
    learn_start = _us(_at(int(times[0])) + timedelta(days=knobs.warmup_days))
    learn = mature[slice(*np.searchsorted(mature, [learn_start, learn_end], side="left"))]
    if len(learn) == 0:
        raise SplitError(
            f"No row is left to learn from between the warm-up of {knobs.warmup_days:g} days and the gap of "
            f"{knobs.gap_hours:g} h before the holdout, which starts {as_utc(_at(holdout_start))}. Bring more data, or "
            "shorten one of the three."
        )
    validation_start = int(learn[min(len(learn) - 1, round(len(learn) * (1 - knobs.validation_share)))])
    train_rows = int(np.searchsorted(learn, validation_start, side="left"))
    counts = {
        "train": train_rows,
        "validation": len(learn) - train_rows,
        "holdout": len(mature) - int(np.searchsorted(mature, holdout_start, side="left")),
    }
    _require_rows(counts, knobs.min_rows, len(times))
    return Split(
        train=Window(start=_at(int(learn[0])), end=_at(validation_start)),
        validation=Window(start=_at(validation_start), end=_at(learn_end)),
        holdout=Window(start=_at(holdout_start), end=_at(mature_end)),
        gap_hours=knobs.gap_hours,
        label_maturity_hours=maturity,
        train_rows=counts["train"],
        validation_rows=counts["validation"],
        holdout_rows=counts["holdout"],
    )


def assert_unseen(holdout: Window, learnt: Window, gap_hours: float, who: str) -> None:
    """Refuse a holdout that starts before a model stopped learning, plus the gap.

    Args:
        holdout: time span of the holdout.
        learnt: time span of the rows the model saw, validation included.
        gap_hours: time to keep free between the two.
        who: the model, for the message.

    Raises:
        LeakageError: names the model and by how much the two overlap.
    """
    earliest = learnt.end + timedelta(hours=gap_hours)
    if holdout.start >= earliest:
        return
    overlap = (earliest - holdout.start) / timedelta(hours=1)
    gap = f" plus the gap of {gap_hours:g} h" if gap_hours else ""
    raise LeakageError(
        f"The holdout starts {as_utc(holdout.start)}, but {who} learnt from rows until {as_utc(learnt.end)}{gap}: "
        f"{overlap:,.1f} h of the holdout are no test of it. Wait for newer data, or shorten the holdout "
        "(split.holdout_days)."
    )


def _holdout_start(mature: NDArray[np.int64], mature_end: int, knobs: SplitKnobs) -> int:
    if knobs.holdout_days is not None:
        return mature_end - int(knobs.holdout_days * timedelta(days=1) / MICROSECOND)
    share = 0.2 if knobs.holdout_share is None else knobs.holdout_share
    return int(mature[min(len(mature) - 1, round(len(mature) * (1 - share)))])


def _require_rows(counts: dict[str, int], least: int, total: int) -> None:
    short = [f"{name} {count:,}" for name, count in counts.items() if count < least]
    if short:
        raise SplitError(
            f"{total:,} rows cannot be split: {', '.join(short)} rows, and each part needs {least:,} (split.min_rows). "
            "Widen data.window_days, bring more data, or change the shares under [split]."
        )


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def _at(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
