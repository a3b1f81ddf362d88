"""Milliseconds a user: one pass and exact grounding against transformers' generate with a prefix function.

Run with ``python -m benchmarks.retrieval_vs_beam``. All sides use one T5 with random weights and read the same users,
20 items of 3 codes each, in batches of the same size; the largest counts. Ours is the network of ``retrieval_lm``: the
encoder once, the decoder once over its fixed sentence, the projection, the cosine of all items. Theirs writes 3 codes
with 20 beams, only legal ones. Our own beam over the same trie stands beside it, in a row of its own.

The paper (Table 5) gives 84 to 101 ms for methods that write codes and 6 to 8 ms for its own, 13 to 15 times, on a GPU,
where generate is bound by the number of steps and beams, and reading the history is nearly free. On a CPU it is not:
the encoder is more than half of what one pass costs, and every side pays for it; the decoder over its 20 fixed tokens
is nearly all of the rest. Our own beam, which keeps what the decoder attends to once a user and not once a beam, spends
little more on its three steps than that, so one pass gains little over it. Generate copies each user's encoding to
every beam before it is projected, and asks a Python function for each prefix: that is what the large ratio is of.

Equal: the retrieved lists are those of brute force by double precision over states of users read one by one, and our
beam and generate give the same items with the same scores.
"""

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparison import report, seconds_in_turns
from benchmarks.decode import BEAM, HISTORY, NUM_ITEMS, decode_ours, decode_theirs, same_rankings
from benchmarks.trie import dict_trie
from pipeline_lib.backbones.t5 import build_t5
from pipeline_lib.decoding.beam import Beams
from pipeline_lib.decoding.grounding import ground
from pipeline_lib.decoding.trie import build_trie
from pipeline_lib.recommenders.retrieval_lm import Config, RetrievalLM
from pipeline_lib.sequences.code_tokens import FIRST_CODE, Vocabulary

LEVELS, CODEBOOK, DIMENSIONS, USERS, CHECKED_USERS = 3, 256, 64, 64, 4
BATCHES = (8, 64)
TOLERANCE = 1e-5  # cosines closer than this may trade places
CONFIG = Config()


def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.choice(CODEBOOK**LEVELS, NUM_ITEMS, replace=False), (CODEBOOK,) * LEVELS), 1)
    codes = codes.astype(np.int32)
    vocabulary = Vocabulary.build((CODEBOOK,) * LEVELS)
    tokens = codes + np.array(vocabulary.level_offsets)
    input_ids = torch.from_numpy(tokens[rng.integers(0, NUM_ITEMS, (USERS, HISTORY))].reshape(USERS, -1))
    t5 = build_t5(vocabulary.size, CONFIG.width, CONFIG.layers, CONFIG.heads, CONFIG.head_size, CONFIG.feed_forward,
                  CONFIG.dropout).eval()
    sentence = FIRST_CODE + torch.arange(CONFIG.decoder_tokens)  # which words it holds does not matter to its price
    network = RetrievalLM(t5, sentence, torch.randn(NUM_ITEMS, DIMENSIONS), CONFIG).eval()
    trie, root = build_trie(codes, vocabulary.level_sizes), dict_trie(tokens.tolist())

    def timed(batch_size: int) -> tuple[float, float, float]:
        """Milliseconds a user: one pass, our beam, generate."""
        one_pass, theirs = seconds_in_turns(lambda: retrieve(network, input_ids, batch_size),
                                            lambda: decode_theirs(t5, root, LEVELS, input_ids, batch_size), repeats=2)
        again, beam = seconds_in_turns(lambda: retrieve(network, input_ids, batch_size),
                                       lambda: decode_ours(t5, trie, vocabulary, input_ids, batch_size))
        return tuple(1e3 * seconds / USERS for seconds in (min(one_pass, again), beam, theirs))

    rows: list[tuple[str, float, float]] = []
    for batch_size in BATCHES:
        ours, beam, theirs = timed(batch_size)
        rows += [(f"batches of {batch_size}, our own beam as theirs", ours, beam),
                 (f"batches of {batch_size}", ours, theirs)]
    their_tokens, their_scores = decode_theirs(t5, root, LEVELS, input_ids, BATCHES[0])
    theirs_found = Beams(trie.find(their_tokens - torch.tensor(vocabulary.level_offsets)), their_scores)
    equal = same_rankings(decode_ours(t5, trie, vocabulary, input_ids, USERS), theirs_found, trie)
    equal &= all(same_as_brute_force(network, user, *found) for user, *found in
                 zip(input_ids[:CHECKED_USERS], *retrieve(network, input_ids, USERS), strict=False))
    report("retrieval_vs_beam", ours=ours, theirs=theirs, unit="ms a user", equal=equal, lower_is_better=True,
           rows=rows[:-1])


@torch.inference_mode()
def retrieve(network: RetrievalLM, input_ids: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Items and cosines ``(users, BEAM)``."""
    found = [ground(network.states({"input_ids": part, "attention_mask": torch.ones_like(part)}), network.items, BEAM,
                    similarity="cosine") for part in input_ids.split(batch_size)]
    return torch.cat([items for items, _ in found]), torch.cat([scores for _, scores in found])


@torch.inference_mode()
def same_as_brute_force(network: RetrievalLM, user: Tensor, items: Tensor, scores: Tensor) -> bool:
    """Whether ``items (BEAM,)`` are the best of all by a sort of every item's cosine, up to rounding."""
    state = network.states({"input_ids": user[None], "attention_mask": torch.ones_like(user[None])})[0].double().numpy()
    every = network.items.double().numpy()
    cosines = every @ state / (np.linalg.norm(every, axis=1) * np.linalg.norm(state))
    best = np.sort(cosines)[::-1][:BEAM]
    own = cosines[items.numpy()]
    distinct = len(set(items.tolist())) == BEAM
    return bool(distinct and np.abs(own - best).max() < TOLERANCE and np.abs(own - scores.numpy()).max() < TOLERANCE)


if __name__ == "__main__":
    main()
