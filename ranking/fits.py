"""How a fit went, epoch by epoch."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from ranking.times import Window
from ranking.values import Value


class Epoch(Value):
    """One pass over the training rows."""

    number: NonNegativeInt
    train_log_loss: float
    validation_log_loss: float
    validation_auc: float | None = Field(description="None when the validation slice has one class.")
    seconds: NonNegativeFloat


class Training(Value):
    """How a fit went.  ``digest`` is the bundle's manifest digest."""

    architecture: str
    digest: str
    seed: int
    device: str
    epochs: tuple[Epoch, ...]
    best_epoch: NonNegativeInt
    rows: NonNegativeInt
    rows_per_second: NonNegativeFloat
    parameters: NonNegativeInt
    learnt: Window
    warm_started_from: str | None = Field(default=None, description="Digest of the champion's bundle.")
