"""A deep model over everything at once: embeddings and numbers into one perceptron."""

import torch
from torch import Tensor, nn

from ranking.models.blocks import fused_embedding, perceptron


class DeepMLP(nn.Module):
    """Embeddings and numbers through one perceptron, beside a linear path for the numbers.

    The linear path (Cheng et al. 2016, "wide & deep") gives the smoothed click rates a way to the logit
    that needs no learning of curves, which is most of the quality when there are few rows.

    Args:
        table_rows: rows of the fused embedding table.
        ids: number of id columns, F.
        numbers: number of numeric columns, K.
        dimension: numbers per embedded id, D.
        hidden: widths of the hidden layers.
        dropout: share of hidden units switched off while training.
    """

    def __init__(
        self, *, table_rows: int, ids: int, numbers: int, dimension: int, hidden: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        self.embedding = fused_embedding(table_rows, dimension)
        self.deep = perceptron(ids * dimension + numbers, hidden, 1, dropout)
        self.wide = nn.Parameter(torch.zeros(numbers, 1))

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """(B, F) int64 table rows and (B, K) float32 to (B,) logits."""
        embedded = self.embedding(ids).flatten(1)
        deep = self.deep(torch.cat([embedded, numbers], dim=1))
        logits: Tensor = (deep + numbers @ self.wide).squeeze(1)
        return logits
