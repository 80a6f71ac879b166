import subprocess
import sys
import warnings

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ranking.encoder_fitting import fit_encoder
from ranking.features import ColumnKnobs, FeatureSpec, HistoryKnobs, resolve
from ranking.models import DeepMLPKnobs, ModelKnobs, TwoTowerKnobs, build_ranker
from ranking.optimizer import RowwiseAdagrad, sum_duplicates
from tests.ranking.small_log import click_log, specification

ARCHITECTURES = (TwoTowerKnobs(dropout=0.1), DeepMLPKnobs(dropout=0.1))


def ids_only() -> tuple[pa.Table, FeatureSpec]:
    log = click_log().select(["user_id", "item_id", "timestamp", "click"])
    return log, FeatureSpec(log=resolve(ColumnKnobs(), log.column_names), history=HistoryKnobs(enabled=False))


@pytest.mark.parametrize("knobs", ARCHITECTURES, ids=lambda knobs: knobs.kind)
@pytest.mark.parametrize("features", [True, False], ids=["all features", "ids only"])
def test_every_architecture_gives_one_finite_logit_per_row_and_learns_in_every_weight(knobs, features):
    log, spec = (click_log(), specification(click_log())) if features else ids_only()
    encoder = fit_encoder(log, spec)
    columns = encoder.encode(log)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = build_ranker(knobs, encoder)
    logits = net(torch.from_numpy(columns.ids), torch.from_numpy(columns.numbers))
    assert logits.shape == (log.num_rows,)
    assert bool(torch.isfinite(logits).all())
    logits.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
    assert net.embedding.weight.grad.is_sparse


def test_the_kind_chooses_the_architecture_and_unknown_ones_are_refused():
    adapter = TypeAdapter(ModelKnobs)
    assert isinstance(adapter.validate_python({"kind": "deep_mlp"}), DeepMLPKnobs)
    assert isinstance(adapter.validate_python({"kind": "two_tower"}), TwoTowerKnobs)
    with pytest.raises(ValidationError, match="two_tower"):
        adapter.validate_python({"kind": "transformer"})


def test_a_users_vector_depends_on_the_users_columns_alone():
    log = click_log()
    encoder = fit_encoder(log, specification(log))
    net = build_ranker(TwoTowerKnobs(), encoder).eval()
    heard: list[torch.Tensor] = []
    net.user.register_forward_hook(lambda module, inputs, outputs: heard.append(outputs[0]))
    row = log.slice(0, 1).to_pylist()[0]
    others = {"item_id": 7, "item_genre": "sport", "item_price": 3.0, "ctx_hour": 5}
    for changed in (row, {**row, **others}, {**row, "user_city": "city 4"}):
        columns = encoder.encode(pa.Table.from_pylist([changed]))
        with torch.no_grad():
            net(torch.from_numpy(columns.ids), torch.from_numpy(columns.numbers))
    assert torch.equal(heard[0], heard[1])
    assert not torch.equal(heard[0], heard[2])


def test_knobs_of_every_layer_are_read_without_loading_torch():
    program = (
        "import sys, ranking.models, ranking.training; assert not {'torch', 'lightning', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_duplicates_are_summed_like_a_coalesced_gradient(rows):
    index = torch.tensor(rows)
    values = torch.randn(len(rows), 3, dtype=torch.float64)
    position = torch.full((10,), -7)
    distinct, sums = sum_duplicates(index, values, position)
    oracle = torch.sparse_coo_tensor(index[None], values, (10, 3), check_invariants=True).coalesce()
    order = distinct.argsort()
    assert distinct[order].tolist() == oracle.indices()[0].tolist()
    torch.testing.assert_close(sums[order], oracle.values())


def test_the_table_moves_as_the_formula_says_and_only_where_it_was_used():
    torch.manual_seed(0)
    table = torch.nn.Embedding(6, 4, sparse=True)
    expected, squares = table.weight.detach().clone(), torch.zeros(6)
    optimizer = RowwiseAdagrad(table.parameters(), learning_rate=0.1, weight_decay=0.01)
    for rows in ([1, 1, 4], [4, 0, 4], [1, 4, 1]):
        targets = torch.randn(3, 4)
        dense = expected.clone().requires_grad_()
        (dense[rows] - targets).square().sum().backward()
        used = sorted(set(rows))
        gradient = dense.grad[used] + 0.01 * expected[used]
        squares[used] += gradient.square().mean(1)
        expected[used] -= 0.1 * gradient / squares[used].sqrt()[:, None]

        optimizer.zero_grad()
        (table(torch.tensor(rows)) - targets).square().sum().backward()
        optimizer.step()
        torch.testing.assert_close(table.weight.detach(), expected)
    assert bool((squares[[2, 3, 5]] == 0).all())
