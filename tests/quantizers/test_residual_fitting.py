"""Losses beside the autoencoder's own; everything else about its training is in test_residual_vae and test_parallel."""

import logging

import pytest
import torch
from torch import nn

from pipeline_lib.quantizers.residual_fitting import fit_autoencoder
from pipeline_lib.quantizers.residual_vae import ResidualVAE, scale_for


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vectors():
    return torch.randn(200, 6, generator=generator(7))


class Recording(nn.Module):
    """Draws each row's quantised latent towards a trained point, and notes what it is shown."""

    def __init__(self, weight):
        super().__init__()
        self.weights = {"pull": weight}
        self.point = nn.Parameter(torch.full((4,), 2.0))
        self.rows, self.epochs, self.values = [], [], []

    def begin_epoch(self, codebooks):
        self.epochs.append(codebooks.clone())

    def forward(self, rows, quantized, codebooks):
        self.rows.append(rows)
        assert codebooks.requires_grad and codebooks.shape == (2, 8, 4)
        loss = (quantized.vectors - self.point).square().mean()
        self.values.append(loss.item())
        return {"pull": loss}


def fit(vectors, regulariser=None, epochs=3):
    model = ResidualVAE(6, (8,), 4, 2, 8, generator(), scale_for(vectors))
    history = fit_autoencoder(model, vectors, epochs=epochs, batch_size=64, learning_rate=5e-3, weight_decay=0.0,
                              commitment=0.25, kmeans_init=True, revive_dead=False, patience=100,
                              generator=generator(1), regulariser=regulariser)
    return model, history


def test_an_extra_loss_sees_each_row_once_an_epoch_and_the_codebooks_before_it(vectors):
    recording = Recording(1.0)
    fit(vectors, recording)
    assert len(recording.epochs) == 3 and not torch.equal(recording.epochs[0], recording.epochs[1])
    for epoch in range(3):
        rows = torch.cat(recording.rows[4 * epoch : 4 * epoch + 4])  # batches of 64, 64, 64, 8
        assert sorted(rows.tolist()) == list(range(200))


def test_the_row_of_an_epoch_has_the_unweighted_mean_and_the_weighted_sum(vectors):
    recording = Recording(0.3)
    row = fit(vectors, recording)[1][0]
    mean = sum(value * size for value, size in zip(recording.values, (64, 64, 64, 8))) / 200
    assert row["pull_loss"] == pytest.approx(mean, rel=1e-5)
    assert row["loss"] == pytest.approx(row["reconstruction_loss"] + row["quantization_loss"] + 0.3 * mean, rel=1e-5)


def test_an_extra_loss_trains_the_model_and_what_is_its_own(vectors):
    without, (drawn, history) = fit(vectors)[0], fit(vectors, Recording(5.0))
    point = torch.full((4,), 2.0)
    distances = [(model.encode(vectors)[1].vectors - point).norm(dim=1).mean() for model in (without, drawn)]
    assert distances[1] < distances[0]
    recording = Recording(5.0)
    fit(vectors, recording)
    assert not torch.equal(recording.point.detach(), point)
    assert history[-1]["pull_loss"] < history[0]["pull_loss"]


def test_a_weight_of_zero_changes_nothing(vectors):
    plain, weighed = fit(vectors)[0], fit(vectors, Recording(0.0))[0]
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), weighed.state_dict().values()))


def test_a_line_is_logged_where_the_epoch_is_measured(vectors, caplog):
    with caplog.at_level(logging.INFO):
        fit(vectors, epochs=12)
    lines = [line.split(":")[0] for line in caplog.messages if line.startswith("epoch")]
    assert lines == ["epoch 5", "epoch 10", "epoch 12"]
