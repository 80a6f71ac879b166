"""Two towers: what is known of the user and what is known of the item meet in one dot product."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.features import Owner
from ranking.models.blocks import fused_embedding, perceptron, pick, places


class Tower(nn.Module):
    """One side: its ids and numbers to a vector and a bias.

    The last output is the bias: how much this user clicks, or this item is clicked, whatever the other.
    """

    ids: Tensor
    numbers: Tensor

    def __init__(
        self,
        *,
        ids: Sequence[int],
        numbers: Sequence[int],
        dimension: int,
        hidden: Sequence[int],
        out: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.int64), persistent=False)
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        width = len(ids) * dimension + len(numbers)
        self.deep = perceptron(width, hidden, out, dropout)
        self.wide = nn.Parameter(torch.zeros(len(numbers), 1))

    def forward(self, embedded: Tensor, numbers: Tensor) -> Tensor:
        """(B, F, D) embedded ids and (B, K) numbers of the whole row to (B, out)."""
        mine = pick(numbers, self.numbers)
        deep = self.deep(torch.cat([pick(embedded, self.ids), mine], dim=1))
        return torch.cat([deep[:, :-1], deep[:, -1:] + mine @ self.wide], dim=1)


class TwoTower(nn.Module):
    """``user . item / sqrt(out) + bias(user) + bias(item) + context``.

    User and item vectors depend on their own features only, so they can be computed apart and looked up
    at serving time.  Features of the moment, and of a user with an item's attribute, belong to neither
    side: they enter through a small network of their own that is added to the logit.

    Args:
        table_rows: rows of the fused embedding table.
        id_owners: whom each id column describes (F,).
        number_owners: whom each numeric column describes (K,).
        dimension: numbers per embedded id, D.
        hidden: widths of each tower's hidden layers.
        tower_dimension: numbers per user or item vector.
        dropout: share of hidden units switched off while training.
    """

    def __init__(
        self,
        *,
        table_rows: int,
        id_owners: Sequence[Owner],
        number_owners: Sequence[Owner],
        dimension: int,
        hidden: tuple[int, ...],
        tower_dimension: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = fused_embedding(table_rows, dimension)

        def tower(owner: Owner, hidden: tuple[int, ...], out: int) -> Tower:
            return Tower(
                ids=places(id_owners, owner),
                numbers=places(number_owners, owner),
                dimension=dimension,
                hidden=hidden,
                out=out,
                dropout=dropout,
            )

        self.user = tower(Owner.USER, hidden, tower_dimension + 1)
        self.item = tower(Owner.ITEM, hidden, tower_dimension + 1)
        described = Owner.CONTEXT in (*id_owners, *number_owners)
        self.context = tower(Owner.CONTEXT, hidden[-1:], 1) if described else None
        self.scale = 1 / math.sqrt(tower_dimension)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """(B, F) int64 table rows and (B, K) float32 to (B,) logits."""
        embedded = self.embedding(ids)
        user, item = self.user(embedded, numbers), self.item(embedded, numbers)
        affinity = (user[:, :-1] * item[:, :-1]).sum(1) * self.scale
        logits: Tensor = affinity + user[:, -1] + item[:, -1]
        return logits if self.context is None else logits + self.context(embedded, numbers)[:, -1]
