"""Fitting a ranker: train rows and validation rows in, a bundle and the story of its epochs out.

Only the knobs are needed by settings, so the training libraries are imported where they are used.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ranking.errors import TrainingError
from ranking.features import FeatureSpec
from ranking.fits import Epoch, Training
from ranking.models import ModelKnobs, build_ranker
from ranking.times import Window
from ranking.values import Knobs

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from ranking.batches import Batches, Examples
    from ranking.bundle import Bundle
    from ranking.early_stopping import KeepBest
    from ranking.encoding import Encoder
    from ranking.module import RankerModule


class TrainingKnobs(Knobs):
    """How a ranker is fitted."""

    batch_rows: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        default=4096, description="Rows per batch. More is faster and learns less per row."
    )
    max_epochs: PositiveInt = Field(default=20, description="Passes over the train rows at most.")
    patience_epochs: PositiveInt = Field(
        default=2, description="Epochs without a better validation log loss before training stops."
    )
    embedding_learning_rate: PositiveFloat = Field(
        default=0.003, description="Step size of the embedding table (row-wise Adagrad)."
    )
    embedding_weight_decay: NonNegativeFloat = Field(
        default=0.0, description="Pull towards 0 on the embedding rows that a batch used."
    )
    learning_rate: PositiveFloat = Field(default=0.01, description="Step size of all other weights (AdamW).")
    weight_decay: NonNegativeFloat = Field(default=0.01, description="Weight decay of all other weights (AdamW).")
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2,
        description="Share of user and item ids read as unseen while training, so that new ones are scored well.",
    )
    category_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="The same for all other categorical columns."
    )
    min_count: PositiveInt = Field(
        default=2, description="Train rows that a value needs to be told from the unseen ones."
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="auto: the GPU if there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Arithmetic of the dense layers while training. auto: bfloat16 where the hardware computes in it.",
    )
    warm_start: bool = Field(default=False, description="Start from the champion's weights instead of from scratch.")


@dataclass(frozen=True)
class Fitted:
    """A fitted ranker in memory, and how the fit went.  ``training.digest`` is what ``bundle.save`` returns."""

    bundle: "Bundle"
    training: Training


def fit(
    train: "pa.Table",
    validation: "pa.Table",
    *,
    spec: FeatureSpec,
    learnt: Window,
    model: ModelKnobs,
    knobs: TrainingKnobs,
    seed: int,
    warm_start: "Bundle | None" = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: bool = False,
) -> Fitted:
    """Fit an encoder and a network; the same input and seed give the same bytes on a CPU.

    Args:
        train: rows to learn from, with every column of ``spec``.
        validation: later rows, that decide when to stop and which epoch to keep.
        spec: roles and features.
        learnt: the time both parts span; recorded in the bundle.
        model: the architecture.
        knobs: how to fit.
        seed: decides first weights, order and dropout; nothing outside is read or left changed.
        warm_start: a bundle to start from where it knows the same values and has the same shape.
        on_epoch: is told of every epoch as it ends.
        progress: draw a progress bar on stderr.

    Raises:
        TrainingError: no rows, one class, an unreadable column, no such accelerator, or a fit that diverged.
    """
    import torch

    from ranking.bundle import Bundle, Facts
    from ranking.encoder_fitting import fit_encoder
    from ranking.module import RankerModule
    from ranking.warm_start import copy_known

    device = _device(knobs.accelerator)
    _check(train, validation, spec.log.label)
    encoder = fit_encoder(train, spec, min_count=knobs.min_count)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_ranker(model, encoder)
        copied = warm_start is not None and copy_known(warm_start, net, encoder, model)
        module = RankerModule(
            net,
            embedding_learning_rate=knobs.embedding_learning_rate,
            embedding_weight_decay=knobs.embedding_weight_decay,
            learning_rate=knobs.learning_rate,
            weight_decay=knobs.weight_decay,
        )
        batches = _batches(_examples(train, encoder, spec.log.label, device), encoder, spec, knobs, seed)
        held_out = _examples(validation, encoder, spec.log.label, device)
        best = _run(module, batches, held_out, knobs, device=device, on_epoch=on_epoch, progress=progress)
    net.load_state_dict(best.weights)
    facts = Facts(architecture=model, spec=spec, learnt=learnt, seed=seed)
    bundle = Bundle(net=net.cpu().eval(), encoder=encoder, facts=facts)
    training = Training(
        architecture=model.kind,
        digest=bundle.digest,
        seed=seed,
        device=_name(device),
        epochs=tuple(best.epochs),
        best_epoch=best.best,
        rows=train.num_rows,
        rows_per_second=train.num_rows * len(best.epochs) / sum(epoch.seconds for epoch in best.epochs),
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        learnt=learnt,
        warm_started_from=warm_start.digest if warm_start is not None and copied else None,
    )
    return Fitted(bundle=bundle, training=training)


def _run(
    module: "RankerModule",
    batches: "Batches",
    validation: "Examples",
    knobs: TrainingKnobs,
    *,
    device: "torch.device",
    on_epoch: Callable[[Epoch], None] | None,
    progress: bool,
) -> "KeepBest":
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.callbacks import RichProgressBar

    from ranking.early_stopping import KeepBest

    best = KeepBest(validation, patience_epochs=knobs.patience_epochs, on_epoch=on_epoch)
    callbacks: list[Callback] = [best]
    if progress and sys.stderr.isatty():
        # Lightning's bars write to stdout, which belongs to results.
        callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
    with _quiet():
        Trainer(
            accelerator=device.type,
            # One device: several would start this program again, and all that surrounds the fit with it.
            devices=1,
            precision=_precision(knobs.precision, device),
            max_epochs=knobs.max_epochs,
            callbacks=callbacks,
            enable_progress_bar=len(callbacks) > 1,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
        ).fit(module, train_dataloaders=batches)
    return best


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's greetings off the terminal: devices found, tips, what it will deprecate."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*available but not used.*")
            yield
    finally:
        logger.setLevel(level)


def _device(accelerator: str) -> "torch.device":
    import torch

    if accelerator == "gpu" and not torch.cuda.is_available():
        raise TrainingError(
            "training.accelerator is 'gpu', and PyTorch finds no GPU here. Set it to 'auto' or 'cpu', "
            "or run where there is one."
        )
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _precision(wanted: str, device: "torch.device") -> Literal["bf16-mixed", "32-true"]:
    import torch

    def computes_narrow() -> bool:
        if device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        # A CPU without such instructions emulates them, many times slower.
        return any(torch.cpu.get_capabilities().get(unit) for unit in ("avx512_bf16", "amx_bf16"))

    narrow = wanted == "bfloat16" or (wanted == "auto" and computes_narrow())
    return "bf16-mixed" if narrow else "32-true"


def _name(device: "torch.device") -> str:
    import torch

    return f"cuda ({torch.cuda.get_device_name()})" if device.type == "cuda" else "cpu"


def _check(train: "pa.Table", validation: "pa.Table", label: str) -> None:
    import pyarrow.compute as pc

    for part, rows in (("train", train), ("validation", validation)):
        if not rows.num_rows:
            raise TrainingError(f"There are 0 {part} rows. Widen the training window or move the cut-off.")
        if label not in rows.column_names:
            raise TrainingError(f"The {part} rows have no label column {label!r}.")
        if rows[label].null_count:
            raise TrainingError(f"{rows[label].null_count} of {rows.num_rows} {part} labels ({label!r}) are null.")
    clicks = pc.sum(train[label].cast("float64")).as_py()
    if clicks in (0, train.num_rows):
        raise TrainingError(
            f"All {train.num_rows} train rows have the label {int(clicks > 0)}, and one class teaches nothing. "
            "Widen the training window."
        )


def _examples(rows: "pa.Table", encoder: "Encoder", label: str, device: "torch.device") -> "Examples":
    import torch

    from ranking.batches import Examples

    examples = Examples.of(encoder.encode(rows), rows[label].to_numpy())
    # All rows on the GPU spare a transfer per batch, if they leave room for the model.
    fits = device.type == "cuda" and examples.bytes < torch.cuda.mem_get_info()[0] / 3
    return examples.to(device) if fits else examples


def _batches(examples: "Examples", encoder: "Encoder", spec: FeatureSpec, knobs: TrainingKnobs, seed: int) -> "Batches":
    import torch

    from ranking.batches import Batches

    ids = (spec.log.user, spec.log.item)
    chances = [knobs.id_dropout if part.name in ids else knobs.category_dropout for part in encoder.vocabularies]
    return Batches(
        examples,
        batch_rows=knobs.batch_rows,
        seed=seed,
        unseen=torch.tensor(encoder.offsets),
        id_dropout=torch.tensor(chances),
    )
