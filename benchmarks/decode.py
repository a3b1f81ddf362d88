"""Trie-constrained beam search of a T5: ours against transformers' generate with a prefix function."""

import numpy as np
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from benchmarks.comparison import report, seconds_in_turns
from benchmarks.trie import dict_trie, random_identifiers
from pipeline_lib.backbones.t5 import T5Decoder, build_t5
from pipeline_lib.decoding.beam import Beams, beam_search
from pipeline_lib.decoding.expansion import rank_items
from pipeline_lib.decoding.trie import Trie, build_trie
from pipeline_lib.sequences.code_tokens import Vocabulary

NUM_ITEMS, HISTORY, BEAM, USERS = 12_000, 20, 20, 64
THEIR_BATCHES = (8, 32)  # the better one counts


def decode_ours(model: T5ForConditionalGeneration, trie: Trie, vocabulary: Vocabulary, input_ids: Tensor) -> Beams:
    decoder = T5Decoder(model)
    contexts = decoder.encode(input_ids, torch.ones_like(input_ids))
    step = decoder.next_log_probs(contexts, vocabulary.level_offsets, vocabulary.level_sizes)
    return beam_search(step, trie, len(input_ids), BEAM)


def decode_theirs(model: T5ForConditionalGeneration, root: dict, levels: int, input_ids: Tensor,
                  batch_size: int) -> tuple[Tensor, Tensor]:
    """Tokens ``(users, BEAM, levels)`` and scores, sums of log-probabilities as ours: no length penalty."""

    def allowed(_: int, prefix: Tensor) -> list[int]:
        node = root
        for token in prefix[1:].tolist():
            node = node[token]
        return list(node)

    tokens, scores = [], []
    for part in input_ids.split(batch_size):
        output = model.generate(input_ids=part, attention_mask=torch.ones_like(part), num_beams=BEAM,
                                num_return_sequences=BEAM, max_new_tokens=levels, do_sample=False, length_penalty=0.0,
                                prefix_allowed_tokens_fn=allowed, return_dict_in_generate=True, output_scores=True)
        tokens.append(output.sequences[:, 1:].view(-1, BEAM, levels))
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


def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes, level_sizes = random_identifiers(NUM_ITEMS, 3, 256, rng)
    vocabulary = Vocabulary.build(level_sizes)
    model = build_t5(vocabulary.size, width=128, layers=4, heads=6, head_size=64, feed_forward=1024, dropout=0.1).eval()
    tokens = codes + np.array(vocabulary.level_offsets)
    input_ids = torch.from_numpy(tokens[rng.integers(0, NUM_ITEMS, (USERS, HISTORY))].reshape(USERS, -1))
    trie, root = build_trie(codes, level_sizes), dict_trie(tokens.tolist())

    rows, few = [], input_ids[: max(THEIR_BATCHES)]
    for batch_size in THEIR_BATCHES:
        ours, theirs = seconds_in_turns(lambda: decode_ours(model, trie, vocabulary, input_ids),
                                        lambda: decode_theirs(model, root, len(level_sizes), few, batch_size))
        rows.append((f"theirs in batches of {batch_size}", USERS / ours, len(few) / theirs))

    their_tokens, their_scores = decode_theirs(model, root, len(level_sizes), few, max(THEIR_BATCHES))
    found = Beams(trie.find(their_tokens - torch.tensor(vocabulary.level_offsets)), their_scores)
    equal = same_rankings(decode_ours(model, trie, vocabulary, few), found, trie)
    report("decode", ours=max(row[1] for row in rows), theirs=max(row[2] for row in rows), unit="users/s", equal=equal,
           rows=rows)


if __name__ == "__main__":
    main()
