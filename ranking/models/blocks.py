"""The parts that the architectures share.  They take plain arguments and know no settings."""

from collections.abc import Sequence

import torch
from torch import nn

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
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
