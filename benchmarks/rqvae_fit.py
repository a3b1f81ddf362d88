"""Time to a quality of an RQ-VAE: `fit_autoencoder` against a plain run.

The plain run is what public code does: default initial weights, random codebooks that nothing revives, a DataLoader
over rows, batches of 1,024, straight AdamW, 1,000 epochs. Both have the same layers, the same loss and the same
vectors, already of unit scale. Ours is timed until it reconstructs at least as well with no more collisions.
Scaled down to take under two minutes: 3,000 synthetic items in 128 dimensions, 3 x 128 codewords.

Run with ``python -m benchmarks.rqvae_fit``.
"""

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline_lib import plain_files
from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.quantizers.residual_fitting import fit_autoencoder
from pipeline_lib.quantizers.residual_vae import ResidualVAE, scale_for

ITEMS, DIMENSIONS, HIDDEN, LATENT, LEVELS, CODEBOOK_SIZE = 3000, 128, (256, 128, 64), 32, 3, 128
PLAIN_EPOCHS, PLAIN_BATCH, EPOCHS, BATCH = 1000, 1024, 300, 256
RESULT = Path("reports/benchmarks/rqvae_fit.json")


class PlainVAE(nn.Module):
    """The same model, written straight from the papers."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [DIMENSIONS, *HIDDEN, LATENT]
        self.encoder, self.decoder = self.layers(sizes), self.layers(sizes[::-1])
        self.codebooks = nn.ModuleList(nn.Embedding(CODEBOOK_SIZE, LATENT) for _ in range(LEVELS))
        for codebook in self.codebooks:
            nn.init.uniform_(codebook.weight, -1 / CODEBOOK_SIZE, 1 / CODEBOOK_SIZE)

    @staticmethod
    def layers(sizes: list[int]) -> nn.Sequential:
        pairs = [[nn.Linear(a, b), nn.ReLU()] for a, b in zip(sizes, sizes[1:])]
        return nn.Sequential(*[layer for pair in pairs for layer in pair][:-1])

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.encoder(vectors)
        residual, loss, codes = latents, 0, []
        for codebook in self.codebooks:
            code = torch.cdist(residual, codebook.weight).argmin(dim=-1)
            codeword = codebook(code)
            loss = loss + F.mse_loss(codeword, residual.detach()) + 0.25 * F.mse_loss(residual, codeword.detach())
            residual = residual - codeword.detach()
            codes.append(code)
        return self.decoder(latents - residual.detach()), loss, torch.stack(codes, dim=-1)


def synthetic_vectors(seed: int) -> Tensor:
    """``(ITEMS, DIMENSIONS)``: kinds, sub-kinds and items, of unit mean square."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(60, DIMENSIONS, generator=generator)
    subkinds = torch.randn(900, DIMENSIONS, generator=generator)
    subkind = torch.randint(900, (ITEMS,), generator=generator)
    items = torch.randn(ITEMS, DIMENSIONS, generator=generator)
    vectors = kinds[subkind % 60] + 0.6 * subkinds[subkind] + 0.3 * items
    return vectors * scale_for(vectors)


def run_plain(vectors: Tensor) -> dict[str, float]:
    torch.manual_seed(0)
    model = PlainVAE()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    loader = DataLoader(TensorDataset(vectors), batch_size=PLAIN_BATCH, shuffle=True)
    started = time.perf_counter()
    for _ in range(PLAIN_EPOCHS):
        for (batch,) in loader:
            reconstructed, loss, _ = model(batch)
            optimizer.zero_grad()
            (F.mse_loss(reconstructed, batch) + loss).backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        reconstructed, _, codes = model(vectors)
    return {"seconds": seconds, "epochs": PLAIN_EPOCHS, "unexplained": F.mse_loss(reconstructed, vectors).item(),
            "collision_rate": collision_rate(codes.numpy())}


def run_ours(vectors: Tensor, epochs: int) -> tuple[float, list[dict[str, float]]]:
    """Seconds and history; equal seeds repeat a shorter run bit for bit."""
    generator = torch.Generator().manual_seed(0)
    started = time.perf_counter()
    model = ResidualVAE(DIMENSIONS, HIDDEN, LATENT, LEVELS, CODEBOOK_SIZE, generator, scale_for(vectors))
    history = fit_autoencoder(model, vectors, epochs=epochs, batch_size=BATCH, learning_rate=2e-3, weight_decay=0.0,
                              commitment=0.25, kmeans_init=True, revive_dead=True, patience=epochs,
                              generator=generator)
    return time.perf_counter() - started, history


def as_good(row: dict[str, float], plain: dict[str, float]) -> bool:
    return "unexplained" in row and all(row[name] <= plain[name] for name in ("unexplained", "collision_rate"))


def main() -> None:
    vectors = synthetic_vectors(seed=0)
    plain = run_plain(vectors)
    _, explored = run_ours(vectors, epochs=EPOCHS)
    needed = next((int(row["epoch"]) for row in explored if as_good(row, plain)), len(explored))
    seconds, history = run_ours(vectors, epochs=needed)
    equal = as_good(history[-1], plain)
    print(f"{'':8}{'epochs':>8}{'seconds':>10}{'unexplained':>13}{'collisions':>12}")
    for name, row in (("plain", plain), ("ours", {**history[-1], "seconds": seconds, "epochs": needed})):
        print(f"{name:8}{row['epochs']:8d}{row['seconds']:10.2f}"
              f"{row['unexplained']:13.4f}{row['collision_rate']:12.4f}")
    print(f"ratio {plain['seconds'] / seconds:.1f}, target 5, as good: {equal}")
    plain_files.write_json(RESULT, {"ours": round(seconds, 3), "theirs": round(plain["seconds"], 3),
                                  "ratio": round(plain["seconds"] / seconds, 2), "unit": "s", "equal": equal,
                                  "plain": plain, "ours_last_epoch": history[-1]})


if __name__ == "__main__":
    main()
