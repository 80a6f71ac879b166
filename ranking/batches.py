"""Encoded columns as tensors, and tensors as batches.

A batch is one gather per tensor, never a loop over rows: that, more than anything in the model, is
what makes training fast.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from ranking.encoding import Columns

Batch = tuple[Tensor, Tensor, Tensor]
"""``ids`` (B, F) int64, ``numbers`` (B, K) float32, ``labels`` (B,) float32."""


@dataclass(frozen=True)
class Examples:
    """All rows of one part: ``ids`` (N, F) int64, ``numbers`` (N, K) float32, ``labels`` (N,) float32."""

    ids: Tensor
    numbers: Tensor
    labels: Tensor

    @classmethod
    def of(cls, columns: Columns, labels: np.ndarray) -> Self:
        """Wrap encoded columns without copying them."""
        return cls(
            ids=torch.from_numpy(columns.ids),
            numbers=torch.from_numpy(columns.numbers),
            labels=torch.from_numpy(labels.astype(np.float32)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bytes(self) -> int:
        """Memory the rows take."""
        return sum(tensor.nbytes for tensor in (self.ids, self.numbers, self.labels))

    def to(self, device: torch.device) -> Self:
        """The same rows on a device."""
        return type(self)(self.ids.to(device), self.numbers.to(device), self.labels.to(device))


class Batches:
    """Shuffled batches of one epoch; iterating again gives the next epoch's order.

    Args:
        examples: the rows.
        batch_rows: rows per batch at most; the batches of an epoch differ by one row at most.
        seed: with the epoch's number it decides order and dropout, whatever happened elsewhere.
        unseen: (F,) table rows of the unseen slots.
        id_dropout: (F,) chance per id column that a row's value is replaced by the unseen one.  It
            trains the slot that new users and items will use, and keeps ids from being learnt by heart.
    """

    def __init__(self, examples: Examples, *, batch_rows: int, seed: int, unseen: Tensor, id_dropout: Tensor) -> None:
        device = examples.ids.device
        self.examples = examples
        self.batch_rows = batch_rows
        self.seed = seed
        self.epoch = 0
        self._unseen = unseen.to(device)
        self._id_dropout = id_dropout.to(device)
        self._drops = bool(id_dropout.any())

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self.batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        device = self.examples.ids.device
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + self.epoch)
        self.epoch += 1
        order = torch.randperm(len(self.examples), generator=generator, device=device)
        for rows in order.tensor_split(len(self)):
            ids = self.examples.ids.index_select(0, rows)
            if self._drops:
                dropped = torch.rand(ids.shape, generator=generator, device=device) < self._id_dropout
                ids = torch.where(dropped, self._unseen, ids)
            yield ids, self.examples.numbers.index_select(0, rows), self.examples.labels.index_select(0, rows)


@torch.no_grad()
def predict(net: nn.Module, ids: Tensor, numbers: Tensor, *, batch_rows: int = 65_536) -> np.ndarray:
    """Click probabilities (N,) float64 in (0, 1), in the order of the rows, with memory bounded by the batch.

    Args:
        net: the network; it is left in evaluation mode.
        ids: (N, F) int64 table rows.
        numbers: (N, K) float32.
        batch_rows: rows scored at once.
    """
    net.eval()
    device = next(net.parameters()).device
    logits = [
        net(some_ids.to(device), some_numbers.to(device)).cpu().double()
        for some_ids, some_numbers in zip(torch.split(ids, batch_rows), torch.split(numbers, batch_rows), strict=True)
    ]
    # A logit beyond 30 is a probability that float64 would round to 0 or 1, and 1 has no log loss.
    scores: np.ndarray = torch.cat(logits).clamp(-30, 30).sigmoid().numpy()
    return scores
