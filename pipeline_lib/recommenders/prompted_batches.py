"""Batches of prompts: what an epoch draws for each training example, and what a user is ranked with.

Shapes: n examples, U users, N items, B rows of a batch, T tokens, K codes of an item or user.
Source: Qu et al. 2024 (TokenRec), section 3.4 and equation 20.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.backbones.text_tokenizer import TextTokenizer, train_word_tokenizer
from pipeline_lib.interactions.candidates import FreeItems
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Examples, Identifiers, Split
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.prompts import (
    DECODER_SENTENCE, SEEN_TEMPLATES, SLOTS, TEMPLATES, UNSEEN, USER_ONLY, Templates, assemble_prompts,
    code_token_names, code_tokens, compile_templates, recent_items, shuffled, tokens_of_items,
)

PROMPTS = {"seen": 0, "unseen": UNSEEN, "user_only": USER_ONLY}  # what users are ranked with: a place in TEMPLATES


@dataclass(frozen=True)
class Prompter:
    """From users and histories to token sequences.

    ``item_tokens``: N rows; ``user_tokens``: ``valid`` and ``test`` -> U rows, none for users without codes.
    """

    templates: Templates
    item_tokens: Ragged
    user_tokens: Mapping[str, Ragged]
    pad: int
    max_items: int
    max_tokens: int

    def prompts(self, users: np.ndarray, part: str, histories: Ragged, chosen: np.ndarray,
                seeds: np.ndarray | None = None) -> Ragged:
        """Tokens of n prompts, ``max_tokens`` each at most.

        Args:
            users: ``(n,)``; one without tokens, or beyond the last known, gets a prompt without.
            part: whose codes users have, ``valid`` (before validation targets, and in training) or ``test``.
            histories: n rows of items, oldest first; without one that has tokens, the prompt is the user-only one.
            chosen: ``(n,)`` int, the template of each.
            seeds: ``(n,)`` uint64, which shuffle the histories; None leaves them in order.
        """
        owned = self._tokens_of_users(users, part)
        room = self.max_tokens - self.templates.lengths[chosen] - owned.lengths
        items = recent_items(histories, self.item_tokens.lengths, room, self.max_items)
        chosen = np.where(items.lengths > 0, chosen, USER_ONLY)
        items = items if seeds is None else shuffled(items, seeds)
        return assemble_prompts(self.templates, chosen, owned, tokens_of_items(items, self.item_tokens))

    def lengths(self, histories: Ragged) -> np.ndarray:
        """About how many tokens each prompt will have, to sort batches by."""
        tokens = np.concatenate([[0], np.cumsum(self.item_tokens.lengths[histories.values])])[histories.offsets]
        return np.minimum(np.diff(tokens), self.max_tokens)

    def tensors(self, prompts: Ragged) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask (B, T)``, padded to the longest prompt."""
        width = max(1, int(prompts.lengths.max(initial=0)))  # a process may get no row of a batch
        real = np.arange(width) < prompts.lengths[:, None]
        return {"input_ids": torch.from_numpy(prompts.padded(self.pad, width)).long(),
                "attention_mask": torch.from_numpy(real).long()}

    def _tokens_of_users(self, users: np.ndarray, part: str) -> Ragged:
        table = self.user_tokens.get(part)
        if table is None or not len(table):
            return Ragged.from_rows([[]] * len(users))
        found = table.take(np.minimum(users, len(table) - 1))
        known = users < len(table)
        return Ragged(found.values[np.repeat(known, found.lengths)],
                      np.concatenate([[0], np.cumsum(np.where(known, found.lengths, 0))]))


def prompt_tokenizer() -> TextTokenizer:
    """A tokenizer of the words of all prompts that are trained on, and of the decoder's sentence."""
    texts = (DECODER_SENTENCE, *SEEN_TEMPLATES, TEMPLATES[USER_ONLY])
    return train_word_tokenizer([text.replace(SLOTS[0], " ").replace(SLOTS[1], " ") for text in texts])


def add_code_tokens(tokenizer: TextTokenizer, identifiers: Identifiers) -> TextTokenizer:
    """An entry for each code of items, then of users: 2 K codebook_size entries where both have equal codebooks."""
    names = code_token_names("item", identifiers.level_sizes) + code_token_names("user", _user_levels(identifiers))
    return tokenizer.with_tokens(names)


def make_prompter(tokenizer: TextTokenizer, identifiers: Identifiers, max_items: int, max_tokens: int) -> Prompter:
    """Tokenize templates, items and users once.

    Args:
        tokenizer: one that `add_code_tokens` made for codes of these sizes.

    Raises:
        ValueError: if it was not, or the longest template and one item do not fit into ``max_tokens``.
    """
    item_levels, user_levels = identifiers.level_sizes, _user_levels(identifiers)
    item_names = code_token_names("item", item_levels)
    first_item, last_item = tokenizer.id_of(item_names[0]), tokenizer.id_of(item_names[-1])
    if last_item - first_item != len(item_names) - 1:
        raise ValueError(f"the text tokenizer has {last_item - first_item + 1} ids for codes of items, but there are "
                         f"{len(item_names)}; re-run finetune on these codes")
    users = {} if not user_levels else {
        part: code_tokens(codes, user_levels, tokenizer.id_of(code_token_names("user", user_levels)[0]))
        for part, codes in identifiers.user_codes.items()}
    templates = compile_templates(TEMPLATES, tokenizer.encode, tokenizer.id_of(tokenizer.end))
    needed = int(templates.lengths.max()) + len(user_levels) + len(item_levels)
    if max_tokens < needed:
        raise ValueError(f"params: recommender.retrieval_lm.max_tokens is {max_tokens}, but the longest template "
                         f"with a user and one item has {needed} tokens; raise it")
    return Prompter(templates, code_tokens(identifiers.codes, item_levels, first_item), users,
                    tokenizer.id_of(tokenizer.pad), max_items, max_tokens)


class TrainingBatches:
    """Training examples; `begin` draws an epoch's templates, orders and negatives, the same on every process."""

    def __init__(self, prompter: Prompter, examples: Examples, split: Split, *, user_only_share: float,
                 with_negatives: bool, batch_size: int, bucket_batches: int, seed: int) -> None:
        self.prompter, self.examples, self.seed = prompter, examples, seed
        self.user_only_share, self.batch_size, self.bucket_batches = user_only_share, batch_size, bucket_batches
        self.targets = examples.targets.values[examples.targets.offsets[:-1]].astype(np.int64)
        self.lengths = prompter.lengths(examples.histories.last(prompter.max_items))
        self.negatives = NegativeSampler(split, examples) if with_negatives else None

    def begin(self, epoch: int) -> list[np.ndarray]:
        generator, count = numpy_generator(self.seed, f"prompts of epoch {epoch}"), len(self.examples)
        self.chosen = generator.integers(0, len(SEEN_TEMPLATES), size=count)
        self.chosen[generator.random(count) < self.user_only_share] = USER_ONLY
        self.orders = generator.integers(0, 2**64, size=count, dtype=np.uint64)
        self.drawn = {} if self.negatives is None else {"negatives": self.negatives.draw(generator)}
        return length_bucketed_batches(self.lengths, self.batch_size, self.bucket_batches, generator)

    def collate(self, rows: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask (B, T)``, ``targets`` and, where they are drawn, ``negatives (B,)``."""
        users, histories = self.examples.users[rows], self.examples.histories.take(rows)
        prompts = self.prompter.prompts(users, "valid", histories, self.chosen[rows], self.orders[rows])
        items = {"targets": self.targets, **self.drawn}
        return self.prompter.tensors(prompts) | {name: torch.from_numpy(values[rows]) for name, values in items.items()}


class NegativeSampler:
    """One uniform item for each example that its user never interacted with in training: eq. 20's negatives.

    The released code draws any item, positives and history included.
    """

    def __init__(self, split: Split, examples: Examples) -> None:
        num_items = split.num_items
        owners = np.repeat(split.train_users, split.train.lengths).astype(np.int64)
        pairs = np.unique(owners * num_items + split.train.values)
        users, rows = np.unique(pairs // num_items, return_inverse=True)
        self.free = FreeItems(rows * num_items + pairs % num_items, len(users), num_items)
        full = users[self.free.counts == 0]
        if len(full):
            raise ValueError(f"user {full[0]} has all {num_items} items in training, so no item is left as a "
                             "negative; set recommender.retrieval_lm.loss=full_softmax")
        self.rows = np.searchsorted(users, examples.users)  # (n,): the user of each example, among all

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """``(n,)`` int64."""
        ranks = generator.integers(0, self.free.counts[self.rows])  # among the free items of the user
        return self.free.items_at(self.rows, ranks)


def _user_levels(identifiers: Identifiers) -> Sequence[int]:
    """Codebook sizes of users' codes, which are those of items; empty where users have no codes.

    Raises:
        ValueError: if users have a code that the codebook of items has no room for.
    """
    tables = list(identifiers.user_codes.values())
    levels = identifiers.level_sizes[: tables[0].shape[1]] if tables else ()
    for codes in tables:
        if codes.shape[1] != len(levels) or (codes >= np.array(levels)).any():
            raise ValueError(f"codes of users of shape {codes.shape}, up to {codes.max(initial=-1)}, do not fit the "
                             f"codebooks of items, {', '.join(map(str, levels))}; re-run quantize")
    return levels
