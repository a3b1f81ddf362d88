import itertools

import numpy as np
import pytest
import torch

from pipeline_lib.decoding.beam import beam_search, beams_in_trie, soft_beam_search
from pipeline_lib.decoding.trie import build_trie

NONE = float("-inf")


class TableModel:
    """A model whose log-probabilities depend on the user and on the whole prefix, kept in a dict."""

    def __init__(self, num_choices: tuple[int, ...], num_users: int, seed: int = 0, levels_of_scores: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.num_users, self.table = num_users, {}
        for level, width in enumerate(num_choices):
            for prefix in itertools.product(*map(range, num_choices[:level])):
                drawn = rng.normal(size=(num_users, width)).astype(np.float32)
                if levels_of_scores:  # few different values, so many exact ties
                    drawn = np.round(drawn * levels_of_scores) / levels_of_scores
                self.table[prefix] = drawn
        self.prefixes: list[list[tuple]] = []

    def __call__(self, level, codes, parents):
        if codes is None:
            self.prefixes = [[()] for _ in range(self.num_users)]
        else:
            self.prefixes = [[(*old[parent], code) for parent, code in zip(*row, strict=True)]
                             for old, row in zip(self.prefixes, zip(parents.tolist(), codes.tolist(), strict=True),
                                                 strict=True)]
        rows = [[self.table[prefix][user] for prefix in prefixes] for user, prefixes in enumerate(self.prefixes)]
        return torch.from_numpy(np.array(rows))

    def score(self, user: int, choices: list[int], size: tuple[int, ...] | None = None) -> float:
        """Sum over the prefix; where ``size`` is given, the choice after which nothing more is scored."""
        total = np.float32(0)
        for level, choice in enumerate(choices):
            total += self.table[tuple(choices[:level])][user][choice]
            if size is not None and choice == size[level]:
                break
        return total


def plain_beam_search(model: TableModel, codes: np.ndarray, user: int, beam_size: int) -> list[tuple[tuple, float]]:
    """One user, one prefix at a time, by sorting everything."""
    beams = [((), np.float32(0))]
    for level in range(codes.shape[1]):
        legal = {tuple(row[: level + 1]) for row in codes.tolist()}
        grown = [((*prefix, code), score + value) for prefix, score in beams
                 for code, value in enumerate(model.table[prefix][user]) if (*prefix, code) in legal]
        beams = sorted(grown, key=lambda beam: (-beam[1], beam[0]))[:beam_size]
    return beams


def test_two_beams_worked_by_hand():
    trie = build_trie(np.array([[0, 0], [0, 1], [1, 1], [2, 0]]), (3, 2))  # leaves 0, 1, 2, 3
    first = torch.tensor([[[-1.0, -0.5, -3.0]]])

    def next_log_probs(level, codes, parents):
        if level == 0:
            return first
        assert codes.tolist() == [[0, 1]] and parents.tolist() == [[0, 0]]
        return torch.tensor([[[-0.2, -2.0], [-0.1, -4.0]]])

    beams = beam_search(next_log_probs, trie, num_users=1, beam_size=2)
    assert beams.leaves.tolist() == [[0, 1]]
    torch.testing.assert_close(beams.scores, torch.tensor([[-1.2, -3.0]]))
    assert beams.invalid_share() == 0.0


def test_a_beam_as_wide_as_the_catalogue_equals_exhaustive_scoring():
    codes = np.unique(np.random.default_rng(3).integers(0, (4, 5, 3), (25, 3)), axis=0)
    trie, model = build_trie(codes, (4, 5, 3)), TableModel((4, 5, 3), num_users=3)
    beams = beam_search(model, trie, num_users=3, beam_size=len(codes))
    for user in range(3):
        scores = np.array([model.score(user, row) for row in codes.tolist()])
        assert sorted(beams.leaves[user].tolist()) == list(range(len(codes)))
        np.testing.assert_allclose(beams.scores[user], np.sort(scores)[::-1], rtol=1e-6)
        np.testing.assert_allclose(beams.scores[user], scores[beams.leaves[user]], rtol=1e-6)


@pytest.mark.parametrize("levels_of_scores", [0, 1])
@pytest.mark.parametrize("beam_size", [1, 3, 6])
def test_beams_equal_a_plain_search_also_where_scores_tie(beam_size, levels_of_scores):
    codes = np.unique(np.random.default_rng(4).integers(0, (5, 4, 3), (30, 3)), axis=0)
    trie = build_trie(codes, (5, 4, 3))
    model = TableModel((5, 4, 3), num_users=8, levels_of_scores=levels_of_scores)
    beams = beam_search(model, trie, num_users=8, beam_size=beam_size)
    for user in range(8):
        expected = plain_beam_search(model, codes, user, beam_size)
        assert codes[beams.leaves[user].tolist()].tolist() == [list(prefix) for prefix, _ in expected]
        np.testing.assert_allclose(beams.scores[user], [score for _, score in expected], rtol=1e-5, atol=1e-6)


def test_only_items_are_found_and_places_without_one_are_marked():
    trie = build_trie(np.array([[0, 0], [1, 1]]), (2, 2))

    def next_log_probs(level, codes, parents):
        if level == 0:
            return torch.tensor([[[-1.0, NONE]], [[-1.0, -2.0]]])  # the model rules code 1 out for user 0
        return torch.full((2, codes.shape[1], 2), -1.0)

    beams = beam_search(next_log_probs, trie, num_users=2, beam_size=5)
    assert beams.leaves.tolist() == [[0, -1], [0, 1]]
    assert beams.scores.tolist() == [[-2.0, NONE], [-2.0, -3.0]]
    assert beams.invalid_share() == 0.0


def test_identifiers_of_several_lengths_pay_for_their_end_once():
    codes = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 0], [1, 0, 1], [1, -1, -1]])
    sizes = (2, 2, 2)
    trie, model = build_trie(codes, sizes), TableModel((3, 3, 3), num_users=4)
    beams = beam_search(model, trie, num_users=4, beam_size=5)
    leaves = trie.find(torch.from_numpy(codes)).tolist()
    for user in range(4):
        found = dict(zip(beams.leaves[user].tolist(), beams.scores[user].tolist(), strict=True))
        for row, leaf in zip(np.where(codes < 0, 2, codes).tolist(), leaves, strict=True):
            assert found[leaf] == pytest.approx(model.score(user, row, sizes), rel=1e-5)


@pytest.mark.parametrize("has_ends", [False, True])
def test_a_wide_soft_beam_scores_every_combination(has_ends):
    sizes, num_choices = (2, 3, 2), (3, 4, 3) if has_ends else (2, 3, 2)
    model = TableModel(num_choices, num_users=2)
    codes, scores = soft_beam_search(model, sizes, num_users=2, beam_size=100, has_ends=has_ends)
    for user in range(2):
        real = scores[user] > NONE
        assert (scores[user].diff()[real[1:]] <= 0).all()
        found = dict(zip(map(tuple, codes[user][real].tolist()), scores[user][real].tolist(), strict=True))
        expected = {}
        for choices in itertools.product(*map(range, num_choices)):
            ends = [level for level in range(3) if choices[level] == sizes[level]]
            padded = tuple(-1 if ends and level >= ends[0] else choice for level, choice in enumerate(choices))
            expected[padded] = model.score(user, list(choices), sizes)
        assert found == pytest.approx(expected, rel=1e-5)


def test_soft_beams_tell_items_from_inventions():
    trie = build_trie(np.array([[0, 0], [1, 1]]), (2, 2))
    log_probs = torch.tensor([-0.1, -1.0])

    def next_log_probs(level, codes, parents):
        return log_probs.expand(1, 1 if codes is None else codes.shape[1], 2)

    codes, scores = soft_beam_search(next_log_probs, (2, 2), num_users=1, beam_size=3)
    assert codes.tolist() == [[[0, 0], [0, 1], [1, 0]]]
    beams = beams_in_trie(codes, scores, trie)
    assert beams.leaves.tolist() == [[0, -1, -1]]
    assert beams.invalid_share() == pytest.approx(2 / 3)


def test_soft_beams_that_cover_the_trie_rank_items_as_the_trie_does():
    codes = np.unique(np.random.default_rng(5).integers(0, (4, 3, 3), (12, 3)), axis=0)
    trie, model = build_trie(codes, (4, 3, 3)), TableModel((4, 3, 3), num_users=5)
    hard = beam_search(model, trie, 5, beam_size=len(codes))
    soft = beams_in_trie(*soft_beam_search(model, (4, 3, 3), 5, beam_size=36), trie)
    for user in range(5):
        items = soft.leaves[user] >= 0
        assert soft.leaves[user][items].tolist() == hard.leaves[user].tolist()
        torch.testing.assert_close(soft.scores[user][items], hard.scores[user])


@pytest.mark.parametrize(("log_probs", "beam_size", "message"), [
    (torch.zeros(1, 1, 3), 2, r"level 0 have shape \(1, 1, 3\), expected \(1, 1, 2\)"),
    (torch.full((1, 1, 2), float("nan")), 2, "log-probabilities are not a number"),
    (torch.zeros(1, 1, 2), 0, "beam_size is 0"),
])
def test_bad_input_is_named(log_probs, beam_size, message):
    trie = build_trie(np.array([[0], [1]]), (2,))
    with pytest.raises(ValueError, match=message):
        beam_search(lambda *_: log_probs, trie, 1, beam_size)
    with pytest.raises(ValueError, match=message):
        soft_beam_search(lambda *_: log_probs, (2,), 1, beam_size)
