"""Two towers: what is known of the user and what is known of the item meet in one dot product."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.models.blocks import fused_embedding, perceptron


class Tower(nn.Module):
    """One side: its embedded ids (B, ids * D) and its numbers (B, K) to (B, out).

    The numbers also have a straight line to the last output, which is the bias: how much this user
    clicks, or this item is clicked, whatever the other.
    """

    def __init__(
        self, *, ids: int, numbers: int, dimension: int, hidden: Sequence[int], out: int, dropout: float
    ) -> None:
        super().__init__()
        self.deep = perceptron(ids * dimension + numbers, hidden, out, dropout)
        self.wide = nn.Parameter(torch.zeros(numbers, 1))

    def forward(self, embedded: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The vector (B, out - 1) and the bias (B,)."""
        deep = self.deep(torch.cat([embedded, numbers], dim=1))
        vector, bias = torch.split(deep, [deep.shape[1] - 1, 1], dim=1)
        return vector, (bias + numbers @ self.wide).squeeze(1)


class TwoTower(nn.Module):
    """``user . item / sqrt(tower_dimension) + bias(user) + bias(item) + context``.

    User and item vectors depend on their own features only, so they can be computed apart and looked up
    at serving time.  Features of the moment, and of a user with an item's attribute, belong to neither
    side: they enter through a small network of their own that is added to the logit.

    Args:
        table_rows: rows of the fused embedding table.
        ids: how many id columns describe user, item and context, which stand in this order (F in all).
        numbers: the same of the numeric columns (K in all).
        dimension: numbers per embedded id, D.
        hidden: widths of each tower's hidden layers.
        tower_dimension: numbers per user or item vector, the last of which is its bias.
        dropout: share of hidden units switched off while training.
    """

    def __init__(
        self,
        *,
        table_rows: int,
        ids: Sequence[int],
        numbers: Sequence[int],
        dimension: int,
        hidden: tuple[int, ...],
        tower_dimension: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = fused_embedding(table_rows, dimension)

        def tower(side: int, hidden: tuple[int, ...], out: int) -> Tower:
            return Tower(
                ids=ids[side], numbers=numbers[side], dimension=dimension, hidden=hidden, out=out, dropout=dropout
            )

        self.user = tower(0, hidden, tower_dimension)
        self.item = tower(1, hidden, tower_dimension)
        self.context = tower(2, hidden[-1:], 1) if ids[2] + numbers[2] else None
        self.scale = 1 / math.sqrt(tower_dimension)
        self._embedded_widths = [count * dimension for count in ids]
        self._number_widths = list(numbers)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """(B, F) int64 table rows and (B, K) float32 to (B,) logits."""
        # One split has one backward; three slices would each fill a gradient of the full width.
        embedded = torch.split(self.embedding(ids).flatten(1), self._embedded_widths, dim=1)
        known = torch.split(numbers, self._number_widths, dim=1)
        user, user_bias = self.user(embedded[0], known[0])
        item, item_bias = self.item(embedded[1], known[1])
        logits: Tensor = (user * item).sum(1) * self.scale + user_bias + item_bias
        return logits if self.context is None else logits + self.context(embedded[2], known[2])[1]
