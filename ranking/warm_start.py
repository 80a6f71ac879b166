"""Warm start: give a new network what an older bundle already knows."""

import numpy as np
import torch
from torch import nn

from ranking.bundle import Bundle
from ranking.encoding import RESERVED, Encoder, Vocabulary
from ranking.models import ModelKnobs


def copy_known(bundle: Bundle, net: nn.Module, encoder: Encoder, model: ModelKnobs) -> bool:
    """Copy weights from ``bundle`` into ``net`` where both mean the same by them.

    The dense weights mean the same only under the same architecture over the same columns.  Then table
    rows are copied value by value, since every encoder numbers its values anew; values that the bundle
    does not know stay fresh.

    Args:
        bundle: what to start from; it is not changed.
        net: a fresh network, changed in place.
        encoder: the encoder of ``net``.
        model: the architecture of ``net``.

    Returns:
        Whether anything was copied.
    """
    if bundle.facts.architecture != model or _layout(bundle.encoder) != _layout(encoder):
        return False
    old = bundle.net.state_dict()
    new = net.state_dict()
    table = new.pop("embedding.weight")
    with torch.no_grad():
        for name, weight in new.items():
            weight.copy_(old[name])
        for before, first, after, offset in zip(
            bundle.encoder.vocabularies, bundle.encoder.offsets, encoder.vocabularies, encoder.offsets, strict=True
        ):
            known, places = _same_values(before, after)
            table[torch.from_numpy(known + offset)] = old["embedding.weight"][torch.from_numpy(places + first)]
    return True


def _layout(encoder: Encoder) -> tuple[object, ...]:
    """Which column stands where in the network's input."""
    ids = [(vocabulary.name, vocabulary.owner) for vocabulary in encoder.vocabularies]
    numbers = [(scaler.name, scaler.owner, scaler.log, scaler.width) for scaler in encoder.scalers]
    return (ids, numbers)


def _same_values(before: Vocabulary, after: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Slots in ``after`` and in ``before`` of the values that both know, and of the reserved slots."""
    reserved = np.arange(RESERVED)
    if before.values.dtype != after.values.dtype:
        return reserved, reserved
    found = before.index.get_indexer(after.index)
    known = np.flatnonzero(found >= 0)
    return np.concatenate([reserved, known + RESERVED]), np.concatenate([reserved, found[known] + RESERVED])
