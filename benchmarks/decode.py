"""Trie-constrained beam search of a T5: ours against transformers' generate with a prefix function.

Both decode the same users in batches of the same size; the largest counts. Small batches are where generate does best
on a CPU, since its copies of the context, one a beam, still fit memory that is reused; the table shows them for that.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, T5ForConditionalGeneration

from benchmarks.comparison import report, seconds_in_turns
from benchmarks.trie import dict_trie, random_identifiers
from pipeline_lib.backbones.t5 import T5Decoder, build_t5
from pipeline_lib.decoding.beam import Beams, beam_search
from pipeline_lib.decoding.expansion import rank_items
from pipeline_lib.decoding.trie import Trie, build_trie
from pipeline_lib.sequences.code_tokens import Vocabulary

NUM_ITEMS, HISTORY, BEAM, USERS = 12_000, 20, 20, 64
BATCHES = (8, 32, 64)


def decode_ours(model: T5ForConditionalGeneration, trie: Trie, vocabulary: Vocabulary, input_ids: Tensor,
                batch_size: int) -> Beams:
    decoder, found = T5Decoder(model), []
    for part in input_ids.split(batch_size):
        contexts = decoder.encode(part, torch.ones_like(part))
        step = decoder.next_log_probs(contexts, vocabulary.level_offsets, vocabulary.level_sizes)
        found.append(beam_search(step, trie, len(part), BEAM))
    return Beams(torch.cat([beams.leaves for beams in found]), torch.cat([beams.scores for beams in found]))


def decode_theirs(model: PreTrainedModel, root: dict, levels: int, input_ids: Tensor, batch_size: int,
                  given: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens ``(users, BEAM, levels)`` and scores, sums of log-probabilities as ours: no length penalty.

    Args:
        given: how many tokens stand before the generated ones: a T5's start, or the whole prompt of a decoder-only LM.
    """

    def allowed(_: int, sequence: Tensor) -> list[int]:
        node = root
        for token in sequence[given:].tolist():
            node = node[token]
        return list(node)

    tokens, scores = [], []
    for part in input_ids.split(batch_size):
        output = model.generate(input_ids=part, attention_mask=torch.ones_like(part), num_beams=BEAM,
                                num_return_sequences=BEAM, max_new_tokens=levels, do_sample=False, length_penalty=0.0,
                                prefix_allowed_tokens_fn=allowed, return_dict_in_generate=True, output_scores=True)
        tokens.append(output.sequences[:, given:].view(-1, BEAM, levels))
        scores.append(output.sequences_scores.view(-1, BEAM))
    return torch.cat(tokens), torch.cat(scores)


def same_rankings(ours: Beams, theirs: Beams, trie: Trie, tolerance: float = 1e-4) -> bool:
    """The same items with the same scores; neighbours may trade places where their scores are within rounding."""
    order = np.arange(NUM_ITEMS)
    (our_items, our_scores), (their_items, their_scores) = (
        rank_items(beams, trie, top_k=BEAM, order=order) for beams in (ours, theirs))
    if not np.array_equal(our_items.offsets, their_items.offsets):
        return False
    same = our_items.values == their_items.values
    close = np.abs(our_scores - their_scores) < tolerance
    as_sets = all(set(a) == set(b) for a, b in zip(our_items, their_items, strict=True))
    return bool(close.all() and as_sets and same.mean() > 0.99)


def time_beams(name: str, ours: Callable[[int], Beams], theirs: Callable[[int], tuple[Tensor, Tensor]], trie: Trie,
               vocabulary: Vocabulary, *, users: int, batches: Sequence[int]) -> None:
    """Report users/s of two beam searches, with the batch size as their argument, and whether they rank alike."""
    rows = []
    for size in batches:
        our_seconds, their_seconds = seconds_in_turns(lambda: ours(size), lambda: theirs(size), repeats=2)
        rows.append((f"batches of {size}", users / our_seconds, users / their_seconds))
    tokens, scores = theirs(batches[0])
    found = Beams(trie.find(tokens - torch.tensor(vocabulary.level_offsets)), scores)
    report(name, ours=rows[-1][1], theirs=rows[-1][2], unit="users/s", equal=same_rankings(ours(users), found, trie),
           rows=rows[:-1])


def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes, level_sizes = random_identifiers(NUM_ITEMS, 3, 256, rng)
    vocabulary = Vocabulary.build(level_sizes)
    model = build_t5(vocabulary.size, width=128, layers=4, heads=6, head_size=64, feed_forward=1024, dropout=0.1).eval()
    tokens = codes + np.array(vocabulary.level_offsets)
    input_ids = torch.from_numpy(tokens[rng.integers(0, NUM_ITEMS, (USERS, HISTORY))].reshape(USERS, -1))
    trie, root = build_trie(codes, level_sizes), dict_trie(tokens.tolist())

    time_beams("decode", lambda size: decode_ours(model, trie, vocabulary, input_ids, size),
               lambda size: decode_theirs(model, root, len(level_sizes), input_ids, size), trie, vocabulary,
               users=USERS, batches=BATCHES)


if __name__ == "__main__":
    main()
