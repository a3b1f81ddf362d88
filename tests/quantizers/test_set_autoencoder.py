"""Sets of tokens: shapes, the order of their tokens, and what is rebuilt."""

import pytest
import torch

from pipeline_lib.quantizers.set_autoencoder import SetAutoencoder

VECTORS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
CF = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def build(tokens=2, cf=3, **scales):
    return SetAutoencoder(5, cf, (6,), tokens, 4, torch.Generator().manual_seed(0), **scales)


def test_the_collaborative_token_comes_first_then_chunks_of_one_code():
    sets = build()
    with torch.inference_mode():
        tokens, code = sets(VECTORS, CF), sets.encoder(VECTORS)
        torch.testing.assert_close(tokens[:, 0], CF @ sets.projection[0].weight.T + sets.projection[0].bias)
        torch.testing.assert_close(torch.cat([tokens[:, 1], tokens[:, 2]], dim=1), code)


@pytest.mark.parametrize(("tokens", "cf", "size"), [(2, 3, 3), (0, 3, 1), (2, 0, 2)])
def test_either_kind_of_token_may_be_left_out(tokens, cf, size):
    sets = build(tokens, cf)
    assert sets.set_size == size
    assert sets(VECTORS, CF).shape == (7, size, 4)


def test_reconstruction_error_worked_by_hand():
    sets = build(scale=2.0)
    with torch.no_grad():
        sets.decoder[-1].weight.zero_()
        sets.decoder[-1].bias.fill_(1.0)  # every vector is rebuilt as ones
        errors = sets.reconstruction_errors(torch.tensor([[1.0, 0.0, 0.5, 0.5, 0.5]]), torch.zeros(1, 2, 4))
    assert errors.tolist() == pytest.approx([(1 + 1) / 5])  # (2 - 1)^2 + (0 - 1)^2, over five dimensions


def test_scales_are_those_of_the_inputs():
    plain, scaled = build(), build(scale=4.0, cf_scale=0.5)
    with torch.inference_mode():
        torch.testing.assert_close(plain(VECTORS, CF), scaled(VECTORS / 4, CF / 0.5))
        errors = [sets.reconstruction_errors(table, sets.semantic_tokens(table))
                  for sets, table in ((plain, VECTORS), (scaled, VECTORS / 4))]
    torch.testing.assert_close(*errors)
