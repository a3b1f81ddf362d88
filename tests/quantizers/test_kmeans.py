import numpy as np
import pytest
import torch

from pipeline_lib.quantizers.codebook import nearest_codeword
from pipeline_lib.quantizers.kmeans import fit_codebook, fit_codebook_faiss

CENTRES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


@pytest.fixture
def vectors():
    """``(90, 2)`` around three centres."""
    return CENTRES.repeat(30, 1) + 0.1 * torch.randn(90, 2, generator=torch.Generator().manual_seed(0))


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def slow_lloyd(vectors, codebook, iterations):
    for _ in range(iterations):
        codes = [int(((row - codebook) ** 2).sum(dim=1).argmin()) for row in vectors]
        codebook = torch.stack([torch.stack([row for row, code in zip(vectors, codes) if code == k]).mean(dim=0)
                                for k in range(len(codebook))])
    return codebook


def test_faiss_finds_separate_clusters(vectors):
    codebook = fit_codebook_faiss(vectors.numpy(), 3, 10, seed=3)
    assert sorted(np.round(codebook).tolist()) == sorted(CENTRES.tolist())


def test_rounds_equal_a_plain_loop():
    vectors = torch.randn(60, 3, generator=generator(5))
    start = fit_codebook(vectors, 4, 0, generator())
    torch.testing.assert_close(fit_codebook(vectors, 4, 5, generator()), slow_lloyd(vectors, start, 5))


def test_more_rounds_never_raise_the_error():
    vectors = torch.randn(200, 4, generator=generator(2))
    codebooks = [fit_codebook(vectors, 8, rounds, generator()) for rounds in (0, 1, 3, 10)]
    errors = [((vectors - codebook[nearest_codeword(vectors, codebook)]) ** 2).sum().item() for codebook in codebooks]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_an_empty_cluster_restarts_at_a_vector():
    vectors = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    assert set(fit_codebook(vectors, 3, 1, generator()).flatten().tolist()) <= {0.0, 1.0}


def test_equal_seeds_give_equal_codebooks(vectors):
    assert torch.equal(fit_codebook(vectors, 5, 4, generator()), fit_codebook(vectors, 5, 4, generator()))
    first, second = (fit_codebook_faiss(vectors.numpy(), 5, 4, seed=9) for _ in range(2))
    assert np.array_equal(first, second)


def test_too_few_vectors_are_refused(vectors):
    with pytest.raises(ValueError, match="90 vectors cannot fill a codebook of 91"):
        fit_codebook(vectors, 91, 1, generator())
    with pytest.raises(ValueError, match="set codebook_size to 90 or less"):
        fit_codebook_faiss(vectors.numpy(), 91, 1, seed=0)
