"""The Lightning side of a ranker: net, loss and one step."""

from typing import cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from ranking.batches import Batch
from ranking.optimizer import RowwiseAdagrad


class RankerModule(LightningModule):
    """Any network with an ``embedding`` table, trained on log loss.

    Two optimizers, because the table and the rest want different ones: row-wise Adagrad updates the
    table rows that a batch used, AdamW all of the dense weights.

    ``losses`` collects the log loss of every batch since somebody cleared it.

    Args:
        net: see ``ranking.models.build_ranker``.
        embedding_learning_rate: step size of the table.
        embedding_weight_decay: pull towards 0 on the table rows that a batch used.
        learning_rate: step size of the dense weights.
        weight_decay: decoupled weight decay of the dense weights.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        embedding_learning_rate: float,
        embedding_weight_decay: float,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = net
        self.losses: list[torch.Tensor] = []
        self.rates = (embedding_learning_rate, embedding_weight_decay, learning_rate, weight_decay)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Row-wise Adagrad for the table, AdamW for the rest."""
        embedding_learning_rate, embedding_weight_decay, learning_rate, weight_decay = self.rates
        table = self.net.get_parameter("embedding.weight")
        dense = [parameter for parameter in self.net.parameters() if parameter is not table]
        return [
            RowwiseAdagrad([table], learning_rate=embedding_learning_rate, weight_decay=embedding_weight_decay),
            torch.optim.AdamW(dense, lr=learning_rate, weight_decay=weight_decay, fused=True),
        ]

    def training_step(self, batch: Batch) -> None:
        """One batch: forward, log loss, backward, both optimizers."""
        ids, numbers, labels = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(ids, numbers).float(), labels)
        optimizers = cast("list[LightningOptimizer]", self.optimizers())
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        # Lightning's own log() costs a tenth of the step.
        self.losses.append(loss.detach())
