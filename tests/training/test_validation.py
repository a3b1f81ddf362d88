import numpy as np
import pytest
import torch
from torch import nn

from pipeline_lib.ragged import Ragged
from pipeline_lib.training.device import make_accelerator
from pipeline_lib.training.validation import best_items, mean_loss, ranking_figures, validation_rows


def test_a_sample_is_fixed_by_its_seed_and_in_order():
    rows = np.arange(3, 103)
    sample = validation_rows(rows, 10, 42)
    assert len(set(sample)) == 10 and set(sample) <= set(rows) and (np.diff(sample) > 0).all()
    assert (validation_rows(rows, 10, 42) == sample).all() and (validation_rows(rows, 10, 43) != sample).any()
    assert validation_rows(rows, None, 42) is rows and validation_rows(rows, 100, 42) is rows


def test_the_mean_loss_is_one_over_terms_not_over_batches():
    class Sums(nn.Module):
        def forward(self, batch):
            return batch["terms"].sum(), torch.tensor(len(batch["terms"]))

    batches = [{"terms": torch.tensor([1.0, 2.0, 6.0])}, {"terms": torch.tensor([7.0])}]
    assert mean_loss(Sums(), batches, make_accelerator("fp32")) == 4.0  # 16 / 4; of batches it would be 5


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize(("users", "items"), [(0, 30), (5, 30), (300, 30), (600, 12)])
def test_the_best_items_are_those_of_sorting_all_scores(users, items, filtered):
    """Also in several blocks of users, and where a history leaves fewer than ten."""
    generator = np.random.default_rng(0)
    vectors = [torch.from_numpy(generator.standard_normal((count, 4)).astype(np.float32)) for count in (users, items)]
    histories = Ragged.from_rows([generator.choice(items, generator.integers(0, 6), replace=False)
                                  for _ in range(users)])
    found = best_items(*vectors, histories if filtered else None)
    assert len(found) == users
    for row, scores in enumerate((vectors[0] @ vectors[1].T).numpy()):
        order = [item for item in np.argsort(-scores) if not (filtered and item in histories[row])]
        assert found[row].tolist() == order[:10]


def test_figures_are_means_over_users_of_the_first_ten_items():
    """One of two targets at the second place of the first list, and one target behind the tenth place of the second."""
    lists = Ragged.from_rows([[4, 7, 1], list(range(11))])
    figures = ranking_figures(lists, Ragged.from_rows([[7, 9], [10]]))
    ideal = 1 + 1 / np.log2(3)
    assert figures == pytest.approx({"ndcg@10": 1 / np.log2(3) / ideal / 2, "recall@10": 0.25})
