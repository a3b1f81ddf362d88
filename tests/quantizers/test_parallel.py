"""The parallel quantizer and its autoencoder, against TokenRec's equations (items 1 to 5 of its checklist)."""

import pytest
import torch
import torch.nn.functional as F

from pipeline_lib.quantizers.parallel import (
    ParallelQuantizer, ParallelVAE, decode_parallel, encode_parallel, mask_entries,
)
from pipeline_lib.quantizers.residual_fitting import fit_autoencoder, measure
from pipeline_lib.quantizers.residual_vae import scale_for

LEVELS, SIZE, LATENT, DIMENSIONS = 3, 8, 5, 12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vectors():
    """``(320, 12)`` around 20 centres."""
    centres = torch.randn(20, DIMENSIONS, generator=generator(7)).repeat(16, 1)
    return centres + 0.3 * torch.randn(320, DIMENSIONS, generator=generator(8))


@pytest.fixture
def model(vectors):
    model = ParallelVAE(DIMENSIONS, (16,), LATENT, LEVELS, SIZE, generator(), scale_for(vectors), mask=0.3)
    with torch.no_grad():  # codewords in reach, so that every level chooses among several
        model.quantizer.fit_codebooks(model.eval().latents(vectors), 3, generator(1))
    return model


def fit(model, vectors, **changes):
    options = {"epochs": 10, "batch_size": 64, "learning_rate": 3e-3, "weight_decay": 0.0, "commitment": 0.25,
               "kmeans_init": True, "revive_dead": True, "patience": 100, "generator": generator(1)}
    return fit_autoencoder(model, vectors, **{**options, **changes})


def gradients(model, loss):
    """Whether the encoders, the codebooks and the decoder get a gradient from ``loss``."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    parts = (model.encoders.parameters(), [model.quantizer.codebooks], model.decoder.parameters())
    return tuple(any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part) for part in parts)


def test_codes_and_their_mean_worked_by_hand():
    codebooks = torch.tensor([[[0.0], [10.0]], [[1.0], [4.0]]])  # (2, 2, 1)
    latents = torch.tensor([[[8.0], [2.0]], [[1.0], [3.0]]])  # (2, 2, 1)
    codes = encode_parallel(latents, codebooks)
    assert codes.tolist() == [[1, 0], [0, 1]]
    assert decode_parallel(codes, codebooks).tolist() == [[5.5], [2.0]]

    quantizer = ParallelQuantizer(2, 2, 1, generator())
    quantizer.codebooks.data = codebooks
    quantized = quantizer(latents)
    assert quantized.codes.tolist() == codes.tolist() and quantized.vectors.tolist() == [[5.5], [2.0]]
    assert quantized.codebook_losses.tolist() == quantized.commitment_losses.tolist() == [2.5, 1.0]


def test_masking_worked_by_hand():
    torch.manual_seed(5)
    drawn = torch.rand(2, 3)
    torch.manual_seed(5)
    masked = mask_entries(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), 0.4)
    expected = [[value if draw >= 0.4 else 0.0 for value, draw in zip(*rows)]
                for rows in zip([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], drawn.tolist())]
    assert masked.tolist() == expected
    assert 0.0 in masked.flatten().tolist()


def test_entries_are_masked_at_the_given_rate_each_for_itself():
    torch.manual_seed(0)
    first, second = (mask_entries(torch.ones(500, 40), 0.2) == 0 for _ in range(2))
    assert first.float().mean().item() == pytest.approx(0.2, abs=3 * (0.2 * 0.8 / 20000) ** 0.5)
    assert (first & second).float().mean().item() == pytest.approx(0.04, abs=3 * (0.04 * 0.96 / 20000) ** 0.5)
    neighbours = first[:, 1:] & first[:, :-1]
    assert neighbours.float().mean().item() == pytest.approx(0.04, abs=0.006)
    assert torch.equal(mask_entries(torch.ones(5, 4), 0.0), torch.ones(5, 4))


def test_vectors_are_masked_while_training_only(model, vectors):
    calm = model.eval().latents(vectors)
    assert torch.equal(calm, model.latents(vectors))
    torch.manual_seed(0)
    one, other = model.train().latents(vectors), model.latents(vectors)
    assert not torch.equal(one, calm) and not torch.equal(one, other)
    model.mask = 0.0
    torch.testing.assert_close(model.latents(vectors), calm)


def test_every_encoder_sees_the_same_masked_vector(model, vectors):
    model.encoders[1].load_state_dict(model.encoders[0].state_dict())
    latents = model.train().latents(vectors)
    torch.testing.assert_close(latents[:, 1], latents[:, 0])


def test_levels_are_parallel_so_that_permuting_them_permutes_codes_only(model, vectors):
    before, quantized = model(vectors)
    order = [2, 0, 1]
    model.encoders = torch.nn.ModuleList(model.encoders[level] for level in order)
    model.quantizer.codebooks.data = model.quantizer.codebooks.data[order]
    after, permuted = model(vectors)
    assert torch.equal(permuted.codes, quantized.codes[:, order])
    torch.testing.assert_close(after, before)


def test_codes_equal_a_brute_force_search_one_vector_and_level_at_a_time(model, vectors):
    latents, codebooks = model.latents(vectors).detach(), model.quantizer.codebooks.detach()
    expected = [[min(range(SIZE), key=lambda code: float((latent - codebook[code]).square().sum()))
                 for latent, codebook in zip(row, codebooks)] for row in latents[:40]]
    assert encode_parallel(latents, codebooks)[:40].tolist() == expected
    assert model(vectors)[1].codes[:40].tolist() == expected


def test_the_decoder_sees_exactly_the_mean_of_the_chosen_codewords(model, vectors):
    reconstructed, quantized = model(vectors)
    mean = decode_parallel(quantized.codes, model.quantizer.codebooks)
    assert torch.equal(quantized.vectors, mean)
    assert torch.equal(reconstructed, model.decode(mean))


def test_reconstruction_trains_encoders_and_decoder_but_no_codebook(model, vectors):
    reconstructed, quantized = model.train()(vectors)
    loss = model.losses(vectors, reconstructed, quantized, 0.25).reconstruction
    assert gradients(model, loss) == (True, False, True)
    assert all(any(p.grad.abs().sum() > 0 for p in encoder.parameters()) for encoder in model.encoders)


def test_straight_through_gives_each_level_its_share_of_the_gradient(model, vectors):
    latents = model.latents(vectors).detach().requires_grad_()
    weights = torch.randn(len(vectors), LATENT, generator=generator(3))
    (model.quantizer(latents).vectors * weights).sum().backward()
    torch.testing.assert_close(latents.grad, (weights / LEVELS).unsqueeze(1).expand_as(latents))


def test_the_codebook_loss_moves_codebooks_only_and_the_commitment_loss_encoders_only(model, vectors):
    assert gradients(model, model(vectors)[1].codebook_losses.sum()) == (False, True, False)
    assert gradients(model, model(vectors)[1].commitment_losses.sum()) == (True, False, False)


def test_losses_compare_with_the_unmasked_vector_and_weigh_the_commitment(model, vectors):
    model.mask = 0.9
    reconstructed, quantized = model.train()(vectors)
    losses = model.losses(vectors, reconstructed, quantized, 0.5)
    factor = model.scale.item() ** 2
    assert losses.reconstruction.item() == pytest.approx(factor * F.mse_loss(reconstructed, vectors).item(), rel=1e-4)
    expected = (quantized.codebook_losses + 0.5 * quantized.commitment_losses).sum()
    torch.testing.assert_close(losses.quantization, expected)


def test_codes_do_not_depend_on_the_batch(model, vectors):
    together = model(vectors)[1].codes
    alone = torch.cat([model(vectors[row : row + 1])[1].codes for row in range(30)])
    assert torch.equal(alone, together[:30])


def test_dropout_works_between_layers_while_training_only(vectors):
    model = ParallelVAE(DIMENSIONS, (16,), LATENT, LEVELS, SIZE, generator(), dropout=0.5)
    assert not torch.equal(model.train().latents(vectors), model.latents(vectors))
    assert torch.equal(model.eval().latents(vectors), model.latents(vectors))


def test_training_reconstructs_better_and_uses_the_codebooks(model, vectors):
    before = measure(model, vectors)["unexplained"]
    history = fit(model, vectors, epochs=30)
    assert measure(model, vectors)["unexplained"] < 0.7 * before
    assert history[-1]["utilisation"] > 0.9 and not model.training


def test_starting_at_kmeans_reconstructs_better_than_at_random(vectors):
    def unexplained(kmeans):
        model = ParallelVAE(DIMENSIONS, (16,), LATENT, LEVELS, SIZE, generator(), scale_for(vectors))
        fit(model, vectors, epochs=5, kmeans_init=kmeans, revive_dead=False)
        return measure(model, vectors)["unexplained"]

    assert unexplained(True) < unexplained(False)


def test_revival_brings_unused_codewords_back(model, vectors):
    model.quantizer.codebooks.data[:, 1:] += 50
    usage = torch.zeros(LEVELS, SIZE)
    usage[:, 0] = len(vectors)
    latents = model.latents(vectors)
    assert model.quantizer.revive_dead(latents, usage, 1.0, generator()) == LEVELS * (SIZE - 1)
    for level in range(LEVELS):
        revived = model.quantizer.codebooks[level, 1:].unsqueeze(1)  # (K - 1, 1, H)
        assert (revived == latents[:, level]).all(dim=-1).any(dim=-1).all()  # latents of the same level


def test_the_best_epoch_is_chosen_on_the_held_out_vectors(model, vectors):
    held_out = vectors[:64]
    history = fit(model, vectors[64:], learning_rate=0.02, epochs=20, validation=held_out)
    scores = [row["unexplained"] + row["collision_rate"] for row in history if "unexplained" in row]
    found = measure(model, held_out)
    assert found["unexplained"] + found["collision_rate"] == pytest.approx(min(scores), abs=1e-6)
