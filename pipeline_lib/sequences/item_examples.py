"""Examples for recommenders that read items, not codes: histories and targets, as item numbers."""

import numpy as np

from pipeline_lib.params import SequencesParams
from pipeline_lib.records import Cases, Examples, Identifiers, Split
from pipeline_lib.sequences.histories import next_item_examples


def build_examples(split: Split, identifiers: Identifiers, params: SequencesParams) -> tuple[dict[str, Examples], dict]:
    """Examples of train, valid and test, and an empty vocabulary."""
    rows, histories, targets = next_item_examples(split.train, params.max_items, params.train_targets)
    parts = {"train": Examples(split.train_users[rows].astype(np.int32), histories, targets)}
    for name, cases in (("valid", split.valid), ("test", split.test)):
        parts[name] = examples_of_cases(cases, identifiers, params)
    return parts, {}


def examples_of_cases(cases: Cases, identifiers: Identifiers, params: SequencesParams) -> Examples:
    """One example a case: the most recent items in, its targets out."""
    return Examples(cases.users, cases.histories.last(params.max_items), cases.targets)
