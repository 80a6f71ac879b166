"""Training against the textbook way: a per-row ``Dataset``, a ``DataLoader`` and dense Adam under Lightning.

Both sides train the same network on the same encoded rows for one epoch, on one thread, one after the
other.  Timed is an epoch once warm, in CPU seconds, so that other work on the machine does not decide;
encoding, which both share, is not timed.
"""

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.table import Row, print_table
from ranking.batches import Examples, predict
from ranking.encoding import Encoder
from ranking.features import ColumnKnobs, FeatureGroup, FeatureSpec, HistoryKnobs, resolve
from ranking.metrics import auc
from ranking.models import DeepMLPKnobs, ModelKnobs, TwoTowerKnobs, build_ranker
from ranking.times import Window
from ranking.training import Fitted, TrainingKnobs, fit

ROWS = 1_000_000
LARGE_ROWS = 4_000_000
"""Four million ids need as many rows to occur in."""

HELD_OUT_ROWS = 100_000
SMALL_IDS, LARGE_IDS = 120_000, 4_000_000
MODELS: tuple[ModelKnobs, ...] = (DeepMLPKnobs(), TwoTowerKnobs())
KNOBS = TrainingKnobs(
    batch_rows=8192, min_count=1, id_dropout=0.0, embedding_learning_rate=0.02, learning_rate=0.005, accelerator="cpu"
)
TEXTBOOK_BATCH_ROWS, TEXTBOOK_LEARNING_RATE = 1024, 0.001
TEXTBOOK_STEPS_AT_LARGE = 40


@dataclass(frozen=True)
class Task:
    """A seeded click log whose truth is additive in user, item, categories and numbers."""

    train: pa.Table
    held_out: pa.Table
    spec: FeatureSpec


@dataclass(frozen=True)
class Timed:
    """One side's speed and quality."""

    rows_per_second: float
    auc: float | None


def task(rows: int, ids: int, seed: int = 0) -> Task:
    """``rows`` train rows over ``ids`` users and items, all of which occur."""
    rng = np.random.default_rng(seed)
    users, items, total = ids * 5 // 6, ids // 6, rows + HELD_OUT_ROWS
    user, item = _draw(rng, users, total), _draw(rng, items, total)
    logit = 0.3 * rng.normal(size=users)[user] + 0.6 * rng.normal(size=items)[item] - 1.0
    columns: dict[str, Any] = {"user_id": user, "item_id": item, "timestamp": np.arange(total)}
    for place, owner in enumerate(("user", "user", "item", "item")):
        code = rng.integers(0, 40, users if owner == "user" else items)[user if owner == "user" else item]
        columns[f"{owner}_category_{place}"] = code
        logit += 0.4 * rng.normal(size=40)[code]
    for place, owner in enumerate(("user", "user", "item", "item")):
        columns[f"{owner}_number_{place}"] = number = rng.normal(size=total)
        logit += 0.4 * number
    columns["click"] = (rng.random(total) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    table = pa.table(columns)
    roles = ColumnKnobs(
        user_features=FeatureGroup(categorical=("user_category_*",), numeric=("user_number_*",)),
        item_features=FeatureGroup(categorical=("item_category_*",), numeric=("item_number_*",)),
    )
    spec = FeatureSpec(log=resolve(roles, table.column_names), history=HistoryKnobs(enabled=False))
    return Task(train=table.slice(0, rows), held_out=table.slice(rows), spec=spec)


def ours(given: Task, model: ModelKnobs, *, judged: bool) -> tuple[Timed, Encoder]:
    """``ranking.training.fit``: the second of two epochs for the speed, a fit of one epoch for the AUC if judged."""
    ends: list[float] = []

    def fitted(epochs: int) -> Fitted:
        return fit(
            given.train,
            given.held_out.slice(0, 1000),
            spec=given.spec,
            learnt=Window(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 1, 8, tzinfo=UTC)),
            model=model,
            knobs=KNOBS.model_copy(update={"max_epochs": epochs}),
            seed=0,
            on_epoch=lambda _: ends.append(time.process_time()),
        )

    encoder = fitted(2).bundle.encoder
    quality = None
    if judged:
        quality = auc(given.held_out["click"].to_numpy(), fitted(1).bundle.score(given.held_out))
    return Timed(given.train.num_rows / (ends[1] - ends[0]), quality), encoder


def textbook(given: Task, model: ModelKnobs, encoder: Encoder, steps: int | None = None) -> Timed:
    """One epoch, or ``steps`` of it, the way tutorials do it; the AUC only of a whole epoch."""
    torch.manual_seed(0)
    examples = Examples.of(encoder.encode(given.train), given.train["click"].to_numpy())
    module = TextbookModule(build_ranker(model, encoder))
    watch = Stopwatch()
    with _quiet():
        Trainer(
            accelerator="cpu",
            max_epochs=1,
            max_steps=steps or -1,
            callbacks=[watch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, DataLoader(PerRow(examples), batch_size=TEXTBOOK_BATCH_ROWS, shuffle=True))
    held_out = encoder.encode(given.held_out)
    scores = predict(module.net, torch.from_numpy(held_out.ids), torch.from_numpy(held_out.numbers))
    quality = None if steps else auc(given.held_out["click"].to_numpy(), scores)
    return Timed(watch.rows / watch.seconds, quality)


class PerRow(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """One row at a time."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.examples.ids[place], self.examples.numbers[place], self.examples.labels[place]


class TextbookModule(LightningModule):
    """The same network with dense gradients and one Adam for everything."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        net.get_submodule("embedding").sparse = False  # type: ignore[assignment]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=TEXTBOOK_LEARNING_RATE)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Log loss of one batch."""
        ids, numbers, labels = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(ids, numbers), labels)
        self.log("train_log_loss", loss, on_step=False, on_epoch=True)
        return loss


class Stopwatch(Callback):
    """Rows and CPU seconds after the first two steps, which allocate the optimizer's state."""

    WARM_UP = 2

    def __init__(self) -> None:
        self.rows = 0
        self.seconds = 0.0
        self._started = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        """Count the batch."""
        _, (_, _, labels), number = arguments
        if number + 1 == self.WARM_UP:
            self._started = time.process_time()
        elif number + 1 > self.WARM_UP:
            self.rows += len(labels)
            self.seconds = time.process_time() - self._started


def run(scale: float) -> list[Row]:
    """Rows per second of both models at 120 thousand and at 4 million ids.

    Args:
        scale: share of the rows (and ids) of the full benchmark.
    """
    torch.set_num_threads(1)
    table = []
    for ids, rows, steps in ((SMALL_IDS, ROWS, None), (LARGE_IDS, LARGE_ROWS, TEXTBOOK_STEPS_AT_LARGE)):
        given = task(int(rows * scale), int(ids * scale))
        for model in MODELS:
            mine, encoder = ours(given, model, judged=steps is None)
            theirs = textbook(given, model, encoder, steps)
            table.append(_row(model.kind, int(ids * scale), mine, theirs, steps))
    return table


def _row(kind: str, ids: int, mine: Timed, theirs: Timed, steps: int | None) -> Row:
    judged = mine.auc is not None and theirs.auc is not None
    note = f"AUC {mine.auc:.4f} against {theirs.auc:.4f}" if judged else f"textbook timed on {steps} steps of it"
    return Row(
        name=f"{kind}, {ids:,} ids",
        ours=mine.rows_per_second,
        theirs=theirs.rows_per_second,
        ratio=mine.rows_per_second / theirs.rows_per_second,
        unit="rows per CPU second",
        note=note,
    )


def _draw(rng: np.random.Generator, values: int, rows: int) -> np.ndarray:
    """Every value at least once while there are rows for it, the rest with a few far more often."""
    often = np.minimum((values * rng.random(rows) ** 2).astype(np.int64), values - 1)
    often[: min(values, rows)] = np.arange(min(values, rows))
    return rng.permutation(often)


@contextmanager
def _quiet() -> Iterator[None]:
    import warnings

    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of rows and ids")
    print_table("training", run(parser.parse_args().scale))
