"""When to stop, and which epoch to keep: the one that predicts the validation slice best."""

import copy
import math
import time
from collections.abc import Callable
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ranking.batches import Examples, predict
from ranking.errors import TrainingError
from ranking.fits import Epoch
from ranking.metrics import auc, log_loss
from ranking.module import RankerModule


class KeepBest(Callback):
    """Scores the validation slice after every epoch, keeps the best weights in memory, and stops in time.

    Args:
        validation: rows later than every train row.
        patience_epochs: epochs without a better log loss before training stops.
        on_epoch: is told of every epoch as it ends.
    """

    def __init__(self, validation: Examples, *, patience_epochs: int, on_epoch: Callable[[Epoch], None] | None) -> None:
        self.validation = validation
        self.patience_epochs = patience_epochs
        self.on_epoch = on_epoch
        self.epochs: list[Epoch] = []
        self.best = 0
        self.weights: dict[str, Tensor] = {}
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's stopwatch."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the epoch."""
        seconds = time.perf_counter() - self._started
        module = cast("RankerModule", pl_module)
        train_log_loss = float(torch.stack(module.losses).mean())
        module.losses.clear()
        number = len(self.epochs)
        if not math.isfinite(train_log_loss):
            raise TrainingError(
                f"The log loss became {train_log_loss} in epoch {number}: the fit diverged. "
                "Lower training.learning_rate and training.embedding_learning_rate."
            )
        scores = predict(module.net, self.validation.ids, self.validation.numbers)
        module.net.train()
        labels = self.validation.labels.cpu().numpy()
        epoch = Epoch(
            number=number,
            train_log_loss=train_log_loss,
            validation_log_loss=log_loss(labels, scores),
            validation_auc=auc(labels, scores),
            seconds=seconds,
        )
        self.epochs.append(epoch)
        if number == 0 or epoch.validation_log_loss < self.epochs[self.best].validation_log_loss:
            self.best = number
            self.weights = copy.deepcopy(module.net.state_dict())
        trainer.should_stop = number - self.best >= self.patience_epochs
        if self.on_epoch is not None:
            self.on_epoch(epoch)
