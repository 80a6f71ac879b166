import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.batches import Batches, Examples, predict
from ranking.encoding import Columns


def examples(rows: int) -> Examples:
    """Row ``i`` holds ids 10i+1, 10i+2, number i and label i % 2, so that a row can be recognised."""
    places = np.arange(rows)
    columns = Columns(
        ids=np.stack([10 * places + 1, 10 * places + 2], axis=1), numbers=places[:, None].astype(np.float32)
    )
    return Examples.of(columns, places % 2)


def batches(rows: int, *, batch_rows: int = 4, seed: int = 0, dropout: tuple[float, float] = (0.0, 0.0)) -> Batches:
    return Batches(
        examples(rows),
        batch_rows=batch_rows,
        seed=seed,
        unseen=torch.tensor([0, 7]),
        id_dropout=torch.tensor(dropout),
    )


def order(some: Batches) -> list[int]:
    return [int(number) for _, numbers, _ in some for number in numbers[:, 0]]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**31))
def test_an_epoch_holds_every_row_once_in_batches_of_almost_one_size(rows, batch_rows, seed):
    some = batches(rows, batch_rows=batch_rows, seed=seed)
    sizes = [len(labels) for _, _, labels in some]
    assert sorted(order(some)) == list(range(rows))
    assert len(sizes) == len(some)
    assert max(sizes) <= batch_rows
    assert max(sizes) - min(sizes) <= 1


def test_a_rows_ids_numbers_and_label_stay_together():
    for ids, numbers, labels in batches(30):
        place = numbers[:, 0].long()
        assert ids[:, 0].tolist() == (10 * place + 1).tolist()
        assert ids[:, 1].tolist() == (10 * place + 2).tolist()
        assert labels.tolist() == (place % 2).float().tolist()


def test_epochs_differ_in_order_and_equal_seeds_agree():
    first, second = batches(50), batches(50)
    epochs = [order(first), order(first)]
    assert epochs[0] != epochs[1]
    torch.manual_seed(99)
    assert [order(second), order(second)] == epochs
    assert order(batches(50, seed=1)) != epochs[0]


def test_shuffling_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    order(batches(50, dropout=(0.5, 0.5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_id_dropout_replaces_the_stated_share_by_the_columns_own_unseen_row():
    some = batches(20_000, batch_rows=500, dropout=(0.3, 0.0))
    ids = torch.cat([ids for ids, _, _ in some])
    assert float((ids[:, 0] == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert not bool((ids[:, 1] == 7).any())
    assert bool((some.examples.ids[:, 0] != 0).all()), "the rows themselves are not changed"


class Sum(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, ids, numbers):
        return ids.sum(1) * self.weight + numbers[:, 0]


def test_scores_are_probabilities_in_the_order_of_the_rows():
    ids, numbers = torch.tensor([[1], [-1], [0], [9_999], [-9_999]]), torch.zeros(5, 1)
    scores = predict(Sum(), ids, numbers, batch_rows=2)
    np.testing.assert_allclose(scores[:3], 1 / (1 + np.exp([-1.0, 1.0, 0.0])), rtol=1e-6)
    assert 0 < scores.min() < scores.max() < 1


def test_no_rows_have_no_scores():
    assert predict(Sum(), torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1)).shape == (0,)
