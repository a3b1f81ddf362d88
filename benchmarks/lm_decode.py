"""Trie-constrained beam search of a decoder-only LM: ours against transformers' generate with a prefix function.

Both decode the same prompts, of 20 items on numbered lines, in batches of the same size; the largest counts. Small
batches are where generate does best on a CPU.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from benchmarks.comparison import report, seconds_in_turns
from benchmarks.decode import same_rankings
from benchmarks.trie import dict_trie, random_identifiers
from pipeline_lib.backbones.causal_decoder import CausalDecoder
from pipeline_lib.decoding.beam import Beams, beam_search
from pipeline_lib.decoding.trie import Trie, build_trie
from pipeline_lib.sequences.code_tokens import Vocabulary

NUM_ITEMS, HISTORY, BEAM, USERS = 12_000, 20, 20, 32
BATCHES = (8, 32)
LINE = 3  # tokens of a line beside the item's own: its number in brackets


def decode_ours(model: PreTrainedModel, trie: Trie, vocabulary: Vocabulary, input_ids: Tensor,
                batch_size: int) -> Beams:
    words = model.get_input_embeddings()
    decoder, found = CausalDecoder(model, words.weight, model.get_output_embeddings().weight), []
    for part in input_ids.split(batch_size):
        contexts = decoder.encode(words(part), torch.ones_like(part))
        step = decoder.next_log_probs(contexts, vocabulary.level_offsets, vocabulary.level_sizes)
        found.append(beam_search(step, trie, len(part), BEAM))
    return Beams(torch.cat([beams.leaves for beams in found]), torch.cat([beams.scores for beams in found]))


def decode_theirs(model: PreTrainedModel, root: dict, levels: int, input_ids: Tensor,
                  batch_size: int) -> tuple[Tensor, Tensor]:
    """Tokens ``(users, BEAM, levels)`` and scores, sums of log-probabilities as ours: no length penalty."""
    length = input_ids.shape[1]

    def allowed(_: int, sequence: Tensor) -> list[int]:
        node = root
        for token in sequence[length:].tolist():
            node = node[token]
        return list(node)

    tokens, scores = [], []
    for part in input_ids.split(batch_size):
        output = model.generate(input_ids=part, attention_mask=torch.ones_like(part), num_beams=BEAM,
                                num_return_sequences=BEAM, max_new_tokens=levels, do_sample=False, length_penalty=0.0,
                                prefix_allowed_tokens_fn=allowed, return_dict_in_generate=True, output_scores=True)
        tokens.append(output.sequences[:, length:].view(-1, BEAM, levels))
        scores.append(output.sequences_scores.view(-1, BEAM))
    return torch.cat(tokens), torch.cat(scores)


def make_prompts(tokens: np.ndarray, first_word: int, words: int, rng: np.random.Generator) -> Tensor:
    """``(USERS, HISTORY * (LINE + L))``: lines of LINE words and an item's tokens, of ``tokens (N, L)``."""
    items = tokens[rng.integers(0, NUM_ITEMS, (USERS, HISTORY))]
    lines = rng.integers(first_word, first_word + words, (USERS, HISTORY, LINE))
    return torch.from_numpy(np.concatenate([lines, items], axis=-1).reshape(USERS, -1))


def main() -> None:
    torch.manual_seed(0)
    rng, words = np.random.default_rng(0), 500
    codes, level_sizes = random_identifiers(NUM_ITEMS, 3, 256, rng)
    vocabulary = Vocabulary.build(level_sizes)
    config = OPTConfig(vocab_size=vocabulary.size + words, hidden_size=128, word_embed_proj_dim=128, ffn_dim=512,
                       num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=512,
                       tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    model = OPTForCausalLM(config).eval()
    tokens = codes + np.array(vocabulary.level_offsets)
    input_ids = make_prompts(tokens, vocabulary.size, words, rng)
    trie, root = build_trie(codes, level_sizes), dict_trie(tokens.tolist())

    rows = []
    for batch_size in BATCHES:
        ours, theirs = seconds_in_turns(lambda: decode_ours(model, trie, vocabulary, input_ids, batch_size),
                                        lambda: decode_theirs(model, root, len(level_sizes), input_ids, batch_size),
                                        repeats=2)
        rows.append((f"batches of {batch_size}", USERS / ours, USERS / theirs))

    their_tokens, their_scores = decode_theirs(model, root, len(level_sizes), input_ids, BATCHES[0])
    theirs = Beams(trie.find(their_tokens - torch.tensor(vocabulary.level_offsets)), their_scores)
    equal = same_rankings(decode_ours(model, trie, vocabulary, input_ids, USERS), theirs, trie)
    report("lm_decode", ours=rows[-1][1], theirs=rows[-1][2], unit="users/s", equal=equal, rows=rows[:-1])


if __name__ == "__main__":
    main()
