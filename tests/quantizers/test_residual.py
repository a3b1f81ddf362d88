import pytest
import torch

from pipeline_lib.quantizers.kmeans import fit_codebook
from pipeline_lib.quantizers.residual import ResidualQuantizer, decode_residual, encode_residual, last_level_distances


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def codebooks():
    return torch.randn(3, 8, 4, generator=generator())  # (L, K, D)


@pytest.fixture
def vectors():
    return torch.randn(50, 4, generator=generator(1))


def quantizer_with(codebooks, residual_gradient="identity"):
    quantizer = ResidualQuantizer(*codebooks.shape, generator(), residual_gradient)
    quantizer.codebooks.data.copy_(codebooks)
    return quantizer


def test_codes_worked_by_hand():
    codebooks = torch.tensor([[[0.0], [10.0]], [[-1.0], [2.0]]])  # (2, 2, 1)
    codes, residual = encode_residual(torch.tensor([[12.0], [-1.5]]), codebooks)
    assert codes.tolist() == [[1, 1], [0, 0]]
    assert residual.tolist() == [[0.0], [-0.5]]


def test_codewords_and_residual_add_up_to_the_vector(codebooks, vectors):
    codes, residual = encode_residual(vectors, codebooks)
    torch.testing.assert_close(decode_residual(codes, codebooks) + residual, vectors)


def test_the_module_chooses_the_same_codes_and_returns_their_sum(codebooks, vectors):
    quantized = quantizer_with(codebooks)(vectors)
    codes, _ = encode_residual(vectors, codebooks)
    assert torch.equal(quantized.codes, codes)
    assert torch.equal(quantized.vectors, decode_residual(codes, codebooks))
    assert torch.equal(quantized.distances.argmin(dim=-1), codes)
    torch.testing.assert_close(quantized.distances[:, -1], last_level_distances(vectors, codebooks))


def test_losses_are_the_mean_squares_of_the_residuals(codebooks, vectors):
    quantized = quantizer_with(codebooks)(vectors)
    expected = torch.stack([encode_residual(vectors, codebooks[: level + 1])[1].square().mean() for level in range(3)])
    torch.testing.assert_close(quantized.codebook_losses, expected)
    torch.testing.assert_close(quantized.commitment_losses, expected)


@pytest.mark.parametrize("mode, reaches", [("identity", True), ("zero", False)])
def test_later_levels_reach_the_encoder_only_with_an_identity_gradient(codebooks, vectors, mode, reaches):
    latents = vectors.clone().requires_grad_()
    quantized = quantizer_with(codebooks, mode)(latents)
    (quantized.distances[:, 1:].sum() + quantized.commitment_losses[1:].sum()).backward(retain_graph=True)
    assert (latents.grad is not None and bool(latents.grad.abs().sum() > 0)) == reaches


def test_reconstruction_reaches_the_latents_and_not_the_codebooks(codebooks, vectors):
    quantizer, latents = quantizer_with(codebooks), vectors.clone().requires_grad_()
    quantizer(latents).vectors.square().sum().backward()
    assert latents.grad.abs().sum() > 0 and quantizer.codebooks.grad is None


@pytest.mark.parametrize(("figure", "moves_codebooks", "moves_latents"), [
    ("codebook_losses", True, False), ("commitment_losses", False, True), ("distances", True, True)])
def test_each_loss_moves_its_side_at_every_level_and_distances_both(codebooks, vectors, figure, moves_codebooks,
                                                                    moves_latents):
    for level in range(3):
        quantizer, latents = quantizer_with(codebooks), vectors.clone().requires_grad_()
        quantized = getattr(quantizer(latents), figure)
        (quantized[:, level] if figure == "distances" else quantized[level]).sum().backward()
        found = [grad is not None and bool(grad.any()) for grad in (quantizer.codebooks.grad, latents.grad)]
        assert found == [moves_codebooks, moves_latents]
        if moves_codebooks:  # residuals see the codewords of other levels as constants
            assert quantizer.codebooks.grad.flatten(1).any(dim=1).tolist() == [other == level for other in range(3)]


def test_kmeans_start_leaves_less_than_random_codebooks(vectors):
    quantizer = ResidualQuantizer(2, 8, 4, generator())
    before = encode_residual(vectors, quantizer.codebooks)[1].square().sum()
    quantizer.fit_codebooks(vectors, 10, generator())
    after = [encode_residual(vectors, quantizer.codebooks[:levels])[1].square().sum() for levels in (1, 2)]
    assert before > after[0] > after[1]


def test_kmeans_start_clusters_what_the_levels_before_leave(vectors):
    quantizer, draws, residual = ResidualQuantizer(3, 8, 4, generator()), generator(2), vectors
    quantizer.fit_codebooks(vectors, 10, generator(2))
    for level in range(3):
        expected = fit_codebook(residual, 8, 10, draws)
        torch.testing.assert_close(quantizer.codebooks[level].detach(), expected)
        residual = residual - expected[torch.cdist(residual, expected).argmin(dim=1)]


def test_revival_gives_each_level_residuals_of_that_level(codebooks, vectors):
    quantizer = quantizer_with(codebooks)
    usage = torch.ones(3, 8, dtype=torch.int64)
    usage[1, 3] = 0
    assert quantizer.revive_dead(vectors, usage, 1, generator()) == 1
    residual = encode_residual(vectors, codebooks[:1])[1]
    assert any(torch.equal(quantizer.codebooks[1, 3], row) for row in residual)
    assert torch.equal(quantizer.codebooks[[0, 2]], codebooks[[0, 2]])


def test_dimension_mismatch_names_both_sizes(codebooks):
    with pytest.raises(ValueError, match="5 dimensions but codebooks have 4"):
        encode_residual(torch.zeros(2, 5), codebooks)


def test_an_unknown_gradient_is_refused():
    with pytest.raises(ValueError, match="residual_gradient is half; known: identity, zero"):
        ResidualQuantizer(1, 2, 2, generator(), "half")
