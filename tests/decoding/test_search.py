"""Lists of users whose history takes places of the beam (`pipeline_lib.decoding.ranking.search_cases`)."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from pipeline_lib.decoding.ranking import Decoder, candidate_tries, search_cases
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases

SIZES, NUM_ITEMS, NUM_USERS, BEAM, TOP_K = (8, 8), 50, 40, 10, 10
LEAVES = np.random.default_rng(0).permutation(64)[np.arange(NUM_ITEMS) % 45]  # five are shared
CODES = np.stack(np.divmod(LEAVES, 8), axis=1)
LOG_PROBS = torch.randn(NUM_USERS, 2, 8, generator=torch.Generator().manual_seed(0)).log_softmax(-1)  # of each level


@pytest.fixture
def cases():
    """Users who took the items that they like best: none, some, or all of them."""
    likes = LOG_PROBS[:, 0].numpy()[:, CODES[:, 0]] + LOG_PROBS[:, 1].numpy()[:, CODES[:, 1]]
    lengths = np.append(np.arange(NUM_USERS - 1), NUM_ITEMS)
    histories = Ragged.from_rows([np.argsort(-liked, kind="stable")[:length]
                                  for liked, length in zip(likes, lengths, strict=True)])
    return Cases(np.arange(NUM_USERS, dtype=np.int32), histories, Ragged.from_rows([[0]] * NUM_USERS),
                 np.ones(NUM_USERS, dtype=bool))


def ranked(cases, filter_history, kind="beam", batch_size=7, parts=(), asked=None):
    tries = candidate_tries(CODES, SIZES, dict(parts), torch.device("cpu"))
    decoder = Decoder(tries, kind, BEAM, TOP_K, np.arange(NUM_ITEMS), filter_history)

    def start(rows):
        if asked is not None:
            asked.extend(rows.tolist())
        return lambda: lambda level, codes, parents: LOG_PROBS[rows, level][:, None].expand(
            -1, 1 if codes is None else codes.shape[1], -1)

    batches = np.split(np.arange(NUM_USERS), range(batch_size, NUM_USERS, batch_size))
    return search_cases(cases, batches, start, decoder, Accelerator(cpu=True)).rankings


def test_lists_are_full_however_long_the_history_is(cases):
    items = ranked(cases, filter_history=True)[0].items
    assert items.lengths.tolist() == np.minimum(TOP_K, NUM_ITEMS - cases.histories.lengths).tolist()
    for row, history in zip(items, cases.histories, strict=True):
        assert not set(row.tolist()) & set(history.tolist())


def test_a_user_whose_list_was_full_is_searched_for_once_and_keeps_it_to_the_bit(cases):
    asked: list[int] = []
    kept, filtered = (ranked(cases, rule, asked=asked if rule else None)[0] for rule in (False, True))
    once = np.flatnonzero(np.bincount(asked) == 1)
    assert 0 in once and NUM_USERS - 1 not in once
    for user in once:
        history = set(cases.histories[user].tolist())
        assert filtered.items[user].tolist()[: TOP_K - len(history)] == \
            [item for item in kept.items[user].tolist() if item not in history][: TOP_K - len(history)]
    start, stop = kept.items.offsets[:2]
    assert np.array_equal(kept.scores[start:stop], filtered.scores[start:stop])


def test_a_soft_beam_has_more_hypotheses_than_an_integer_can_count():
    sizes, users = (256,) * 8, 3  # 2^64 identifiers
    codes = np.random.default_rng(0).integers(0, 256, (20, 8))
    decoder = Decoder(candidate_tries(codes, sizes, {}, torch.device("cpu")), "soft_beam", 4, 4, np.arange(20), True)
    known = torch.full((8, 256), -20.0)
    known[torch.arange(8), torch.from_numpy(codes[5])] = -0.1  # item 5 is far ahead
    histories = Ragged.from_rows([[], [5], []])
    cases = Cases(np.arange(users, dtype=np.int32), histories, Ragged.from_rows([[0]] * users), np.ones(users, dtype=bool))

    def start(rows):
        return lambda: lambda level, codes, parents: known[level].expand(
            len(rows), 1 if codes is None else codes.shape[1], -1)

    items = search_cases(cases, [np.arange(users)], start, decoder, Accelerator(cpu=True)).rankings[0].items
    assert [row.tolist() for row in items] == [[5], [], [5]]


def test_wider_beams_do_not_depend_on_who_else_is_in_the_batch(cases):
    one, two = (ranked(cases, filter_history=True, batch_size=size)[0] for size in (1, 40))
    assert np.array_equal(one.items.values, two.items.values)
    assert np.array_equal(one.scores, two.scores)


def test_lists_of_a_part_of_the_items_are_full_too(cases):
    part = np.arange(NUM_ITEMS) % 4 == 0
    items = ranked(cases, filter_history=True, parts={"warm": part})[1].items
    left = [int(part.sum() - part[history].sum()) for history in cases.histories]
    assert items.lengths.tolist() == np.minimum(TOP_K, left).tolist()


def test_a_soft_beam_makes_up_for_the_history_but_not_for_what_is_no_item(cases):
    kept, filtered = (ranked(cases, rule, kind="soft_beam")[0].items for rule in (False, True))
    left = np.array([len(set(row.tolist()) - set(history.tolist()))
                     for row, history in zip(kept, cases.histories, strict=True)])
    assert (filtered.lengths >= left).all() and filtered.lengths.sum() > 2 * left.sum()
    assert filtered.lengths[0] == kept.lengths[0] < TOP_K  # no history: as short as it was
