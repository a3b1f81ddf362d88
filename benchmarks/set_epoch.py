"""One training epoch of the set recommender: a row a user that trains all its positions against one sample a position.

Run with ``python -m benchmarks.set_epoch``. Histories have the lengths of a 5-core shop (mean about 7, long tail),
cut to 20 items of 5 tokens; the network has the sizes of ``size=small``. Both sides have the same backbone, targets and
steps: a batch holds all positions of the same 64 users. Further rows: samples that are batched by length instead, as
many positions a step; and a Qwen2 in place of the T5. Equal: all forms have the same summed loss over all positions, on
either backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.comparison import report, seconds_in_turns
from pipeline_lib.quantizers.set_autoencoder import SetAutoencoder
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.set_backbones import new_backbone
from pipeline_lib.recommenders.set_batches import TargetRows, single_rows
from pipeline_lib.recommenders.set_network import SetQueryNetwork
from pipeline_lib.recommenders.set_query import Config
from pipeline_lib.sequences.batches import length_bucketed_batches

USERS, ITEMS, MAX_ITEMS, BATCH, SEMANTIC, TEXT, COLLABORATIVE = 256, 3000, 20, 64, 4, 256, 64
T5 = Config(layers=2, heads=4, head_size=16, width=64, feed_forward=256, dropout=0.0)
QWEN2 = Config(backbone="causal_lm", layers=2, heads=4, width=64, feed_forward=256, dropout=0.0)
Batches = list[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Forms:
    """The same targets as batches of packed users, of the samples of these users, of samples of similar lengths."""

    packed: Batches
    single: Batches
    bucketed: Batches


def main() -> None:
    forms = batches_of(drawn_users(np.random.default_rng(0)))
    t5, qwen2 = build(T5), build(QWEN2)
    ours, theirs = positions_per_second(t5, forms.packed, forms.single)
    rows = [("Qwen2", *positions_per_second(qwen2, forms.packed, forms.single)),
            ("against samples of similar lengths", *positions_per_second(t5, forms.packed, forms.bucketed))]
    equal = all(np.isclose(total_loss(network, forms.packed), total_loss(network, batches), rtol=1e-5)
                for network, batches in ((t5, forms.single), (qwen2, forms.single), (t5, forms.bucketed)))
    report("set_epoch", ours=ours, theirs=theirs, unit="positions/s", equal=equal, rows=rows)


def drawn_users(generator: np.random.Generator) -> TargetRows:
    """Windows of users, each item behind the first a target."""
    lengths = np.minimum(2 + generator.geometric(1 / 6, USERS), MAX_ITEMS + 1)
    walks = [generator.integers(0, ITEMS, length) for length in lengths]
    return TargetRows(Ragged.from_rows([walk[:-1] for walk in walks]), Ragged.from_rows([walk[1:] for walk in walks]))


def batches_of(users: TargetRows) -> Forms:
    samples = single_rows(users)
    drawn = length_bucketed_batches(users.histories.lengths, BATCH, 50, np.random.default_rng(1))
    of_users = [np.flatnonzero(np.isin(users.targets.row_of_value, rows)) for rows in drawn]
    as_many = -(-len(samples) // len(drawn))
    by_length = length_bucketed_batches(samples.histories.lengths, as_many, 50, np.random.default_rng(1))
    return Forms(collated(users, drawn), collated(samples, of_users), collated(samples, by_length))


def collated(rows: TargetRows, batches: Sequence[np.ndarray]) -> Batches:
    return [rows.collate(batch) for batch in batches]


def build(config: Config) -> SetQueryNetwork:
    torch.manual_seed(0)
    sets = SetAutoencoder(TEXT, COLLABORATIVE, (256, 128), SEMANTIC, config.width, torch.Generator().manual_seed(0))
    return SetQueryNetwork(new_backbone(config)[0], sets, torch.randn(ITEMS, TEXT), torch.randn(ITEMS, COLLABORATIVE))


def positions_per_second(network: SetQueryNetwork, ours: Batches, theirs: Batches) -> list[float]:
    seconds = seconds_in_turns(lambda: epoch(network, ours), lambda: epoch(network, theirs), repeats=2)
    return [sum(len(batch["targets"]) for batch in ours) / one for one in seconds]


def epoch(network: SetQueryNetwork, batches: Batches) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)  # both train the same weights, again and again
    network.train()
    for batch in batches:
        loss, count = network(batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def total_loss(network: SetQueryNetwork, batches: Batches) -> float:
    network.eval()
    return sum(network(batch)[0].item() for batch in batches)


if __name__ == "__main__":
    main()
