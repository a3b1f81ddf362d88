"""One training epoch of the encoder-decoder: batches of similar lengths against padding to the longest history.

Run with ``python -m benchmarks.seq2seq_epoch``. Histories are drawn with the lengths of a 5-core shop (mean about 9 items,
long tail), cut to 20 items of 4 codes; the network has the sizes of ``scale=small``. Equal: without dropout, the summed loss
over all examples is the same however they are batched and padded.
"""

import numpy as np
import torch

from benchmarks.comparison import report, seconds_in_turns
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.code_seq2seq import CodeSeq2Seq, Network, collate
from pipeline_lib.records import Examples
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.code_tokens import PAD, Vocabulary, tokens_of_histories
from pipeline_lib.sequences.histories import next_item_examples

USERS, ITEMS, LEVELS, CODEBOOK_SIZE, MAX_ITEMS, BATCH = 1200, 3000, 4, 256, 20, 256
CONFIG = Network(layers=2, heads=4, head_size=16, width=64, feed_forward=256, dropout=0.1)


def main() -> None:
    generator = np.random.default_rng(0)
    vocabulary = Vocabulary.build((CODEBOOK_SIZE,) * LEVELS)
    item_tokens = vocabulary.item_tokens(generator.integers(0, CODEBOOK_SIZE, (ITEMS, LEVELS)).astype(np.int32))
    lengths = np.minimum(3 + generator.geometric(1 / 4, USERS), 200)
    users = Ragged.from_rows([generator.integers(0, ITEMS, length) for length in lengths])
    rows, histories, targets = next_item_examples(users, MAX_ITEMS, train_targets="prefixes")
    examples = Examples(rows, histories, targets, tokens_of_histories(histories, item_tokens),
                        item_tokens.take(targets.values), ["next_item"] * len(rows))
    torch.manual_seed(0)
    model = CodeSeq2Seq(CONFIG, vocabulary)
    bucketed = length_bucketed_batches(examples.input_ids.lengths, BATCH, 50, np.random.default_rng(1))
    plain = length_bucketed_batches(examples.input_ids.lengths, BATCH, 1, np.random.default_rng(1))

    def padded(batch: np.ndarray) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(examples.input_ids.take(batch).padded(PAD, MAX_ITEMS * LEVELS + 1)).long()
        return {**collate(examples, batch), "input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}

    ours = [collate(examples, batch) for batch in bucketed]
    theirs = [padded(batch) for batch in plain]
    seconds = seconds_in_turns(lambda: epoch(model, ours), lambda: epoch(model, theirs), repeats=2)
    losses = [total_loss(model, batches) for batches in (ours, theirs)]
    report("seq2seq_epoch", ours=len(rows) / seconds[0], theirs=len(rows) / seconds[1], unit="examples/s",
           equal=bool(np.isclose(*losses, rtol=1e-5)))


def epoch(model: CodeSeq2Seq, batches: list[dict[str, torch.Tensor]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # both train the same weights, again and again
    model.train()
    for batch in batches:
        loss, count = model(batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def total_loss(model: CodeSeq2Seq, batches: list[dict[str, torch.Tensor]]) -> float:
    model.eval()
    return sum(model(batch)[0].item() for batch in batches)


if __name__ == "__main__":
    main()
