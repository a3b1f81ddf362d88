"""Examples for encoder-decoder recommenders that read codes: history tokens in, the target's tokens out, and the end
behind these where identifiers vary in length.

Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (TIGER), section 3.2.
"""

import numpy as np

from pipeline_lib.params import SequencesParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Examples, Identifiers, Split
from pipeline_lib.sequences.code_tokens import Vocabulary, tokens_of_histories
from pipeline_lib.sequences.histories import next_item_examples

TASK = "next_item"


def build_examples(split: Split, identifiers: Identifiers, params: SequencesParams) -> tuple[dict[str, Examples], dict]:
    """Examples of train, valid and test, and the vocabulary for vocabulary.json.

    Training examples come from training histories alone. Validation and test have one example a user, whose label is
    the first target.
    """
    vocabulary = _vocabulary_of(identifiers, params)
    rows, histories, targets = next_item_examples(split.train, params.max_items, params.train_targets)
    if not len(rows):
        raise ValueError("no user has two training items, so there is nothing to learn from; take a milder split")
    parts = {"train": _examples(split.train_users[rows], histories, targets, identifiers.codes, vocabulary)}
    for name, cases in (("valid", split.valid), ("test", split.test)):
        parts[name] = examples_of_cases(cases, identifiers, params)
    return parts, vocabulary.to_json()


def examples_of_cases(cases: Cases, identifiers: Identifiers, params: SequencesParams) -> Examples:
    """One example a case, to rank for: the most recent items in, the first target out."""
    return _examples(cases.users, cases.histories.last(params.max_items), cases.targets, identifiers.codes,
                     _vocabulary_of(identifiers, params))


def _vocabulary_of(identifiers: Identifiers, params: SequencesParams) -> Vocabulary:
    return Vocabulary.build(identifiers.level_sizes, params.user_buckets, has_ends=bool((identifiers.codes < 0).any()))


def _examples(users: np.ndarray, histories: Ragged, targets: Ragged, codes: np.ndarray,
              vocabulary: Vocabulary) -> Examples:
    first = vocabulary.user_tokens(users) if vocabulary.user_buckets else None
    input_ids = tokens_of_histories(histories, vocabulary.item_tokens(codes), first)
    labels = vocabulary.label_tokens(codes).take(targets.values[targets.offsets[:-1]])
    return Examples(users.astype(np.int32), histories, targets, input_ids, labels, [TASK] * len(users))
