"""Trie-constrained beam search of a decoder-only LM: ours against transformers' generate with a prefix function.

Both decode the same prompts, of 20 items on numbered lines, in batches of the same size; the largest counts. Small
batches are where generate does best on a CPU.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from benchmarks.decode import BEAM, HISTORY, NUM_ITEMS, decode_theirs, time_beams
from benchmarks.trie import dict_trie, random_identifiers
from pipeline_lib.backbones.causal_decoder import CausalDecoder
from pipeline_lib.decoding.beam import Beams, beam_search
from pipeline_lib.decoding.trie import Trie, build_trie
from pipeline_lib.sequences.code_tokens import Vocabulary

USERS = 32
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

    time_beams("lm_decode", lambda size: decode_ours(model, trie, vocabulary, input_ids, size),
               lambda size: decode_theirs(model, root, len(level_sizes), input_ids, size, given=input_ids.shape[1]),
               trie, vocabulary, users=USERS, batches=BATCHES)


if __name__ == "__main__":
    main()
