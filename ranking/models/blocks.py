"""The parts that the architectures share.  They take plain arguments and know no settings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.features import Owner

INITIAL_DEVIATION = 0.02
"""Small, so that a row that was never trained says next to nothing."""


def fused_embedding(rows: int, dimension: int) -> nn.Embedding:
    """One table for all id columns, (rows, dimension) float32, with sparse gradients."""
    weight = torch.empty(rows, dimension).normal_(std=INITIAL_DEVIATION)
    return nn.Embedding(rows, dimension, sparse=True, _weight=weight)


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """(B, inputs) to (B, outputs): linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def places(owners: Sequence[Owner], *wanted: Owner) -> list[int]:
    """Positions of the columns that belong to the wanted owners."""
    return [place for place, owner in enumerate(owners) if owner in wanted]


def pick(columns: Tensor, wanted: Tensor) -> Tensor:
    """Columns ``wanted`` (W,) of (B, C, ...), flattened to (B, W * ...)."""
    return columns.index_select(1, wanted).flatten(1)
