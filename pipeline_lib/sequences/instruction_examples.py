"""Examples for language models that are instructed: a history and its next item, and items beside their texts.

They hold items, not tokens: a language model's own tokenizer turns them into text when it is trained.
Source: Liu et al. 2024 (STORE), section 3.3; Zheng et al. 2024 (LC-Rec), section 3.3.
"""

import logging

import numpy as np

from pipeline_lib.params import SequencesParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Examples, Identifiers, Split
from pipeline_lib.sequences.histories import next_item_examples
from pipeline_lib.sequences.instructions import ITEM_TO_TEXT, NEXT_ITEM, TEXT_TO_ITEM

log = logging.getLogger(__name__)

NO_USER = -1
WARN_ABOVE = 0.1  # share of the training items that no example holds


def build_examples(split: Split, identifiers: Identifiers, params: SequencesParams) -> tuple[dict[str, Examples], dict]:
    """Examples of train, valid and test, and an empty vocabulary.

    Training examples come from training histories alone. With ``train_targets=last`` a user gives one, as in the paper;
    with ``windows`` as many as the whole history fills. Behind them stand two of each item, cold ones too, since these
    read its text and nobody's behaviour: without a user or a history, the target being the item.
    """
    rows, histories, targets = next_item_examples(split.train, params.max_items, params.train_targets)
    if not len(rows):
        raise ValueError("no user has two training items, so there is nothing to learn from; take a milder split")
    shown = len(histories.values) + len(targets.values)
    left_out = 1 - shown / split.train.lengths[rows].sum()  # of users with an example; below 0 where items are repeated
    if params.train_targets == "last" and left_out > WARN_ABOVE:
        log.warning("%.0f%% of the training items stand before their users' last %d and train nothing; "
                    "sequences.train_targets=windows takes all", 100 * left_out, params.max_items + 1)
    items = np.arange(split.num_items, dtype=np.int32)
    users = np.concatenate([split.train_users[rows], np.full(2 * len(items), NO_USER)]).astype(np.int32)
    histories = Ragged(histories.values, np.pad(histories.offsets, (0, 2 * len(items)), mode="edge"))
    targets = Ragged(np.concatenate([targets.values, items, items]), np.arange(len(users) + 1, dtype=np.int64))
    tasks = [NEXT_ITEM] * len(rows) + [TEXT_TO_ITEM] * len(items) + [ITEM_TO_TEXT] * len(items)
    parts = {"train": Examples(users, histories, targets, tasks=tasks)}
    for name, cases in (("valid", split.valid), ("test", split.test)):
        parts[name] = examples_of_cases(cases, identifiers, params)
    return parts, {}


def examples_of_cases(cases: Cases, identifiers: Identifiers, params: SequencesParams) -> Examples:
    """One example a case: the most recent items in, its targets out."""
    return Examples(cases.users, cases.histories.last(params.max_items), cases.targets, tasks=[NEXT_ITEM] * len(cases))
