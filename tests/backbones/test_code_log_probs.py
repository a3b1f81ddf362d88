import math

import pytest
import torch

from pipeline_lib.backbones.code_log_probs import code_log_probs


def test_worked_by_hand():
    states, classifier = torch.tensor([[1.0]]), torch.tensor([[3.0], [1.0], [2.0], [4.0]]).log()  # odds 3, 1, 2, 4
    said = {(): [1, 2], (3,): [1, 2, 4]}  # of codes at rows 1 and 2, and an end at row 3
    for end, odds in said.items():
        over_all = code_log_probs(states, classifier, slice(1, 3), *end)
        over_level = code_log_probs(states, classifier, slice(1, 3), *end, over_level=True)
        assert over_all[0].tolist() == pytest.approx([math.log(odd / 10) for odd in odds], abs=1e-6)
        assert over_level[0].tolist() == pytest.approx([math.log(odd / sum(odds)) for odd in odds], abs=1e-6)


@pytest.mark.parametrize("over_level", [False, True])
def test_codes_that_are_near_do_not_tie_in_mixed_precision(over_level):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 2, 16, generator=generator)
    classifier = 2.0 + 0.01 * torch.randn(50, 16, generator=generator)  # logits that differ by less than bf16 can say
    exact = code_log_probs(states, classifier, slice(5, 45), over_level=over_level)
    with torch.autocast("cpu", torch.bfloat16):
        again = code_log_probs(states, classifier, slice(5, 45), over_level=over_level)
    assert torch.equal(again, exact)
    assert all(len(row.unique()) == 40 for row in exact.flatten(0, 1))
