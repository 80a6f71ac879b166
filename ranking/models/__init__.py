"""The list of architectures: their knobs, the union, and the one builder.

Adding one is a file beside this one, its knobs in the union, and a case in :func:`build_ranker`.
The knobs stand here and not beside the networks because settings read them, and torch is slow to import.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from ranking.features import Owner
from ranking.values import Knobs

if TYPE_CHECKING:
    from torch import nn

    from ranking.encoding import Encoder

Dimension = Annotated[int, Field(ge=1, le=512)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class TwoTowerKnobs(Knobs):
    """Shape of ``ranking.models.two_tower``: user and item vectors that meet in a dot product."""

    kind: Literal["two_tower"] = Field(default="two_tower", description="Which architecture this is.")
    dimension: Dimension = Field(default=8, description="Numbers per embedded id.")
    hidden: tuple[PositiveInt, ...] = Field(default=(64,), min_length=1, description="Widths of a tower's layers.")
    tower_dimension: Annotated[int, Field(ge=2, le=512)] = Field(
        default=16, description="Numbers per user or item vector; the last is its bias."
    )
    dropout: Dropout = Field(default=0.0, description="Share of hidden units switched off at random while training.")


class DeepMLPKnobs(Knobs):
    """Shape of ``ranking.models.deep_mlp``: everything through one perceptron."""

    kind: Literal["deep_mlp"] = Field(default="deep_mlp", description="Which architecture this is.")
    dimension: Dimension = Field(default=8, description="Numbers per embedded id.")
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), min_length=1, description="Widths of the hidden layers.")
    dropout: Dropout = Field(default=0.0, description="Share of hidden units switched off at random while training.")


ModelKnobs = Annotated[TwoTowerKnobs | DeepMLPKnobs, Field(discriminator="kind")]


def build_ranker(knobs: ModelKnobs, encoder: "Encoder") -> "nn.Module":
    """A fresh network for the columns that ``encoder`` produces; torch's global generator fills it.

    Its ``forward`` takes ids (B, F) int64 and numbers (B, K) float32 and returns logits (B,); its
    ``embedding`` is the one table with sparse gradients.
    """
    shape = knobs.model_dump(exclude={"kind"})
    match knobs:
        case TwoTowerKnobs():
            from ranking.models.two_tower import TwoTower

            return TwoTower(
                table_rows=encoder.table_rows,
                ids=tuple(encoder.id_owners.count(owner) for owner in Owner),
                numbers=tuple(encoder.number_owners.count(owner) for owner in Owner),
                **shape,
            )
        case DeepMLPKnobs():
            from ranking.models.deep_mlp import DeepMLP

            return DeepMLP(
                table_rows=encoder.table_rows,
                ids=len(encoder.id_owners),
                numbers=len(encoder.number_owners),
                **shape,
            )
