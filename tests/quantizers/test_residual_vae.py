import numpy as np
import pytest
import torch

from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.quantizers.residual_fitting import fit_autoencoder, measure
from pipeline_lib.quantizers.residual_vae import ResidualVAE, scale_for


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vectors():
    """``(400, 12)`` of unit length, around 20 centres."""
    centres = torch.randn(20, 12, generator=generator(7)).repeat(20, 1)
    rows = centres + 0.3 * torch.randn(400, 12, generator=generator(8))
    return rows / rows.norm(dim=1, keepdim=True)


def model_for(vectors, seed=0, **changes):
    return ResidualVAE(vectors.shape[1], (32, 16), 8, 2, 16, generator(seed), scale_for(vectors), **changes)


def fit(model, vectors, **changes):
    options = {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.0, "commitment": 0.25,
               "kmeans_init": True, "revive_dead": True, "patience": 100, "generator": generator(1)}
    return fit_autoencoder(model, vectors, **{**options, **changes})


def test_scale_gives_a_mean_square_of_one(vectors):
    assert (vectors * scale_for(vectors)).square().mean().item() == pytest.approx(1, abs=1e-5)
    assert scale_for(torch.zeros(3, 2)) == 1.0


def test_the_loss_does_not_depend_on_the_unit_of_the_vectors(vectors):
    def losses(table):
        model = model_for(table)
        reconstructed, quantized = model(table)
        return model.losses(table, reconstructed, quantized, 0.25)

    small, large = losses(vectors), losses(vectors * 1000)
    torch.testing.assert_close(small.reconstruction, large.reconstruction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.quantization, large.quantization, rtol=1e-4, atol=1e-5)


def test_the_quantization_loss_sums_levels_and_weighs_the_commitment(vectors):
    model = model_for(vectors)
    reconstructed, quantized = model(vectors)
    expected = quantized.codebook_losses.sum() + 0.25 * quantized.commitment_losses.sum()
    torch.testing.assert_close(model.losses(vectors, reconstructed, quantized, 0.25).quantization, expected)


def test_reconstruction_alone_gives_the_encoder_a_gradient(vectors):
    model = model_for(vectors)
    reconstructed, quantized = model(vectors)
    model.losses(vectors, reconstructed, quantized, 0.0).reconstruction.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.encoder.parameters())
    assert model.quantizer.codebooks.grad is None


def test_training_reconstructs_better_and_uses_the_codebooks(vectors):
    model = model_for(vectors)
    before = measure(model, vectors)["unexplained"]
    history = fit(model, vectors)
    assert measure(model, vectors)["unexplained"] < 0.5 * before
    assert history[-1]["utilisation"] > 0.9


def test_the_model_ends_in_its_best_measured_epoch(vectors):
    model = model_for(vectors)
    history = fit(model, vectors, learning_rate=0.02)
    scores = [row["unexplained"] + row["collision_rate"] for row in history if "unexplained" in row]
    found = measure(model, vectors)
    assert found["unexplained"] + found["collision_rate"] == pytest.approx(min(scores), abs=1e-6)


def test_training_stops_when_nothing_gets_better(vectors):
    history = fit(model_for(vectors), vectors, epochs=40, learning_rate=1e-9, kmeans_init=False, revive_dead=False,
                  patience=10)
    assert len(history) < 40


def test_equal_seeds_give_equal_bits(vectors):
    first, second = model_for(vectors), model_for(vectors)
    fit(first, vectors, epochs=5)
    torch.randn(3)  # the global generator plays no part
    fit(second, vectors, epochs=5)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_revival_brings_unused_codewords_back(vectors):
    def lowest(revive):
        model = model_for(vectors)
        model.quantizer.codebooks.data[:, 1:] += 50  # only codeword 0 is in reach
        return fit(model, vectors, epochs=5, kmeans_init=False, revive_dead=revive)[-1]["utilisation"]

    assert lowest(revive=False) == pytest.approx(1 / 16) and lowest(revive=True) > 0.8


def test_measure_in_pieces_equals_the_whole_by_definition(vectors):
    model = model_for(vectors)
    reconstructed, quantized = model(vectors)
    found = measure(model, vectors, rows_at_once=77)
    assert found["unexplained"] == pytest.approx(((reconstructed - vectors) ** 2).sum().item() / 400, rel=1e-4)
    assert found["collision_rate"] == collision_rate(quantized.codes.numpy())


def test_a_diverging_run_is_refused(vectors):
    with pytest.raises(ValueError, match="lower its learning_rate"):
        fit(model_for(vectors), vectors * np.inf)
