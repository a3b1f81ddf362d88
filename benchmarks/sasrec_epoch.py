"""One training epoch of SASRec, full softmax: all positions of a user in one pass against one padded prefix a sample.

Run with ``python -m benchmarks.sasrec_epoch``. Users have the lengths of a 5-core shop (mean about 7 training items,
long tail) and 12,000 items to choose from. Ours is a whole epoch. Theirs trains the same network as RecBole does: every
prefix of a user is a sample of its own, padded to 50 items, 2,048 a batch; it is timed on users drawn at random, and
positions a second are compared. Equal: without dropout, the summed loss over all positions of those users is the same.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.comparison import report, seconds_in_turns
from pipeline_lib.embeddings.sasrec import Config, SASRec, collate, training_rows
from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.histories import next_item_examples

USERS, TIMED_USERS, ITEMS, BATCH_OF_PREFIXES = 22_000, 1_200, 12_000, 2048
CONFIG = Config()
LossOf = Callable[[SASRec, dict[str, torch.Tensor]], torch.Tensor]


def main() -> None:
    generator = np.random.default_rng(0)
    lengths = np.minimum(2 + generator.geometric(1 / 5, USERS), CONFIG.max_items)
    users = Ragged.from_rows([generator.integers(0, ITEMS, length) for length in lengths])
    few = users.take(np.sort(generator.permutation(USERS)[:TIMED_USERS]))
    torch.manual_seed(0)
    network = SASRec(ITEMS, CONFIG)
    ours, theirs = packed_batches(users), prefix_batches(few)
    seconds = seconds_in_turns(lambda: epoch(network, ours, packed_loss), lambda: epoch(network, theirs, prefix_loss),
                               repeats=2)
    losses = [total_loss(network, packed_batches(few), packed_loss), total_loss(network, theirs, prefix_loss)]
    report("sasrec_epoch", ours=positions(ours) / seconds[0], theirs=positions(theirs) / seconds[1], unit="positions/s",
           equal=positions(packed_batches(few)) == positions(theirs) and bool(np.isclose(*losses, rtol=1e-5)))


def packed_batches(users: Ragged) -> list[dict[str, torch.Tensor]]:
    inputs, labels = training_rows(users, CONFIG.max_items)
    return [collate(inputs, labels, batch)
            for batch in length_bucketed_batches(inputs.lengths, CONFIG.batch_size, 50, np.random.default_rng(1))]


def prefix_batches(users: Ragged) -> list[dict[str, torch.Tensor]]:
    _, histories, targets = next_item_examples(users, CONFIG.max_items, train_targets="prefixes")
    lengths, labels = torch.from_numpy(histories.lengths), torch.from_numpy(targets.values).long()
    return [{"inputs": torch.from_numpy(histories.take(batch).padded(0, CONFIG.max_items)),
             "lengths": lengths[batch], "labels": labels[batch]}
            for batch in length_bucketed_batches(histories.lengths, BATCH_OF_PREFIXES, 1, np.random.default_rng(1))]


def packed_loss(network: SASRec, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return network(batch)[0]


def prefix_loss(network: SASRec, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    last = network.states(batch["inputs"])[torch.arange(len(batch["lengths"])), batch["lengths"] - 1]
    return F.cross_entropy(last @ network.items.weight.T, batch["labels"], reduction="sum")


def positions(batches: list[dict[str, torch.Tensor]]) -> int:
    return sum(len(batch["labels"]) for batch in batches)


def epoch(network: SASRec, batches: list[dict[str, torch.Tensor]], loss_of: LossOf) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)  # both train the same weights, again and again
    network.train()
    for batch in batches:
        (loss_of(network, batch) / len(batch["labels"])).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def total_loss(network: SASRec, batches: list[dict[str, torch.Tensor]], loss_of: LossOf) -> float:
    network.eval()
    return sum(loss_of(network, batch).item() for batch in batches)


if __name__ == "__main__":
    main()
