"""One pass over token sets against a beam search over codes: the same T5 sizes, history and batch, ranked items out.

Theirs is transformers' generate with a prefix function; the table also shows our own beam search. Results cannot be
equal, since they are different methods; `equal` says that one pass ranks as scoring all items dimension by dimension
does, and that both beam searches rank the same.
"""

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparison import report, seconds_in_turns
from benchmarks.decode import BEAM, HISTORY, NUM_ITEMS, decode_ours, decode_theirs, same_rankings
from benchmarks.trie import dict_trie, random_identifiers
from pipeline_lib.backbones.set_t5 import SetT5
from pipeline_lib.backbones.t5 import build_t5
from pipeline_lib.decoding.beam import Beams
from pipeline_lib.decoding.grounding import ground
from pipeline_lib.decoding.trie import build_trie
from pipeline_lib.recommenders.set_network import dimension_weights
from pipeline_lib.recommenders.set_validation import weighted
from pipeline_lib.sequences.code_tokens import Vocabulary

SEMANTIC, USERS, BETA = 4, 32, 0.5
SIZES = {"width": 128, "layers": 4, "heads": 6, "head_size": 64, "feed_forward": 1024, "dropout": 0.1}


@torch.inference_mode()
def answers_to(model: SetT5, queries: Tensor, corpus: Tensor, histories: Tensor) -> Tensor:
    """``(users, M, width)``: all queries of all users in one pass."""
    lengths = torch.full((len(histories),), histories.shape[1])
    return model(corpus[histories], lengths, queries, lengths[:, None])[:, 0]


def rank_by_sets(model: SetT5, queries: Tensor, corpus: Tensor, histories: Tensor, weights: Tensor) -> Tensor:
    return ground(weighted(answers_to(model, queries, corpus, histories), weights), corpus.flatten(1), BEAM)[1]


def rank_by_dimension(model: SetT5, queries: Tensor, corpus: Tensor, histories: Tensor, weights: Tensor) -> Tensor:
    """The plain reading of the paper: a pass a query, a product a dimension, a sum."""
    scores = torch.zeros(len(histories), len(corpus))
    for dimension, weight in enumerate(weights):
        alone = queries[dimension].expand(len(queries), -1)
        answers = answers_to(model, alone, corpus, histories)[:, dimension]
        scores += weight * (answers @ corpus[:, dimension].T)
    return scores.topk(BEAM, dim=1).values


def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    histories = rng.integers(0, NUM_ITEMS, (USERS, HISTORY))
    codes, level_sizes = random_identifiers(NUM_ITEMS, 3, 256, rng)
    vocabulary = Vocabulary.build(level_sizes)
    tokens = codes + np.array(vocabulary.level_offsets)
    input_ids = torch.from_numpy(tokens[histories].reshape(USERS, -1))
    beam_model = build_t5(vocabulary.size, **SIZES).eval()
    trie, root = build_trie(codes, level_sizes), dict_trie(tokens.tolist())

    model = SetT5(build_t5(1, **SIZES), torch.empty(0, SIZES["width"]), sparse=True, causal=True, shared=True).eval()
    corpus, queries = torch.randn(NUM_ITEMS, 1 + SEMANTIC, SIZES["width"]), torch.randn(1 + SEMANTIC, SIZES["width"])
    case = queries, corpus, torch.from_numpy(histories), dimension_weights(BETA, 1 + SEMANTIC, SEMANTIC)

    def sets() -> Tensor:
        return rank_by_sets(model, *case)

    ours, theirs = seconds_in_turns(sets, lambda: decode_theirs(beam_model, root, len(level_sizes), input_ids, USERS),
                                    repeats=2)
    again, our_beam = seconds_in_turns(sets, lambda: decode_ours(beam_model, trie, vocabulary, input_ids, USERS))

    their_tokens, their_scores = decode_theirs(beam_model, root, len(level_sizes), input_ids, USERS)
    found = Beams(trie.find(their_tokens - torch.tensor(vocabulary.level_offsets)), their_scores)
    equal = same_rankings(decode_ours(beam_model, trie, vocabulary, input_ids, USERS), found, trie)
    equal &= torch.allclose(sets(), rank_by_dimension(model, *case), rtol=1e-4, atol=1e-3)
    report("set_vs_beam", ours=USERS / ours, theirs=USERS / theirs, unit="users/s", equal=equal,
           rows=[("against our own beam search", USERS / again, USERS / our_beam)])


if __name__ == "__main__":
    main()
